// Attention blocks and index scores over the vector words of vector_avx512.h or vector_avx2.h, one of which the
// including file brings first.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/isa.h"
#include "kernels/rows.h"

namespace hadal::kernels {
namespace {

constexpr int kHeads = 4;  // of a register tile

HADAL_INLINE void store4(float* to, __m128 sums, int64_t n) {
  float values[4];
  _mm_storeu_ps(values, sums);
  for (int64_t i = 0; i < n; ++i) to[i] = values[i];
}

// Dots of four vectors with one: 16 lanes over n, tails padded with zeros.
HADAL_INLINE __m128 dots4(const float* const (&rows)[4], const float* x, int n) {
  F16 sum[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  int k = 0;
  for (; k + 16 <= n; k += 16) {
    const F16 xs = f_load(x + k);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) sum[r] = f_fma(f_load(rows[r] + k), xs, sum[r]);
  }
  if (k < n)
    for (int r = 0; r < 4; ++r) sum[r] = f_fma(f_load_n(rows[r] + k, n - k), f_load_n(x + k, n - k), sum[r]);
  return f_reduce4(sum[0], sum[1], sum[2], sum[3]);
}

void attend(const AttendBlock& block) {
  const int n = block.n_keys, hd = block.head_dim;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  float p[kHeads][kAttentionBlock];
  for (int first = 0; first < block.n_heads; first += kHeads) {
    const int heads = std::min(kHeads, block.n_heads - first);
    for (int h = 0; h < heads; ++h) {
      const float* q = block.q + static_cast<int64_t>(first + h) * hd;
      for (int j = 0; j < n; j += 4) {
        const float* keys[4];
        for (int i = 0; i < 4; ++i) keys[i] = block.keys + static_cast<int64_t>(std::min(j + i, n - 1)) * hd;
        store4(p[h] + j, dots4(keys, q, hd), std::min(4, n - j));
      }
    }
    for (int h = 0; h < heads; ++h) {
      const int head = first + h;
      float most = block.max[head];
      for (int j = 0; j < n; ++j) {
        p[h][j] = block.masked[j] ? kNone : p[h][j] * block.scale;
        most = p[h][j] > most ? p[h][j] : most;
      }
      const float shrink = exp_f32(block.max[head] - most);
      for (int j = 0; j < n; ++j) p[h][j] = exp_f32(p[h][j] - most);  // a masked key gives 0
      float lane[kLanes] = {};
      for (int j = 0; j < n; ++j) lane[j % kLanes] += p[h][j];
      if (block.round_p)
        for (int j = 0; j < n; ++j) p[h][j] = round_bf16(p[h][j]);
      block.max[head] = most;
      block.den[head] = __builtin_fmaf(block.den[head], shrink, reduce16(lane));
      float* acc = block.acc + static_cast<int64_t>(head) * hd;
      for (int i = 0; i < hd; ++i) acc[i] *= shrink;
    }
    // acc += p k, keys ascending: 4 heads x 2 vectors of dims at a time
    for (int i = 0; i < hd; i += 32) {
      if (heads == kHeads && i + 32 <= hd) {
        F16 sum[kHeads][2];
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h)
          for (int v = 0; v < 2; ++v) sum[h][v] = f_load(block.acc + static_cast<int64_t>(first + h) * hd + i + 16 * v);
        for (int j = 0; j < n; ++j) {
          const float* key = block.keys + static_cast<int64_t>(j) * hd + i;
          const F16 k0 = f_load(key), k1 = f_load(key + 16);
#pragma GCC unroll 4
          for (int h = 0; h < kHeads; ++h) {
            const F16 ph = f_set(p[h][j]);
            sum[h][0] = f_fma(ph, k0, sum[h][0]);
            sum[h][1] = f_fma(ph, k1, sum[h][1]);
          }
        }
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h)
          for (int v = 0; v < 2; ++v) f_store(block.acc + static_cast<int64_t>(first + h) * hd + i + 16 * v, sum[h][v]);
      } else {
        for (int h = 0; h < heads; ++h) {
          float* acc = block.acc + static_cast<int64_t>(first + h) * hd;
          for (int j = 0; j < n; ++j)
            for (int d = i; d < std::min(i + 32, hd); ++d)
              acc[d] = __builtin_fmaf(p[h][j], block.keys[static_cast<int64_t>(j) * hd + d], acc[d]);
        }
      }
    }
  }
}

