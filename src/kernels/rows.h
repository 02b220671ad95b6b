// The row functions of an Isa: plain loops that the compiler vectorises with the flags of the including file.
// Every sum has its written order (16 lanes, or ascending), every fused product is explicit, so the flags
// change speed and not bits. Included by the isa_*.cpp files only; everything is in an anonymous namespace,
// because an inline function compiled with AVX-512 flags could be picked by the linker for every caller.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/linear.h"
#include "kernels/math.h"
#include "tensor/formats.h"

namespace hadal::kernels {
namespace {

constexpr int kLanes = 16;

float sum_of_squares(const float* x, int64_t n) {
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] = __builtin_fmaf(x[i + j], x[i + j], lane[j]);
  for (int j = 0; i + j < n; ++j) lane[j] = __builtin_fmaf(x[i + j], x[i + j], lane[j]);
  return reduce16(lane);
}

float row_inverse_rms(const float* x, int64_t n, float eps) {
  // The mean is the sum times fl32(1/n), as GPU frameworks form it.
  return 1.0f / std::sqrt(sum_of_squares(x, n) * (1.0f / static_cast<float>(n)) + eps);
}

void row_rms_norm(const float* x, const float* w, int64_t n, float eps, bool round, float* y) {
  const float g = row_inverse_rms(x, n, eps);
  if (round) {
    for (int64_t i = 0; i < n; ++i) y[i] = round_bf16(w[i] * (x[i] * g));
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = w[i] * (x[i] * g);
  }
}

void row_head_norm(float* x, int64_t n, float eps, bool round) {
  if (!round) {
    const float g = row_inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; ++i) x[i] *= g;
    return;
  }
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += round_bf16(x[i + j] * x[i + j]);
  for (int j = 0; i + j < n; ++j) lane[j] += round_bf16(x[i + j] * x[i + j]);
  const float mean = round_bf16(reduce16(lane) * (1.0f / static_cast<float>(n)));
  const float g = round_bf16(1.0f / std::sqrt(round_bf16(mean + eps)));
  for (int64_t k = 0; k < n; ++k) x[k] = round_bf16(x[k] * g);
}

void row_rope(float* x, const float* cos, const float* sin, int n_pairs, bool inverse, bool round) {
  for (int i = 0; i < n_pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = inverse ? -sin[i] : sin[i];
    const float u = __builtin_fmaf(a, c, -(b * s)), v = __builtin_fmaf(a, s, b * c);
    x[2 * i] = round ? round_bf16(u) : u;
    x[2 * i + 1] = round ? round_bf16(v) : v;
  }
}

float max_abs(const float* x, int64_t n) {
  uint32_t most = 0;  // magnitudes of floats order like their bits
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t u = bits_of(x[i]) & 0x7FFFFFFFu;
    most = u > most ? u : most;
  }
  return float_from_bits(most);
}

// Nearest E4M3 value of x with |x| <= 448. Adding and subtracting 1.5 * 2^(e+20), with e the exponent of x
// (at least -6), rounds to the grid of step 2^(e-3), ties to even.
HADAL_INLINE float e4m3_value(float x) {
  const uint32_t e = bits_of(x) & 0x7F800000u;
  const uint32_t floor = (127u - 6u) << 23;
  const float magic = float_from_bits((e < floor ? floor : e) + (20u << 23) + 0x400000u);
  return (x + magic) - magic;
}

void row_quantise(const float* x, int64_t n, float* values, float* scales, Fp4Chunk* chunks) {
  for (int64_t begin = 0; begin < n; begin += 128) {
    const int64_t size = n - begin < 128 ? n - begin : 128;
    float amax = max_abs(x + begin, size);
    amax = amax < kE4m3AmaxFloor ? kE4m3AmaxFloor : amax;
    const int e = scale_exponent(amax, kE4m3InverseTop);
    const float inverse = exp2i(-e);
    scales[begin / 128] = exp2i(e);
    int32_t fixed[128];  // 512 * value, exact, below 2^18
    // + 0.0f: a negative zero becomes zero, as its integer form
    for (int64_t i = 0; i < size; ++i) {
      const float v = e4m3_value(x[begin + i] * inverse) + 0.0f;
      values[begin + i] = v;
      fixed[i] = static_cast<int32_t>(v * 512.0f);
    }
    for (int64_t i = size; i < 128; ++i) fixed[i] = 0;
    Fp4Chunk& chunk = chunks[begin / 128];
    for (int q = 0; q < 4; ++q)
      for (int i = 0; i < 32; ++i) {
        chunk.coarse[32 * q + i] = static_cast<int16_t>(fixed[4 * i + q] >> 3);
        chunk.fine[32 * q + i] = static_cast<int16_t>(fixed[4 * i + q] & 7);
      }
    chunk.fine_groups = 0;
    for (int g = 0; g < 4; ++g) {
      int32_t fine = 0;
      for (int i = 32 * g; i < 32 * g + 32; ++i) fine |= fixed[i] & 7;
      chunk.fine_groups |= static_cast<uint32_t>(fine != 0) << g;
    }
  }
}

