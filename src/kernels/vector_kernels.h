// Matrix products, attention and index scores over the vector words of vector_avx512.h or vector_avx2.h, one of
// which the including file brings first. The arithmetic is that of linear.h and isa.h: 16 lanes, explicit fma,
// one tree; lanes past the end of a row hold zeros, which change nothing.
//
// With few tokens, products go in tiles of 4 rows x 4 tokens: the weights are decoded in registers straight from
// the map, and the trees of four sums share their shuffles. Rows are prefetched exactly one tile ahead: they are
// a few KB, and the hardware's prefetcher starts anew at each.
// With many tokens, a panel of rows is decoded once and transposed, so that the rows stand side by side in a
// vector: then every virtual lane is a vector of its own, and lanes are added without shuffles.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/isa.h"
#include "kernels/rows.h"

namespace hadal::kernels {
namespace {

constexpr int kTile = 4;  // rows, and tokens, of a register tile

HADAL_INLINE void store4(float* to, __m128 sums, int64_t n) {
  float values[4];
  _mm_storeu_ps(values, sums);
  for (int64_t i = 0; i < n; ++i) to[i] = values[i];
}

// Four rows of a job and where their results go.
struct RowTile {
  const LinearJob& job;
  int64_t first;  // row of the job
  int64_t n;      // 1..4 rows that exist; the others repeat the last
  int64_t row(int r) const { return job.row_begin + first + (r < n ? r : n - 1); }

