// Every entry of every instruction set gives the bits of the plain loops: on odd shapes, on all matrix shapes of
// Flash and Pro with the last row ending at the end of a mapping, for one token and for many.

#include "kernels/isa.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/math.h"

namespace hadal::kernels {
namespace {

// Bytes whose end is the end of what may be read: the next page is forbidden.
class GuardedBytes {
 public:
  explicit GuardedBytes(int64_t size) : size_(size) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    mapped_ = (size + page - 1) / page * page + page;
    base_ = static_cast<std::byte*>(
        mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(base_, MAP_FAILED);
    mprotect(base_ + mapped_ - page, static_cast<size_t>(page), PROT_NONE);
    data_ = base_ + mapped_ - page - size;
  }
  ~GuardedBytes() { munmap(base_, static_cast<size_t>(mapped_)); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  std::byte* data() { return data_; }
  int64_t size() const { return size_; }

 private:
  int64_t size_, mapped_ = 0;
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
};

struct Kind {
  WeightFormat format;
  bool f32_scales, rounds, quantised_input;
};
constexpr Kind kKinds[] = {
    {WeightFormat::kF32, false, false, false},      {WeightFormat::kBf16, false, false, false},
    {WeightFormat::kFp8Block, false, false, true},  {WeightFormat::kFp8Block, true, false, true},
    {WeightFormat::kFp8Block, false, true, false},  {WeightFormat::kFp8Block, true, true, false},
    {WeightFormat::kFp8Block, false, false, false}, {WeightFormat::kFp4Block, false, false, true},
    {WeightFormat::kFp4Block, false, false, false}};

// Rows [row_begin, rows) of a weight [rows, cols]; only those rows exist in memory, at its end.
struct RandomWeight {
  RandomWeight(const Kind& kind, int64_t rows, int64_t cols, int64_t row_begin, std::mt19937_64& random)
      : weight{.format = kind.format,
               .scales_are_f32 = kind.f32_scales,
               .rounds_to_bf16 = kind.rounds,
               .rows = rows,
               .cols = cols},
        bytes((rows - row_begin) * weight.row_bytes()),
        scales(scale_bytes(kind, rows, cols)) {
    const auto fill_floats = [&](std::byte* to, int64_t n, bool bf16_values) {
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < n; ++i) {
        const float value = normal(random);
        const bf16 rounded = to_bf16(value);
        bf16_values ? std::memcpy(to + 2 * i, &rounded, 2) : std::memcpy(to + 4 * i, &value, 4);
      }
    };
    if (kind.format == WeightFormat::kF32 || kind.format == WeightFormat::kBf16) {
      fill_floats(bytes.data(), (rows - row_begin) * cols, kind.format == WeightFormat::kBf16);
    } else {
      for (int64_t i = 0; i < bytes.size(); ++i) bytes.data()[i] = static_cast<std::byte>(random());  // every code
    }
    if (kind.f32_scales) {
      fill_floats(scales.data(), scales.size() / 4, false);
    } else {
      for (int64_t i = 0; i < scales.size(); ++i)
        scales.data()[i] = static_cast<std::byte>(random() % 16 == 0 ? random() % 90 + 60 : 115 + random() % 12);
    }
    weight.data = bytes.data() - row_begin * weight.row_bytes();
    weight.scale = scales.data();
  }
  static int64_t scale_bytes(const Kind& kind, int64_t rows, int64_t cols) {
    if (kind.format == WeightFormat::kFp8Block)
      return (rows + 127) / 128 * ((cols + 127) / 128) * (kind.f32_scales ? 4 : 1);
    return kind.format == WeightFormat::kFp4Block ? rows * (cols / 32) : 1;
  }
  Weight weight;
  GuardedBytes bytes, scales;
};

// The product of the last `n_rows` rows on every runnable instruction set and with tokens one by one.
void expect_equal_products(const Kind& kind, int64_t rows, int64_t cols, int64_t n_rows, int64_t n_tokens,
                           uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "format " << static_cast<int>(kind.format) << " f32 scales " << kind.f32_scales
                                    << " rounds " << kind.rounds << " quantised " << kind.quantised_input << " rows "
                                    << rows << " cols " << cols << " last " << n_rows << " tokens " << n_tokens
                                    << " seed " << seed);
  std::mt19937_64 random(seed);
  const RandomWeight w(kind, rows, cols, rows - n_rows, random);
  const int64_t stride = cols;  // the last input row ends at the end of its memory
  GuardedBytes x_bytes(n_tokens * stride * 4);
  float* x = reinterpret_cast<float*>(x_bytes.data());
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < n_tokens * stride; ++i)
    x[i] = round_bf16(random() % 50 == 0 ? 0.0f : normal(random) * (random() % 40 == 0 ? 100.0f : 1.0f));
  ThreadPool pool(1);
  QuantisedInput quantiser;
  const LinearInput input = kind.quantised_input ? quantiser.quantise(pool, reference(), x, stride, n_tokens, cols)
                                                 : plain_input(x, stride, cols);
  std::vector<int32_t> order(static_cast<size_t>(n_tokens));
  for (int64_t t = 0; t < n_tokens; ++t)
    order[static_cast<size_t>(t)] = static_cast<int32_t>((t * 7 + 3) % n_tokens);  // a gather
  const auto product = [&](const Isa& isa, int64_t first, int64_t n) {
    std::vector<float> y(static_cast<size_t>(n * n_rows));
    isa.linear({.weight = &w.weight,
                .input = input,
                .input_rows = order.data() + first,
                .n_tokens = n,
                .row_begin = rows - n_rows,
                .n_rows = n_rows,
                .out = y.data(),
                .out_stride = n_rows},
               0, n_rows);
    return y;
  };
  const std::vector<float> expected = product(reference(), 0, n_tokens);
  for (const Isa* isa : all_isas()) {
    if (!isa->supported() || isa == &reference()) continue;
    const std::vector<float> got = product(*isa, 0, n_tokens);
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size() * 4), 0) << isa->name;
    const std::vector<float> last = product(*isa, n_tokens - 1, 1);
    ASSERT_EQ(std::memcmp(last.data(), expected.data() + (n_tokens - 1) * n_rows, last.size() * 4), 0)
        << isa->name << ", alone";
  }
}