// Bytes of a faithful KV row: codes, scales, padding to an even offset, BF16 rope dims.
constexpr int64_t kv_rope_offset(int n_nope) { return (n_nope + (n_nope + 63) / 64 + 1) / 2 * 2; }

void row_pack_kv(const float* x, int n_nope, int n_rope, std::byte* row) {
  uint8_t* codes = reinterpret_cast<uint8_t*>(row);
  for (int begin = 0; begin < n_nope; begin += 64) {
    const int size = n_nope - begin < 64 ? n_nope - begin : 64;
    float amax = max_abs(x + begin, size);
    amax = amax < kE4m3AmaxFloor ? kE4m3AmaxFloor : amax;
    const int e = scale_exponent(amax, kE4m3InverseTop);
    const float inverse = exp2i(-e);
    for (int i = begin; i < begin + size; ++i) codes[i] = round_e4m3(x[i] * inverse);
    codes[n_nope + begin / 64] = static_cast<uint8_t>(e + 127);
  }
  const int64_t offset = kv_rope_offset(n_nope);
  for (int64_t i = n_nope + (n_nope + 63) / 64; i < offset; ++i) codes[i] = 0;
  for (int i = 0; i < n_rope; ++i) {
    const bf16 b = to_bf16(x[n_nope + i]);
    std::memcpy(row + offset + 2 * i, &b, 2);
  }
}

void row_unpack_kv(const std::byte* row, int n_nope, int n_rope, float* x) {
  const uint8_t* codes = reinterpret_cast<const uint8_t*>(row);
  for (int begin = 0; begin < n_nope; begin += 64) {
    const int size = n_nope - begin < 64 ? n_nope - begin : 64;
    const float scale = to_f32(f8e8m0{codes[n_nope + begin / 64]});
    for (int i = begin; i < begin + size; ++i) {
      // Sign and seven bits shifted into an IEEE half would be value * 2^-8; here the same through float32:
      // normal codes by their bits, subnormals (below 8) as multiples of 2^-9.
      const uint32_t code = codes[i] & 0x7Fu, sign = static_cast<uint32_t>(codes[i] & 0x80u) << 24;
      const float normal = float_from_bits((code << 20) + ((127u - 7u) << 23));
      const float small = static_cast<float>(static_cast<int32_t>(code)) * 0x1p-9f;
      x[i] = float_from_bits(bits_of(code < 8 ? small : normal) | sign) * scale;
    }
  }
  const std::byte* rope = row + kv_rope_offset(n_nope);
  for (int i = 0; i < n_rope; ++i) {
    uint16_t bits;
    std::memcpy(&bits, rope + 2 * i, 2);
    x[n_nope + i] = float_from_bits(static_cast<uint32_t>(bits) << 16);
  }
}

