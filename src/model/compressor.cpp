#include "model/compressor.h"

#include <algorithm>
#include <cstring>

#include "tensor/formats.h"

namespace hadal::model {
namespace {

constexpr int kMaxIndexDim = 4096;

// The rows of one sequence that pooling reads: this call's from the step, earlier ones from the tail.
struct TailRows {
  const kv::RowRing& ring;
  const float* fresh;  // row of position `start`
  int64_t start, width;

  const float* at(int64_t position) const {
    return position >= start ? fresh + (position - start) * width : reinterpret_cast<const float*>(ring.row(position));
  }
};

}  // namespace

void pack_index_row(Step& step, float* x, std::byte* row) {
  const int n = step.layout.index_dim;
  step.isa.hadamard(x, n, step.faithful);
  if (!step.faithful) {
    std::memcpy(row, x, sizeof(float) * static_cast<size_t>(n));
    return;
  }
  int8_t doubled[kMaxIndexDim + 1], exponents[kMaxIndexDim / 32 + 1];
  step.isa.quantise_fp4(x, n, doubled, exponents);
  // doubled value to E2M1 code
  const auto code = [](int8_t d) {
    const int a = d < 0 ? -d : d;
    return static_cast<unsigned>(a <= 4 ? a : a == 6 ? 5 : a == 8 ? 6 : 7) | (d < 0 ? 8u : 0u);
  };
  doubled[n] = 0;
  for (int i = 0; i < n; i += 2) row[i / 2] = static_cast<std::byte>(code(doubled[i]) | code(doubled[i + 1]) << 4);
  std::byte* scales = row + (n + 1) / 2;
  for (int b = 0; b < (n + 31) / 32; ++b) scales[b] = static_cast<std::byte>(exponents[b] + 127);
}

void compress(Step& step, const Compressor& compressor, int layer, bool is_index, const float* values, float* gates) {
  const int ratio = step.layout.ratio(layer);
  const bool overlap = ratio == 4;
  const int64_t width = compressor.wkv.rows, dim = overlap ? width / 2 : width;
  const int64_t n_rope = step.config.rope_head_dim;
  step.each_row([&](int64_t i) {
    step.isa.add(compressor.ape.data() + step.row(i).position % ratio * width, width, gates + i * width);
  });

  struct Entry {
    const Segment* segment;
    int64_t block;
    std::byte* row;
  };
  std::vector<Entry> entries;
  for (const Segment& segment : step.segments) {
    kv::LayerState& state = segment.state->layer(layer);
    kv::PagedRows& rows = is_index ? state.index_entries : state.entries;
    for (int64_t b = segment.start / ratio; b < (segment.start + segment.n) / ratio; ++b)
      entries.push_back({&segment, b, rows.append()});
  }
  const int64_t n_entries = static_cast<int64_t>(entries.size());
  std::vector<float> tapped(step.probe && !is_index ? static_cast<size_t>(n_entries * dim) : 0);

  step.pool.run(n_entries, [&](int64_t k, int thread) {
    const auto& [segment, block, row] = entries[static_cast<size_t>(k)];
    kv::LayerState& state = segment->state->layer(layer);
    const int64_t fresh = segment->first_row * width;
    const TailRows value_rows{is_index ? state.index_values : state.values, values + fresh, segment->start, width};
    const TailRows gate_rows{is_index ? state.index_gates : state.gates, gates + fresh, segment->start, width};
    std::vector<const float*> slot_values, slot_gates;
    if (overlap && block > 0)
      for (int64_t t = ratio * (block - 1); t < ratio * block; ++t) {
        slot_values.push_back(value_rows.at(t));
        slot_gates.push_back(gate_rows.at(t));
      }
    for (int64_t t = ratio * block; t < ratio * (block + 1); ++t) {
      slot_values.push_back(value_rows.at(t) + (overlap ? dim : 0));
      slot_gates.push_back(gate_rows.at(t) + (overlap ? dim : 0));
    }
    auto& scratch = step.work.thread_scratch[static_cast<size_t>(thread)];
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(dim + n_rope)));
    float* e = scratch.data();
    float* cos = e + dim;
    float* sin = cos + n_rope / 2;
    step.isa.pool(slot_values.data(), slot_gates.data(), static_cast<int>(slot_values.size()), dim, step.faithful, e);
    step.isa.rms_norm(e, compressor.norm.data(), dim, step.config.norm_eps, step.faithful, e);
    step.rope[true].angles(ratio * block, cos, sin);
    step.isa.rope(e + dim - n_rope, cos, sin, static_cast<int>(n_rope / 2), false, step.faithful);
    if (is_index) {
      pack_index_row(step, e, row);
    } else if (step.faithful) {
      step.isa.pack_kv(e, step.layout.n_nope, step.layout.n_rope, row);
    } else {
      std::memcpy(row, e, sizeof(float) * static_cast<size_t>(dim));
    }
    if (!tapped.empty()) {
      float* out = tapped.data() + k * dim;
      if (step.faithful) {
        step.isa.unpack_kv(row, step.layout.n_nope, step.layout.n_rope, out);
      } else {
        std::memcpy(out, e, sizeof(float) * static_cast<size_t>(dim));
      }
    }
  });
  if (!is_index) step.tap(layer, "entries", {n_entries, dim}, tapped.data());

  for (const Segment& segment : step.segments) {
    kv::LayerState& state = segment.state->layer(layer);
    const int64_t fresh = segment.first_row * width;
    (is_index ? state.index_values : state.values)
        .write(segment.start, segment.n, reinterpret_cast<const std::byte*>(values + fresh));
    (is_index ? state.index_gates : state.gates)
        .write(segment.start, segment.n, reinterpret_cast<const std::byte*>(gates + fresh));
  }
}

}  // namespace hadal::model