TEST(Linear, OddShapesHaveTheBitsOfTheReference) {
  std::mt19937_64 random(42);
  for (const Kind& kind : kKinds)
    for (int i = 0; i < 14; ++i) {
      const bool fp4 = kind.format == WeightFormat::kFp4Block;
      const int64_t cols =
          fp4 ? 32 * (1 + static_cast<int64_t>(random() % 13)) : 1 + static_cast<int64_t>(random() % 420);
      const int64_t rows = 1 + static_cast<int64_t>(random() % 300),
                    n_rows = 1 + static_cast<int64_t>(random() % std::min<int64_t>(rows, 70));
      static constexpr int64_t kTokens[] = {1, 2, 3, 4, 5, 7, 8, 9, 17, 31};
      expect_equal_products(kind, rows, cols, n_rows, kTokens[random() % 10], random());
    }
}

// Every matrix of Flash, Pro, their Base variants and the DSpark drafts, in the kinds that faithful and exact read.
TEST(Linear, FlashAndProShapesHaveTheBitsOfTheReference) {
  constexpr Kind kF32{WeightFormat::kF32, false, false, false}, kBf16{WeightFormat::kBf16, false, false, false};
  constexpr Kind kFp8{WeightFormat::kFp8Block, false, false, true},
      kFp8Plain{WeightFormat::kFp8Block, false, false, false};
  constexpr Kind kFp8Base{WeightFormat::kFp8Block, true, false, true},
      kFp8BasePlain{WeightFormat::kFp8Block, true, false, false};
  constexpr Kind kWoA{WeightFormat::kFp8Block, false, true, false},
      kWoABase{WeightFormat::kFp8Block, true, true, false};
  constexpr Kind kFp4{WeightFormat::kFp4Block, false, false, true},
      kFp4Plain{WeightFormat::kFp4Block, false, false, false};
  struct Shape {
    int64_t rows, cols;
    std::vector<Kind> kinds;
  };
  std::vector<Shape> shapes;
  const std::vector<Kind> fp8 = {kFp8, kFp8Plain}, expert = {kFp4, kFp4Plain, kFp8Base, kFp8BasePlain};
  for (const auto& [d, ql, heads, groups, experts, m] :
       {std::tuple{4096, 1024, 64, 8, 256, 2048}, {7168, 1536, 128, 16, 384, 3072}}) {
    shapes.insert(shapes.end(), {{ql, d, fp8},                                                       // wq_a
                                 {heads * 512, ql, fp8},                                             // wq_b
                                 {512, d, fp8},                                                      // wkv
                                 {groups * 1024, 4096, {kWoA, kWoABase, kFp8Plain, kFp8BasePlain}},  // wo_a
                                 {d, groups * 1024, fp8},                                            // wo_b
                                 {64 * 128, ql, fp8},                                                // indexer wq_b
                                 {64, d, {kBf16}},                                                   // weights_proj
                                 {1024, d, {kBf16}},
                                 {512, d, {kBf16}},
                                 {256, d, {kBf16}},      // compressors: CSA, HCA, indexer
                                 {experts, d, {kBf16}},  // gate
                                 {m, d, expert},
                                 {d, m, expert},  // w1 and w3, w2
                                 {m, d, fp8},
                                 {d, m, fp8},  // shared
                                 {24, 4 * d, {kF32}},
                                 {4, 4 * d, {kF32}},          // hc_fn, hc_head_fn
                                 {129280, d, {kBf16, kF32}},  // head
                                 {d, d, fp8},                 // e_proj, h_proj
                                 {d, 3 * d, fp8}});           // main_proj
  }
  uint64_t seed = 1;
  for (const Shape& shape : shapes)
    for (const Kind& kind : shape.kinds)
      for (const auto& [tokens, rows] :
           {std::pair{1, 13}, {3, 6}, {9, 37}})  // the last: a full panel and a part of one
        expect_equal_products(kind, shape.rows, shape.cols, std::min<int64_t>(shape.rows, rows), tokens, seed++);
}

