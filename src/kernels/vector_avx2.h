// The vector words of the other vector_*.h in AVX2: each is a pair of 256-bit registers. Included by
// isa_avx2.cpp only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/formats.h"

namespace hadal::kernels {
namespace {

// What fits into sixteen registers: tokens that a panel meets at once, chains of the roof's probes.
inline constexpr int kFp8PanelTokens = 3, kFp4PanelTokens = 4, kProbeChains = 6;

struct F16 {
  __m256 lo, hi;
};
HADAL_INLINE F16 f_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HADAL_INLINE F16 f_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HADAL_INLINE F16 f_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HADAL_INLINE void f_store(float* p, F16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
// Partial loads go through a small buffer: nothing past the end is touched.
HADAL_INLINE F16 f_load_n(const float* p, int64_t n) {
  float copy[16] = {};
  std::memcpy(copy, p, sizeof(float) * static_cast<size_t>(n));
  return f_load(copy);
}
HADAL_INLINE F16 f_add(F16 a, F16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
HADAL_INLINE F16 f_mul(F16 a, F16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
HADAL_INLINE F16 f_fma(F16 a, F16 b, F16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// sum[t] += w * x[t], for the 16 floats at w: half by half, so that sums, inputs and one half fit the registers.
template <int kTokens>
HADAL_INLINE void f_fma_all(const float* w, const F16 (&x)[kTokens], F16 (&sum)[kTokens]) {
  const __m256 lo = _mm256_loadu_ps(w);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) sum[t].lo = _mm256_fmadd_ps(lo, x[t].lo, sum[t].lo);
  const __m256 hi = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) sum[t].hi = _mm256_fmadd_ps(hi, x[t].hi, sum[t].hi);
}

HADAL_INLINE F16 f_from_bf16(const std::byte* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(bits)),
                hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(bits, 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
HADAL_INLINE F16 f_from_bf16_n(const std::byte* p, int64_t n) {
  std::byte copy[32] = {};
  std::memcpy(copy, p, 2 * static_cast<size_t>(n));
  return f_from_bf16(copy);
}

// E4M3 codes as value * 2^-8: sign and magnitude moved into an IEEE half, subnormals included.
HADAL_INLINE F16 f_from_e4m3(const std::byte* p) {
  const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7),
                                        _mm256_set1_epi16(static_cast<int16_t>(0xBFFF)));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
HADAL_INLINE F16 f_from_e4m3_n(const std::byte* p, int64_t n) {
  std::byte copy[16] = {};
  std::memcpy(copy, p, static_cast<size_t>(n));
  return f_from_e4m3(copy);
}

// The reduction trees of four vectors: lane order i+8, i+4, i+2, i+1 (kernels/math.h).
HADAL_INLINE __m128 f_reduce4(F16 a, F16 b, F16 c, F16 d) {
  const __m256 a8 = _mm256_add_ps(a.lo, a.hi), b8 = _mm256_add_ps(b.lo, b.hi), c8 = _mm256_add_ps(c.lo, c.hi),
               d8 = _mm256_add_ps(d.lo, d.hi);
  const __m256 ac = _mm256_add_ps(_mm256_permute2f128_ps(a8, c8, 0x20), _mm256_permute2f128_ps(a8, c8, 0x31));
  const __m256 bd = _mm256_add_ps(_mm256_permute2f128_ps(b8, d8, 0x20), _mm256_permute2f128_ps(b8, d8, 0x31));
  // i+2: (0 + 2, 1 + 3) of a and b, of c and d
  const __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xEE));
  const __m256 sums = _mm256_add_ps(pairs, _mm256_permute_ps(pairs, 0xB1));  // a . b . | c . d .
  return _mm_shuffle_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1), 0x88);
}

