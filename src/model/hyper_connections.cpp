#include "model/hyper_connections.h"

#include <algorithm>

#include "kernels/math.h"

namespace hadal::model {

using kernels::exp_f32;
using kernels::sigmoid;

void hc_split(const float* mix, const float* scale, const float* base, int hc, int iters, float eps, float* pre,
              float* post, float* comb) {
  for (int j = 0; j < hc; ++j) {
    pre[j] = sigmoid(mix[j] * scale[0] + base[j]) + eps;
    post[j] = 2.0f * sigmoid(mix[hc + j] * scale[1] + base[hc + j]);
  }
  for (int i = 0; i < hc * hc; ++i) comb[i] = mix[2 * hc + i] * scale[2] + base[2 * hc + i];

  const auto row_sum = [&](int a) {
    float sum = 0;
    for (int b = 0; b < hc; ++b) sum += comb[a * hc + b];
    return sum;
  };
  const auto normalise_columns = [&] {
    for (int b = 0; b < hc; ++b) {
      float sum = 0;
      for (int a = 0; a < hc; ++a) sum += comb[a * hc + b];
      for (int a = 0; a < hc; ++a) comb[a * hc + b] /= sum + eps;
    }
  };
  for (int a = 0; a < hc; ++a) {  // row softmax
    const float most = *std::max_element(comb + a * hc, comb + (a + 1) * hc);
    for (int b = 0; b < hc; ++b) comb[a * hc + b] = exp_f32(comb[a * hc + b] - most);
    const float sum = row_sum(a);
    for (int b = 0; b < hc; ++b) comb[a * hc + b] = comb[a * hc + b] / sum + eps;
  }
  normalise_columns();
  for (int i = 1; i < iters; ++i) {
    for (int a = 0; a < hc; ++a) {
      const float sum = row_sum(a);
      for (int b = 0; b < hc; ++b) comb[a * hc + b] /= sum + eps;
    }
    normalise_columns();
  }
}

namespace {

// m of n rows: [n, fn.rows]
float* mixes(Step& step, const HyperConnection& hc, const float* streams, int64_t n) {
  const int64_t width = hc.fn.cols, n_mix = hc.fn.rows;
  float* m = step.work.mix.take(n * n_mix);
  const kernels::LinearJob job{.weight = &hc.fn,
                               .input = kernels::plain_input(streams, width, width),
                               .n_tokens = n,
                               .n_rows = n_mix,
                               .out = m,
                               .out_stride = n_mix};
  kernels::linear(step.pool, step.isa, {&job, 1});
  step.pool.run(n, [&](int64_t i, int) {
    const float inverse_rms = step.isa.inverse_rms(streams + i * width, width, step.config.norm_eps);
    for (int64_t k = 0; k < n_mix; ++k) m[i * n_mix + k] *= inverse_rms;
  });
  return m;
}

}  // namespace

HcSplit hc_pre(Step& step, const HyperConnection& hc, const float* streams, float* y) {
  const int n = step.config.hc_mult;
  const int64_t d = step.config.dim, n_mix = hc.fn.rows, stride = 2 * n + n * n;
  const float* m = mixes(step, hc, streams, step.n_rows());
  float* split = step.work.split.take(step.n_rows() * stride);  // pre, post, comb
  step.each_row([&](int64_t i) {
    float* pre = split + i * stride;
    hc_split(m + i * n_mix, hc.scale.data(), hc.base.data(), n, step.config.hc_sinkhorn_iters, step.config.hc_eps, pre,
             pre + n, pre + 2 * n);
    step.isa.hc_pre(streams + i * n * d, pre, n, d, step.faithful, y + i * d);
  });
  return {.post = split + n, .comb = split + 2 * n, .stride = stride};
}

void hc_post(Step& step, const HcSplit& split, const float* o, float* streams) {
  const int n = step.config.hc_mult;
  const int64_t d = step.config.dim;
  step.each_row([&](int64_t i) {
    step.isa.hc_post(o + i * d, split.post + i * split.stride, split.comb + i * split.stride, n, d, step.faithful,
                     streams + i * n * d);
  });
}

void hc_head(Step& step, const HyperConnection& hc, const float* streams, int64_t n_rows, float* y) {
  const int n = step.config.hc_mult;
  const int64_t d = step.config.dim;
  float* m = mixes(step, hc, streams, n_rows);
  step.pool.run(n_rows, [&](int64_t i, int) {
    float* pre = m + i * n;
    for (int j = 0; j < n; ++j)
      pre[j] = sigmoid(pre[j] * hc.scale[0] + hc.base[static_cast<size_t>(j)]) + step.config.hc_eps;
    step.isa.hc_pre(streams + i * n * d, pre, n, d, step.faithful, y + i * d);
  });
}

}  // namespace hadal::model