// The fork-join splits rows between tasks by the number of threads: the same bits for any.
TEST(Linear, AnySplitBetweenThreadsGivesTheSameBits) {
  std::mt19937_64 random(3);
  for (const Kind& kind : kKinds)
    for (const auto& [rows, tokens] : {std::pair{24, 1}, {24, 9}, {300, 1}, {300, 3}, {200, 17}, {1, 1}}) {
      constexpr int64_t kCols = 160;
      const RandomWeight w(kind, rows, kCols, 0, random);
      std::vector<float> x(static_cast<size_t>(tokens * kCols));
      std::normal_distribution<float> normal;
      for (float& v : x) v = round_bf16(normal(random));
      std::vector<float> expected;
      for (const int threads : {1, 2, 3, 7}) {
        ThreadPool pool(threads);
        QuantisedInput quantiser;
        const LinearInput input = kind.quantised_input
                                      ? quantiser.quantise(pool, best_isa(), x.data(), kCols, tokens, kCols)
                                      : plain_input(x.data(), kCols, kCols);
        std::vector<float> y(static_cast<size_t>(rows * tokens), NAN), z(y.size(), NAN);
        const LinearJob jobs[] = {{.weight = &w.weight,
                                   .input = input,
                                   .n_tokens = tokens,
                                   .n_rows = rows,
                                   .out = y.data(),
                                   .out_stride = rows},
                                  {.weight = &w.weight,
                                   .input = input,
                                   .n_tokens = tokens,
                                   .n_rows = rows,
                                   .out = z.data(),
                                   .out_stride = rows}};
        linear(pool, best_isa(), jobs);
        if (expected.empty()) expected = y;
        EXPECT_EQ(std::memcmp(y.data(), expected.data(), 4 * y.size()), 0) << threads;
        EXPECT_EQ(std::memcmp(z.data(), expected.data(), 4 * y.size()), 0) << threads;
      }
    }
}