  const float* x(int64_t token) const { return job.input.values + job.input_row(token) * job.input.stride; }
  const float* scales(int64_t token) const {
    return job.input.scales ? job.input.scales + job.input_row(token) * job.input.scale_stride : nullptr;
  }
  void put(int64_t token, const float* sums) const {
    float* out = job.out + token * job.out_stride + first;
    for (int64_t r = 0; r < n; ++r) out[r] = job.round_bf16 ? round_bf16(sums[r]) : sums[r];
  }
};

// Into the second cache: a tile ahead is 16 KB and more, which with the inputs would overrun the first
// (measured with AVX-512: 15.6 GB/s per thread against 12.9 into the first).
HADAL_INLINE void prefetch(const std::byte* at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1); }

// ---- whole rows: F32, BF16

struct F32Row {
  static constexpr int64_t kBytes = 4;
  static F16 load(const std::byte* p) { return f_load(reinterpret_cast<const float*>(p)); }
  static F16 load_n(const std::byte* p, int64_t n) {
    float copy[16] = {};
    std::memcpy(copy, p, static_cast<size_t>(4 * n));
    return f_load(copy);
  }
};
struct Bf16Row {
  static constexpr int64_t kBytes = 2;
  static F16 load(const std::byte* p) { return f_from_bf16(p); }
  static F16 load_n(const std::byte* p, int64_t n) { return f_from_bf16_n(p, n); }
};

template <class Row, int kTokens>
void whole_rows(const RowTile& tile, int64_t token) {
  const int64_t cols = tile.job.weight->cols, row_bytes = cols * Row::kBytes;
  const std::byte* w[kTile];
  for (int r = 0; r < kTile; ++r) w[r] = tile.job.weight->data + tile.row(r) * row_bytes;
  const float* x[kTokens];
  for (int t = 0; t < kTokens; ++t) x[t] = tile.x(token + t);
  F16 sum[kTile][kTokens];
#pragma GCC unroll 4
  for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) sum[r][t] = f_zero();
  int64_t k = 0;
  for (; k + 16 <= cols; k += 16) {
    F16 xs[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) xs[t] = f_load(x[t] + k);
#pragma GCC unroll 4
    for (int r = 0; r < kTile; ++r) {
      const std::byte* at = w[r] + k * Row::kBytes;
      if (k * Row::kBytes % 64 == 0) prefetch(at + kTile * row_bytes);
      const F16 ws = Row::load(at);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) sum[r][t] = f_fma(ws, xs[t], sum[r][t]);
    }
  }
  if (k < cols) {
    for (int r = 0; r < kTile; ++r) {
      const F16 ws = Row::load_n(w[r] + k * Row::kBytes, cols - k);
      for (int t = 0; t < kTokens; ++t) sum[r][t] = f_fma(ws, f_load_n(x[t] + k, cols - k), sum[r][t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    float sums[kTile];
    _mm_storeu_ps(sums, f_reduce4(sum[0][t], sum[1][t], sum[2][t], sum[3][t]));
    tile.put(token + t, sums);
  }
}

// Formats without a fast path as whole rows (FP8 with rounded F32 scales, FP4 with plain input): four rows are
// decoded to float32, then met as F32 rows.
void decoded_rows(const RowTile& tile, int64_t n_tokens) {
  const Weight& weight = *tile.job.weight;
  const int64_t cols = weight.cols;
  thread_local std::vector<float> decoded;
  if (static_cast<int64_t>(decoded.size()) < kTile * cols) decoded.resize(static_cast<size_t>(kTile * cols));
  for (int r = 0; r < kTile; ++r) {
    float* out = decoded.data() + r * cols;
    const int64_t row = tile.row(r);
    if (weight.format == WeightFormat::kFp4Block) {
      const std::byte* codes = weight.data + row * (cols / 2);
      const std::byte* scales = weight.scale + row * (cols / 32);
      for (int64_t k = 0; k < cols; ++k) {
        const unsigned byte = static_cast<unsigned>(codes[k / 2]);
        out[k] = 0.5f * static_cast<float>(kE2m1Doubled[k % 2 == 0 ? byte & 15 : byte >> 4]) *
                 to_f32(f8e8m0{static_cast<uint8_t>(scales[k / 32])});
      }
    } else {
      const std::byte* codes = weight.data + row * cols;
      const std::byte* scales = weight.scale + row / 128 * ((cols + 127) / 128) * 4;
      for (int64_t k = 0; k < cols; ++k) {
        float scale;
        std::memcpy(&scale, scales + k / 128 * 4, 4);
        out[k] = round_bf16(to_f32(f8e4m3{static_cast<uint8_t>(codes[k])}) * scale);
      }
    }
  }
  for (int64_t t = 0; t < n_tokens; ++t) {
    F16 sum[kTile] = {f_zero(), f_zero(), f_zero(), f_zero()};
    const float* x = tile.x(t);
    int64_t k = 0;
    for (; k + 16 <= cols; k += 16) {
      const F16 xs = f_load(x + k);
#pragma GCC unroll 4
      for (int r = 0; r < kTile; ++r) sum[r] = f_fma(f_load(decoded.data() + r * cols + k), xs, sum[r]);
    }
    if (k < cols)
      for (int r = 0; r < kTile; ++r)
        sum[r] = f_fma(f_load_n(decoded.data() + r * cols + k, cols - k), f_load_n(x + k, cols - k), sum[r]);
    float sums[kTile];
    _mm_storeu_ps(sums, f_reduce4(sum[0], sum[1], sum[2], sum[3]));
    tile.put(t, sums);
  }
}

// ---- FP8 blocks

// Scales of column block b for the tile's four rows, times 2^8 for the codes as halves (exact).
struct Fp8Scales {
  explicit Fp8Scales(const RowTile& tile) : weight(*tile.job.weight), n_blocks((weight.cols + 127) / 128) {
    for (int r = 0; r < kTile; ++r) base[r] = tile.row(r) / 128 * n_blocks;
    uniform = base[0] == base[kTile - 1];
  }
  float at(int r, int64_t b) const {
    if (!weight.scales_are_f32) return to_f32(f8e8m0{static_cast<uint8_t>(weight.scale[base[r] + b])});
    float scale;
    std::memcpy(&scale, weight.scale + 4 * (base[r] + b), 4);
    return scale;
  }
  __m128 four(int64_t b) const {
    if (uniform) return _mm_set1_ps(at(0, b));
    return _mm_setr_ps(at(0, b), at(1, b), at(2, b), at(3, b));
  }
  const Weight& weight;
  int64_t n_blocks;
  int64_t base[kTile];
  bool uniform;
};

// y = fma(c * 2^8, sa * sw, y): the codes were summed as value * 2^-8.
HADAL_INLINE __m128 add_block(__m128 y, __m128 c, float sa, __m128 sw) {
  return _mm_fmadd_ps(_mm_mul_ps(c, _mm_set1_ps(256.0f)), _mm_mul_ps(_mm_set1_ps(sa), sw), y);
}

template <int kTokens>
void fp8_few(const RowTile& tile, int64_t token) {
  const int64_t cols = tile.job.weight->cols;
  const Fp8Scales sw(tile);
  const std::byte* w[kTile];
  for (int r = 0; r < kTile; ++r) w[r] = tile.job.weight->data + tile.row(r) * cols;
  const float* x[kTokens];
  const float* sa[kTokens];
  __m128 y[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    x[t] = tile.x(token + t);
    sa[t] = tile.scales(token + t);
    y[t] = _mm_setzero_ps();
  }
  for (int64_t b = 0; b < sw.n_blocks; ++b) {
    F16 sum[kTile][kTokens];
#pragma GCC unroll 4
    for (int r = 0; r < kTile; ++r)
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) sum[r][t] = f_zero();
    const int64_t begin = b * 128;
    if (begin + 128 <= cols) {
#pragma GCC unroll 4
      for (int r = 0; r < kTile; ++r) {
        prefetch(w[r] + begin + kTile * cols);
        prefetch(w[r] + begin + 64 + kTile * cols);
      }
#pragma GCC unroll 8
      for (int64_t k = 0; k < 128; k += 16) {
        F16 xs[kTokens];
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) xs[t] = f_load(x[t] + begin + k);
#pragma GCC unroll 4
        for (int r = 0; r < kTile; ++r) {
          const F16 ws = f_from_e4m3(w[r] + begin + k);
#pragma GCC unroll 4
          for (int t = 0; t < kTokens; ++t) sum[r][t] = f_fma(ws, xs[t], sum[r][t]);
        }
      }
    } else {
      for (int64_t k = begin; k < cols; k += 16) {
        const int64_t n = std::min<int64_t>(16, cols - k);
        for (int r = 0; r < kTile; ++r) {
          const F16 ws = f_from_e4m3_n(w[r] + k, n);
          for (int t = 0; t < kTokens; ++t) sum[r][t] = f_fma(ws, f_load_n(x[t] + k, n), sum[r][t]);
        }
      }
    }
    const __m128 scales = sw.four(b);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t)
      y[t] = add_block(y[t], f_reduce4(sum[0][t], sum[1][t], sum[2][t], sum[3][t]), sa[t] ? sa[t][b] : 1.0f, scales);
  }
  for (int t = 0; t < kTokens; ++t) {
    float sums[kTile];
    _mm_storeu_ps(sums, y[t]);
    tile.put(token + t, sums);
  }
}

