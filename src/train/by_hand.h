// The autograd functions over train/fused.h: what train/ops.h calls for float32 on the CPU. Same
// arguments, same results, other order of summation; train/ops.h says what each computes.
#pragma once

#include "train/ops.h"

namespace hadal::train::by_hand {

// Whether the loops apply: contiguous float32 on the CPU, rows of `width` in whole vectors, no
// PlainScope.
bool applies(const torch::Tensor& x, int64_t width);

torch::Tensor linear(const torch::Tensor& x, const torch::Tensor& w);
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);
torch::Tensor rotate(const torch::Tensor& x, const Rotation& rotation, bool inverse);
HcSplit hc_pre(const torch::Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config);
torch::Tensor hc_post(const torch::Tensor& o, const torch::Tensor& streams, const HcSplit& split);
torch::Tensor hc_head(const torch::Tensor& streams, const HyperConnection& hc, const checkpoint::ModelConfig& config);
torch::Tensor pool(const torch::Tensor& values, const torch::Tensor& gates, const torch::Tensor& ape,
                   const Blocks& blocks);
Attended attend(const Attend& args);
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up, const torch::Tensor& w, double limit);
ExpertsOut experts(const Experts& args);

}  // namespace hadal::train::by_hand