TEST(RowFunctions, HaveTheBitsOfTheReference) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  for (const Isa* isa : all_isas()) {
    if (!isa->supported() || isa == &reference()) continue;
    SCOPED_TRACE(isa->name);
    const Isa& ref = reference();
    for (const int n : {1, 15, 16, 17, 64, 80, 128, 512, 1000, 4096}) {
      SCOPED_TRACE(n);
      std::vector<float> x(static_cast<size_t>(n)), w(x.size()), a(x.size()), b(x.size());
      for (float& v : x) v = round_bf16(normal(random) * 3);
      for (float& v : w) v = round_bf16(normal(random));
      const auto same = [&](const char* what) { EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * 4), 0) << what; };
      for (const bool round : {false, true}) {
        ref.rms_norm(x.data(), w.data(), n, 1e-6f, round, a.data());
        isa->rms_norm(x.data(), w.data(), n, 1e-6f, round, b.data());
        same("rms_norm");
        a = b = x;
        ref.head_norm(a.data(), n, 1e-6f, round);
        isa->head_norm(b.data(), n, 1e-6f, round);
        same("head_norm");
        ref.swiglu(x.data(), w.data(), n, 1.5f, 0.7f, round, a.data());
        isa->swiglu(x.data(), w.data(), n, 1.5f, 0.7f, round, b.data());
        same("swiglu");
        const float* values[] = {x.data(), w.data(), x.data()};
        const float* gates[] = {w.data(), x.data(), x.data()};
        ref.pool(values, gates, 3, n, round, a.data());
        isa->pool(values, gates, 3, n, round, b.data());
        same("pool");
      }
      std::vector<Fp4Chunk> ca(static_cast<size_t>((n + 127) / 128)), cb(ca.size());
      std::vector<float> sa(ca.size()), sb(ca.size());
      ref.quantise(x.data(), n, a.data(), sa.data(), ca.data());
      isa->quantise(x.data(), n, b.data(), sb.data(), cb.data());
      same("quantise");
      EXPECT_EQ(sa, sb);
      EXPECT_EQ(std::memcmp(ca.data(), cb.data(), ca.size() * sizeof(Fp4Chunk)), 0);
      if (n >= 64) {
        std::vector<std::byte> ra(static_cast<size_t>(2 * n)), rb(ra.size());
        ref.pack_kv(x.data(), n - 16, 16, ra.data());
        isa->pack_kv(x.data(), n - 16, 16, rb.data());
        EXPECT_EQ(ra, rb);
        ref.unpack_kv(ra.data(), n - 16, 16, a.data());
        isa->unpack_kv(ra.data(), n - 16, 16, b.data());
        same("unpack_kv");
      }
    }
    for (const int dim : {2, 32, 64, 128, 256}) {
      std::vector<float> a(static_cast<size_t>(dim)), b;
      for (float& v : a) v = round_bf16(normal(random));
      b = a;
      ref.hadamard(a.data(), dim, true);
      isa->hadamard(b.data(), dim, true);
      EXPECT_EQ(a, b);
      std::vector<int8_t> da(a.size()), db(a.size()), ea(8), eb(8);
      ref.quantise_fp4(a.data(), dim, da.data(), ea.data());
      isa->quantise_fp4(b.data(), dim, db.data(), eb.data());
      EXPECT_EQ(da, db);
      EXPECT_EQ(ea, eb);
    }
    for (const int hc : {1, 2, 4, 5}) {
      const int64_t d = 100;
      std::vector<float> x(static_cast<size_t>(hc * d)), o(d), pre(16, 0.3f), comb(256), ya(d), yb(d);
      for (float& v : x) v = round_bf16(normal(random));
      for (float& v : o) v = round_bf16(normal(random));
      for (float& v : comb) v = std::fabs(normal(random));
      ref.hc_pre(x.data(), pre.data(), hc, d, true, ya.data());
      isa->hc_pre(x.data(), pre.data(), hc, d, true, yb.data());
      EXPECT_EQ(ya, yb);
      std::vector<float> xa = x, xb = x;
      ref.hc_post(o.data(), pre.data(), comb.data(), hc, d, true, xa.data());
      isa->hc_post(o.data(), pre.data(), comb.data(), hc, d, true, xb.data());
      EXPECT_EQ(xa, xb);
    }
  }
}

