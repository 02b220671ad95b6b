// Linear layers y = W x, the products that make up almost all of V4's arithmetic.
//
// One arithmetic for every instruction set, token count and split (docs/numerics.md):
//   F32, BF16 weights      element k adds into lane k mod 16 by fma, k ascending; the 16 lanes are reduced by
//                          one tree (kernels/math.h)
//   FP8, 128x128 blocks    per 128 columns: lanes and tree as above over unscaled codes give c;
//                          y = fma(c, sa * sw, y), blocks ascending (sa = 1 for unquantised input)
//   FP8, rounds_to_bf16    with F32 scales: as BF16, of R(value * scale); with E8M0 scales: as FP8 blocks
//   FP4, quantised input   per 32 columns: c = exact integer sum of (2 * weight) * (512 * activation);
//                          lane (group mod 16) = fma(c * sa * 2^-10, sw, lane); tree at the end
//   FP4, plain input       as F32, of value * scale
// A matrix with one token and one with a thousand give the same bits, row by row.
//
// Shapes: weight [rows, cols], input [t, cols], output [t, rows]. No errors: shapes were checked at binding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace hadal::kernels {

struct Isa;

// 128 quantised activations as FP4 products read them: 512 * value = 8 coarse + fine, fine in 0..7. Only values below
// 1/8 have a fine part, so most groups have none. Column 4 i + q is at [32 q + i]: two packed bytes of codes
// give one value to each quarter. Zero past n_cols.
struct alignas(64) Fp4Chunk {
  int16_t coarse[128];
  uint32_t fine_groups;  // bit g: some fine part of columns 32 g .. 32 g + 31 is not 0
  int16_t fine[128];
};

// Rows of an input as the products read them. Views.
struct LinearInput {
  const float* values = nullptr;  // [t, stride]; quantised: E4M3 values without their scale. Past n_cols: not read
  int64_t stride = 0;
  const float* scales = nullptr;  // [t, scale_stride] one power of two per 128 columns; nullptr: not quantised
  int64_t scale_stride = 0;
  const Fp4Chunk* chunks = nullptr;  // [t, scale_stride]: the same values as integers, for FP4 weights
  int64_t n_cols = 0;
};

// Rows [row_begin, row_begin + n_rows) of one weight times some rows of one input.
struct LinearJob {
  const Weight* weight = nullptr;
  LinearInput input;
  const int32_t* input_rows = nullptr;  // [n_tokens] row of the input for each token; nullptr: 0, 1, 2, ...
  int64_t n_tokens = 0;
  int64_t row_begin = 0, n_rows = 0;
  float* out = nullptr;  // [n_tokens, out_stride], column row - row_begin
  int64_t out_stride = 0;
  bool round_bf16 = false;

  int64_t input_row(int64_t token) const { return input_rows ? input_rows[token] : token; }
};

// Runs all jobs in one fork-join.
void linear(ThreadPool& pool, const Isa& isa, std::span<const LinearJob> jobs);

// A quantised copy of an input (Q8: E4M3 with one scale per 128 columns), with room that is reused.
class QuantisedInput {
 public:
  // x: [n_tokens, n_cols], BF16 values.
  const LinearInput& quantise(ThreadPool& pool, const Isa& isa, const float* x, int64_t stride, int64_t n_tokens,
                              int64_t n_cols);

 private:
  std::vector<float> values_, scales_;
  std::vector<Fp4Chunk> chunks_;
  LinearInput input_;
};

inline LinearInput plain_input(const float* x, int64_t stride, int64_t n_cols) {
  return {.values = x, .stride = stride, .n_cols = n_cols};
}

}  // namespace hadal::kernels
