// The oracle: every formula of kernels/linear.h and kernels/isa.h as plain loops in the written order.

#include <cstring>
#include <limits>

#include "kernels/isa.h"
#include "kernels/rows.h"

namespace hadal::kernels {
namespace {

float load_f32(const std::byte* p) {
  float x;
  std::memcpy(&x, p, 4);
  return x;
}
float load_bf16(const std::byte* p) {
  bf16 x;
  std::memcpy(&x, p, 2);
  return to_f32(x);
}

// A weight matrix, element by element.
struct Elements {
  explicit Elements(const Weight& weight) : w(weight), n_col_blocks((weight.cols + 127) / 128) {}

  float fp8_scale(int64_t row, int64_t col_block) const {
    const int64_t i = row / 128 * n_col_blocks + col_block;
    return w.scales_are_f32 ? load_f32(w.scale + 4 * i) : to_f32(f8e8m0{static_cast<uint8_t>(w.scale[i])});
  }
  float fp8_code(int64_t row, int64_t col) const {
    return to_f32(f8e4m3{static_cast<uint8_t>(w.data[row * w.cols + col])});
  }
  unsigned fp4_code(int64_t row, int64_t col) const {
    const unsigned byte = static_cast<unsigned>(w.data[(row * w.cols + col) / 2]);
    return col % 2 == 0 ? byte & 15 : byte >> 4;
  }
  float fp4_scale(int64_t row, int64_t group) const {
    return to_f32(f8e8m0{static_cast<uint8_t>(w.scale[row * (w.cols / 32) + group])});
  }
  // The decoded element, for the formats whose sum runs over whole rows.
  float value(int64_t row, int64_t col) const {
    const int64_t i = row * w.cols + col;
    switch (w.format) {
      case WeightFormat::kF32:
        return load_f32(w.data + 4 * i);
      case WeightFormat::kBf16:
        return load_bf16(w.data + 2 * i);
      case WeightFormat::kFp8Block:
        return round_bf16(fp8_code(row, col) * fp8_scale(row, col / 128));
      case WeightFormat::kFp4Block:
        return e2m1_to_f32(fp4_code(row, col)) * fp4_scale(row, col / 32);
    }
    return 0;
  }

  const Weight& w;
  int64_t n_col_blocks;
};

float dot_whole_row(const Elements& w, int64_t row, const float* x) {
  float lane[kLanes] = {};
  for (int64_t k = 0; k < w.w.cols; ++k) lane[k % kLanes] = __builtin_fmaf(w.value(row, k), x[k], lane[k % kLanes]);
  return reduce16(lane);
}

float dot_fp8_blocks(const Elements& w, int64_t row, const float* x, const float* scales) {
  float y = 0;
  for (int64_t block = 0; block < w.n_col_blocks; ++block) {
    const int64_t end = (block + 1) * 128 < w.w.cols ? (block + 1) * 128 : w.w.cols;
    float lane[kLanes] = {};
    for (int64_t k = block * 128; k < end; ++k)
      lane[k % kLanes] = __builtin_fmaf(w.fp8_code(row, k), x[k], lane[k % kLanes]);
    const float scale = (scales ? scales[block] : 1.0f) * w.fp8_scale(row, block);
    y = __builtin_fmaf(reduce16(lane), scale, y);
  }
  return y;
}

float dot_fp4_groups(const Elements& w, int64_t row, const float* x, const float* scales) {
  float lane[kLanes] = {};
  for (int64_t group = 0; group < w.w.cols / 32; ++group) {
    int32_t c = 0;
    for (int64_t k = group * 32; k < group * 32 + 32; ++k)
      c += kE2m1Doubled[w.fp4_code(row, k)] * static_cast<int32_t>(x[k] * 512.0f);
    const float scaled = static_cast<float>(c) * (scales[group / 4] * 0x1p-10f);
    lane[group % kLanes] = __builtin_fmaf(scaled, w.fp4_scale(row, group), lane[group % kLanes]);
  }
  return reduce16(lane);
}

void linear(const LinearJob& job, int64_t begin, int64_t end) {
  const Elements w(*job.weight);
  const bool by_blocks = w.w.format == WeightFormat::kFp8Block && !(w.w.rounds_to_bf16 && w.w.scales_are_f32);
  const bool by_groups = w.w.format == WeightFormat::kFp4Block && job.input.scales != nullptr;
  for (int64_t t = 0; t < job.n_tokens; ++t) {
    const int64_t from = job.input_row(t);
    const float* x = job.input.values + from * job.input.stride;
    const float* scales = job.input.scales ? job.input.scales + from * job.input.scale_stride : nullptr;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = job.row_begin + r;
      const float y = by_blocks   ? dot_fp8_blocks(w, row, x, scales)
                      : by_groups ? dot_fp4_groups(w, row, x, scales)
                                  : dot_whole_row(w, row, x);
      job.out[t * job.out_stride + r] = job.round_bf16 ? round_bf16(y) : y;
    }
  }
}

float dot16(const float* a, const float* b, int n) {
  float lane[kLanes] = {};
  for (int i = 0; i < n; ++i) lane[i % kLanes] = __builtin_fmaf(a[i], b[i], lane[i % kLanes]);
  return reduce16(lane);
}

void attend(const AttendBlock& block) {
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

void index_scores(const IndexScores& args) {
  const int n_blocks = (args.head_dim + 31) / 32;
  for (int64_t entry = 0; entry < args.n_entries; ++entry) {
    const std::byte* row = args.rows + entry * args.row_bytes;
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
  return sum[0];
}
float probe_int8(int64_t n) {
  int32_t sum[kProbeInt8] = {};
  for (int64_t k = 0; k < n; ++k)
    for (int32_t& s : sum) s += static_cast<int8_t>(k) * 3;
  return static_cast<float>(sum[0]);
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
