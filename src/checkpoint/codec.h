// Weights to and from the release formats, block by block (docs/numerics.md, "Quantising weights").
//
//   FP8   E4M3 codes, one E8M0 scale per 128 x 128 values, s = 2^ceil(log2(amax / 448))
//   FP4   E2M1 codes, one E8M0 scale per row and 32 values, s = 2^ceil(log2(amax / 6))
//
// The exponent is formed by bits in float32 as the official kernels form it, and is at least -126,
// so an all-zero block has that. The scale is rounded up: nothing saturates. Codes are rounded to
// nearest, ties to even. What was decoded from either format encodes to the same values again,
// whatever its scales were.
//
// Values must be finite. Pure functions: any thread.
#pragma once

#include <cstdint>

#include "tensor/formats.h"
#include "tensor/tensor.h"

namespace hadal::checkpoint {

inline constexpr int64_t kFp8Block = 128;
inline constexpr int64_t kFp4Group = 32;
inline constexpr int kLeastScaleExponent = -126;

inline int fp8_scale_exponent(float amax) {
  const int exponent = scale_exponent(amax, kE4m3InverseTop);
  return exponent < kLeastScaleExponent ? kLeastScaleExponent : exponent;
}
inline int fp4_scale_exponent(float amax) {
  const int exponent = scale_exponent(amax, kE2m1InverseTop);
  return exponent < kLeastScaleExponent ? kLeastScaleExponent : exponent;
}

// What encoding did to the values of a block.
struct BlockError {
  double squared_error = 0, squared = 0;  // sums over the values
  double max_error = 0;                   // largest |value - code x scale|
  double amax = 0;                        // largest |value|
  int64_t n_saturated = 0;                // values beyond the largest code: none, by the rule
};

// A block of `rows` x `cols` (at most 128 each) float32 values, rows `stride` apart. Returns the
// scale's code.
f8e8m0 encode_fp8(const float* values, int64_t rows, int64_t cols, int64_t stride, uint8_t* codes, int64_t codes_stride,
                  BlockError* error = nullptr);
// A group of n (even, at most 32) values into n / 2 bytes, even columns in the low nibbles.
f8e8m0 encode_fp4(const float* values, int64_t n, uint8_t* packed, BlockError* error = nullptr);

// Columns [first, first + n) of a row as float32: code x scale, rounded once where a scale is no
// power of two. `first` is a multiple of 128. Codes and scales that stand for no number give NaN or
// infinity.
void decode_row(const Weight& weight, int64_t row, int64_t first, int64_t n, float* values);

}  // namespace hadal::checkpoint
