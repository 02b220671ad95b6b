#include "train/fused.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace hadal::train::fused {

// Vectors of the compiler, not of an instruction set: AVX2 where the build says so, whatever else
// elsewhere. Products and sums may fuse here: training needs the same bits every run, not the
// engine's.
namespace {

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

inline v8 load(const float* p) {
  v8 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, v8 x) { std::memcpy(p, &x, sizeof x); }
inline v8 splat(float x) { return v8{x, x, x, x, x, x, x, x}; }
inline float sum(v8 x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
inline v8 min(v8 a, v8 b) { return a < b ? a : b; }
inline v8 max(v8 a, v8 b) { return a > b ? a : b; }

// e^x to 2e-7: x = n ln 2 + r, a polynomial for e^r, n into the exponent. Below -87: 0.
inline v8 exp(v8 x) {
  const v8 clamped = min(max(x, splat(-87.0f)), splat(88.0f));
  const v8 shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum rounds to an integer
  const v8 n = shifted - 12582912.0f;
  const v8 r = (clamped - n * 0.693145751953125f) - n * 1.42860677e-6f;
  v8 p = splat(1.0f / 5040.0f);
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  i8 bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4B400000 + 127) << 23;
  v8 power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? splat(0) : p * power;
}

// To BF16 and back, ties to even.
inline v8 round_bf16(v8 x) {
  typedef uint32_t u8 __attribute__((vector_size(32)));
  u8 u;
  std::memcpy(&u, &x, sizeof u);
  u = (u + 0x7FFFu + ((u >> 16) & 1u)) & 0xFFFF0000u;
  v8 y;
  std::memcpy(&y, &u, sizeof y);
  return y;
}

inline v8 sigmoid(v8 x) { return 1.0f / (1.0f + exp(-x)); }

inline float dot(const float* a, const float* b, int64_t n) {
  v8 s0 = splat(0), s1 = splat(0);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    s0 += load(a + i) * load(b + i);
    s1 += load(a + i + 8) * load(b + i + 8);
  }
  if (i < n) s0 += load(a + i) * load(b + i);
  return sum(s0 + s1);
}

// y += alpha x
inline void add_scaled(float alpha, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 8) store(y + i, load(y + i) + alpha * load(x + i));
}

// A product goes in blocks that the caches hold: kInner x kColumns of b (second cache), kRows x
// kInner of a, both copied in the order in which the tiles of 6 x 16 read them.
constexpr int64_t kTileRows = 6, kTileColumns = 16, kRows = 96, kColumns = 1024, kInner = 256;

// Line i of `x`, i < n, becomes column i of out [k, Width]; the other columns are zero.
template <int64_t Width>
void pack(const float* x, int64_t line, int64_t step, int64_t n, int64_t k, float* out) {
  if (n < Width) std::fill(out, out + k * Width, 0.0f);
  if (n == Width && line == 1) {
    for (int64_t l = 0; l < k; ++l) std::memcpy(out + l * Width, x + l * step, Width * sizeof(float));
  } else if (n == Width) {
    for (int64_t l = 0; l < k; ++l)
      for (int64_t i = 0; i < Width; ++i) out[l * Width + i] = x[i * line + l * step];
  } else {
    for (int64_t l = 0; l < k; ++l)
      for (int64_t i = 0; i < n; ++i) out[l * Width + i] = x[i * line + l * step];
  }
}

