#include "checkpoint/codec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace hadal::checkpoint {
namespace {

std::array<float, 256> e4m3_values() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code)
    values[static_cast<size_t>(code)] =
        (code & 0x7F) == 0x7F ? std::numeric_limits<float>::quiet_NaN() : to_f32(f8e4m3{static_cast<uint8_t>(code)});
  return values;
}
const std::array<float, 256> kE4m3Values = e4m3_values();

float max_magnitude(const float* values, int64_t n, float most) {
  uint32_t bits = bits_of(most);  // magnitudes of floats order like their bits
  for (int64_t i = 0; i < n; ++i) bits = std::max(bits, bits_of(values[i]) & 0x7FFFFFFFu);
  return float_from_bits(bits);
}

// Sums of one row in units of its scale: |x| / s <= 448, so float32 differences are exact or nearly
// so.
struct RowError {
  double squared_error = 0, squared = 0;
  float max_error = 0;
  int64_t n_saturated = 0;

  void add(float scaled, float code, float top) {
    const float e = std::fabs(scaled - code);
    squared_error += static_cast<double>(e) * e;
    squared += static_cast<double>(scaled) * scaled;
    max_error = e > max_error ? e : max_error;
    n_saturated += std::fabs(scaled) > top;
  }
  void add_to(BlockError& error, double scale) const {
    error.squared_error += squared_error * scale * scale;
    error.squared += squared * scale * scale;
    error.max_error = std::max(error.max_error, static_cast<double>(max_error) * scale);
    error.n_saturated += n_saturated;
  }
};

}  // namespace

f8e8m0 encode_fp8(const float* values, int64_t rows, int64_t cols, int64_t stride, uint8_t* codes, int64_t codes_stride,
                  BlockError* error) {
  float amax = 0;
  for (int64_t r = 0; r < rows; ++r) amax = max_magnitude(values + r * stride, cols, amax);
  const int exponent = fp8_scale_exponent(amax);
  const float inverse = exp2i(-exponent);
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = values + r * stride;
    uint8_t* row = codes + r * codes_stride;
    for (int64_t i = 0; i < cols; ++i) row[i] = round_e4m3(x[i] * inverse);
    if (!error) continue;
    RowError sums;
    for (int64_t i = 0; i < cols; ++i) sums.add(x[i] * inverse, kE4m3Values[row[i]], 448);
    sums.add_to(*error, std::ldexp(1.0, exponent));
  }
  if (error) error->amax = std::max(error->amax, static_cast<double>(amax));
  return {static_cast<uint8_t>(exponent + 127)};
}

f8e8m0 encode_fp4(const float* values, int64_t n, uint8_t* packed, BlockError* error) {
  const float amax = max_magnitude(values, n, 0);
  const int exponent = fp4_scale_exponent(amax);
  const float inverse = exp2i(-exponent);
  RowError sums;
  for (int64_t i = 0; i < n; i += 2) {
    const unsigned low = round_e2m1(values[i] * inverse), high = round_e2m1(values[i + 1] * inverse);
    packed[i / 2] = static_cast<uint8_t>(low | high << 4);
    if (!error) continue;
    sums.add(values[i] * inverse, e2m1_to_f32(low), 6);
    sums.add(values[i + 1] * inverse, e2m1_to_f32(high), 6);
  }
  if (error) {
    sums.add_to(*error, std::ldexp(1.0, exponent));
    error->amax = std::max(error->amax, static_cast<double>(amax));
  }
  return {static_cast<uint8_t>(exponent + 127)};
}

void decode_row(const Weight& weight, int64_t row, int64_t first, int64_t n, float* values) {
  const std::byte* data = weight.data + row * weight.row_bytes();
  switch (weight.format) {
    case WeightFormat::kF32:
      std::memcpy(values, data + 4 * first, static_cast<size_t>(4 * n));
      return;
    case WeightFormat::kBf16:
      for (int64_t i = 0; i < n; ++i) {
        bf16 value;
        std::memcpy(&value, data + 2 * (first + i), 2);
        values[i] = to_f32(value);
      }
      return;
    case WeightFormat::kFp8Block: {
      const uint8_t* codes = reinterpret_cast<const uint8_t*>(data) + first;
      const int64_t blocks = (weight.cols + kFp8Block - 1) / kFp8Block;
      for (int64_t begin = 0; begin < n; begin += kFp8Block) {
        const int64_t block = row / kFp8Block * blocks + (first + begin) / kFp8Block;
        float scale;
        if (weight.scales_are_f32) {
          std::memcpy(&scale, weight.scale + 4 * block, 4);
        } else {
          scale = to_f32(f8e8m0{static_cast<uint8_t>(weight.scale[block])});
        }
        for (int64_t i = begin; i < std::min(n, begin + kFp8Block); ++i) values[i] = kE4m3Values[codes[i]] * scale;
      }
      return;
    }
    case WeightFormat::kFp4Block: {
      const uint8_t* packed = reinterpret_cast<const uint8_t*>(data) + first / 2;
      const std::byte* scales = weight.scale + row * (weight.cols / kFp4Group) + first / kFp4Group;
      for (int64_t begin = 0; begin < n; begin += kFp4Group) {
        const float scale = to_f32(f8e8m0{static_cast<uint8_t>(scales[begin / kFp4Group])});
        for (int64_t i = begin; i < begin + kFp4Group; i += 2) {
          values[i] = e2m1_to_f32(packed[i / 2] & 15u) * scale;
          values[i + 1] = e2m1_to_f32(packed[i / 2] >> 4) * scale;
        }
      }
      return;
    }
  }
}

}  // namespace hadal::checkpoint