constexpr int kPanelRows = 32;
// Lanes in the order in which the tree adds them: after lane i of this list, complete pairs are merged.
constexpr int kLaneOrder[16] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

// c of one block for a panel of 32 rows ([128][32], k by rows) and kTokens inputs. Lanes one after another, each in
// registers from first to last: what waits for its other half of the tree lies in memory.
template <int kTokens>
HADAL_INLINE void panel_block(const float* panel, const float* const* x, F16 (&c)[kTokens][2]) {
  alignas(64) float waiting[4][kTokens][2][16];  // sums of 1, 2, 4, 8 lanes
#pragma GCC unroll 1
  for (int i = 0; i < 16; ++i) {
    F16 sum[kTokens][2];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) sum[t][0] = sum[t][1] = f_zero();
    const int first = kLaneOrder[i];
#pragma GCC unroll 2
    for (int k = first; k < 128; k += 16) {
      const F16 w0 = f_load(panel + k * kPanelRows), w1 = f_load(panel + k * kPanelRows + 16);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const F16 xs = f_set(x[t][k]);
        sum[t][0] = f_fma(w0, xs, sum[t][0]);
        sum[t][1] = f_fma(w1, xs, sum[t][1]);
      }
    }
    int level = 0;
    for (; (i >> level & 1) != 0; ++level) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sum[t][0] = f_add(f_load(waiting[level][t][0]), sum[t][0]);
        sum[t][1] = f_add(f_load(waiting[level][t][1]), sum[t][1]);
      }
    }
    if (i < 15) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        f_store(waiting[level][t][0], sum[t][0]);
        f_store(waiting[level][t][1], sum[t][1]);
      }
    } else {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        c[t][0] = sum[t][0];
        c[t][1] = sum[t][1];
      }
    }
  }
}

