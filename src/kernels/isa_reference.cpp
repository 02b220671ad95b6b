// The oracle: every formula of kernels/linear.h and kernels/isa.h as plain loops in the written order.

#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/isa.h"
#include "kernels/rows.h"

namespace hadal::kernels {
namespace {

// Processors with fused multiply-add run the same loops with the instruction instead of a call of fmaf; the rounding,
// and so every bit, is the same.
#ifdef __SANITIZE_THREAD__  // the choice between clones is made before its runtime is there
#define HADAL_PLAIN
#else
#define HADAL_PLAIN __attribute__((target_clones("fma", "default")))
#endif

HADAL_INLINE float load_f32(const std::byte* p) {
  float x;
  std::memcpy(&x, p, 4);
  return x;
}
HADAL_INLINE float load_bf16(const std::byte* p) {
  bf16 x;
  std::memcpy(&x, p, 2);
  return to_f32(x);
}

const std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values;
  for (unsigned code = 0; code < 256; ++code) values[code] = to_f32(f8e4m3{static_cast<uint8_t>(code)});
  return values;
}();

// A weight matrix, row by row.
struct Rows {
  explicit Rows(const Weight& weight) : w(weight), n_col_blocks((weight.cols + 127) / 128) {}

  float fp8_scale(int64_t row, int64_t col_block) const {
    const int64_t i = row / 128 * n_col_blocks + col_block;
    return w.scales_are_f32 ? load_f32(w.scale + 4 * i) : to_f32(f8e8m0{static_cast<uint8_t>(w.scale[i])});
  }
  float fp4_scale(int64_t row, int64_t group) const {
    return to_f32(f8e8m0{static_cast<uint8_t>(w.scale[row * (w.cols / 32) + group])});
  }
  // A row as its products meet it: elements; or without scales where those follow per block: FP8 codes, FP4 codes
  // twice.
  HADAL_INLINE void row(int64_t row, bool scaled, float* out) const {
    const std::byte* data = w.data;
    const int64_t first = row * w.cols;
    switch (w.format) {
      case WeightFormat::kF32:
        for (int64_t k = 0; k < w.cols; ++k) out[k] = load_f32(data + 4 * (first + k));
        return;
      case WeightFormat::kBf16:
        for (int64_t k = 0; k < w.cols; ++k) out[k] = load_bf16(data + 2 * (first + k));
        return;
      case WeightFormat::kFp8Block:
        for (int64_t k = 0; k < w.cols; ++k) out[k] = kE4m3Values[static_cast<uint8_t>(data[first + k])];
        for (int64_t k = 0; scaled && k < w.cols; ++k) out[k] = round_bf16(out[k] * fp8_scale(row, k / 128));
        return;
      case WeightFormat::kFp4Block:
        for (int64_t k = 0; k < w.cols; k += 2) {
          const unsigned byte = static_cast<unsigned>(data[(first + k) / 2]);
          out[k] = kE2m1Doubled[byte & 15];
          out[k + 1] = kE2m1Doubled[byte >> 4];
        }
        for (int64_t k = 0; scaled && k < w.cols; ++k) out[k] = 0.5f * out[k] * fp4_scale(row, k / 32);
        return;
    }
  }

