#include "train/quantisers.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "tensor/formats.h"
#include "train/ops.h"

namespace hadal::train {

using torch::Tensor;

namespace {

enum class Grid { kBf16, kE4m3, kE2m1 };

struct Rule {
  Grid grid = Grid::kBf16;
  int64_t group_rows = 1, group_cols = 1;
  int64_t n_columns = -1;  // of a row; those behind stay as they are. -1: all
  float amax_floor = 0;
};

// One group of rows x cols floats, in place.
void quantise_group(float* x, int64_t stride, int64_t rows, int64_t cols, const Rule& rule) {
  float amax = rule.amax_floor;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) amax = std::max(amax, std::fabs(x[r * stride + c]));
  const bool is_e4m3 = rule.grid == Grid::kE4m3;
  const int exponent = std::max(-126, scale_exponent(amax, is_e4m3 ? kE4m3InverseTop : kE2m1InverseTop));
  const float scale = exp2i(exponent), inverse = exponent > -126 ? exp2i(-exponent) : 0x1p126f;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      float& v = x[r * stride + c];
      v = scale * (is_e4m3 ? to_f32(f8e4m3{round_e4m3(v * inverse)}) : e2m1_to_f32(round_e2m1(v * inverse)));
    }
}

void quantise_matrix(float* x, int64_t rows, int64_t cols, const Rule& rule) {
  const int64_t end = rule.n_columns < 0 ? cols : rule.n_columns;
  for (int64_t r = 0; r < rows; r += rule.group_rows)
    for (int64_t c = 0; c < end; c += rule.group_cols)
      quantise_group(x + r * cols + c, cols, std::min(rule.group_rows, rows - r), std::min(rule.group_cols, end - c),
                     rule);
}

// The same in torch operations. x: [m, rows, cols].
Tensor quantise_plain(const Tensor& x, const Rule& rule) {
  const int64_t cols = x.size(2), end = rule.n_columns < 0 ? cols : rule.n_columns;
  const Tensor head = x.narrow(2, 0, end);
  const int64_t rows = x.size(1), gr = rule.group_rows, gc = rule.group_cols;
  const int64_t padded_rows = (rows + gr - 1) / gr * gr, padded_cols = (end + gc - 1) / gc * gc;
  const Tensor groups = torch::constant_pad_nd(head, {0, padded_cols - end, 0, padded_rows - rows})
                            .view({x.size(0), padded_rows / gr, gr, padded_cols / gc, gc});
  const bool is_e4m3 = rule.grid == Grid::kE4m3;
  const Tensor ratio = groups.abs().amax({2, 4}, true).clamp_min(rule.amax_floor) * (is_e4m3 ? 1.0 / 448 : 1.0 / 6);
  // ratio = fraction 2^exponent with fraction in [0.5, 1): the power of two above it, exact ones
  // themselves.
  const auto [fraction, exponent] = torch::frexp(ratio);
  const Tensor scale = torch::exp2((exponent - (fraction == 0.5).to(exponent.dtype())).to(x.dtype()));
  const Tensor v = groups / scale;
  // The step of the grid at |v|: three mantissa bits for E4M3, one for E2M1, down to the
  // subnormals' step.
  const Tensor magnitude = std::get<1>(torch::frexp(v.abs().clamp_min(is_e4m3 ? 0x1p-6 : 1.0))) - 1;
  const Tensor step = torch::exp2((magnitude - (is_e4m3 ? 3 : 1)).to(x.dtype()));
  const Tensor on_grid = (torch::round(v / step) * step * scale).view({x.size(0), padded_rows, padded_cols});
  return torch::cat({on_grid.narrow(1, 0, rows).narrow(2, 0, end), x.narrow(2, end, cols - end)}, 2);
}

Tensor on_grid(const Tensor& x, const Rule& rule) {
  const bool is_fused = x.device().is_cpu() && x.scalar_type() == torch::kFloat32 && !is_plain();
  if (rule.grid == Grid::kBf16) {
    if (!is_fused) return x.to(torch::kFloat32).to(torch::kBFloat16).to(x.dtype());
    const Tensor y = torch::empty_like(x, torch::MemoryFormat::Contiguous);
    const Tensor source = x.contiguous();
    const float* in = source.data_ptr<float>();
    float* out = y.data_ptr<float>();
    for (int64_t i = 0; i < y.numel(); ++i) out[i] = round_bf16(in[i]);
    return y;
  }
  const int64_t cols = x.size(-1), rows = rule.group_rows == 1 ? x.numel() / std::max<int64_t>(1, cols) : x.size(-2);
  const int64_t matrices = x.numel() / std::max<int64_t>(1, rows * cols);
  if (x.numel() == 0) return x.clone();
  if (!is_fused) return quantise_plain(x.contiguous().view({matrices, rows, cols}), rule).view(x.sizes());
  const Tensor y = x.clone(torch::MemoryFormat::Contiguous);
  for (int64_t i = 0; i < matrices; ++i) quantise_matrix(y.data_ptr<float>() + i * rows * cols, rows, cols, rule);
  return y;
}

struct StraightThrough : torch::autograd::Function<StraightThrough> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& x, const Rule& rule) {
    return on_grid(x, rule);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list grads) {
    return {grads[0], {}};
  }
};

}  // namespace

Tensor round_to_bf16(const Tensor& x) { return StraightThrough::apply(x, Rule{}); }

Tensor quantise_fp8(const Tensor& x, int64_t group, int64_t n_columns) {
  return StraightThrough::apply(x, Rule{Grid::kE4m3, 1, group, n_columns, kE4m3AmaxFloor});
}

Tensor quantise_fp4(const Tensor& x) { return StraightThrough::apply(x, Rule{Grid::kE2m1, 1, 32, -1, kE2m1AmaxFloor}); }

Tensor quantise_weight_fp8(const Tensor& w) {
  return StraightThrough::apply(w, Rule{Grid::kE4m3, 128, 128, -1, kFp8WeightAmaxFloor});
}

Tensor quantise_weight_fp4(const Tensor& w) { return quantise_fp4(w); }

}  // namespace hadal::train