struct I16 {
  __m256i lo, hi;
};
HADAL_INLINE I16 i_load(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
HADAL_INLINE I16 i_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
HADAL_INLINE I16 i_add(I16 a, I16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
template <int kBits>
HADAL_INLINE I16 i_shift_left(I16 a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
HADAL_INLINE I16 i_shift_right(I16 a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}
HADAL_INLINE F16 f_from_i(I16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

struct B64 {
  __m256i lo, hi;
};
HADAL_INLINE B64 b_from_i(I16 a) { return {a.lo, a.hi}; }
HADAL_INLINE void b_store(void* p, B64 a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, a.hi);
}
HADAL_INLINE B64 b_set_pair(const int16_t* p) {  // two int16, repeated
  int32_t word;
  std::memcpy(&word, p, 4);
  return {_mm256_set1_epi32(word), _mm256_set1_epi32(word)};
}
HADAL_INLINE B64 b_load(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
// 64 bytes of packed E2M1: 2 * value + 12 of the even and of the odd columns.
HADAL_INLINE void b_unpack_e2m1(B64 packed, B64& even, B64& odd) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  even = {_mm256_shuffle_epi8(table, _mm256_and_si256(packed.lo, nibble)),
          _mm256_shuffle_epi8(table, _mm256_and_si256(packed.hi, nibble))};
  odd = {_mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(packed.lo, 4), nibble)),
         _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(packed.hi, 4), nibble))};
}
// acc += sums of 4 adjacent products of unsigned and signed bytes; pairs stay below 2 * 24 * 64 in 16 bits.
HADAL_INLINE I16 i_dot4(I16 acc, B64 u, B64 s) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(u.lo, s.lo), ones)),
          _mm256_add_epi32(acc.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(u.hi, s.hi), ones))};
}
// 64 bytes of packed E2M1 as int16, 512 * value: quarter q holds columns 4 i + q.
HADAL_INLINE __m256i low_bytes(__m256i a) { return _mm256_slli_epi16(a, 8); }
HADAL_INLINE __m256i high_bytes(__m256i a) {
  return _mm256_and_si256(a, _mm256_set1_epi16(static_cast<int16_t>(0xFF00)));
}
HADAL_INLINE void b_unpack_e2m1_words(B64 packed, B64 (&quarters)[4]) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  const __m256i nibble = _mm256_set1_epi8(15);
  const B64 even = {_mm256_shuffle_epi8(table, _mm256_and_si256(packed.lo, nibble)),
                    _mm256_shuffle_epi8(table, _mm256_and_si256(packed.hi, nibble))},
            odd = {_mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(packed.lo, 4), nibble)),
                   _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(packed.hi, 4), nibble))};
  quarters[0] = {low_bytes(even.lo), low_bytes(even.hi)};
  quarters[1] = {low_bytes(odd.lo), low_bytes(odd.hi)};
  quarters[2] = {high_bytes(even.lo), high_bytes(even.hi)};
  quarters[3] = {high_bytes(odd.lo), high_bytes(odd.hi)};
}
template <int kBits>
HADAL_INLINE B64 w_shift_right(B64 a) {  // of int16
  return {_mm256_srai_epi16(a.lo, kBits), _mm256_srai_epi16(a.hi, kBits)};
}
// acc += sums of 2 adjacent products of int16
HADAL_INLINE I16 i_dot2(I16 acc, B64 a, B64 b) {
  return {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(a.lo, b.lo)),
          _mm256_add_epi32(acc.hi, _mm256_madd_epi16(a.hi, b.hi))};
}
// Sums are finished one by one: left alone, g++ 12 forms all products of a loop first and spills them.
HADAL_INLINE void i_keep(I16& a) { asm volatile("" : "+x"(a.lo), "+x"(a.hi)); }
// Sums of the four dwords of every 128-bit lane, for four rows: lane g holds rows 0..3.
HADAL_INLINE __m256i sum_lanes(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}
HADAL_INLINE I16 i_sum_lanes(I16 a, I16 b, I16 c, I16 d) {
  return {sum_lanes(a.lo, b.lo, c.lo, d.lo), sum_lanes(a.hi, b.hi, c.hi, d.hi)};
}
// 16 E8M0 bytes as powers of two.
HADAL_INLINE __m256 e8m0(__m256i wide) {
  const __m256i is_zero = _mm256_cmpeq_epi32(wide, _mm256_setzero_si256());
  return _mm256_castsi256_ps(_mm256_blendv_epi8(_mm256_slli_epi32(wide, 23), _mm256_set1_epi32(0x00400000), is_zero));
}
HADAL_INLINE F16 f_from_e8m0(__m128i bytes) {
  return {e8m0(_mm256_cvtepu8_epi32(bytes)), e8m0(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
// The 128-bit lanes added: (0 + 2) + (1 + 3).
HADAL_INLINE __m128 f_add_lanes(F16 a) {
  const __m256 half = _mm256_add_ps(a.lo, a.hi);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
HADAL_INLINE __m128 f_lane(F16 a, int g) {
  const __m256 half = g < 2 ? a.lo : a.hi;
  return g % 2 == 0 ? _mm256_castps256_ps128(half) : _mm256_extractf128_ps(half, 1);
}

}  // namespace
}  // namespace hadal::kernels