TEST(Attend, HasTheBitsOfTheReference) {
  std::mt19937_64 random(11);
  std::normal_distribution<float> normal;
  for (const Isa* isa : all_isas()) {
    if (!isa->supported() || isa == &reference()) continue;
    for (const auto& [heads, hd, n] :
         {std::tuple{1, 80, 1}, {3, 72, 5}, {4, 96, 64}, {7, 512, 33}, {64, 512, 64}, {6, 48, 7}}) {
      SCOPED_TRACE(::testing::Message() << isa->name << " heads " << heads << " dim " << hd << " keys " << n);
      const size_t h = static_cast<size_t>(heads), d = static_cast<size_t>(hd);
      std::vector<float> q(h * d), keys(static_cast<size_t>(n) * d);
      std::vector<uint8_t> masked(static_cast<size_t>(n));
      for (float& v : q) v = normal(random);
      for (int j = 0; j < n; ++j) {
        masked[static_cast<size_t>(j)] = j + 1 < n && random() % 5 == 0;
        for (size_t i = 0; i < d; ++i)
          keys[static_cast<size_t>(j) * d + i] = masked[static_cast<size_t>(j)] ? 0.0f : normal(random);
      }
      for (const bool round : {false, true}) {
        std::vector<float> states[2];
        for (int which = 0; which < 2; ++which) {
          auto& s = states[which];
          s.assign(h * (d + 2), 0.0f);
          for (size_t i = 0; i < h; ++i) s[i] = -std::numeric_limits<float>::infinity();
          for (int pass = 0; pass < 2; ++pass)  // the second pass meets a running maximum
            (which ? *isa : reference())
                .attend({.q = q.data(),
                         .keys = keys.data(),
                         .masked = masked.data(),
                         .n_keys = n,
                         .n_heads = heads,
                         .head_dim = hd,
                         .scale = 0.1f,
                         .round_p = round,
                         .max = s.data(),
                         .den = s.data() + h,
                         .acc = s.data() + 2 * h});
        }
        EXPECT_EQ(std::memcmp(states[0].data(), states[1].data(), states[0].size() * 4), 0);
      }
    }
  }
}

