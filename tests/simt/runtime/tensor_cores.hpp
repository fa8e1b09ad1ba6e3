// The operations of kernels/tensor_cores.cuh on the CPU. Lanes exchange fragments and addresses; each computes its own
// part of the result from the same places in memory and the same lanes' registers as on the GPU.
#pragma once

#include "block.hpp"

template <int BYTES, bool AGAIN = false>
inline void copy_async(void* to, const void* from, bool wanted) {
  if (BYTES >= 4) return simt::copy_later(to, from, wanted ? BYTES : 0, BYTES, SIMT_HERE);
  if (wanted) memcpy(to, from, BYTES);
  else memset(to, 0, BYTES);
}

inline void commit_copies() { simt::commit(simt::kCopies); }

template <int PENDING>
inline void wait_for_copies() {
  simt::wait(simt::kCopies, PENDING);
}

namespace simt {

// The addresses that all lanes gave for the rows of four matrices, 16 bytes each.
inline Slots rows_of_matrices(const void* row, Place place) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail(place, "ldmatrix: row %p is not aligned to 16 bytes", row);
  return exchange(~0u, &row, sizeof row, place, "ldmatrix");
}

inline const unsigned char* row_of_matrix(Slots rows, int matrix, int row) {
  const unsigned char* address;
  memcpy(&address, rows[matrix * 8 + row], sizeof address);
  return address;
}

}  // namespace simt

inline void load_matrices(unsigned (&to)[4], const void* row) {
  simt::Slots rows = simt::rows_of_matrices(row, SIMT_HERE);
  for (int i = 0; i < 4; ++i)
    memcpy(&to[i], simt::row_of_matrix(rows, i, simt::lane / 4) + simt::lane % 4 * 4, 4);
}

inline void load_transposed_matrices(unsigned (&to)[4], const void* row) {
  simt::Slots rows = simt::rows_of_matrices(row, SIMT_HERE);
  for (int i = 0; i < 4; ++i) {
    unsigned short pair[2];
    for (int k = 0; k < 2; ++k)
      memcpy(&pair[k], simt::row_of_matrix(rows, i, simt::lane % 4 * 2 + k) + simt::lane / 4 * 2, 2);
    memcpy(&to[i], pair, 4);
  }
}

inline unsigned as_tf32(unsigned bits) {
  const bool finite = (bits & 0x7F800000u) != 0x7F800000u;
  return finite ? (bits + 0x1000u) & 0xFFFFE000u : bits;
}

namespace simt {

struct Fragments {
  unsigned a[4], b[2];
};

// The element at byte `offset` of a register, as the tensor cores read it: they cut floats off to TF32.
template <class T>
float element(unsigned bits, int offset) {
  if constexpr (sizeof(T) == 4) return __uint_as_float(bits & 0xFFFFE000u);
  T x;
  memcpy(&x, reinterpret_cast<const char*>(&bits) + offset, sizeof x);
  return to_float(x);
}

}  // namespace simt

template <class T>
inline void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const simt::Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  simt::Slots all = simt::exchange(~0u, &mine, sizeof mine, SIMT_HERE, "mma");
  const int g = simt::lane / 4, t = simt::lane % 4;
  for (int result = 0; result < 4; ++result) {
    const int down = result / 2, column = 2 * t + result % 2;
    float sum = 0;
    for (int byte = 0; byte < 32; byte += sizeof(T)) {
      simt::Fragments left, right;
      memcpy(&left, all[g * 4 + byte % 16 / 4], sizeof left);
      memcpy(&right, all[column * 4 + byte % 16 / 4], sizeof right);
      sum += simt::element<T>(left.a[byte / 16 * 2 + down], byte % 4) *
             simt::element<T>(right.b[byte / 16], byte % 4);
    }
    c[result] += sum;
  }
}
