// Number formats of the V4 checkpoints and caches, and their conversions. Source: architecture report
// appendix "numerics"; official kernel.py (act_quant, fp4_act_quant).
//
//   BF16   upper half of a float32, rounded to nearest even
//   E4M3   1-4-3, bias 7, no infinities; 0x7F / 0xFF are NaN in the standard. No release holds them; here
//          they decode as +-480, the next step of the grid, on every instruction set.
//   E2M1   1-2-1: 0 0.5 1 1.5 2 3 4 6 and their negatives; two per byte, low nibble = even index
//   E8M0   2^(byte - 127); 255 is NaN in the standard, decodes as infinity here (non-finite logits are an
//          error at sampling, so it cannot pass unseen)
//
// Everything is inline and exact; rounding functions say so in their name.
#pragma once

#include <cstdint>
#include <cstring>

namespace hadal {

struct bf16 {
  uint16_t bits;
};
struct f8e4m3 {
  uint8_t bits;
};
struct f8e8m0 {
  uint8_t bits;
};

#define HADAL_INLINE [[gnu::always_inline]] inline

HADAL_INLINE float float_from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
HADAL_INLINE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

HADAL_INLINE float to_f32(bf16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }

// R(x) of the spec: to the nearest BF16, ties to even, as a float32. Finite inputs and infinities.
HADAL_INLINE float round_bf16(float x) {
  const uint32_t u = bits_of(x);
  return float_from_bits((u + 0x7FFFu + ((u >> 16) & 1u)) & 0xFFFF0000u);
}
HADAL_INLINE bf16 to_bf16(float x) { return {static_cast<uint16_t>(bits_of(round_bf16(x)) >> 16)}; }

HADAL_INLINE float to_f32(f8e8m0 x) {
  return float_from_bits(x.bits == 0 ? 0x00400000u : static_cast<uint32_t>(x.bits) << 23);
}

HADAL_INLINE float to_f32(f8e4m3 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x80) << 24;
  const uint32_t magnitude = x.bits & 0x7F;
  if (magnitude < 8) return float_from_bits(bits_of(static_cast<float>(magnitude) * 0x1p-9f) | sign);
  return float_from_bits(((magnitude << 20) + ((127u - 7u) << 23)) | sign);
}

// Twice the value of an E2M1 code: an integer in [-12, 12].
inline constexpr int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
HADAL_INLINE float e2m1_to_f32(unsigned code) { return 0.5f * static_cast<float>(kE2m1Doubled[code & 15]); }

// Nearest E4M3 code of |x| <= 448, ties to even, subnormals included.
HADAL_INLINE uint8_t round_e4m3(float x) {
  const uint32_t u = bits_of(x);
  const uint32_t sign = (u >> 24) & 0x80;
  const uint32_t magnitude = u & 0x7FFFFFFFu;
  if (magnitude < (121u << 23)) {  // below 2^-6: the grid is 2^-9; adding 1.5 * 2^14 rounds to it
    const float steps = (float_from_bits(magnitude) * 0x1p9f + 0x1.8p23f) - 0x1.8p23f;
    return static_cast<uint8_t>(sign | static_cast<uint32_t>(steps));
  }
  const uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
  return static_cast<uint8_t>(sign | ((rounded >> 20) - ((127u - 7u) << 3)));
}

// Nearest E2M1 code of |x| <= 6, ties to the even code; the sign is kept.
HADAL_INLINE uint8_t round_e2m1(float x) {
  const float a = float_from_bits(bits_of(x) & 0x7FFFFFFFu);
  const int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint8_t>(code | static_cast<int>((bits_of(x) >> 28) & 8u));
}

// Exponent E of the power-of-two scale of a quantisation group: ceil(log2(amax / top)), formed in float32 as
// the official kernels do (amax * fl32(1/top), then rounded up by its bits). amax is floored by the caller.
HADAL_INLINE int scale_exponent(float amax, float inverse_top) {
  const uint32_t u = bits_of(amax * inverse_top);
  return static_cast<int>(u >> 23) - 127 + ((u & 0x7FFFFFu) != 0 ? 1 : 0);
}
inline constexpr float kE4m3AmaxFloor = 1e-4f;
inline constexpr float kE4m3InverseTop = 1.0f / 448.0f;
inline constexpr float kE2m1AmaxFloor = 6 * 0x1p-126f;
inline constexpr float kE2m1InverseTop = 1.0f / 6.0f;

// 2^exponent for -126 <= exponent <= 127.
HADAL_INLINE float exp2i(int exponent) { return float_from_bits(static_cast<uint32_t>(exponent + 127) << 23); }

}  // namespace hadal