  const Weight& w;
  int64_t n_col_blocks;
};

HADAL_INLINE float dot16(const float* w, const float* x, int64_t cols) {
  float lane[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= cols; k += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] = __builtin_fmaf(w[k + j], x[k + j], lane[j]);
  for (int j = 0; k + j < cols; ++j) lane[j] = __builtin_fmaf(w[k + j], x[k + j], lane[j]);
  return reduce16(lane);
}

// codes: the row without its scales.
HADAL_INLINE float dot_fp8_blocks(const Rows& w, int64_t row, const float* codes, const float* x, const float* scales) {
  float y = 0;
  for (int64_t block = 0; block < w.n_col_blocks; ++block) {
    const int64_t begin = block * 128, end = begin + 128 < w.w.cols ? begin + 128 : w.w.cols;
    const float scale = (scales ? scales[block] : 1.0f) * w.fp8_scale(row, block);
    y = __builtin_fmaf(dot16(codes + begin, x + begin, end - begin), scale, y);
  }
  return y;
}

// doubled: the row without its scales, twice.
HADAL_INLINE float dot_fp4_groups(const Rows& w, int64_t row, const float* doubled, const float* x,
                                  const float* scales) {
  float lane[kLanes] = {};
  for (int64_t group = 0; group < w.w.cols / 32; ++group) {
    double c = 0;  // of whole numbers under 2^27: exact, as the integers of the vector kernels
    for (int64_t k = group * 32; k < group * 32 + 32; ++k) c += static_cast<double>(doubled[k]) * (x[k] * 512.0f);
    const float scaled = static_cast<float>(c) * (scales[group / 4] * 0x1p-10f);
    lane[group % kLanes] = __builtin_fmaf(scaled, w.fp4_scale(row, group), lane[group % kLanes]);
  }
  return reduce16(lane);
}

HADAL_PLAIN void linear(const LinearJob& job, int64_t begin, int64_t end) {
  const Rows w(*job.weight);
  const bool by_blocks = w.w.format == WeightFormat::kFp8Block && !(w.w.rounds_to_bf16 && w.w.scales_are_f32);
  const bool by_groups = w.w.format == WeightFormat::kFp4Block && job.input.scales != nullptr;
  thread_local std::vector<float> elements;  // of one row, met by all tokens
  elements.resize(static_cast<size_t>(w.w.cols));
  for (int64_t r = begin; r < end; ++r) {
    const int64_t row = job.row_begin + r;
    w.row(row, !by_blocks && !by_groups, elements.data());
    for (int64_t t = 0; t < job.n_tokens; ++t) {
      const int64_t from = job.input_row(t);
      const float* x = job.input.values + from * job.input.stride;
      const float* scales = job.input.scales ? job.input.scales + from * job.input.scale_stride : nullptr;
      const float y = by_blocks   ? dot_fp8_blocks(w, row, elements.data(), x, scales)
                      : by_groups ? dot_fp4_groups(w, row, elements.data(), x, scales)
                                  : dot16(elements.data(), x, w.w.cols);
      job.out[t * job.out_stride + r] = job.round_bf16 ? round_bf16(y) : y;
    }
  }
}

HADAL_PLAIN void attend(const AttendBlock& block) {
  for (int h = 0; h < block.n_heads; ++h) {
    const float* q = block.q + static_cast<int64_t>(h) * block.head_dim;
    float* acc = block.acc + static_cast<int64_t>(h) * block.head_dim;
    float p[kAttentionBlock];
    float most = block.max[h];
    for (int j = 0; j < block.n_keys; ++j) {
      p[j] = block.masked[j]
                 ? -std::numeric_limits<float>::infinity()
                 : dot16(q, block.keys + static_cast<int64_t>(j) * block.head_dim, block.head_dim) * block.scale;
      most = p[j] > most ? p[j] : most;
    }
    const float shrink = exp_f32(block.max[h] - most);
    float lane[kLanes] = {};
    for (int j = 0; j < block.n_keys; ++j) {
      p[j] = block.masked[j] ? 0.0f : exp_f32(p[j] - most);
      lane[j % kLanes] += p[j];
      if (block.round_p) p[j] = round_bf16(p[j]);
    }
    block.max[h] = most;
    block.den[h] = __builtin_fmaf(block.den[h], shrink, reduce16(lane));
    for (int i = 0; i < block.head_dim; ++i) acc[i] *= shrink;
    for (int j = 0; j < block.n_keys; ++j)
      for (int i = 0; i < block.head_dim; ++i)
        acc[i] = __builtin_fmaf(p[j], block.keys[static_cast<int64_t>(j) * block.head_dim + i], acc[i]);
  }
}

HADAL_PLAIN void index_scores(const IndexScores& args) {
  const int n_blocks = (args.head_dim + 31) / 32;
  for (int64_t entry = 0; entry < args.n_entries; ++entry) {
    const std::byte* row = args.row(entry);
    float lane[kLanes] = {};
    for (int h = 0; h < args.n_heads; ++h) {
      float z = 0;
      if (args.q_f32) {
        float dot[kLanes] = {};
        for (int i = 0; i < args.head_dim; ++i)
          dot[i % kLanes] = __builtin_fmaf(args.q_f32[h * args.head_dim + i], load_f32(row + 4 * i), dot[i % kLanes]);
        z = reduce16(dot);
        z = z > 0 ? z : 0;
        lane[h % kLanes] += z * args.w[h];
        continue;
      }
      for (int b = 0; b < n_blocks; ++b) {
        const int end = (b + 1) * 32 < args.head_dim ? (b + 1) * 32 : args.head_dim;
        int32_t c = 0;
        for (int i = b * 32; i < end; ++i) {
          const unsigned byte = static_cast<unsigned>(row[i / 2]);
          c += kE2m1Doubled[i % 2 == 0 ? byte & 15 : byte >> 4] * args.q[h * args.head_dim + i];
        }
        const float k_scale = to_f32(f8e8m0{static_cast<uint8_t>(row[(args.head_dim + 1) / 2 + b])});
        z = __builtin_fmaf(static_cast<float>(c) * args.q_scale[h * n_blocks + b], k_scale, z);
      }
      z = round_bf16(z * 0.25f);
      z = z > 0 ? z : 0;
      lane[h % kLanes] += round_bf16(z * args.w[h]);
    }
    const float score = reduce16(lane);
    args.scores[entry] = args.q_f32 ? score : round_bf16(score);
  }
}

float probe_read(const std::byte* data, int64_t size) {
  uint64_t sum = 0;
  for (int64_t i = 0; i + 8 <= size; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    sum += word;
  }
  return static_cast<float>(sum & 0xFF);
}
float probe_fma(int64_t n) {
  float sum[kProbeFmas] = {};
  for (int64_t k = 0; k < n; ++k)
    for (float& s : sum) s = __builtin_fmaf(s, 0.5f, 1.0f);
  float total = 0;
  for (const float s : sum) total += s;
  return total;
}
float probe_int8(int64_t n) {
  int32_t sum[kProbeInt8] = {};
  for (int64_t k = 0; k < n; ++k)
    for (int32_t& s : sum) s += static_cast<int8_t>(k) * 3;
  int64_t total = 0;
  for (const int32_t s : sum) total += s;
  return static_cast<float>(total);
}

constexpr Isa kReference = {
    .name = "reference",
    .supported = [] { return true; },
    .linear = linear,
    .attend = attend,
    .index_scores = index_scores,
    HADAL_ROW_FUNCTIONS,
    .probe_read = probe_read,
    .probe_fma = probe_fma,
    .probe_int8 = probe_int8,
};

}  // namespace

const Isa& reference() { return kReference; }

}  // namespace hadal::kernels