TEST(IndexScores, HaveTheBitsOfTheReference) {
  std::mt19937_64 random(13);
  std::normal_distribution<float> normal;
  for (const Isa* isa : all_isas()) {
    if (!isa->supported() || isa == &reference()) continue;
    for (const auto& [heads, dim, n] : {std::tuple{64, 128, 64}, {8, 32, 9}, {7, 64, 3}, {4, 128, 1}, {5, 128, 2}}) {
      SCOPED_TRACE(::testing::Message() << isa->name << " heads " << heads << " dim " << dim);
      const int blocks = (dim + 31) / 32;
      std::vector<int8_t> q(static_cast<size_t>(heads * dim));
      for (int8_t& v : q) v = kE2m1Doubled[random() % 16];
      std::vector<float> scale(static_cast<size_t>(heads * blocks)), w(static_cast<size_t>(heads)),
          qf(q.begin(), q.end());
      for (float& v : scale) v = exp2i(static_cast<int>(random() % 9) - 4);
      for (float& v : w) v = round_bf16(normal(random));
      const int64_t row_bytes = dim / 2 + blocks;
      GuardedBytes rows(n * row_bytes), floats(n * dim * 4);
      for (int64_t i = 0; i < rows.size(); ++i)
        rows.data()[i] = static_cast<std::byte>(i % row_bytes >= dim / 2 ? 120 + random() % 9 : random());
      for (int64_t i = 0; i < n * dim; ++i) {
        const float v = normal(random);
        std::memcpy(floats.data() + 4 * i, &v, 4);
      }
      std::vector<float> a(static_cast<size_t>(n)), b(a.size());
      constexpr int64_t kPage = 4;  // the last page ends with the last entry
      const auto pages_of = [&](const std::byte* data, int64_t bytes) {
        std::vector<const std::byte*> pages;
        for (int64_t e = 0; e < n; e += kPage) pages.push_back(data + e * bytes);
        return pages;
      };
      const auto packed = pages_of(rows.data(), row_bytes), plain = pages_of(floats.data(), 4 * dim);
      IndexScores args{.n_heads = heads,
                       .head_dim = dim,
                       .q = q.data(),
                       .q_scale = scale.data(),
                       .w = w.data(),
                       .pages = packed.data(),
                       .page_rows = kPage,
                       .row_bytes = row_bytes,
                       .n_entries = n,
                       .scores = a.data()};
      reference().index_scores(args);
      args.scores = b.data();
      isa->index_scores(args);
      EXPECT_EQ(a, b);
      args = {.n_heads = heads,
              .head_dim = dim,
              .q_f32 = qf.data(),
              .w = w.data(),
              .pages = plain.data(),
              .page_rows = kPage,
              .row_bytes = 4 * dim,
              .n_entries = n,
              .scores = a.data()};
      reference().index_scores(args);
      args.scores = b.data();
      isa->index_scores(args);
      EXPECT_EQ(a, b);
    }
  }
}

// ---- check vectors (architecture report A.15)

TEST(CheckVectors, QueryHeadNorm) {
  std::vector<float> q(512);
  for (int i = 0; i < 512; ++i) q[static_cast<size_t>(i)] = round_bf16(static_cast<float>((37 * i) % 101 - 50) / 16.0f);
  reference().head_norm(q.data(), 512, 1e-6f, true);
  const uint16_t expected[] = {0xbfdb, 0xbee4, 0x3f52, 0xbfaf};
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(to_bf16(q[i]).bits, expected[i]);
}

TEST(CheckVectors, KvGroupsOf64) {
  std::vector<float> x(64);
  for (int i = 0; i < 64; ++i) x[static_cast<size_t>(i)] = round_bf16(static_cast<float>((29 * i) % 64 - 32) * 0.37f);
  std::byte row[80];
  reference().pack_kv(x.data(), 64, 0, row);
  const uint8_t codes[] = {0xfc, 0xe1, 0x7a, 0xed, 0x77, 0xf3, 0x72, 0xf8,
                           0x6c, 0xfa, 0x5c, 0x7c, 0xe4, 0x79, 0xef, 0x76};
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(static_cast<uint8_t>(row[i]), codes[i]) << i;
  EXPECT_EQ(static_cast<int>(row[64]) - 127, -5);
  reference().unpack_kv(row, 64, 0, x.data());
  const float values[] = {-12, -1.125f, 10, -3.25f, 7.5f, -5.5f, 5, -8};
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(x[i], values[i]);
}

