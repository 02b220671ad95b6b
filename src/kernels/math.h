// The scalar functions of hadal's one arithmetic (docs/numerics.md). Each is a fixed sequence of float32
// operations with explicit fused multiply-adds, so that plain loops, AVX2 and AVX-512 give the same bits.
#pragma once

#include <cstdint>

#include "tensor/formats.h"

namespace hadal::kernels {

// e^x with relative error below 2e-7 (tests/kernels/isa_test.cpp). Below -86.9 the result is 0, above
// 88.72 it is infinity; never NaN for a number.
HADAL_INLINE float exp_f32(float x) {
  const float clamped = x < -87.0f ? -87.0f : x > 88.8f ? 88.8f : x;
  // n = nearest integer to x / ln 2: adding 1.5 * 2^23 leaves it in the low bits of the sum.
  const float shifted = __builtin_fmaf(clamped, 1.44269504f, 12582912.0f);
  const float n = shifted - 12582912.0f;
  float r = __builtin_fmaf(n, -0.693145751953125f, clamped);  // ln 2 in two parts, the first exact in products
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.0f / 5040.0f;
  p = __builtin_fmaf(p, r, 1.0f / 720.0f);
  p = __builtin_fmaf(p, r, 1.0f / 120.0f);
  p = __builtin_fmaf(p, r, 1.0f / 24.0f);
  p = __builtin_fmaf(p, r, 1.0f / 6.0f);
  p = __builtin_fmaf(p, r, 0.5f);
  p = __builtin_fmaf(p, r, 1.0f);
  p = __builtin_fmaf(p, r, 1.0f);
  // 2^(n-1) from the low bits of `shifted`, and one more doubling, since 2^128 is no float.
  const float half_scale = float_from_bits((bits_of(shifted) - 0x4B400000u + 126u) << 23);
  const float result = p * half_scale * 2.0f;
  return x < -86.9f ? 0.0f : x > 88.72283f ? float_from_bits(0x7F800000u) : result;
}

HADAL_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

// The reduction tree of every 16-lane sum: lanes i and i+8, then i+4, i+2, i+1.
HADAL_INLINE float reduce16(const float* lane) {
  float a[8];
  for (int i = 0; i < 8; ++i) a[i] = lane[i] + lane[i + 8];
  for (int i = 0; i < 4; ++i) a[i] = a[i] + a[i + 4];
  return (a[0] + a[2]) + (a[1] + a[3]);
}

// sqrt(softplus(a)), the gate's score; softplus(a) = a above 20, else log(1 + e^a). Own series in double,
// rounded once, so that it does not depend on the C library.
float sqrt_softplus(float a);

}  // namespace hadal::kernels
