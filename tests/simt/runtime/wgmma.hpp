// The operations of kernels/wgmma.cuh on the CPU. A product is work that finishes later: its thread reads shared memory
// when it takes effect, so that a stage that is overwritten too early shows.
#pragma once

#include "block.hpp"
#include "tensor_cores.hpp"

inline void show_to_products() {}  // that one is missing shows only on a GPU

inline void fence_products() { simt::warp_barrier(SIMT_HERE); }

inline void commit_products() { simt::commit(simt::kProducts); }

template <int PENDING>
inline void wait_for_products() {
  simt::warp_barrier(SIMT_HERE);
  simt::wait(simt::kProducts, PENDING);
}

namespace simt {

// The element at `byte` of a line, as the hardware finds it: address bits 4 to 6 are turned by bits 7 to 9.
template <class T>
float element_of_line(const char* lines, int line, int byte) {
  uintptr_t address = reinterpret_cast<uintptr_t>(lines) + line * 128 + byte;
  address ^= (address >> 7 & 7) << 4;
  unsigned bits = 0;
  memcpy(&bits, reinterpret_cast<const void*>(address), sizeof(T));
  return element<T>(bits, 0);
}

}  // namespace simt

template <class T, int ACROSS>
inline void begin_product(float (&sums)[ACROSS][4], const void* a, const void* b, bool add) {
  const int row = simt::warp % 4 * 16 + simt::lane / 4, column = simt::lane % 4 * 2;
  float(*to)[4] = sums;
  const char *left = static_cast<const char*>(a), *right = static_cast<const char*>(b);
  simt::later(simt::kProducts, [=] {
    for (int j = 0; j < ACROSS; ++j)
      for (int result = 0; result < 4; ++result) {
        float sum = add ? to[j][result] : 0;
        for (int byte = 0; byte < 32; byte += sizeof(T))
          sum += simt::element_of_line<T>(left, row + result / 2 * 8, byte) *
                 simt::element_of_line<T>(right, 8 * j + column + result % 2, byte);
        to[j][result] = sum;
      }
  });
}