// Rows [first, first + n) of a job, n <= 32, many tokens.
void fp8_panel(const LinearJob& job, int64_t first, int64_t n) {
  const Weight& weight = *job.weight;
  const int64_t cols = weight.cols, n_blocks = (cols + 127) / 128;
  thread_local std::vector<float> kept;  // y: [token][32]
  const size_t size = static_cast<size_t>(kPanelRows * job.n_tokens);
  if (kept.size() < size) kept.resize(size);
  std::fill(kept.begin(), kept.begin() + static_cast<ptrdiff_t>(size), 0.0f);
  constexpr int kTokens = kFp8PanelTokens;
  alignas(64) float panel[128 * kPanelRows], rows[4 * 128], scales[kPanelRows], padded[kTokens][128];
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t begin = b * 128, n_cols = std::min<int64_t>(128, cols - begin);
    for (int64_t r = 0; r < kPanelRows; r += 4) {
      const RowTile tile{job, first + std::min(r, n - 1), std::clamp<int64_t>(n - r, 1, 4)};
      const Fp8Scales sw(tile);
      _mm_storeu_ps(scales + r, sw.four(b));
      for (int i = 0; i < 4; ++i) {
        const std::byte* w = weight.data + tile.row(i) * cols + begin;
        prefetch(w + kPanelRows * cols / 4);
        for (int64_t k = 0; k < 128; k += 16) {
          const F16 halves = k + 16 <= n_cols ? f_from_e4m3(w + k)
                             : k < n_cols     ? f_from_e4m3_n(w + k, n_cols - k)
                                              : f_zero();
          f_store(rows + 128 * i + k, f_mul(halves, f_set(256.0f)));
        }
      }
      for (int k = 0; k < 128; k += 4) {  // 4 x 4 transposes
        __m128 r0 = _mm_load_ps(rows + k), r1 = _mm_load_ps(rows + 128 + k), r2 = _mm_load_ps(rows + 256 + k),
               r3 = _mm_load_ps(rows + 384 + k);
        _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
        float* to = panel + k * kPanelRows + r;
        _mm_storeu_ps(to, r0);
        _mm_storeu_ps(to + kPanelRows, r1);
        _mm_storeu_ps(to + 2 * kPanelRows, r2);
        _mm_storeu_ps(to + 3 * kPanelRows, r3);
      }
    }
    const F16 sw0 = f_load(scales), sw1 = f_load(scales + 16);
    for (int64_t token = 0; token < job.n_tokens; token += kTokens) {
      const float* x[kTokens];
      float sa[kTokens];
      for (int t = 0; t < kTokens; ++t) {  // past the last token: the last again, not stored
        const int64_t row = job.input_row(std::min(token + t, job.n_tokens - 1));
        x[t] = job.input.values + row * job.input.stride + begin;
        sa[t] = job.input.scales ? job.input.scales[row * job.input.scale_stride + b] : 1.0f;
        if (n_cols == 128) continue;
        std::memset(padded[t], 0, sizeof padded[t]);
        std::memcpy(padded[t], x[t], sizeof(float) * static_cast<size_t>(n_cols));
        x[t] = padded[t];
      }
      F16 c[kTokens][2];
      panel_block<kTokens>(panel, x, c);
      for (int t = 0; t < kTokens && token + t < job.n_tokens; ++t) {
        float* y = kept.data() + kPanelRows * (token + t);
        const F16 s = f_set(sa[t]);
        f_store(y, f_fma(c[t][0], f_mul(s, sw0), f_load(y)));
        f_store(y + 16, f_fma(c[t][1], f_mul(s, sw1), f_load(y + 16)));
      }
    }
  }
  for (int64_t token = 0; token < job.n_tokens; ++token) {
    const float* y = kept.data() + kPanelRows * token;
    float* out = job.out + token * job.out_stride + first;
    for (int64_t r = 0; r < n; ++r) out[r] = job.round_bf16 ? round_bf16(y[r]) : y[r];
  }
}

// ---- FP4 groups, as exact integers