void row_hadamard(float* x, int n, bool round) {
  for (int stride = 1; stride < n; stride *= 2)
    for (int block = 0; block < n; block += 2 * stride)
      for (int i = block; i < block + stride; ++i) {
        const float a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  for (int i = 0; i < n; ++i) x[i] = round ? round_bf16(x[i] * scale) : x[i] * scale;
}

void row_quantise_fp4(const float* x, int n, int8_t* doubled, int8_t* exponents) {
  for (int begin = 0; begin < n; begin += 32) {
    const int size = n - begin < 32 ? n - begin : 32;
    float amax = max_abs(x + begin, size);
    amax = amax < kE2m1AmaxFloor ? kE2m1AmaxFloor : amax;
    const int e = scale_exponent(amax, kE2m1InverseTop);
    // 2^126 is the largest inverse needed: the floor of amax makes e at least -126.
    const float inverse = exp2i(-e);
    exponents[begin / 32] = static_cast<int8_t>(e);
    for (int i = begin; i < begin + size; ++i) {
      const float a = float_from_bits(bits_of(x[i] * inverse) & 0x7FFFFFFFu);
      // doubled values 0 1 2 3 4 6 8 12; ties go to the even code
      const int d =
          (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + 2 * (a > 2.5f) + 2 * (a >= 3.5f) + 4 * (a > 5.0f);
      doubled[i] = static_cast<int8_t>(bits_of(x[i]) >> 31 ? -d : d);
    }
  }
}

void row_hc_pre(const float* x, const float* pre, int hc, int64_t d, bool round, float* y) {
  for (int64_t i = 0; i < d; ++i) {
    float sum = pre[0] * x[i];
    for (int j = 1; j < hc; ++j) sum = __builtin_fmaf(pre[j], x[j * d + i], sum);
    y[i] = round ? round_bf16(sum) : sum;
  }
}

template <int kStreams>
void hc_post_streams(const float* o, const float* post, const float* comb, int64_t d, bool round, float* x) {
  for (int64_t i = 0; i < d; ++i) {
    float in[kStreams];
    for (int a = 0; a < kStreams; ++a) in[a] = x[a * d + i];
    for (int b = 0; b < kStreams; ++b) {
      float sum = post[b] * o[i];
      for (int a = 0; a < kStreams; ++a) sum = __builtin_fmaf(comb[a * kStreams + b], in[a], sum);
      x[b * d + i] = round ? round_bf16(sum) : sum;
    }
  }
}

constexpr int kMaxStreams = 16;

void row_hc_post(const float* o, const float* post, const float* comb, int hc, int64_t d, bool round, float* x) {
  if (hc == 4) return hc_post_streams<4>(o, post, comb, d, round, x);
  for (int64_t i = 0; i < d; ++i) {
    float in[kMaxStreams];
    for (int a = 0; a < hc; ++a) in[a] = x[a * d + i];
    for (int b = 0; b < hc; ++b) {
      float sum = post[b] * o[i];
      for (int a = 0; a < hc; ++a) sum = __builtin_fmaf(comb[a * hc + b], in[a], sum);
      x[b * d + i] = round ? round_bf16(sum) : sum;
    }
  }
}

void row_swiglu(const float* g, const float* u, int64_t n, float limit, float weight, bool round, float* y) {
  const float top = limit > 0 ? limit : float_from_bits(0x7F800000u);
  for (int64_t i = 0; i < n; ++i) {
    const float gate = g[i] < top ? g[i] : top;
    const float up = u[i] > top ? top : u[i] < -top ? -top : u[i];
    const float v = weight * (gate / (1.0f + exp_f32(-gate)) * up);
    y[i] = round ? round_bf16(v) : v;
  }
}

// Channels in pieces that stay in registers or the first cache; per channel the slots are taken in order.
void row_pool(const float* const* values, const float* const* gates, int n_slots, int64_t n, bool round, float* e) {
  constexpr int kPiece = 64;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t size = n - begin < kPiece ? n - begin : kPiece;
    float most[kPiece], den[kPiece], sum[kPiece];
    for (int64_t i = 0; i < size; ++i) {
      most[i] = gates[0][begin + i];
      den[i] = sum[i] = 0;
    }
    for (int s = 1; s < n_slots; ++s)
      for (int64_t i = 0; i < size; ++i) most[i] = gates[s][begin + i] > most[i] ? gates[s][begin + i] : most[i];
    for (int s = 0; s < n_slots; ++s)
      for (int64_t i = 0; i < size; ++i) {
        const float p = exp_f32(gates[s][begin + i] - most[i]);
        den[i] += p;
        sum[i] = __builtin_fmaf(p, values[s][begin + i], sum[i]);
      }
    for (int64_t i = 0; i < size; ++i) {
      const float v = sum[i] / den[i];
      e[begin + i] = round ? round_bf16(v) : v;
    }
  }
}

void row_add(const float* x, int64_t n, float* acc) {
  for (int64_t i = 0; i < n; ++i) acc[i] += x[i];
}

void row_round(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = round_bf16(x[i]);
}

void row_bf16(const std::byte* bits, int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t b;
    std::memcpy(&b, bits + 2 * i, 2);
    x[i] = float_from_bits(static_cast<uint32_t>(b) << 16);
  }
}

// The row functions of a table, for designated initialisers: Isa{.name = ..., HADAL_ROW_FUNCTIONS}.
#define HADAL_ROW_FUNCTIONS                                                                               \
  .rms_norm = row_rms_norm, .inverse_rms = row_inverse_rms, .head_norm = row_head_norm, .rope = row_rope, \
  .quantise = row_quantise, .pack_kv = row_pack_kv, .unpack_kv = row_unpack_kv, .hadamard = row_hadamard, \
  .quantise_fp4 = row_quantise_fp4, .hc_pre = row_hc_pre, .hc_post = row_hc_post, .swiglu = row_swiglu,   \
  .pool = row_pool, .add = row_add, .round_row = row_round, .bf16_row = row_bf16

}  // namespace
}  // namespace hadal::kernels