void tile(int64_t k, const float* a, const float* b, float* c, int64_t ldc, int64_t rows, int64_t columns,
          bool accumulate) {
  v8 acc[kTileRows][2];
  for (auto& row : acc) row[0] = row[1] = splat(0);
  for (int64_t l = 0; l < k; ++l, a += kTileRows, b += kTileColumns) {
    const v8 b0 = load(b), b1 = load(b + 8);
    for (int64_t r = 0; r < kTileRows; ++r) {
      const v8 x = splat(a[r]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
  if (rows == kTileRows && columns == kTileColumns) {
    for (int64_t r = 0; r < kTileRows; ++r)
      for (int64_t v = 0; v < 2; ++v) {
        float* out = c + r * ldc + 8 * v;
        store(out, accumulate ? load(out) + acc[r][v] : acc[r][v]);
      }
    return;
  }
  float values[kTileRows][kTileColumns];
  std::memcpy(values, acc, sizeof values);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < columns; ++j) c[r * ldc + j] = accumulate ? c[r * ldc + j] + values[r][j] : values[r][j];
}

constexpr int64_t round_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

}  // namespace

bool supported() {
#if defined(__AVX2__) && defined(__FMA__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

void gemm(int64_t m, int64_t n, int64_t k, View a, View b, float* c, int64_t ldc, bool accumulate) {
  thread_local std::vector<float> a_packed(static_cast<size_t>(kRows * kInner)),
      b_packed(static_cast<size_t>(kColumns * kInner));
  for (int64_t j0 = 0; j0 < n; j0 += kColumns) {
    const int64_t columns = std::min(kColumns, n - j0);
    for (int64_t l0 = 0; l0 == 0 || l0 < k; l0 += kInner) {
      const int64_t inner = std::min(kInner, k - l0);
      const bool adds = accumulate || l0 > 0;
      for (int64_t j = 0; j < columns; j += kTileColumns)
        pack<kTileColumns>(b.data + l0 * b.row + (j0 + j) * b.col, b.col, b.row, std::min(kTileColumns, columns - j),
                           inner, b_packed.data() + j * inner);
      for (int64_t i0 = 0; i0 < m; i0 += kRows) {
        const int64_t rows = std::min(kRows, m - i0);
        for (int64_t i = 0; i < rows; i += kTileRows)
          pack<kTileRows>(a.data + (i0 + i) * a.row + l0 * a.col, a.row, a.col, std::min(kTileRows, rows - i), inner,
                          a_packed.data() + i * inner);
        for (int64_t j = 0; j < columns; j += kTileColumns)
          for (int64_t i = 0; i < rows; i += kTileRows)
            tile(inner, a_packed.data() + i * inner, b_packed.data() + j * inner, c + (i0 + i) * ldc + j0 + j, ldc,
                 std::min(kTileRows, rows - i), std::min(kTileColumns, columns - j), adds);
      }
    }
  }
}

// --- RMSNorm ---

void rms_norm(const float* x, const float* w, int64_t n, int64_t d, float eps, float* y, float* inverse_rms) {
  for (int64_t i = 0; i < n; ++i, x += d, y += d) {
    const float r = 1.0f / std::sqrt(dot(x, x, d) / static_cast<float>(d) + eps);
    inverse_rms[i] = r;
    for (int64_t j = 0; j < d; j += 8) {
      const v8 scaled = load(x + j) * r;
      store(y + j, w ? load(w + j) * scaled : scaled);
    }
  }
}

void rms_norm_backward(const float* x, const float* w, const float* inverse_rms, const float* dy, int64_t n, int64_t d,
                       float* dx, float* dw) {
  for (int64_t i = 0; i < n; ++i, x += d, dy += d, dx += d) {
    const float r = inverse_rms[i];
    v8 inner = splat(0);  // <w dy, x>
    for (int64_t j = 0; j < d; j += 8) {
      const v8 g = load(dy + j), xs = load(x + j);
      if (w) {
        inner += load(w + j) * g * xs;
        store(dw + j, load(dw + j) + g * xs * r);
      } else {
        inner += g * xs;
      }
    }
    const float factor = r * r * r / static_cast<float>(d) * sum(inner);
    for (int64_t j = 0; j < d; j += 8) {
      const v8 g = w ? load(w + j) * load(dy + j) : load(dy + j);
      store(dx + j, r * g - factor * load(x + j));
    }
  }
}

void rotate(float* x, int64_t n, int64_t heads, int64_t hd, const float* cos, const float* sin, int64_t n_pairs,
            float sign) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t h = 0; h < heads; ++h) {
      float* p = x + (i * heads + h + 1) * hd - 2 * n_pairs;
      for (int64_t j = 0; j < n_pairs; ++j) {
        const float re = p[2 * j], im = p[2 * j + 1], c = cos[i * n_pairs + j], s = sign * sin[i * n_pairs + j];
        p[2 * j] = re * c - im * s;
        p[2 * j + 1] = re * s + im * c;
      }
    }
}

// --- Hyper-connections ---

void hc_mixes(const HcShape& shape, int64_t n_mix, const float* streams, const float* fn, float* mix,
              float* inverse_rms) {
  const int64_t width = shape.hc * shape.d;
  gemm(shape.n, n_mix, width, {streams, width}, View{fn, width}.transposed(), mix, n_mix, false);
  for (int64_t i = 0; i < shape.n; ++i) {
    const float* f = streams + i * width;
    const float r = 1.0f / std::sqrt(dot(f, f, width) / static_cast<float>(width) + shape.norm_eps);
    inverse_rms[i] = r;
    for (int64_t k = 0; k < n_mix; ++k) mix[i * n_mix + k] *= r;
  }
}

