// The vector words of the other vector_*.h in AVX-512: 16 floats, 16 int32, 64 bytes. Included by
// isa_avx512.cpp only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "tensor/formats.h"

namespace hadal::kernels {
namespace {

// What fits into thirty-two registers: tokens that a panel meets at once, chains of the roof's probes.
inline constexpr int kFp8PanelTokens = 4, kFp4PanelTokens = 8, kProbeChains = 12;

struct F16 {
  __m512 v;
};
HADAL_INLINE F16 f_zero() { return {_mm512_setzero_ps()}; }
HADAL_INLINE F16 f_set(float x) { return {_mm512_set1_ps(x)}; }
HADAL_INLINE F16 f_load(const float* p) { return {_mm512_loadu_ps(p)}; }
HADAL_INLINE void f_store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
HADAL_INLINE __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
HADAL_INLINE F16 f_load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
HADAL_INLINE F16 f_add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
HADAL_INLINE F16 f_mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
HADAL_INLINE F16 f_fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// sum[t] += w * x[t], for the 16 floats at w
template <int kTokens>
HADAL_INLINE void f_fma_all(const float* w, const F16 (&x)[kTokens], F16 (&sum)[kTokens]) {
  const F16 ws = f_load(w);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) sum[t] = f_fma(ws, x[t], sum[t]);
}

HADAL_INLINE F16 f_bf16(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
HADAL_INLINE F16 f_from_bf16(const std::byte* p) {
  return f_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
HADAL_INLINE F16 f_from_bf16_n(const std::byte* p, int64_t n) { return f_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }

// E4M3 codes as value * 2^-8: sign and magnitude moved into an IEEE half, subnormals included.
HADAL_INLINE F16 f_e4m3(__m128i codes) {
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7),
                                        _mm256_set1_epi16(static_cast<int16_t>(0xBFFF)));
  return {_mm512_cvtph_ps(half)};
}
HADAL_INLINE F16 f_from_e4m3(const std::byte* p) {
  return f_e4m3(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
HADAL_INLINE F16 f_from_e4m3_n(const std::byte* p, int64_t n) { return f_e4m3(_mm_maskz_loadu_epi8(first(n), p)); }

// The reduction trees of four vectors: lane order i+8, i+4, i+2, i+1 (kernels/math.h).
HADAL_INLINE __m128 f_reduce4(F16 a, F16 b, F16 c, F16 d) {
  const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xEE));
  const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c.v, d.v, 0x44), _mm512_shuffle_f32x4(c.v, d.v, 0xEE));
  // lanes of 128 bits: a0 a1 b0 b1 / c0 c1 d0 d1; i+4 adds the second of each pair
  __m512 sum = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4E));
  sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xB1));
  const __m512i pick = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, sum));
}

struct I16 {
  __m512i v;
};
HADAL_INLINE I16 i_load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
HADAL_INLINE I16 i_zero() { return {_mm512_setzero_si512()}; }
HADAL_INLINE I16 i_add(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int kBits>
HADAL_INLINE I16 i_shift_left(I16 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
HADAL_INLINE I16 i_shift_right(I16 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
HADAL_INLINE F16 f_from_i(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

struct B64 {
  __m512i v;
};
HADAL_INLINE B64 b_from_i(I16 a) { return {a.v}; }
HADAL_INLINE void b_store(void* p, B64 a) { _mm512_storeu_si512(p, a.v); }
HADAL_INLINE B64 b_set_pair(const int16_t* p) {  // two int16, repeated
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return {_mm512_set1_epi32(word)};
}
HADAL_INLINE B64 b_load(const void* p) { return {_mm512_loadu_si512(p)}; }
// 64 bytes of packed E2M1: 2 * value + 12 of the even and of the odd columns.
HADAL_INLINE void b_unpack_e2m1(B64 packed, B64& even, B64& odd) {
  const __m512i table =
      _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m512i nibble = _mm512_set1_epi8(15);
  even.v = _mm512_shuffle_epi8(table, _mm512_and_si512(packed.v, nibble));
  odd.v = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(packed.v, 4), nibble));
}
// acc += sums of 4 adjacent products of unsigned and signed bytes
HADAL_INLINE I16 i_dot4(I16 acc, B64 u, B64 s) { return {_mm512_dpbusd_epi32(acc.v, u.v, s.v)}; }
// 64 bytes of packed E2M1 as int16, 512 * value: quarter q holds columns 4 i + q.
HADAL_INLINE void b_unpack_e2m1_words(B64 packed, B64 (&quarters)[4]) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  const __m512i nibble = _mm512_set1_epi8(15), high = _mm512_set1_epi16(static_cast<int16_t>(0xFF00));
  const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(packed.v, nibble)),
                odd = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(packed.v, 4), nibble));
  quarters[0].v = _mm512_slli_epi16(even, 8);
  quarters[1].v = _mm512_slli_epi16(odd, 8);
  quarters[2].v = _mm512_and_si512(even, high);
  quarters[3].v = _mm512_and_si512(odd, high);
}
template <int kBits>
HADAL_INLINE B64 w_shift_right(B64 a) {  // of int16
  return {_mm512_srai_epi16(a.v, kBits)};
}
// acc += sums of 2 adjacent products of int16
HADAL_INLINE I16 i_dot2(I16 acc, B64 a, B64 b) { return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)}; }
HADAL_INLINE void i_keep(I16&) {}  // vector_avx2.h
// Sums of the four dwords of every 128-bit lane, for four rows: lane g holds rows 0..3.
HADAL_INLINE I16 i_sum_lanes(I16 a, I16 b, I16 c, I16 d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a.v, b.v), _mm512_unpackhi_epi32(a.v, b.v));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c.v, d.v), _mm512_unpackhi_epi32(c.v, d.v));
  return {_mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))};
}
// 16 E8M0 bytes as powers of two.
HADAL_INLINE F16 f_from_e8m0(__m128i bytes) {
  const __m512i wide = _mm512_cvtepu8_epi32(bytes);
  const __m512i bits = _mm512_slli_epi32(wide, 23);
  return {_mm512_castsi512_ps(
      _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(wide, wide), _mm512_set1_epi32(0x00400000)))};
}
// The 128-bit lanes added: (0 + 2) + (1 + 3).
HADAL_INLINE __m128 f_add_lanes(F16 a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
HADAL_INLINE __m128 f_lane(F16 a, int g) {
  return g == 0   ? _mm512_castps512_ps128(a.v)
         : g == 1 ? _mm512_extractf32x4_ps(a.v, 1)
         : g == 2 ? _mm512_extractf32x4_ps(a.v, 2)
                  : _mm512_extractf32x4_ps(a.v, 3);
}

}  // namespace
}  // namespace hadal::kernels
