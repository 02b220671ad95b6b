// The roofs of hadal bench over the vector words of vector_avx512.h or vector_avx2.h, one of which the including file
// brings first.
#pragma once

#include "kernels/isa.h"
#include "kernels/math.h"

namespace hadal::kernels {
namespace {

// All of them: the compiler drops what no result needs.
HADAL_INLINE float all_lanes(F16 a) {
  float lanes[16];
  f_store(lanes, a);
  return reduce16(lanes);
}

float probe_read(const std::byte* data, int64_t size) {
  F16 sum[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  // Two streams of pages, as the row tiles are.
  for (int64_t i = 0; i + 256 <= size; i += 256) {
    prefetch(data + i + 4096);
    prefetch(data + i + 4096 + 64);
    prefetch(data + i + 4096 + 128);
    prefetch(data + i + 4096 + 192);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] = f_add(sum[k], f_load(reinterpret_cast<const float*>(data + i + 64 * k)));
  }
  return all_lanes(f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3])));
}

// Every lane starts with a number of its own, or the compiler would find chains that are the same and keep one.
float probe_fma(int64_t n) {
  float start[12 * 16];
  for (int i = 0; i < 12 * 16; ++i) start[i] = static_cast<float>(i);
  const F16 a = f_set(0.5f), b = f_set(1.0f);
  F16 total = f_zero();
  for (int first = 0; first < 12; first += kProbeChains) {
    F16 sum[kProbeChains];
#pragma GCC unroll 12
    for (int i = 0; i < kProbeChains; ++i) sum[i] = f_load(start + 16 * (first + i));
    for (int64_t k = 0; k < n; ++k)
#pragma GCC unroll 12
      for (int i = 0; i < kProbeChains; ++i) sum[i] = f_fma(sum[i], a, b);
    for (int i = 0; i < kProbeChains; ++i) total = f_add(total, sum[i]);
  }
  return all_lanes(total);
}

float probe_int8(int64_t n) {
  int8_t bytes[64];
  int32_t start[12 * 16];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<int8_t>(i);
  for (int i = 0; i < 12 * 16; ++i) start[i] = i;
  const B64 s = b_load(bytes);
  I16 total = i_zero();
  for (int first = 0; first < 12; first += kProbeChains) {
    I16 sum[kProbeChains];
#pragma GCC unroll 12
    for (int i = 0; i < kProbeChains; ++i) sum[i] = i_load(start + 16 * (first + i));
    for (int64_t k = 0; k < n; ++k) {
#pragma GCC unroll 12
      for (int i = 0; i < kProbeChains; ++i) sum[i] = i_dot4(sum[i], b_from_i(sum[i]), s);  // never the same product
    }
    for (int i = 0; i < kProbeChains; ++i) total = i_add(total, sum[i]);
  }
  return all_lanes(f_from_i(total));
}

}  // namespace
}  // namespace hadal::kernels
