// Matrix products over the vector words of vector_avx512.h or vector_avx2.h, one of which the including file brings
// first. The arithmetic is that of linear.h and isa.h: 16 lanes, explicit fma,
// one tree; lanes past the end of a row hold zeros, which change nothing.
//
// With few tokens, products go in tiles of 4 rows x 4 tokens: the weights are decoded in registers straight from
// the map, and the trees of four sums share their shuffles. Rows are prefetched exactly one tile ahead: they are
// a few KB, and the hardware's prefetcher starts anew at each.
// With many tokens, a panel of rows is decoded once and transposed, so that the rows stand side by side in a
// vector: then every virtual lane is a vector of its own, and lanes are added without shuffles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/isa.h"
#include "kernels/rows.h"

namespace hadal::kernels {
namespace {

constexpr int kTile = 4;  // rows, and most tokens, of a register tile

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

// Inputs of the next tokens into the first cache: they lie far apart, where no hardware prefetcher follows.
HADAL_INLINE void prefetch_input(const void* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(static_cast<const char*>(at) + i, _MM_HINT_T0);
}

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
// Columns k of a panel block stand lane by lane in that order, so that it is read from front to back. The list is its
// own inverse.
constexpr int panel_place(int k) { return kLaneOrder[k % 16] * 8 + k / 16; }

// c of one block for a panel of 32 rows ([128 places][32]) and kTokens inputs. Lanes one after another, each in
// registers from first to last: what waits for its other half of the tree lies in memory.
template <int kTokens>
HADAL_INLINE void panel_block(const float* panel, const float* const* x, F16 (&c)[2][kTokens]) {
  alignas(64) float waiting[4][2][kTokens][16];  // sums of 1, 2, 4, 8 lanes
#pragma GCC unroll 1
  for (int i = 0; i < 16; ++i) {
    F16 sum[2][kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) sum[0][t] = sum[1][t] = f_zero();
    const int first = kLaneOrder[i];
#pragma GCC unroll 2
    for (int k = 0; k < 8; ++k) {
      F16 xs[kTokens];
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) xs[t] = f_set(x[t][first + 16 * k]);
      f_fma_all(panel + (8 * i + k) * kPanelRows, xs, sum[0]);
      f_fma_all(panel + (8 * i + k) * kPanelRows + 16, xs, sum[1]);
    }
    int level = 0;
    for (; (i >> level & 1) != 0; ++level) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sum[0][t] = f_add(f_load(waiting[level][0][t]), sum[0][t]);
        sum[1][t] = f_add(f_load(waiting[level][1][t]), sum[1][t]);
      }
    }
    if (i < 15) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        f_store(waiting[level][0][t], sum[0][t]);
        f_store(waiting[level][1][t], sum[1][t]);
      }
    } else {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        c[0][t] = sum[0][t];
        c[1][t] = sum[1][t];
      }
    }
  }
}

// Columns [128 b, 128 b + 128) of up to 32 rows as floats, places by rows (zeros past the end), and their scales.
HADAL_INLINE void decode_fp8_panel(const LinearJob& job, int64_t first, int64_t n, int64_t b, float* panel,
                                   float* scales) {
  const int64_t cols = job.weight->cols, begin = b * 128, n_cols = std::min<int64_t>(128, cols - begin);
  alignas(64) float rows[4 * 128];
  for (int64_t r = 0; r < kPanelRows; r += 4) {
    const RowTile tile{job, first + std::min(r, n - 1), std::clamp<int64_t>(n - r, 1, 4)};
    const Fp8Scales sw(tile);
    _mm_storeu_ps(scales + r, sw.four(b));
    for (int i = 0; i < 4; ++i) {
      const std::byte* w = job.weight->data + tile.row(i) * cols + begin;
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
      _mm_storeu_ps(panel + panel_place(k) * kPanelRows + r, r0);
      _mm_storeu_ps(panel + panel_place(k + 1) * kPanelRows + r, r1);
      _mm_storeu_ps(panel + panel_place(k + 2) * kPanelRows + r, r2);
      _mm_storeu_ps(panel + panel_place(k + 3) * kPanelRows + r, r3);
    }
  }
}