void hc_mixes_backward(const HcShape& shape, int64_t n_mix, const float* streams, const float* fn, const float* mix,
                       const float* inverse_rms, const float* dmix, float* dstreams, float* dfn) {
  const int64_t width = shape.hc * shape.d, n = shape.n;
  std::vector<float> scaled(static_cast<size_t>(n * n_mix));  // r g
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < n_mix; ++k)
      scaled[static_cast<size_t>(i * n_mix + k)] = inverse_rms[i] * dmix[i * n_mix + k];
  gemm(n_mix, width, n, View{scaled.data(), n_mix}.transposed(), {streams, width}, dfn, width, true);
  gemm(n, width, n_mix, {scaled.data(), n_mix}, {fn, width}, dstreams, width, true);
  for (int64_t i = 0; i < n; ++i) {
    float inner = 0;
    for (int64_t k = 0; k < n_mix; ++k) inner += dmix[i * n_mix + k] * mix[i * n_mix + k];
    const float r = inverse_rms[i];
    add_scaled(-r * r / static_cast<float>(width) * inner, streams + i * width, width, dstreams + i * width);
  }
}

namespace {

// Eight tokens at a time, one per lane.
template <int N>
struct Lanes {
  v8 mix[2 * N + N * N];

  void read(const float* p, int64_t stride, int64_t n) {
    for (int64_t k = 0; k < stride; ++k)
      for (int64_t lane = 0; lane < 8; ++lane) mix[k][lane] = lane < n ? p[lane * stride + k] : 0.0f;
  }
};

template <int N>
void write_lanes(const v8* x, int64_t count, int64_t n, float* p) {
  for (int64_t lane = 0; lane < n; ++lane)
    for (int64_t k = 0; k < count; ++k) p[lane * count + k] = x[k][lane];
}

// The states after the softmax and after each of the 2 iters - 1 divisions, and the reciprocals
// divided by.
template <int N>
struct Sinkhorn {
  static constexpr int kMost = 2 * kMostSinkhornIters - 1;
  v8 softmax[N * N];  // before eps
  v8 state[kMost][N * N];
  v8 inverse[kMost][N];

  // logits: [N, N]; the division s is of columns for even s, of rows for odd.
  void run(const v8* logits, int iters, float eps) {
    for (int a = 0; a < N; ++a) {
      v8 most = logits[a * N], total = splat(0);
      for (int b = 1; b < N; ++b) most = max(most, logits[a * N + b]);
      for (int b = 0; b < N; ++b) total += softmax[a * N + b] = exp(logits[a * N + b] - most);
      const v8 reciprocal = 1.0f / total;
      for (int b = 0; b < N; ++b) softmax[a * N + b] *= reciprocal;
    }
    v8 m[N * N];
    for (int i = 0; i < N * N; ++i) m[i] = softmax[i] + eps;
    for (int s = 0; s < 2 * iters - 1; ++s) {
      const int along = s % 2 ? 1 : N, across = s % 2 ? N : 1;
      for (int line = 0; line < N; ++line) {
        v8 total = splat(eps);
        for (int j = 0; j < N; ++j) total += m[line * across + j * along];
        inverse[s][line] = 1.0f / total;
        for (int j = 0; j < N; ++j) m[line * across + j * along] *= inverse[s][line];
      }
      std::memcpy(state[s], m, sizeof m);
    }
  }
  const v8* result(int iters) const { return state[2 * iters - 2]; }

