#include "model/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/math.h"
#include "model/compressor.h"
#include "model/indexer.h"
#include "tensor/formats.h"

namespace hadal::model {
namespace {

using kernels::kAttentionBlock;
using kernels::LinearJob;

constexpr int64_t kLeastWork = int64_t{1} << 15;  // multiply-adds of a row's scores

// Normalises and rotates queries and keys, and packs the keys of this step into step.work.kv_rows.
void finish_q_and_kv(Step& step, const Attention& weights, bool compressed, float* q, float* kv) {
  const int64_t heads = step.config.n_heads, hd = step.config.head_dim, n_rope = step.config.rope_head_dim;
  const int64_t row_bytes = step.layout.kv_row_bytes();
  const float eps = step.config.norm_eps;
  auto& kv_rows = step.work.kv_rows;
  kv_rows.resize(std::max(kv_rows.size(), static_cast<size_t>(step.n_rows() * row_bytes)));
  step.each_row([&](int64_t i) {
    const float* cos = step.cos(compressed, i);
    const float* sin = step.sin(compressed, i);
    const auto rotate = [&](float* row) {
      step.isa.rope(row + hd - n_rope, cos, sin, static_cast<int>(n_rope / 2), false, step.faithful);
    };
    for (int64_t h = 0; h < heads; ++h) {
      float* head = q + (i * heads + h) * hd;
      step.isa.head_norm(head, hd, eps, step.faithful);
      rotate(head);
    }
    float* row = kv + i * hd;
    step.isa.rms_norm(row, weights.kv_norm.data(), hd, eps, step.faithful, row);
    rotate(row);
    std::byte* packed = kv_rows.data() + i * row_bytes;
    if (step.faithful) {
      step.isa.pack_kv(row, step.layout.n_nope, step.layout.n_rope, packed);
    } else {
      std::memcpy(packed, row, static_cast<size_t>(row_bytes));
    }
  });
}

// The rows that the query of batch row i attends, in the canonical order: window slots (the missing ones
// masked, at their end), then entries. nullptr: masked.
void attended_rows(const Step& step, const Segment& segment, int layer, int64_t i,
                   std::vector<const std::byte*>& rows) {
  const kv::LayerState& state = segment.state->layer(layer);
  const int64_t position = step.row(i).position, window = step.layout.window, row_bytes = step.layout.kv_row_bytes();
  rows.clear();
  const int64_t oldest = std::max<int64_t>(0, position - window + 1);
  for (int64_t p = oldest; p <= position; ++p)
    rows.push_back(p >= segment.start ? step.work.kv_rows.data() + (segment.first_row + p - segment.start) * row_bytes
                                      : state.window.row(p));
  const int ratio = step.layout.ratio(layer);
  if (ratio == 0) return;
  rows.resize(static_cast<size_t>(window), nullptr);
  if (ratio == 4) {
    for (const int32_t b : step.work.selected[static_cast<size_t>(i)]) rows.push_back(state.entries.row(b));
  } else {
    for (int64_t b = 0; b < (position + 1) / ratio; ++b) rows.push_back(state.entries.row(b));
  }
}

// o of heads [first, first + n) of batch row i, before the inverse rotation.
void attend(Step& step, const Attention& weights, const std::vector<const std::byte*>& rows, const float* q,
            int64_t first, int64_t n, std::vector<float>& scratch, float* o) {
  const int hd = step.config.head_dim;
  const size_t needed = static_cast<size_t>((kAttentionBlock + n) * hd + 2 * n);
  if (scratch.size() < needed) scratch.resize(needed);
  float* keys = scratch.data();
  float* acc = keys + kAttentionBlock * hd;
  float* max = acc + n * hd;
  float* den = max + n;
  std::fill(acc, acc + n * hd, 0.0f);
  std::fill(max, max + n, -std::numeric_limits<float>::infinity());
  std::fill(den, den + n, 0.0f);
  for (size_t begin = 0; begin < rows.size(); begin += kAttentionBlock) {
    const size_t end = std::min(rows.size(), begin + kAttentionBlock);
    uint8_t masked[kAttentionBlock];
    int n_keys = 0;
    for (size_t j = begin; j < end; ++j) {
      float* key = keys + static_cast<int64_t>(j - begin) * hd;
      masked[j - begin] = rows[j] == nullptr;
      if (rows[j] == nullptr) {
        std::fill(key, key + hd, 0.0f);
        continue;
      }
      n_keys = static_cast<int>(j - begin) + 1;
      if (step.faithful) {
        step.isa.unpack_kv(rows[j], step.layout.n_nope, step.layout.n_rope, key);
      } else {
        std::memcpy(key, rows[j], sizeof(float) * static_cast<size_t>(hd));
      }
    }
    if (n_keys == 0) continue;
    step.isa.attend({.q = q,
                     .keys = keys,
                     .masked = masked,
                     .n_keys = n_keys,
                     .n_heads = static_cast<int>(n),
                     .head_dim = hd,
                     .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(hd))),
                     .round_p = step.faithful,
                     .max = max,
                     .den = den,
                     .acc = acc});
  }
  for (int64_t h = 0; h < n; ++h) {
    const float sink = weights.attn_sink[static_cast<size_t>(first + h)];
    const float total = den[h] + kernels::exp_f32(sink - max[h]);
    for (int i = 0; i < hd; ++i) {
      const float value = acc[h * hd + i] / total;
      o[h * hd + i] = step.faithful ? round_bf16(value) : value;
    }
  }
}