// Rows [begin, end) of a job, many tokens: panel after panel meets 128 columns of all inputs, which the second cache
// keeps from one panel to the next.
void fp8_panels(const LinearJob& job, int64_t begin, int64_t end) {
  const int64_t cols = job.weight->cols, n_blocks = (cols + 127) / 128;
  thread_local std::vector<float> kept;  // y: [panel][token][32]
  const int64_t panel_size = kPanelRows * job.n_tokens;
  const size_t size = static_cast<size_t>((end - begin + kPanelRows - 1) / kPanelRows * panel_size);
  if (kept.size() < size) kept.resize(size);
  std::fill(kept.begin(), kept.begin() + static_cast<ptrdiff_t>(size), 0.0f);
  constexpr int kTokens = kFp8PanelTokens;
  alignas(64) float panel[128 * kPanelRows], scales[kPanelRows], padded[kTokens][128];
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t n_cols = std::min<int64_t>(128, cols - 128 * b);
    float* y = kept.data();
    for (int64_t first = begin; first < end; first += kPanelRows) {
      decode_fp8_panel(job, first, std::min<int64_t>(kPanelRows, end - first), b, panel, scales);
      const F16 sw0 = f_load(scales), sw1 = f_load(scales + 16);
      for (int64_t token = 0; token < job.n_tokens; token += kTokens) {
        const float* x[kTokens];
        float sa[kTokens];
        for (int t = 0; t < kTokens; ++t) {  // past the last token: the last again, not stored
          const int64_t row = job.input_row(std::min(token + t, job.n_tokens - 1));
          x[t] = job.input.values + row * job.input.stride + 128 * b;
          sa[t] = job.input.scales ? job.input.scales[row * job.input.scale_stride + b] : 1.0f;
          if (n_cols == 128) continue;
          std::memset(padded[t], 0, sizeof padded[t]);
          std::memcpy(padded[t], x[t], sizeof(float) * static_cast<size_t>(n_cols));
          x[t] = padded[t];
        }
        for (int64_t t = token + kTokens; t < std::min(token + 2 * kTokens, job.n_tokens); ++t)
          prefetch_input(job.input.values + job.input_row(t) * job.input.stride + 128 * b, 512);
        F16 c[2][kTokens];
        panel_block<kTokens>(panel, x, c);
        for (int t = 0; t < kTokens && token + t < job.n_tokens; ++t, y += kPanelRows) {
          const F16 s = f_set(sa[t]);
          f_store(y, f_fma(c[0][t], f_mul(s, sw0), f_load(y)));
          f_store(y + 16, f_fma(c[1][t], f_mul(s, sw1), f_load(y + 16)));
        }
      }
    }
  }
  const float* y = kept.data();
  for (int64_t first = begin; first < end; first += kPanelRows)
    for (int64_t token = 0; token < job.n_tokens; ++token, y += kPanelRows) {
      float* out = job.out + token * job.out_stride + first;
      const int64_t n = std::min<int64_t>(kPanelRows, end - first);
      for (int64_t r = 0; r < n; ++r) out[r] = job.round_bf16 ? round_bf16(y[r]) : y[r];
    }
}

// ---- FP4 groups, as exact integers