  // dm: gradient of the result, becomes that of the logits. Through the whole trajectory: at a
  // finite number of steps the gradient of the fixed point is another one.
  void backward(v8* dm, int iters) const {
    for (int s = 2 * iters - 2; s >= 0; --s) {
      const int along = s % 2 ? 1 : N, across = s % 2 ? N : 1;
      for (int line = 0; line < N; ++line) {
        v8 inner = splat(0);
        for (int j = 0; j < N; ++j) inner += dm[line * across + j * along] * state[s][line * across + j * along];
        for (int j = 0; j < N; ++j) {
          v8& g = dm[line * across + j * along];
          g = inverse[s][line] * (g - inner);
        }
      }
    }
    for (int a = 0; a < N; ++a) {
      v8 inner = splat(0);
      for (int b = 0; b < N; ++b) inner += dm[a * N + b] * softmax[a * N + b];
      for (int b = 0; b < N; ++b) dm[a * N + b] = softmax[a * N + b] * (dm[a * N + b] - inner);
    }
  }
};

template <int N>
void split(const HcShape& shape, const float* mix, const float* scale, const float* base, float* pre, float* post,
           float* comb) {
  constexpr int kMix = 2 * N + N * N;
  Lanes<N> lanes;
  Sinkhorn<N> sinkhorn;
  for (int64_t i = 0; i < shape.n; i += 8) {
    const int64_t n = std::min<int64_t>(8, shape.n - i);
    lanes.read(mix + i * kMix, kMix, n);
    v8 p[N], q[N], logits[N * N];
    for (int j = 0; j < N; ++j) p[j] = sigmoid(lanes.mix[j] * scale[0] + base[j]) + shape.eps;
    for (int j = 0; j < N; ++j) q[j] = 2.0f * sigmoid(lanes.mix[N + j] * scale[1] + base[N + j]);
    for (int j = 0; j < N * N; ++j) logits[j] = lanes.mix[2 * N + j] * scale[2] + base[2 * N + j];
    sinkhorn.run(logits, shape.iters, shape.eps);
    write_lanes<N>(p, N, n, pre + i * N);
    write_lanes<N>(q, N, n, post + i * N);
    write_lanes<N>(sinkhorn.result(shape.iters), N * N, n, comb + i * N * N);
  }
}

template <int N>
void split_backward(const HcShape& shape, const float* mix, const float* scale, const float* base, const float* dpre,
                    const float* dpost, const float* dcomb, float* dmix, float* dscale, float* dbase) {
  constexpr int kMix = 2 * N + N * N;
  Lanes<N> lanes;
  Sinkhorn<N> sinkhorn;
  v8 base_sum[kMix], scale_sum[kMix];
  for (int k = 0; k < kMix; ++k) base_sum[k] = scale_sum[k] = splat(0);
  const auto read = [](const float* p, int64_t count, int64_t n, v8* x) {
    for (int64_t k = 0; k < count; ++k)
      for (int64_t lane = 0; lane < 8; ++lane) x[k][lane] = lane < n ? p[lane * count + k] : 0.0f;
  };
  for (int64_t i = 0; i < shape.n; i += 8) {
    const int64_t n = std::min<int64_t>(8, shape.n - i);
    lanes.read(mix + i * kMix, kMix, n);
    v8 g[kMix], logits[N * N];
    read(dpre + i * N, N, n, g);
    read(dpost + i * N, N, n, g + N);
    read(dcomb + i * N * N, N * N, n, g + 2 * N);
    for (int j = 0; j < N * N; ++j) logits[j] = lanes.mix[2 * N + j] * scale[2] + base[2 * N + j];
    sinkhorn.run(logits, shape.iters, shape.eps);
    sinkhorn.backward(g + 2 * N, shape.iters);
    for (int j = 0; j < 2 * N; ++j) {
      const v8 s = sigmoid(lanes.mix[j] * scale[j / N] + base[j]);
      g[j] *= s * (1.0f - s) * (j < N ? 1.0f : 2.0f);
    }
    for (int k = 0; k < kMix; ++k) {
      base_sum[k] += g[k];
      scale_sum[k] += g[k] * lanes.mix[k];
      g[k] *= scale[k < N ? 0 : k < 2 * N ? 1 : 2];
    }
    write_lanes<N>(g, kMix, n, dmix + i * kMix);
  }
  for (int k = 0; k < kMix; ++k) {
    dbase[k] += sum(base_sum[k]);
    dscale[k < N ? 0 : k < 2 * N ? 1 : 2] += sum(scale_sum[k]);
  }
}

template <int N>
void mix_out(const HcShape& shape, const float* o, const float* streams, const float* post, const float* comb,
             float* out) {
  const int64_t d = shape.d;
  for (int64_t i = 0; i < shape.n; ++i, o += d, streams += N * d, out += N * d, post += N, comb += N * N)
    for (int64_t j = 0; j < d; j += 8) {
      v8 x[N];
      for (int a = 0; a < N; ++a) x[a] = load(streams + a * d + j);
      const v8 own = load(o + j);
      for (int b = 0; b < N; ++b) {
        v8 y = post[b] * own;
        for (int a = 0; a < N; ++a) y += comb[a * N + b] * x[a];
        store(out + b * d + j, y);
      }
    }
}

template <int N>
void mix_out_backward(const HcShape& shape, const float* o, const float* streams, const float* post, const float* comb,
                      const float* dout, float* d_o, float* dstreams, float* dpost, float* dcomb) {
  const int64_t d = shape.d;
  for (int64_t i = 0; i < shape.n; ++i) {
    v8 post_sum[N], comb_sum[N * N];
    for (int b = 0; b < N; ++b) post_sum[b] = splat(0);
    for (int k = 0; k < N * N; ++k) comb_sum[k] = splat(0);
    for (int64_t j = 0; j < d; j += 8) {
      v8 g[N];
      v8 own = splat(0);
      const v8 x_o = load(o + j);
      for (int b = 0; b < N; ++b) {
        g[b] = load(dout + b * d + j);
        own += post[b] * g[b];
        post_sum[b] += x_o * g[b];
      }
      store(d_o + j, own);
      for (int a = 0; a < N; ++a) {
        const v8 x = load(streams + a * d + j);
        v8 dx = splat(0);
        for (int b = 0; b < N; ++b) {
          dx += comb[a * N + b] * g[b];
          comb_sum[a * N + b] += x * g[b];
        }
        store(dstreams + a * d + j, dx);
      }
    }
    for (int b = 0; b < N; ++b) dpost[b] = sum(post_sum[b]);
    for (int k = 0; k < N * N; ++k) dcomb[k] = sum(comb_sum[k]);
    o += d, d_o += d, streams += N * d, dstreams += N * d, dout += N * d;
    post += N, dpost += N, comb += N * N, dcomb += N * N;
  }
}

}  // namespace

