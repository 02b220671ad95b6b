#include "model/indexer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/formats.h"

namespace hadal::model {
namespace {

// Scores of a group of rows may take this many floats; longer contexts are scored in smaller groups.
constexpr int64_t kMaxScores = int64_t{1} << 24;
constexpr int64_t kPagesPerTask = 8;

// The k best of n scores, best first; equal scores: smaller entry first; NaN last.
void top_k(const float* scores, int64_t n, int64_t k, std::vector<int32_t>& best) {
  std::vector<uint64_t> keys(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const float score = scores[i] + 0.0f;  // -0 equals +0
    const uint32_t u = bits_of(score);
    uint32_t order = u >> 31 ? ~u : u | 0x80000000u;  // ascending with the score
    if (score != score) order = 0;
    keys[static_cast<size_t>(i)] = static_cast<uint64_t>(~order) << 32 | static_cast<uint32_t>(i);
  }
  if (k < n) std::nth_element(keys.begin(), keys.begin() + k, keys.end());
  std::sort(keys.begin(), keys.begin() + std::min(k, n));
  best.resize(static_cast<size_t>(std::min(k, n)));
  for (size_t i = 0; i < best.size(); ++i) best[i] = static_cast<int32_t>(keys[i] & 0xFFFFFFFFu);
}

}  // namespace

void select_entries(Step& step, const Indexer&, int layer, float* index_q, float* index_w) {
  const int heads = step.config.index_n_heads, dim = step.config.index_head_dim, n_rope = step.config.rope_head_dim;
  const int n_blocks = (dim + 31) / 32;
  const int64_t t = step.n_rows();
  const float factor = static_cast<float>(std::pow(dim, -0.5) * std::pow(heads, -0.5));
  auto& codes = step.work.index_q_codes;
  codes.resize(std::max(codes.size(), static_cast<size_t>(t * heads * dim)));
  float* q_scale = step.work.index_q_scale.take(t * heads * n_blocks);

  step.each_row([&](int64_t i) {
    for (int h = 0; h < heads; ++h) {
      float* q = index_q + (i * heads + h) * dim;
      step.isa.rope(q + dim - n_rope, step.cos(true, i), step.sin(true, i), n_rope / 2, false, step.faithful);
      step.isa.hadamard(q, dim, step.faithful);
      if (step.faithful) {
        int8_t exponents[128];
        step.isa.quantise_fp4(q, dim, codes.data() + (i * heads + h) * dim, exponents);
        for (int b = 0; b < n_blocks; ++b) q_scale[(i * heads + h) * n_blocks + b] = exp2i(exponents[b]);
      }
      float& w = index_w[i * heads + h];
      w = step.faithful ? round_bf16(w * factor) : w * factor;
    }
  });

  auto& selected = step.work.selected;
  selected.resize(std::max(selected.size(), static_cast<size_t>(t)));
  for (const Segment& segment : step.segments) {
    const kv::PagedRows& entries = segment.state->layer(layer).index_entries;
    const auto visible = [&](int64_t i) { return (segment.start + i + 1) / 4; };
    const int64_t most = visible(segment.n - 1);
    const int64_t group = std::max<int64_t>(1, kMaxScores / std::max<int64_t>(1, most));
    for (int64_t first = 0; first < segment.n; first += group) {
      const int64_t n = std::min(group, segment.n - first);
      float* scores = step.work.index_scores.take(n * std::max<int64_t>(1, most));
      constexpr int64_t kPage = kv::PagedRows::kPageRows;
      const int64_t n_pieces = (most + kPage * kPagesPerTask - 1) / (kPage * kPagesPerTask);
      step.pool.run(n * n_pieces, [&](int64_t task, int) {
        const int64_t i = first + task / n_pieces, row = segment.first_row + i;
        const int64_t end = std::min(visible(i), (task % n_pieces + 1) * kPage * kPagesPerTask);
        const int64_t begin = task % n_pieces * kPage * kPagesPerTask;
        if (begin >= end) return;
        const std::byte* pages[kPagesPerTask];
        for (int64_t b = begin; b < end; b += kPage) pages[(b - begin) / kPage] = entries.row(b);
        step.isa.index_scores({.n_heads = heads,
                               .head_dim = dim,
                               .q = codes.data() + row * heads * dim,
                               .q_scale = q_scale + row * heads * n_blocks,
                               .q_f32 = step.faithful ? nullptr : index_q + row * heads * dim,
                               .w = index_w + row * heads,
                               .pages = pages,
                               .page_rows = kPage,
                               .row_bytes = entries.row_bytes(),
                               .n_entries = end - begin,
                               .scores = scores + (i - first) * most + begin});
      });
      step.pool.run(n, [&](int64_t k, int) {
        const int64_t i = first + k;
        top_k(scores + k * most, visible(i), step.config.index_topk,
              selected[static_cast<size_t>(segment.first_row + i)]);
      });
    }
  }
  if (!step.probe) return;
  const int64_t width = step.config.index_topk;
  std::vector<int32_t> padded(static_cast<size_t>(t * width), -1);
  for (int64_t i = 0; i < t; ++i)
    std::copy(selected[static_cast<size_t>(i)].begin(), selected[static_cast<size_t>(i)].end(),
              padded.begin() + i * width);
  step.tap(layer, "index_sel", {t, width}, padded.data());
}

}  // namespace hadal::model
