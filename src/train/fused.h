// The loops under train/ops.h: float32 on the CPU, each a forward and its backward (docs/model.md,
// Gradients). Free of torch, so that vector flags reach no header of it. Sums have one fixed order:
// same inputs, same bits.
//
// Matrices are row-major and contiguous; lengths of rows (hd, d) are multiples of kLanes, which the
// callers ensure. Gradients of parameters and of shared inputs are added to what the output holds;
// all others are written.
#pragma once

#include <cstdint>

namespace hadal::train::fused {

inline constexpr int64_t kLanes = 8;
bool supported();  // the processor has what this file was compiled for

// A matrix where it lies: element (i, j) at data[i row + j col].
struct View {
  const float* data = nullptr;
  int64_t row = 0, col = 1;
  View transposed() const { return {data, col, row}; }
};
// c (+)= a b; a: [m, k], b: [k, n], c: [m, n], rows contiguous with stride ldc.
void gemm(int64_t m, int64_t n, int64_t k, View a, View b, float* c, int64_t ldc, bool accumulate);

// y = w x / rms(x) of n rows of d; w nullptr: 1. inverse_rms: [n], for the backward.
void rms_norm(const float* x, const float* w, int64_t n, int64_t d, float eps, float* y, float* inverse_rms);
void rms_norm_backward(const float* x, const float* w, const float* inverse_rms, const float* dy, int64_t n, int64_t d,
                       float* dx, float* dw);

// The last 2 n_pairs of each head of x [n, heads, hd] rotated in place by the row's angle, sin
// times `sign`.
void rotate(float* x, int64_t n, int64_t heads, int64_t hd, const float* cos, const float* sin, int64_t n_pairs,
            float sign);

// Hyper-connections, hc = 2 or 4 streams. mix: [n, 2 hc + hc²], already divided by the root
// mean square.
inline constexpr int kMostSinkhornIters = 64;
struct HcShape {
  int64_t n = 0, hc = 4, d = 0;
  int iters = 0;
  float eps = 0, norm_eps = 0;
  int64_t n_mix() const { return 2 * hc + hc * hc; }
};
// m = (fn f) / rms(f) for n rows f of hc d; fn: [n_mix, hc d].
void hc_mixes(const HcShape& shape, int64_t n_mix, const float* streams, const float* fn, float* mix,
              float* inverse_rms);
void hc_mixes_backward(const HcShape& shape, int64_t n_mix, const float* streams, const float* fn, const float* mix,
                       const float* inverse_rms, const float* dmix, float* dstreams, float* dfn);
void hc_split(const HcShape& shape, const float* mix, const float* scale, const float* base, float* pre, float* post,
              float* comb);
void hc_split_backward(const HcShape& shape, const float* mix, const float* scale, const float* base, const float* dpre,
                       const float* dpost, const float* dcomb, float* dmix, float* dscale, float* dbase);
// y = sum_j pre_j X_j;  X'_b = post_b o + sum_a comb_ab X_a. dstreams is added to in the first,
// written in the second.
void hc_collapse(const HcShape& shape, const float* streams, const float* pre, float* y);
void hc_collapse_backward(const HcShape& shape, const float* streams, const float* pre, const float* dy,
                          float* dstreams, float* dpre);
void hc_mix_out(const HcShape& shape, const float* o, const float* streams, const float* post, const float* comb,
                float* out);
void hc_mix_out_backward(const HcShape& shape, const float* o, const float* streams, const float* post,
                         const float* comb, const float* dout, float* d_o, float* dstreams, float* dpost, float* dcomb);

// Softmax pooling. values, gates: [n, width]; e: [c, dim].
struct PoolShape {
  int64_t c = 0, ratio = 0, width = 0, dim = 0;
  bool overlap = false;
  const int64_t* first = nullptr;      // [c]
  const bool* has_previous = nullptr;  // [c]
};
void pool(const PoolShape& shape, const float* values, const float* gates, const float* ape, float* e);
void pool_backward(const PoolShape& shape, const float* values, const float* gates, const float* ape, const float* e,
                   const float* de, float* dvalues, float* dgates, float* dape);

// Attention to window and entries with sinks.
struct AttendShape {
  int64_t b = 0, t = 0, heads = 0, hd = 0, window = 0;
  const int64_t* first = nullptr;                    // [n]: first row of the document
  const int64_t *begin = nullptr, *count = nullptr;  // [n]: visible entries; nullptr: none
  const int64_t* row_begin = nullptr;                // [b]
  int64_t width = 0;                                 // columns of selected and mass
  const bool* selected = nullptr;                    // [n, width]; nullptr: all visible
  bool rounds = false;  // the weights that meet the values are BF16 (e^(z - max), before the division)
};
// o: [n, heads, hd]; lse: [n, heads], logarithm of the softmax's denominator; mass: [n, width]
// zeroed, or nullptr.
void attend(const AttendShape& shape, const float* q, const float* kv, const float* entries, const float* sink,
            float* o, float* lse, float* mass);
void attend_backward(const AttendShape& shape, const float* q, const float* kv, const float* entries, const float* sink,
                     const float* lse, const float* d_o, float* dq, float* dkv, float* dentries, float* dsink);

// h = silu(min(g, limit)) clamp(u) w for rows of m; w nullptr: 1. Returns activations beyond
// the limit.
int64_t swiglu(const float* g, const float* u, const float* w, int64_t n, int64_t m, float limit, float* h);
void swiglu_backward(const float* g, const float* u, const float* w, const float* dh, int64_t n, int64_t m, float limit,
                     float* dg, float* du, float* dw);

// Rows to and from where the experts want them.
void gather_rows(const float* x, const int64_t* rows, int64_t n, int64_t d, float* y);
void add_rows(const float* y, const int64_t* rows, int64_t n, int64_t d, float* x);

}  // namespace hadal::train::fused
