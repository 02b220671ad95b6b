// One instruction set: a table of single-threaded functions on raw pointers, chosen at run time. `reference`
// is plain loops and the oracle of the others: every entry of every table gives the same bits.
//
// Matrix products, attention and index scores are written per instruction set; the row functions are one
// source (kernels/rows.h) compiled once per table. No entry allocates, except growing scratch per thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/linear.h"

namespace hadal::kernels {

inline constexpr int kAttentionBlock = 64;  // keys per step of the online softmax, as the official kernel

// One block of keys for some heads of one query, by online softmax:
//   S_j = (q . k_j) * scale;  m' = max(m, max S);  p_j = e^(S_j - m');  f = e^(m - m')
//   den = fma(den, f, sum16 p);  acc = acc * f, then acc = fma(R(p_j), k_j, acc) for j ascending
// Dots are 16-lane sums. Masked keys have p = 0 and k = 0 and take part like the others.
struct AttendBlock {
  const float* q = nullptr;         // [n_heads, head_dim]
  const float* keys = nullptr;      // [n_keys, head_dim]
  const uint8_t* masked = nullptr;  // [n_keys] 1: no key
  int n_keys = 0;                   // 1..kAttentionBlock; at least one not masked
  int n_heads = 0, head_dim = 0;
  float scale = 1;
  bool round_p = false;  // faithful: p is rounded to BF16 in the value sum
  float* max = nullptr;  // [n_heads], starts at -infinity
  float* den = nullptr;  // [n_heads], starts at 0
  float* acc = nullptr;  // [n_heads, head_dim], starts at 0
};

// Index scores of one query against n_entries rows (architecture report A.6 steps 7):
//   z_h = R(q_h . k);  I = R(sum16_h R(max(z_h, 0) * w_h))
struct IndexScores {
  int n_heads = 0, head_dim = 0;
  // faithful: doubled E2M1 values and one power-of-two scale per 32 dims; rows are packed index entries.
  //   z = 1/4 * sum over blocks (ascending) of fma(float(int dot) * q_scale, k_scale, .)
  const int8_t* q = nullptr;       // [n_heads, head_dim]
  const float* q_scale = nullptr;  // [n_heads, ceil(head_dim / 32)]
  // exact: plain values, rows are float32; nothing is rounded, dots are 16-lane sums
  const float* q_f32 = nullptr;             // [n_heads, head_dim]; nullptr selects faithful
  const float* w = nullptr;                 // [n_heads]
  const std::byte* const* pages = nullptr;  // n_entries rows, page_rows to a page
  int64_t page_rows = 0, row_bytes = 0, n_entries = 0;
  float* scores = nullptr;  // [n_entries]

  const std::byte* row(int64_t entry) const { return pages[entry / page_rows] + entry % page_rows * row_bytes; }
};

struct Isa {
  const char* name;
  bool (*supported)();

  // Rows [begin, end) of the job, counted from its row_begin.
  void (*linear)(const LinearJob& job, int64_t begin, int64_t end);
  void (*attend)(const AttendBlock& block);
  void (*index_scores)(const IndexScores& args);

  // y_i = w_i * (x_i * 1/sqrt(mean(x^2) + eps)), rounded to BF16 if round.
  void (*rms_norm)(const float* x, const float* w, int64_t n, float eps, bool round, float* y);
  // 1/sqrt(mean(x^2) + eps)
  float (*inverse_rms)(const float* x, int64_t n, float eps);
  // The per-head query normalisation: in BF16 steps if round.
  void (*head_norm)(float* x, int64_t n, float eps, bool round);
  // Rotates adjacent pairs in place; n_pairs cosines and sines; inverse: by the negative angle.
  void (*rope)(float* x, const float* cos, const float* sin, int n_pairs, bool inverse, bool round);
  // Q8 of n columns: values (E4M3, unscaled), scales [ceil(n/128)], chunks [ceil(n/128)].
  void (*quantise)(const float* x, int64_t n, float* values, float* scales, Fp4Chunk* chunks);
  // Faithful KV row: E4M3 of the nope dims in groups of 64 with E8M0 scales, BF16 of the rope dims; and back.
  void (*pack_kv)(const float* x, int n_nope, int n_rope, std::byte* row);
  void (*unpack_kv)(const std::byte* row, int n_nope, int n_rope, float* x);
  // Walsh-Hadamard of n (a power of two) times n^-1/2, rounded if round.
  void (*hadamard)(float* x, int n, bool round);
  // FP4 of n values in groups of 32: doubled values (int8) and scale exponents.
  void (*quantise_fp4)(const float* x, int n, int8_t* doubled, int8_t* exponents);
  // y_i = sum_j pre_j X[j][i], j ascending; X: [hc, d]
  void (*hc_pre)(const float* x, const float* pre, int hc, int64_t d, bool round, float* y);
  // X'[b][i] = post_b o_i + sum_a C[a][b] X[a][i] (fma, a ascending), in place
  void (*hc_post)(const float* o, const float* post, const float* comb, int hc, int64_t d, bool round, float* x);
  // silu(min(g, limit)) * clamp(u, -limit, limit) * weight; limit 0: no clamp
  void (*swiglu)(const float* g, const float* u, int64_t n, float limit, float weight, bool round, float* y);
  // Gated pooling: e_i = sum_s softmax_s(gate[s][i]) value[s][i] over n_slots row pointers
  void (*pool)(const float* const* values, const float* const* gates, int n_slots, int64_t n, bool round, float* e);
  void (*add)(const float* x, int64_t n, float* acc);            // acc += x
  void (*round_row)(float* x, int64_t n);                        // x = R(x)
  void (*bf16_row)(const std::byte* bits, int64_t n, float* x);  // stored BF16 to float32

  // Roofs, for hadal bench: each does its operation and returns something that depends on all of it.
  float (*probe_read)(const std::byte* data, int64_t size);  // reads every byte once
  float (*probe_fma)(int64_t n);                             // n rounds of kProbeFmas fused multiply-adds
  float (*probe_int8)(int64_t n);                            // n rounds of kProbeInt8 int8 multiply-adds
};
inline constexpr int64_t kProbeFmas = 12 * 16, kProbeInt8 = 12 * 64;

const Isa& reference();
const Isa& avx2();
const Isa& avx512();
std::span<const Isa* const> all_isas();      // slowest first; some may not run on this machine
const Isa& best_isa();                       // the last that runs here
const Isa* find_isa(std::string_view name);  // nullptr: no such name, or it does not run here ("auto": best)

}  // namespace hadal::kernels