// Exact group sums of four rows and 128 columns: lane g holds rows 0..3 of group g.
HADAL_INLINE I16 fp4_sums(const B64 (&even)[kTile], const B64 (&odd)[kTile], const Fp4Chunk& x) {
  const I16 bias = i_load(x.bias);
  I16 row[kTile];
#pragma GCC unroll 4
  for (int r = 0; r < kTile; ++r) {
    const I16 low = i_dot4(i_dot4(bias, even[r], b_load(x.limbs[0][0])), odd[r], b_load(x.limbs[0][1]));
    const I16 middle = i_dot4(i_dot4(i_zero(), even[r], b_load(x.limbs[1][0])), odd[r], b_load(x.limbs[1][1]));
    const I16 high = i_dot4(i_dot4(i_zero(), even[r], b_load(x.limbs[2][0])), odd[r], b_load(x.limbs[2][1]));
    row[r] = i_add(i_add(low, i_shift_left<7>(middle)), i_shift_left<14>(high));
  }
  return i_sum_lanes(row[0], row[1], row[2], row[3]);
}

// Codes and scales of one chunk (128 columns) of four rows; past the end of a row zeros.
struct Fp4Tile {
  explicit Fp4Tile(const RowTile& tile) : cols(tile.job.weight->cols), n_chunks((cols + 127) / 128) {
    for (int r = 0; r < kTile; ++r) {
      codes[r] = tile.job.weight->data + tile.row(r) * (cols / 2);
      scales[r] = tile.job.weight->scale + tile.row(r) * (cols / 32);
    }
  }
  HADAL_INLINE void load(int64_t c, B64 (&even)[kTile], B64 (&odd)[kTile], F16& sw) const {
    alignas(16) uint32_t four[kTile];  // scale bytes of four groups, row by row
    if ((c + 1) * 128 <= cols) {
#pragma GCC unroll 4
      for (int r = 0; r < kTile; ++r) {
        b_unpack_e2m1(b_load(codes[r] + 64 * c), even[r], odd[r]);
        std::memcpy(&four[r], scales[r] + 4 * c, 4);
      }
    } else {
      const int64_t n = cols - c * 128;
      for (int r = 0; r < kTile; ++r) {
        uint8_t copy[64] = {};
        std::memcpy(copy, codes[r] + 64 * c, static_cast<size_t>(n / 2));
        b_unpack_e2m1(b_load(copy), even[r], odd[r]);
        four[r] = 0x7F7F7F7Fu;
        std::memcpy(&four[r], scales[r] + 4 * c, static_cast<size_t>(n / 32));
      }
    }
    const __m128i rows = _mm_load_si128(reinterpret_cast<const __m128i*>(four));
    sw = f_from_e8m0(_mm_shuffle_epi8(rows, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
  }
  int64_t cols, n_chunks;
  const std::byte* codes[kTile];
  const std::byte* scales[kTile];
};

HADAL_INLINE F16 fp4_add(F16 lanes, I16 c, float sa, F16 sw) {
  return f_fma(f_mul(f_from_i(c), f_set(sa * 0x1p-10f)), sw, lanes);
}
HADAL_INLINE __m128 fp4_tree(F16 a, F16 b, F16 c, F16 d) { return f_add_lanes(f_add(f_add(a, c), f_add(b, d))); }

template <int kTokens>
void fp4_few(const RowTile& tile, int64_t token) {
  const Fp4Tile w(tile);
  const Fp4Chunk* x[kTokens];
  const float* sa[kTokens];
  F16 lanes[kTokens][4];
  for (int t = 0; t < kTokens; ++t) {
    x[t] = tile.job.input.chunks + tile.job.input_row(token + t) * tile.job.input.scale_stride;
    sa[t] = tile.scales(token + t);
    for (int i = 0; i < 4; ++i) lanes[t][i] = f_zero();
  }
  const int64_t ahead = kTile * w.cols / 2;
  for (int64_t first = 0; first < w.n_chunks; first += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // chunk c goes to lanes 4 (c mod 4) + group
      const int64_t c = first + i;
      if (c >= w.n_chunks) break;
      B64 even[kTile], odd[kTile];
      F16 sw;
      w.load(c, even, odd, sw);
#pragma GCC unroll 4
      for (int r = 0; r < kTile; ++r) prefetch(w.codes[r] + 64 * c + ahead);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) lanes[t][i] = fp4_add(lanes[t][i], fp4_sums(even, odd, x[t][c]), sa[t][c], sw);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    float sums[kTile];
    _mm_storeu_ps(sums, fp4_tree(lanes[t][0], lanes[t][1], lanes[t][2], lanes[t][3]));
    tile.put(token + t, sums);
  }
}

constexpr int kFp4PanelRows = 16;

// Rows [first, first + n) of a job, n <= 16, many tokens: dwords of packed columns of 16 rows side by side, so
// that a product of a dword of limbs with all rows is one instruction and nothing is added across lanes.
void fp4_panel(const LinearJob& job, int64_t first, int64_t n) {
  const int64_t cols = job.weight->cols, n_chunks = (cols + 127) / 128;
  thread_local std::vector<B64> panel;   // [chunk][even, odd][16 dwords]
  thread_local std::vector<F16> scales;  // [chunk][4 groups]
  if (static_cast<int64_t>(panel.size()) < 32 * n_chunks) panel.resize(static_cast<size_t>(32 * n_chunks));
  if (static_cast<int64_t>(scales.size()) < 4 * n_chunks) scales.resize(static_cast<size_t>(4 * n_chunks));
  alignas(64) float sw[4][kFp4PanelRows];
  for (int64_t c = 0; c < n_chunks; ++c) {
    for (int64_t r = 0; r < kFp4PanelRows; r += 4) {
      const RowTile tile{job, first + std::min(r, n - 1), std::clamp<int64_t>(n - r, 1, 4)};
      B64 codes[2][kTile];
      F16 s;
      Fp4Tile(tile).load(c, codes[0], codes[1], s);
      for (int g = 0; g < 4; ++g) _mm_storeu_ps(&sw[g][r], f_lane(s, g));
      for (int odd = 0; odd < 2; ++odd) {
        alignas(64) float rows[kTile][16];  // dwords, only moved
        for (int i = 0; i < kTile; ++i) b_store(rows[i], codes[odd][i]);
        for (int k = 0; k < 16; k += 4) {
          __m128 r0 = _mm_load_ps(rows[0] + k), r1 = _mm_load_ps(rows[1] + k), r2 = _mm_load_ps(rows[2] + k),
                 r3 = _mm_load_ps(rows[3] + k);
          _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
          char* to = reinterpret_cast<char*>(panel.data() + 32 * c + 16 * odd + k) + 4 * r;
          _mm_storeu_ps(reinterpret_cast<float*>(to), r0);
          _mm_storeu_ps(reinterpret_cast<float*>(to + 64), r1);
          _mm_storeu_ps(reinterpret_cast<float*>(to + 128), r2);
          _mm_storeu_ps(reinterpret_cast<float*>(to + 192), r3);
        }
      }
    }
    for (int g = 0; g < 4; ++g) scales[static_cast<size_t>(4 * c + g)] = f_load(sw[g]);
  }
  constexpr int kTokens = kFp4PanelTokens;
  static_assert(kFewDots == 8);  // of a group: 32 columns in dwords of four
  for (int64_t token = 0; token < job.n_tokens; token += kTokens) {
    const Fp4Chunk* x[kTokens];
    const float* sa[kTokens];
    alignas(64) float lanes[kTokens][kLanes][kFp4PanelRows];
    for (int t = 0; t < kTokens; ++t) {  // past the last token: the last again, not stored
      const int64_t row = job.input_row(std::min(token + t, job.n_tokens - 1));
      x[t] = job.input.chunks + row * job.input.scale_stride;
      sa[t] = job.input.scales + row * job.input.scale_stride;
      for (int i = 0; i < kLanes; ++i) f_store(lanes[t][i], f_zero());
    }
    for (int64_t c = 0; c < n_chunks; ++c) {
      F16 scale[kTokens];
      for (int t = 0; t < kTokens; ++t) scale[t] = f_set(sa[t][c] * 0x1p-10f);
#pragma GCC unroll 1
      for (int g = 0; g < 4; ++g) {
        Dots low[kTokens], middle[kTokens], high[kTokens];
#pragma GCC unroll 2
        for (int t = 0; t < kTokens; ++t) low[t] = middle[t] = high[t] = d_zero();
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd)
#pragma GCC unroll 4
          for (int k = 4 * g; k < 4 * g + 4; ++k) {
            // Loaded as words: a copied struct would go through the stack in pieces.
            const B64 w = b_load(panel.data() + 32 * c + 16 * odd + k);
#pragma GCC unroll 2
            for (int t = 0; t < kTokens; ++t) {
              low[t] = d_dot4(low[t], w, b_set4(x[t][c].limbs[0][odd] + 4 * k));
              middle[t] = d_dot4(middle[t], w, b_set4(x[t][c].limbs[1][odd] + 4 * k));
              high[t] = d_dot4(high[t], w, b_set4(x[t][c].limbs[2][odd] + 4 * k));
            }
          }
        const F16 sw_g = f_load(reinterpret_cast<const float*>(scales.data() + 4 * c + g));
#pragma GCC unroll 2
        for (int t = 0; t < kTokens; ++t) {
          const I16 biased = i_add(i_from_d(low[t]), i_set(x[t][c].group_bias[g]));
          const I16 sum =
              i_add(i_add(biased, i_shift_left<7>(i_from_d(middle[t]))), i_shift_left<14>(i_from_d(high[t])));
          float* lane = lanes[t][(4 * c + g) % kLanes];
          f_store(lane, f_fma(f_mul(f_from_i(sum), scale[t]), sw_g, f_load(lane)));
        }
      }
    }
    for (int t = 0; t < kTokens && token + t < job.n_tokens; ++t) {
      for (int stride = 8; stride > 0; stride /= 2)
        for (int i = 0; i < stride; ++i) f_store(lanes[t][i], f_add(f_load(lanes[t][i]), f_load(lanes[t][i + stride])));
      const float* sums = lanes[t][0];
      float* out = job.out + (token + t) * job.out_stride + first;
      for (int64_t r = 0; r < n; ++r) out[r] = job.round_bf16 ? round_bf16(sums[r]) : sums[r];
    }
  }
}