void hc_split(const HcShape& shape, const float* mix, const float* scale, const float* base, float* pre, float* post,
              float* comb) {
  (shape.hc == 4 ? split<4> : split<2>)(shape, mix, scale, base, pre, post, comb);
}

void hc_split_backward(const HcShape& shape, const float* mix, const float* scale, const float* base, const float* dpre,
                       const float* dpost, const float* dcomb, float* dmix, float* dscale, float* dbase) {
  (shape.hc == 4 ? split_backward<4> : split_backward<2>)(shape, mix, scale, base, dpre, dpost, dcomb, dmix, dscale,
                                                          dbase);
}

void hc_collapse(const HcShape& shape, const float* streams, const float* pre, float* y) {
  const int64_t d = shape.d, hc = shape.hc;
  for (int64_t i = 0; i < shape.n; ++i, streams += hc * d, pre += hc, y += d)
    for (int64_t j = 0; j < d; j += 8) {
      v8 s = splat(0);
      for (int64_t a = 0; a < hc; ++a) s += pre[a] * load(streams + a * d + j);
      store(y + j, s);
    }
}

void hc_collapse_backward(const HcShape& shape, const float* streams, const float* pre, const float* dy,
                          float* dstreams, float* dpre) {
  const int64_t d = shape.d, hc = shape.hc;
  for (int64_t i = 0; i < shape.n; ++i, streams += hc * d, dstreams += hc * d, pre += hc, dpre += hc, dy += d)
    for (int64_t a = 0; a < hc; ++a) {
      dpre[a] = dot(streams + a * d, dy, d);
      add_scaled(pre[a], dy, d, dstreams + a * d);
    }
}

void hc_mix_out(const HcShape& shape, const float* o, const float* streams, const float* post, const float* comb,
                float* out) {
  (shape.hc == 4 ? mix_out<4> : mix_out<2>)(shape, o, streams, post, comb, out);
}

void hc_mix_out_backward(const HcShape& shape, const float* o, const float* streams, const float* post,
                         const float* comb, const float* dout, float* d_o, float* dstreams, float* dpost,
                         float* dcomb) {
  (shape.hc == 4 ? mix_out_backward<4> : mix_out_backward<2>)(shape, o, streams, post, comb, dout, d_o, dstreams, dpost,
                                                              dcomb);
}

// --- Pooled compression ---