// Index queries of at most 128 dims as the packed rows meet them: even and odd columns apart, with the bias; zeros
// past their end.
struct IndexHead {
  int8_t even[64], odd[64];
  int32_t bias[16];
};

void index_scores_fp4(const IndexScores& args) {
  thread_local std::vector<IndexHead> heads;
  thread_local std::vector<float> terms, q_scales;
  const int n = args.n_heads, padded = (n + 3) / 4 * 4, dim = args.head_dim, n_blocks = (dim + 31) / 32;
  heads.assign(static_cast<size_t>(padded), IndexHead{});
  terms.resize(static_cast<size_t>(padded));
  q_scales.assign(static_cast<size_t>(4 * padded), 0.0f);
  for (int h = 0; h < n; ++h) {
    const int8_t* q = args.q + h * dim;
    IndexHead& head = heads[static_cast<size_t>(h)];
    for (int i = 0; i < dim; ++i) {
      (i % 2 == 0 ? head.even : head.odd)[i / 2] = q[i];
      head.bias[i / 8] -= 12 * q[i];
    }
    for (int b = 0; b < n_blocks; ++b) q_scales[static_cast<size_t>(4 * h + b)] = args.q_scale[h * n_blocks + b];
  }
  for (int64_t e = 0; e < args.n_entries; ++e) {
    const std::byte* row = args.row(e);
    alignas(64) std::byte codes[64] = {};
    std::memcpy(codes, row, static_cast<size_t>((dim + 1) / 2));
    B64 even, odd;
    b_unpack_e2m1(b_load(codes), even, odd);
    float k_scale[4] = {};
    for (int b = 0; b < n_blocks; ++b) k_scale[b] = to_f32(f8e8m0{static_cast<uint8_t>(row[(dim + 1) / 2 + b])});
    for (int h = 0; h < padded; h += 4) {
      I16 sums[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const IndexHead& head = heads[static_cast<size_t>(h + i)];
        sums[i] = i_dot4(i_dot4(i_load(head.bias), even, b_load(head.even)), odd, b_load(head.odd));
      }
      const F16 c = f_from_i(i_sum_lanes(sums[0], sums[1], sums[2], sums[3]));  // lane b: heads h..h+3 of block b
      const float* q_scale = q_scales.data() + 4 * h;
      __m128 z = _mm_setzero_ps();
      for (int b = 0; b < n_blocks; ++b) {
        const __m128 qs = _mm_setr_ps(q_scale[b], q_scale[4 + b], q_scale[8 + b], q_scale[12 + b]);
        z = _mm_fmadd_ps(_mm_mul_ps(f_lane(c, b), qs), _mm_set1_ps(k_scale[b]), z);
      }
      _mm_storeu_ps(terms.data() + h, z);
    }
    for (int h = 0; h < n; ++h) {
      float z = round_bf16(terms[static_cast<size_t>(h)] * 0.25f);
      z = z > 0 ? z : 0;
      terms[static_cast<size_t>(h)] = round_bf16(z * args.w[h]);
    }
    float lane[kLanes] = {};
    for (int h = 0; h < n; ++h) lane[h % kLanes] += terms[static_cast<size_t>(h)];
    args.scores[e] = round_bf16(reduce16(lane));
  }
}

void index_scores(const IndexScores& args) {
  if (!args.q_f32 && args.head_dim <= 128) return index_scores_fp4(args);
  if (!args.q_f32) return reference().index_scores(args);  // shapes of no release
  for (int64_t e = 0; e < args.n_entries; ++e) {
    const float* k = reinterpret_cast<const float*>(args.row(e));
    float lane[kLanes] = {};
    for (int h = 0; h < args.n_heads; h += 4) {
      const float* q[4];
      for (int i = 0; i < 4; ++i) q[i] = args.q_f32 + std::min(h + i, args.n_heads - 1) * args.head_dim;
      float z[4];
      _mm_storeu_ps(z, dots4(q, k, args.head_dim));
      for (int i = 0; i < std::min(4, args.n_heads - h); ++i)
        lane[(h + i) % kLanes] += (z[i] > 0 ? z[i] : 0) * args.w[h + i];
    }
    args.scores[e] = reduce16(lane);
  }
}

}  // namespace
}  // namespace hadal::kernels