// ---- the entries

template <template <int> class Few>
HADAL_INLINE void by_tokens(const RowTile& tile, int64_t n_tokens) {
  int64_t token = 0;
  for (; token + 4 <= n_tokens; token += 4) Few<4>::run(tile, token);
  if (n_tokens - token == 3) Few<3>::run(tile, token);
  if (n_tokens - token == 2) Few<2>::run(tile, token);
  if (n_tokens - token == 1) Few<1>::run(tile, token);
}
template <int kTokens>
struct Fp8Few {
  static void run(const RowTile& tile, int64_t token) { fp8_few<kTokens>(tile, token); }
};
template <int kTokens>
struct Fp4Few {
  static void run(const RowTile& tile, int64_t token) { fp4_few<kTokens>(tile, token); }
};
template <int kTokens>
struct F32Few {
  static void run(const RowTile& tile, int64_t token) { whole_rows<F32Row, kTokens>(tile, token); }
};
template <int kTokens>
struct Bf16Few {
  static void run(const RowTile& tile, int64_t token) { whole_rows<Bf16Row, kTokens>(tile, token); }
};

// From so many tokens on, decoding and transposing a panel pays.
constexpr int64_t kPanelTokens = 8;

void linear(const LinearJob& job, int64_t begin, int64_t end) {
  const Weight& weight = *job.weight;
  const bool fp8_blocks = weight.format == WeightFormat::kFp8Block && !(weight.rounds_to_bf16 && weight.scales_are_f32);
  const bool fp4_groups = weight.format == WeightFormat::kFp4Block && job.input.scales != nullptr;
  if (job.n_tokens >= kPanelTokens && (fp8_blocks || fp4_groups)) {
    const int64_t rows = fp8_blocks ? kPanelRows : kFp4PanelRows;
    for (int64_t first = begin; first < end; first += rows) {
      const int64_t n = std::min(rows, end - first);
      fp8_blocks ? fp8_panel(job, first, n) : fp4_panel(job, first, n);
    }
    return;
  }
  for (int64_t first = begin; first < end; first += kTile) {
    const RowTile tile{job, first, std::min<int64_t>(kTile, end - first)};
    switch (weight.format) {
      case WeightFormat::kF32:
        by_tokens<F32Few>(tile, job.n_tokens);
        break;
      case WeightFormat::kBf16:
        by_tokens<Bf16Few>(tile, job.n_tokens);
        break;
      case WeightFormat::kFp8Block:
        fp8_blocks ? by_tokens<Fp8Few>(tile, job.n_tokens) : decoded_rows(tile, job.n_tokens);
        break;
      case WeightFormat::kFp4Block:
        fp4_groups ? by_tokens<Fp4Few>(tile, job.n_tokens) : decoded_rows(tile, job.n_tokens);
        break;
    }
  }
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
  float p[kTile][kAttentionBlock];
  for (int first = 0; first < block.n_heads; first += kTile) {
    const int heads = std::min(kTile, block.n_heads - first);
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
      if (heads == kTile && i + 32 <= hd) {
        F16 sum[kTile][2];
#pragma GCC unroll 4
        for (int h = 0; h < kTile; ++h)
          for (int v = 0; v < 2; ++v) sum[h][v] = f_load(block.acc + static_cast<int64_t>(first + h) * hd + i + 16 * v);
        for (int j = 0; j < n; ++j) {
          const float* key = block.keys + static_cast<int64_t>(j) * hd + i;
          const F16 k0 = f_load(key), k1 = f_load(key + 16);
#pragma GCC unroll 4
          for (int h = 0; h < kTile; ++h) {
            const F16 ph = f_set(p[h][j]);
            sum[h][0] = f_fma(ph, k0, sum[h][0]);
            sum[h][1] = f_fma(ph, k1, sum[h][1]);
          }
        }
#pragma GCC unroll 4
        for (int h = 0; h < kTile; ++h)
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
    const std::byte* row = args.rows + e * args.row_bytes;
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
    const float* k = reinterpret_cast<const float*>(args.rows + e * args.row_bytes);
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

// ---- roofs

float probe_read(const std::byte* data, int64_t size) {
  F16 sum[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  // Two streams of pages, as the row tiles are.
  for (int64_t i = 0; i + 256 <= size; i += 256) {
    prefetch(data + i + 4096);
    prefetch(data + i + 4096 + 64);
    prefetch(data + i + 4096 + 128);
    prefetch(data + i + 4096 + 192);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] = f_add(sum[k], f_load(reinterpret_cast<const float*>(data + i + 64 * k)));
  }
  float lanes[16];
  f_store(lanes, f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3])));
  return lanes[0];
}