namespace {

// Calls f(row of values and gates, first channel, first channel of ape's row) for each slot of
// block k.
template <class F>
void each_slot(const PoolShape& shape, int64_t k, F&& f) {
  const int64_t first = shape.first[k];
  if (shape.overlap && shape.has_previous[k])
    for (int64_t j = 0; j < shape.ratio; ++j) f((first - shape.ratio + j) * shape.width, j * shape.width);
  const int64_t own = shape.overlap ? shape.dim : 0;
  for (int64_t j = 0; j < shape.ratio; ++j) f((first + j) * shape.width + own, j * shape.width + own);
}

}  // namespace

void pool(const PoolShape& shape, const float* values, const float* gates, const float* ape, float* e) {
  for (int64_t k = 0; k < shape.c; ++k)
    for (int64_t i = 0; i < shape.dim; i += 8) {
      v8 most = splat(-INFINITY), total = splat(0), weighted = splat(0);
      each_slot(shape, k,
                [&](int64_t at, int64_t ape_at) { most = max(most, load(gates + at + i) + load(ape + ape_at + i)); });
      each_slot(shape, k, [&](int64_t at, int64_t ape_at) {
        const v8 w = exp(load(gates + at + i) + load(ape + ape_at + i) - most);
        total += w;
        weighted += w * load(values + at + i);
      });
      store(e + k * shape.dim + i, weighted / total);
    }
}

void pool_backward(const PoolShape& shape, const float* values, const float* gates, const float* ape, const float* e,
                   const float* de, float* dvalues, float* dgates, float* dape) {
  for (int64_t k = 0; k < shape.c; ++k)
    for (int64_t i = 0; i < shape.dim; i += 8) {
      v8 most = splat(-INFINITY), total = splat(0);
      each_slot(shape, k,
                [&](int64_t at, int64_t ape_at) { most = max(most, load(gates + at + i) + load(ape + ape_at + i)); });
      each_slot(shape, k, [&](int64_t at, int64_t ape_at) {
        total += exp(load(gates + at + i) + load(ape + ape_at + i) - most);
      });
      const v8 g = load(de + k * shape.dim + i) / total, pooled = load(e + k * shape.dim + i);
      each_slot(shape, k, [&](int64_t at, int64_t ape_at) {
        const v8 dv = g * exp(load(gates + at + i) + load(ape + ape_at + i) - most);
        const v8 dz = dv * (load(values + at + i) - pooled);
        store(dvalues + at + i, load(dvalues + at + i) + dv);
        store(dgates + at + i, load(dgates + at + i) + dz);
        store(dape + ape_at + i, load(dape + ape_at + i) + dz);
      });
    }
}

// --- Attention ---

namespace {

// Queries of one batch row that share their keys' matrix: as many as make the products worth it
// without reading many keys that only some of them see.
constexpr int64_t kQueries = 32;

// The keys of a piece of queries: window rows, then entries; each padded to whole vectors with zero
// rows.
struct Piece {
  const AttendShape& shape;
  int64_t begin = 0, n = 0;                // query rows
  int64_t window_begin = 0, n_window = 0;  // key rows
  int64_t entry_begin = 0, n_entries = 0;
  int64_t entries_at = 0, columns = 0;  // column of the first entry; all columns

  Piece(const AttendShape& s, int64_t row_begin, int64_t row_end) : shape(s), begin(row_begin), n(row_end - row_begin) {
    window_begin = std::max(shape.first[begin], begin - shape.window + 1);
    n_window = row_end - window_begin;
    entries_at = round_up(n_window);
    columns = entries_at;
    if (shape.begin == nullptr) return;
    entry_begin = shape.begin[begin];
    n_entries = shape.begin[row_end - 1] + shape.count[row_end - 1] - entry_begin;
    columns += round_up(n_entries);
  }

  void gather(const float* kv, const float* entries, float* keys) const {
    const int64_t hd = shape.hd;
    const auto size = [&](int64_t rows) { return sizeof(float) * static_cast<size_t>(rows * hd); };
    std::memset(keys, 0, size(columns));
    std::memcpy(keys, kv + window_begin * hd, size(n_window));
    if (n_entries > 0) std::memcpy(keys + entries_at * hd, entries + entry_begin * hd, size(n_entries));
  }