void attend_all(Step& step, const Attention& weights, int layer, const float* q, float* o) {
  const int64_t heads = step.config.n_heads, hd = step.config.head_dim, n_rope = step.config.rope_head_dim;
  const bool compressed = step.layout.ratio(layer) != 0;
  // With few rows, the heads of a row are shared out to the threads; each decodes the keys for itself. Not where
  // waking a thread costs more than the heads (small models).
  const int64_t threads = step.pool.size();
  const bool is_small = heads * hd * step.layout.window < kLeastWork;
  const int64_t parts = step.n_rows() >= 2 * threads || is_small ? 1 : std::min(heads, threads);
  const int64_t per_part = (heads + parts - 1) / parts;
  std::vector<const Segment*> segment_of(static_cast<size_t>(step.n_rows()));
  for (const Segment& segment : step.segments)
    for (int64_t i = 0; i < segment.n; ++i) segment_of[static_cast<size_t>(segment.first_row + i)] = &segment;
  step.pool.run(step.n_rows() * parts, [&](int64_t task, int thread) {
    const int64_t i = task / parts, first = task % parts * per_part, n = std::min(per_part, heads - first);
    if (n <= 0) return;
    std::vector<const std::byte*> rows;
    attended_rows(step, *segment_of[static_cast<size_t>(i)], layer, i, rows);
    float* out = o + (i * heads + first) * hd;
    attend(step, weights, rows, q + (i * heads + first) * hd, first, n,
           step.work.thread_scratch[static_cast<size_t>(thread)], out);
    for (int64_t h = 0; h < n; ++h)
      step.isa.rope(out + h * hd + hd - n_rope, step.cos(compressed, i), step.sin(compressed, i),
                    static_cast<int>(n_rope / 2), true, step.faithful);
  });
}

}  // namespace

void attention(Step& step, const Attention& weights, int layer, const float* x, float* out) {
  const auto& config = step.config;
  Workspace& work = step.work;
  const int64_t t = step.n_rows(), d = config.dim;
  const bool compressed = step.layout.ratio(layer) != 0;
  const auto run = [&](std::span<const LinearJob> jobs) { kernels::linear(step.pool, step.isa, jobs); };

  // Everything that reads x in one fork-join.
  work.attn_input.set(x, d, t, d);
  float* q_latent = work.q_latent.take(t * weights.wq_a.rows);
  float* kv = work.kv.take(t * weights.wkv.rows);
  std::vector<LinearJob> jobs = {step.job(weights.wq_a, work.attn_input, q_latent),
                                 step.job(weights.wkv, work.attn_input, kv)};
  float *values = nullptr, *gates = nullptr, *index_values = nullptr, *index_gates = nullptr, *index_w = nullptr;
  if (const auto& c = weights.compressor) {
    values = work.values.take(t * c->wkv.rows);
    gates = work.gates.take(t * c->wgate.rows);
    jobs.push_back(step.job(c->wkv, work.attn_input, values, true));
    jobs.push_back(step.job(c->wgate, work.attn_input, gates, true));
  }
  if (const auto& indexer = weights.indexer) {
    index_values = work.index_values.take(t * indexer->compressor.wkv.rows);
    index_gates = work.index_gates.take(t * indexer->compressor.wgate.rows);
    index_w = work.index_w.take(t * config.index_n_heads);
    jobs.push_back(step.job(indexer->compressor.wkv, work.attn_input, index_values, true));
    jobs.push_back(step.job(indexer->compressor.wgate, work.attn_input, index_gates, true));
    jobs.push_back(step.job(indexer->weights_proj, work.attn_input, index_w));
  }
  run(jobs);

  const int64_t ql = weights.wq_a.rows;
  step.each_row([&](int64_t i) {
    step.isa.rms_norm(q_latent + i * ql, weights.q_norm.data(), ql, config.norm_eps, step.faithful, q_latent + i * ql);
  });
  work.q_latent_input.set(q_latent, ql, t, ql);
  float* q = work.q.take(t * weights.wq_b.rows);
  jobs = {step.job(weights.wq_b, work.q_latent_input, q)};
  float* index_q = nullptr;
  if (weights.indexer) {
    index_q = work.index_q.take(t * weights.indexer->wq_b.rows);
    jobs.push_back(step.job(weights.indexer->wq_b, work.q_latent_input, index_q));
  }
  run(jobs);
  finish_q_and_kv(step, weights, compressed, q, kv);

  if (const auto& indexer = weights.indexer) {
    compress(step, indexer->compressor, layer, true, index_values, index_gates);
    select_entries(step, *indexer, layer, index_q, index_w);
  }
  if (const auto& c = weights.compressor) compress(step, *c, layer, false, values, gates);

  float* o = work.attended.take(t * config.n_heads * config.head_dim);
  attend_all(step, weights, layer, q, o);
  for (const Segment& segment : step.segments)
    segment.state->layer(layer).window.write(segment.start, segment.n,
                                             work.kv_rows.data() + segment.first_row * step.layout.kv_row_bytes());

  // wo_a is block-diagonal: group G reads its heads and gives rows [G o_lora, (G + 1) o_lora).
  const int64_t groups = config.o_groups, group_cols = weights.wo_a.cols, n_latent = weights.wo_a.rows;
  float* o_latent = work.o_latent.take(t * n_latent);
  jobs.clear();
  for (int64_t g = 0; g < groups; ++g)
    jobs.push_back({.weight = &weights.wo_a,
                    .input = kernels::plain_input(o + g * group_cols, groups * group_cols, group_cols),
                    .n_tokens = t,
                    .row_begin = g * config.o_lora_rank,
                    .n_rows = config.o_lora_rank,
                    .out = o_latent + g * config.o_lora_rank,
                    .out_stride = n_latent,
                    .round_bf16 = step.faithful});
  run(jobs);
  work.o_latent_input.set(o_latent, n_latent, t, n_latent);
  const LinearJob wo_b = step.job(weights.wo_b, work.o_latent_input, out);
  run({&wo_b, 1});
}

}  // namespace hadal::model
