// The release's number formats in training: values move to the grid of the format, gradients pass
// unchanged (straight through). Scales are powers of two, rounded up, so nothing saturates; they
// are constants in backward. On the CPU in float32 the codecs of tensor/formats.h do the rounding;
// elsewhere equal torch operations.
//
//   what                     grid    group            smallest largest value
//   linear inputs            E4M3    128 of a row     1e-4
//   KV rows, entries         E4M3    64 of the nope dims
//   index vectors            E2M1    32 of a row      6 2^-126
//   FP8 weights              E4M3    128 x 128        448 2^-126
//   FP4 weights              E2M1    32 of a row      6 2^-126
//
// A last group shorter than its size has its own scale. Rounding a rounded tensor changes nothing,
// so that an export of quantised weights is exact.
#pragma once

#include <torch/torch.h>

namespace hadal::train {

inline constexpr float kFp8WeightAmaxFloor = 448 * 0x1p-126f;

torch::Tensor round_to_bf16(const torch::Tensor& x);
torch::Tensor quantise_fp8(const torch::Tensor& x, int64_t group,
                           int64_t n_columns = -1);         // first n_columns of a row
torch::Tensor quantise_fp4(const torch::Tensor& x);         // last dimension, groups of 32
torch::Tensor quantise_weight_fp8(const torch::Tensor& w);  // [..., rows, cols]
torch::Tensor quantise_weight_fp4(const torch::Tensor& w);  // the same grid as quantise_fp4

}  // namespace hadal::train