// Codes and scales of one chunk (128 columns) of four rows; past the end of a row zeros.
struct Fp4Tile {
  explicit Fp4Tile(const RowTile& tile) : cols(tile.job.weight->cols), n_chunks((cols + 127) / 128) {
    for (int r = 0; r < kTile; ++r) {
      codes[r] = tile.job.weight->data + tile.row(r) * (cols / 2);
      scales[r] = tile.job.weight->scale + tile.row(r) * (cols / 32);
    }
  }
  HADAL_INLINE B64 load(int r, int64_t c) const {
    if ((c + 1) * 128 <= cols) return b_load(codes[r] + 64 * c);
    uint8_t copy[64] = {};
    std::memcpy(copy, codes[r] + 64 * c, static_cast<size_t>((cols - c * 128) / 2));
    return b_load(copy);
  }
  // Lane g: the scales of group g of rows 0..3.
  HADAL_INLINE F16 load_scales(int64_t c) const {
    const int64_t n = std::min<int64_t>(4, (cols - c * 128) / 32);
    alignas(16) uint32_t four[kTile];  // scale bytes of four groups, row by row
    for (int r = 0; r < kTile; ++r) {
      four[r] = 0x7F7F7F7Fu;
      if (n == 4) {
        std::memcpy(&four[r], scales[r] + 4 * c, 4);
      } else {
        std::memcpy(&four[r], scales[r] + 4 * c, static_cast<size_t>(n));
      }
    }
    const __m128i rows = _mm_load_si128(reinterpret_cast<const __m128i*>(four));
    return f_from_e8m0(_mm_shuffle_epi8(rows, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
  }
  int64_t cols, n_chunks;
  const std::byte* codes[kTile];
  const std::byte* scales[kTile];
};

HADAL_INLINE I16 fp4_dots(const B64 (&quarters)[4], const int16_t* x) {
  I16 sum = i_dot2(i_zero(), quarters[0], b_load(x));
#pragma GCC unroll 3
  for (int q = 1; q < 4; ++q) sum = i_dot2(sum, quarters[q], b_load(x + 32 * q));
  return sum;
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
      I16 rows[kTokens][kTile];
#pragma GCC unroll 4
      for (int r = 0; r < kTile; ++r) {
        B64 quarters[4];
        b_unpack_e2m1_words(w.load(r, c), quarters);
        prefetch(w.codes[r] + 64 * c + ahead);
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {  // quarters are 256 times the doubled values
          rows[t][r] = i_shift_right<5>(fp4_dots(quarters, x[t][c].coarse));
          if (x[t][c].fine_groups != 0)
            rows[t][r] = i_add(rows[t][r], i_shift_right<8>(fp4_dots(quarters, x[t][c].fine)));
        }
      }
      const F16 sw = w.load_scales(c);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {  // lane g of the sums: rows 0..3 of group g
        const F16 sums = f_from_i(i_sum_lanes(rows[t][0], rows[t][1], rows[t][2], rows[t][3]));
        lanes[t][i] = f_fma(f_mul(sums, f_set(sa[t][c] * 0x1p-10f)), sw, lanes[t][i]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    float sums[kTile];
    _mm_storeu_ps(sums, fp4_tree(lanes[t][0], lanes[t][1], lanes[t][2], lanes[t][3]));
    tile.put(token + t, sums);
  }
}

constexpr int kFp4PanelRows = 16;
constexpr int kFp4Resident = 16;  // tokens whose lanes stay in the first cache while a panel passes by

// One group of a panel for some inputs: dword k of quarter q of all rows, at w + 16 (16 q + k), by dword k of x.
// Tokens are a list of constants, not a loop: only so does g++ 12 keep their sums in registers.
template <class X, int... kToken>
HADAL_INLINE void fp4_group(const int32_t* w, X x, I16* sums, std::integer_sequence<int, kToken...>) {
  I16 sum[] = {(static_cast<void>(kToken), i_zero())...};
#pragma GCC unroll 1
  for (int q = 0; q < 4; ++q)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const B64 ws = b_load(w + kFp4PanelRows * (16 * q + k));
      ((sum[kToken] = i_dot2(sum[kToken], ws, b_set_pair(x(kToken) + 32 * q + 2 * k)), i_keep(sum[kToken])), ...);
    }
  ((sums[kToken] = sum[kToken]), ...);
}

// Rows [first, first + n) of a job, n <= 16, many tokens: dwords (pairs of columns) of 16 rows side by side, so that
// a product of a pair of inputs with all rows is one instruction and nothing is added across lanes.
void fp4_panel(const LinearJob& job, int64_t first, int64_t n) {
  const int64_t cols = job.weight->cols, n_chunks = (cols + 127) / 128;
  thread_local std::vector<int32_t> panel;  // [chunk][quarter][16 dwords][16 rows]
  thread_local std::vector<float> scales;   // [chunk][4 groups][16 rows]
  const auto grow = [](auto& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
  };
  grow(panel, 64 * kFp4PanelRows * n_chunks);
  grow(scales, 4 * kFp4PanelRows * n_chunks);
  for (int64_t c = 0; c < n_chunks; ++c) {
    for (int64_t r = 0; r < kFp4PanelRows; r += kTile) {
      const Fp4Tile w(RowTile{job, first + std::min(r, n - 1), std::clamp<int64_t>(n - r, 1, 4)});
      const F16 s = w.load_scales(c);
      for (int g = 0; g < 4; ++g) _mm_storeu_ps(scales.data() + kFp4PanelRows * (4 * c + g) + r, f_lane(s, g));
      alignas(64) float rows[kTile][4][16];  // [row][quarter] dwords, only moved
      for (int i = 0; i < kTile; ++i) {
        B64 quarters[4];
        b_unpack_e2m1_words(w.load(i, c), quarters);
        for (int q = 0; q < 4; ++q) b_store(rows[i][q], w_shift_right<8>(quarters[q]));
      }
      float* to = reinterpret_cast<float*>(panel.data() + 64 * kFp4PanelRows * c) + r;
      for (int q = 0; q < 4; ++q)
        for (int k = 0; k < 16; k += 4) {
          __m128 r0 = _mm_load_ps(rows[0][q] + k), r1 = _mm_load_ps(rows[1][q] + k), r2 = _mm_load_ps(rows[2][q] + k),
                 r3 = _mm_load_ps(rows[3][q] + k);
          _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
          float* at = to + kFp4PanelRows * (16 * q + k);
          _mm_storeu_ps(at, r0);
          _mm_storeu_ps(at + kFp4PanelRows, r1);
          _mm_storeu_ps(at + 2 * kFp4PanelRows, r2);
          _mm_storeu_ps(at + 3 * kFp4PanelRows, r3);
        }
    }
  }
  constexpr int kTokens = kFp4PanelTokens;
  static_assert(kFp4Resident % kTokens == 0);
  alignas(64) float lanes[kFp4Resident][kLanes][kFp4PanelRows];
  for (int64_t token = 0; token < job.n_tokens; token += kFp4Resident) {
    const int resident = static_cast<int>(std::min<int64_t>(kFp4Resident, job.n_tokens - token));
    const Fp4Chunk* x[kFp4Resident];
    const float* sa[kFp4Resident];
    for (int t = 0; t < kFp4Resident; ++t) {  // past the last token: the last again, not stored
      const int64_t row = job.input_row(token + std::min(t, resident - 1));
      x[t] = job.input.chunks + row * job.input.scale_stride;
      sa[t] = job.input.scales + row * job.input.scale_stride;
    }
    std::memset(lanes, 0, sizeof lanes);
    for (int64_t c = 0; c < n_chunks; ++c)
      for (int from = 0; from < resident; from += kTokens) {
        const int next = from + kTokens < resident ? from + kTokens : 0;
        for (int t = next; t < std::min(next + kTokens, resident); ++t)
          prefetch_input(&x[t][next != 0 ? c : std::min(c + 1, n_chunks - 1)], offsetof(Fp4Chunk, fine));
#pragma GCC unroll 1
        for (int g = 0; g < 4; ++g) {
          const int32_t* w = panel.data() + kFp4PanelRows * (64 * c + 4 * g);
          I16 sum[kTokens];
          fp4_group(
              w, [&](int t) { return x[from + t][c].coarse + 8 * g; }, sum, std::make_integer_sequence<int, kTokens>());
          const F16 sw = f_load(scales.data() + kFp4PanelRows * (4 * c + g));
#pragma GCC unroll 8
          for (int t = 0; t < kTokens; ++t) {
            const Fp4Chunk& chunk = x[from + t][c];
            I16 total = i_shift_left<3>(sum[t]);
            if ((chunk.fine_groups >> g & 1) != 0) {
              I16 fine;
              fp4_group(
                  w, [&](int) { return chunk.fine + 8 * g; }, &fine, std::make_integer_sequence<int, 1>());
              total = i_add(total, fine);
            }
            float* lane = lanes[from + t][(4 * c + g) % kLanes];
            f_store(lane, f_fma(f_mul(f_from_i(total), f_set(sa[from + t][c] * 0x1p-10f)), sw, f_load(lane)));
          }
        }
      }
    for (int t = 0; t < resident; ++t) {
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
  if (job.n_tokens >= kPanelTokens && fp8_blocks) return fp8_panels(job, begin, end);
  if (job.n_tokens >= kPanelTokens && fp4_groups) {
    for (int64_t first = begin; first < end; first += kFp4PanelRows)
      fp4_panel(job, first, std::min<int64_t>(kFp4PanelRows, end - first));
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

}  // namespace
}  // namespace hadal::kernels