  // What query row i sees: columns [w_begin, w_end) of the window and [e_begin, e_end) of the
  // entries, those with chosen[column - e_begin] false left out.
  struct Seen {
    int64_t w_begin = 0, w_end = 0, e_begin = 0, e_end = 0;
    const bool* chosen = nullptr;
    int64_t mass_column = 0;  // of e_begin in selected and mass
  };
  Seen seen(int64_t i) const {
    Seen s;
    s.w_begin = std::max(shape.first[i], i - shape.window + 1) - window_begin;
    s.w_end = i - window_begin + 1;
    if (shape.begin == nullptr) return s;
    s.e_begin = entries_at + shape.begin[i] - entry_begin;
    s.e_end = s.e_begin + shape.count[i];
    s.mass_column = shape.begin[i] - shape.row_begin[i / shape.t];
    if (shape.selected) s.chosen = shape.selected + i * shape.width + s.mass_column;
    return s;
  }
};

template <class F>
void each_piece(const AttendShape& shape, F&& f) {
  for (int64_t row = 0; row < shape.b; ++row)
    for (int64_t i = 0; i < shape.t; i += kQueries)
      f(Piece(shape, row * shape.t + i, row * shape.t + std::min(shape.t, i + kQueries)));
}

// Scores outside what the query sees become -infinity.
void mask(float* z, int64_t columns, const Piece::Seen& s) {
  std::fill(z, z + s.w_begin, -INFINITY);
  std::fill(z + s.w_end, z + std::max(s.w_end, s.e_begin), -INFINITY);
  std::fill(z + std::max(s.w_end, s.e_end), z + columns, -INFINITY);
  if (s.chosen)
    for (int64_t j = s.e_begin; j < s.e_end; ++j)
      if (!s.chosen[j - s.e_begin]) z[j] = -INFINITY;
}

}  // namespace

void attend(const AttendShape& shape, const float* q, const float* kv, const float* entries, const float* sink,
            float* o, float* lse, float* mass) {
  const int64_t hd = shape.hd, heads = shape.heads;
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(hd)));
  std::vector<float> keys, p;
  each_piece(shape, [&](const Piece& piece) {
    const int64_t rows = piece.n * heads, columns = piece.columns;
    const size_t key_size = static_cast<size_t>(columns * hd), p_size = static_cast<size_t>(rows * columns);
    if (keys.size() < key_size) keys.resize(key_size);
    if (p.size() < p_size) p.resize(p_size);
    piece.gather(kv, entries, keys.data());
    const View k{keys.data(), hd};
    gemm(rows, columns, hd, {q + piece.begin * heads * hd, hd}, k.transposed(), p.data(), columns, false);
    for (int64_t i = piece.begin; i < piece.begin + piece.n; ++i) {
      const Piece::Seen seen = piece.seen(i);
      for (int64_t h = 0; h < heads; ++h) {
        float* z = p.data() + ((i - piece.begin) * heads + h) * columns;
        mask(z, columns, seen);
        v8 most = splat(-INFINITY);
        for (int64_t j = 0; j < columns; j += 8) most = max(most, load(z + j));
        // The release's maximum is that of the keys; with the sink in it nothing can overflow.
        float m = shape.rounds ? most[0] : sink[h] / scale;
        for (int lane = 0; lane < 8; ++lane) m = std::max(m, most[lane]);
        v8 total = splat(0);
        for (int64_t j = 0; j < columns; j += 8) {
          const v8 e = exp((load(z + j) - m) * scale);
          total += e;
          store(z + j, shape.rounds ? round_bf16(e) : e);
        }
        const float den = sum(total) + std::exp(sink[h] - m * scale), inverse = 1.0f / den;
        lse[i * heads + h] = m * scale + std::log(den);
        for (int64_t j = 0; j < columns; j += 8) store(z + j, load(z + j) * inverse);
        if (mass)
          for (int64_t j = seen.e_begin; j < seen.e_end; ++j)
            mass[i * shape.width + seen.mass_column + j - seen.e_begin] += z[j];
      }
    }
    gemm(rows, hd, columns, {p.data(), columns}, k, o + piece.begin * heads * hd, hd, false);
  });
}

