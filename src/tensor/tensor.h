// What a file holds: typed bytes with a shape (Tensor), and a weight matrix as stored (Weight). Views only;
// the bytes belong to the checkpoint's maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hadal {

// The two numerics of docs/numerics.md: every rounding point of the official inference code, or none.
enum class Numerics { kFaithful, kExact };

enum class Dtype { kF32, kBf16, kF8e4m3, kF8e8m0, kI8, kI32, kI64 };  // kI8: two packed E2M1 codes in releases

constexpr int64_t dtype_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
    case Dtype::kI32:
      return 4;
    case Dtype::kBf16:
      return 2;
    case Dtype::kF8e4m3:
    case Dtype::kF8e8m0:
    case Dtype::kI8:
      return 1;
    case Dtype::kI64:
      return 8;
  }
  return 0;
}

struct Tensor {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  // not necessarily aligned to its element size
  int64_t n_elements() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
  int64_t size_bytes() const { return n_elements() * dtype_size(dtype); }
};

enum class WeightFormat {
  kF32,       // [rows, cols]
  kBf16,      // [rows, cols]
  kFp8Block,  // E4M3 [rows, cols], one scale per 128 x 128 block, [ceil(rows/128), ceil(cols/128)]
  kFp4Block,  // E2M1 [rows, cols/2] bytes, low nibble = even column; E8M0 per row and 32 columns
};

// A linear weight: y = W x, rows = out features, cols = in features, row-major as in the file.
struct Weight {
  WeightFormat format = WeightFormat::kF32;
  bool scales_are_f32 = false;  // kFp8Block: scales as F32 (Base) instead of E8M0
  bool rounds_to_bf16 = false;  // kFp8Block: value x scale is rounded to BF16 and meets BF16 activations (wo_a)
  int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;
  const std::byte* scale = nullptr;

  int64_t row_bytes() const {
    switch (format) {
      case WeightFormat::kF32:
        return cols * 4;
      case WeightFormat::kBf16:
        return cols * 2;
      case WeightFormat::kFp8Block:
        return cols;
      case WeightFormat::kFp4Block:
        return cols / 2;
    }
    return 0;
  }
  bool quantised() const { return format == WeightFormat::kFp8Block || format == WeightFormat::kFp4Block; }
};

}  // namespace hadal