// Every lane starts with a number of its own, or the compiler would find chains that are the same and keep one.
float probe_fma(int64_t n) {
  float start[12 * 16], lanes[16];
  for (int i = 0; i < 12 * 16; ++i) start[i] = static_cast<float>(i);
  const F16 a = f_set(0.5f), b = f_set(1.0f);
  F16 total = f_zero();
  for (int first = 0; first < 12; first += kProbeChains) {
    F16 sum[kProbeChains];
#pragma GCC unroll 12
    for (int i = 0; i < kProbeChains; ++i) sum[i] = f_load(start + 16 * (first + i));
    for (int64_t k = 0; k < n; ++k)
#pragma GCC unroll 12
      for (int i = 0; i < kProbeChains; ++i) sum[i] = f_fma(sum[i], a, b);
    for (int i = 0; i < kProbeChains; ++i) total = f_add(total, sum[i]);
  }
  f_store(lanes, total);
  return lanes[0];
}

float probe_int8(int64_t n) {
  int8_t bytes[64];
  int32_t start[12 * 16];
  float lanes[16];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<int8_t>(i);
  for (int i = 0; i < 12 * 16; ++i) start[i] = i;
  const B64 s = b_load(bytes);
  I16 total = i_zero();
  for (int first = 0; first < 12; first += kProbeChains) {
    I16 sum[kProbeChains];
#pragma GCC unroll 12
    for (int i = 0; i < kProbeChains; ++i) sum[i] = i_load(start + 16 * (first + i));
    for (int64_t k = 0; k < n; ++k) {
#pragma GCC unroll 12
      for (int i = 0; i < kProbeChains; ++i) sum[i] = i_dot4(sum[i], b_from_i(sum[i]), s);  // never the same product
    }
    for (int i = 0; i < kProbeChains; ++i) total = i_add(total, sum[i]);
  }
  f_store(lanes, f_from_i(total));
  return lanes[0];
}

}  // namespace
}  // namespace hadal::kernels