void attend_backward(const AttendShape& shape, const float* q, const float* kv, const float* entries, const float* sink,
                     const float* lse, const float* d_o, float* dq, float* dkv, float* dentries, float* dsink) {
  const int64_t hd = shape.hd, heads = shape.heads;
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(hd)));
  std::vector<float> keys, p, dp, dkeys;
  each_piece(shape, [&](const Piece& piece) {
    const int64_t rows = piece.n * heads, columns = piece.columns, first = piece.begin * heads;
    const size_t key_size = static_cast<size_t>(columns * hd), p_size = static_cast<size_t>(rows * columns);
    if (keys.size() < key_size) keys.resize(key_size), dkeys.resize(key_size);
    if (p.size() < p_size) p.resize(p_size), dp.resize(p_size);
    piece.gather(kv, entries, keys.data());
    const View k{keys.data(), hd};
    gemm(rows, columns, hd, {q + first * hd, hd}, k.transposed(), p.data(), columns, false);
    gemm(rows, columns, hd, {d_o + first * hd, hd}, k.transposed(), dp.data(), columns, false);
    for (int64_t i = piece.begin; i < piece.begin + piece.n; ++i) {
      const Piece::Seen seen = piece.seen(i);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = (i - piece.begin) * heads + h;
        float* z = p.data() + row * columns;
        float* g = dp.data() + row * columns;
        mask(z, columns, seen);
        const float l = lse[i * heads + h];
        v8 inner = splat(0);
        for (int64_t j = 0; j < columns; j += 8) {
          const v8 e = exp(load(z + j) * scale - l);
          store(z + j, e);
          inner += e * load(g + j);
        }
        const float d = sum(inner);
        dsink[h] -= std::exp(sink[h] - l) * d;
        for (int64_t j = 0; j < columns; j += 8) store(g + j, load(z + j) * (load(g + j) - d) * scale);
      }
    }
    gemm(rows, hd, columns, {dp.data(), columns}, k, dq + first * hd, hd, false);
    gemm(columns, hd, rows, View{dp.data(), columns}.transposed(), {q + first * hd, hd}, dkeys.data(), hd, false);
    gemm(columns, hd, rows, View{p.data(), columns}.transposed(), {d_o + first * hd, hd}, dkeys.data(), hd, true);
    add_scaled(1, dkeys.data(), piece.n_window * hd, dkv + piece.window_begin * hd);
    if (piece.n_entries > 0)
      add_scaled(1, dkeys.data() + piece.entries_at * hd, piece.n_entries * hd, dentries + piece.entry_begin * hd);
  });
}

// --- Experts ---

int64_t swiglu(const float* g, const float* u, const float* w, int64_t n, int64_t m, float limit, float* h) {
  const float most = limit > 0 ? limit : INFINITY;
  int64_t beyond = 0;
  for (int64_t i = 0; i < n; ++i, g += m, u += m, h += m) {
    const float weight = w ? w[i] : 1.0f;
    i8 count = {};
    for (int64_t j = 0; j < m; j += 8) {
      const v8 gate = load(g + j), up = load(u + j);
      count -= (gate > most) | (up > most) | (up < -most);
      const v8 x = min(gate, splat(most));
      store(h + j, x * sigmoid(x) * max(min(up, splat(most)), splat(-most)) * weight);
    }
    for (int lane = 0; lane < 8; ++lane) beyond += count[lane];
  }
  return beyond;
}

void swiglu_backward(const float* g, const float* u, const float* w, const float* dh, int64_t n, int64_t m, float limit,
                     float* dg, float* du, float* dw) {
  const float most = limit > 0 ? limit : INFINITY;
  for (int64_t i = 0; i < n; ++i, g += m, u += m, dh += m, dg += m, du += m) {
    const float weight = w ? w[i] : 1.0f;
    v8 inner = splat(0);
    for (int64_t j = 0; j < m; j += 8) {
      const v8 gate = load(g + j), up = load(u + j), grad = load(dh + j);
      const v8 x = min(gate, splat(most)), y = max(min(up, splat(most)), splat(-most));
      const v8 s = sigmoid(x), silu = x * s, by_weight = grad * weight;
      inner += grad * silu * y;
      store(dg + j, gate > most ? splat(0) : by_weight * y * (s + silu * (1.0f - s)));
      store(du + j, ((up > most) | (up < -most)) ? splat(0) : by_weight * silu);
    }
    if (dw) dw[i] = sum(inner);
  }
}

void gather_rows(const float* x, const int64_t* rows, int64_t n, int64_t d, float* y) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * d, x + rows[i] * d, sizeof(float) * static_cast<size_t>(d));
}

void add_rows(const float* y, const int64_t* rows, int64_t n, int64_t d, float* x) {
  for (int64_t i = 0; i < n; ++i) add_scaled(1, y + i * d, d, x + rows[i] * d);
}

}  // namespace hadal::train::fused