TEST(CheckVectors, HadamardAndFp4) {
  std::vector<float> x(128);
  for (int i = 0; i < 128; ++i) x[static_cast<size_t>(i)] = round_bf16(static_cast<float>((53 * i) % 97 - 48) / 32.0f);
  reference().hadamard(x.data(), 128, true);
  const uint16_t rotated[] = {0xbeae, 0x3c08, 0xbe81, 0xbe89, 0xbe70, 0x3e89, 0xbe89, 0x3e89};
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(to_bf16(x[i]).bits, rotated[i]);
  int8_t doubled[128], exponents[4];
  reference().quantise_fp4(x.data(), 128, doubled, exponents);
  const int8_t expected_exponents[] = {-1, 0, -2, -2};
  const char* expected_codes[] = {"909991919131b9b3", "1c129a2a23931519", "aa2aa2adada22ada", "da2aa2adada22ada"};
  for (size_t b = 0; b < 4; ++b) {
    EXPECT_EQ(exponents[b], expected_exponents[b]);
    for (size_t i = 0; i < 16; ++i) {
      const char c = expected_codes[b][i];
      const int code = c <= '9' ? c - '0' : c - 'a' + 10;
      EXPECT_EQ(doubled[32 * b + i], kE2m1Doubled[code]) << b << " " << i;
    }
  }
}

TEST(CheckVectors, SqrtSoftplusAndSwiglu) {
  const std::pair<float, float> cases[] = {{-3, 0.22042538f},   {-1, 0.55969787f},    {0, 0.83255464f},
                                           {0.5f, 0.98695338f}, {2, 1.4583992f},      {5, 2.2375691f},
                                           {21, 4.5825758f},    {-30, 3.0590232e-07f}};
  for (const auto& [x, y] : cases) EXPECT_NEAR(sqrt_softplus(x), y, std::fabs(y) * 1.2e-7f) << x;
  const float g[] = {-20, -1, 0.5f, 9, 15}, u[] = {3, -12, 0.25f, 11, -7};
  const float expected[] = {-1.2366922e-07f, 2.6894143f, 0.077807419f, 89.988899f, -69.996826f};
  float y[5];
  reference().swiglu(g, u, 5, 10, 1, false, y);
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(y[i], expected[i], std::fabs(expected[i]) * 4e-7f);
}

TEST(Math, ExpIsAccurateAndMonotoneAtItsEnds) {
  double worst = 0;
  for (float x = -86.8f; x < 88.7f; x += 0.0071f) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(exp_f32(x) - exact) / exact);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(exp_f32(0), 1.0f);
  EXPECT_EQ(exp_f32(-INFINITY), 0.0f);
  EXPECT_EQ(exp_f32(-1000), 0.0f);
  EXPECT_EQ(exp_f32(1000), INFINITY);
}

TEST(Formats, EveryCodeRoundTrips) {
  for (int code = 0; code < 256; ++code) {
    const float value = to_f32(f8e4m3{static_cast<uint8_t>(code)});
    if ((code & 0x7F) == 0x7F) {
      EXPECT_EQ(std::fabs(value), 480.0f);
      continue;
    }
    EXPECT_EQ(round_e4m3(value), code);
  }
  for (unsigned code = 0; code < 16; ++code)
    EXPECT_EQ(round_e2m1(std::copysign(e2m1_to_f32(code), code & 8 ? -1.0f : 1.0f)), code);
  const std::pair<float, float> ties[] = {{0.25f, 0}, {0.75f, 1}, {1.25f, 1}, {1.75f, 2}, {2.5f, 2}, {3.5f, 4}, {5, 4}};
  for (const auto& [x, y] : ties) EXPECT_EQ(e2m1_to_f32(round_e2m1(x)), y);
  EXPECT_EQ(to_f32(f8e8m0{0}), 0x1p-127f);
  EXPECT_EQ(to_f32(f8e8m0{127}), 1.0f);
}

}  // namespace
}  // namespace hadal::kernels
