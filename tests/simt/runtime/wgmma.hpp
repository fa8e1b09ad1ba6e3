// The operations of kernels/wgmma.cuh on the CPU. A product is work that finishes later: its thread reads shared memory
// when it takes effect, so that a stage that is overwritten too early shows. What it reads is where the descriptors say.
#pragma once

#include "block.hpp"
#include "tensor_cores.hpp"

// Dynamic shared memory begins at 0.
inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(static_cast<const char*>(p) - simt::dynamic_shared);
}

inline void show_to_products() {}  // that one is missing shows only on a GPU

inline void fence_products() { simt::warp_barrier(SIMT_HERE); }

inline void commit_products() { simt::commit(simt::kProducts); }

template <int PENDING>
inline void wait_for_products() {
  simt::warp_barrier(SIMT_HERE);
  simt::wait(simt::kProducts, PENDING);
}

namespace simt {

// A matrix descriptor: bits 0 to 13 address, 16 to 29 leading distance, 32 to 45 stride, each without its last
// four bits; 49 to 51 base offset, 62 and 63 swizzle (1: of 128 bytes). With that swizzle, in bytes from the address,
//   in lines   (K-major):  row % 8 * 128 + row / 8 * stride + k * sizeof(T)
//   in columns (MN-major): row % 64 * 2 + row / 64 * leading + k % 8 * 128 + k / 8 * stride
// and then bits 4 to 6 of the sum are turned by its bits 7 to 9.
template <class T, bool COLUMNS>
struct Matrix {
  unsigned address, leading, stride;

  Matrix(unsigned long long descriptor, Place place)
      : address(field(descriptor, 0)), leading(field(descriptor, 16)), stride(field(descriptor, 32)) {
    if (descriptor >> 46 != 1 << 16) fail(place, "wgmma: a descriptor without a swizzle of 128 bytes, or with a base offset");
    if (address & 0x380) fail(place, "wgmma: a matrix that begins at %u, amid 1024 bytes of the swizzle", address);
  }

  static unsigned field(unsigned long long descriptor, int bit) { return (descriptor >> bit & 0x3FFF) << 4; }

  float operator()(int row, int k) const {
    unsigned at = address;
    if (COLUMNS) at += row % 64 * sizeof(T) + row / 64 * leading + k % 8 * 128 + k / 8 * stride;
    else at += row % 8 * 128 + row / 8 * stride + k * sizeof(T);
    at ^= (at >> 7 & 7) << 4;
    unsigned bits = 0;
    memcpy(&bits, dynamic_shared + at, sizeof(T));
    return element<T>(bits, 0);
  }
};

}  // namespace simt

template <class T, int ACROSS, bool COLUMNS>
inline void multiply_async(float (&sums)[ACROSS][4], unsigned long long a, unsigned long long b, bool add) {
  static_assert(!COLUMNS || sizeof(T) == 2, "wgmma reads columns of 16-bit numbers only");
  constexpr int STEPS = 32 / sizeof(T);
  const int row = simt::warp % 4 * 16 + simt::lane / 4, column = simt::lane % 4 * 2;
  const simt::Matrix<T, COLUMNS> left(a, SIMT_HERE), right(b, SIMT_HERE);
  float(*to)[4] = sums;
  simt::later(simt::kProducts, [=] {
    float rows[2][STEPS];
    for (int half = 0; half < 2; ++half)
      for (int k = 0; k < STEPS; ++k) rows[half][k] = left(row + half * 8, k);
    for (int j = 0; j < ACROSS; ++j)
      for (int result = 0; result < 4; ++result) {
        float sum = add ? to[j][result] : 0;
        for (int k = 0; k < STEPS; ++k)
          sum += rows[result / 2][k] * right(8 * j + column + result % 2, k);
        to[j][result] = sum;
      }
  });
}
