// Every custom piece of the twin: its gradient against central differences in double, and its
// hand-written loops against the torch operations, values and gradients. Then the quantisers:
// straight through, on the codecs' grids.

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "tensor/formats.h"
#include "train/ops.h"
#include "train/quantisers.h"

namespace hadal::train {
namespace {

using torch::Tensor;

// Three rows of packed documents; `t` tokens each.
Packing packed(int64_t t) {
  const Tensor whole = torch::zeros({t}, torch::kInt64);
  const Tensor index = torch::arange(t, torch::kInt64);
  const Tensor two = torch::where(index < t / 2 + 1, 0, t / 2 + 1).to(torch::kInt64);
  const Tensor many = torch::where(index < 2, torch::zeros_like(index),
                                   torch::where(index < 3, torch::full_like(index, 2), torch::full_like(index, 3)));
  const Tensor documents = torch::stack({whole, two, many});
  return Packing::make(documents, documents);
}

checkpoint::ModelConfig hc_config() {
  checkpoint::ModelConfig config;
  config.hc_mult = 4;
  config.hc_sinkhorn_iters = 20;
  config.hc_eps = 1e-6f;
  config.norm_eps = 1e-6f;
  return config;
}

struct Case {
  std::vector<Tensor> inputs;  // float64; gradients are checked for all of them
  std::function<std::vector<Tensor>(const std::vector<Tensor>&)> run;
};

Tensor normal(at::IntArrayRef shape, double deviation = 1) { return torch::randn(shape, torch::kFloat64) * deviation; }

// `large`: sizes for comparing two forms, not for differences element by element.
Case make(const std::string& name, bool large) {
  const int64_t n = large ? 75 : 3, d = large ? 48 : 8, t = large ? 83 : 9;
  using V = const std::vector<Tensor>&;
  if (name == "rms_norm")
    return {{normal({n, d}), normal({d})}, [](V x) { return std::vector{rms_norm(x[0], x[1], 1e-3)}; }};
  if (name == "linear")
    return {{normal({n, d}), normal({2 * d + 1, d})}, [](V x) { return std::vector{train::linear(x[0], x[1])}; }};
  if (name == "linear_of_columns")  // rows apart
    return {{normal({n, 2, d}), normal({3, d})},
            [](V x) { return std::vector{train::linear(x[0].select(1, 1), x[1])}; }};
  if (name == "rms_norm_without_weight")
    return {{normal({n, 2, d})}, [](V x) { return std::vector{rms_norm(x[0], {}, 1e-3)}; }};
  if (name == "rotate" || name == "rotate_back") {
    const Tensor angle = normal({n, 3}), cos = angle.cos(), sin = angle.sin();
    return {{normal({n, 2, d})}, [=](V x) {
              return std::vector{rotate(x[0], {cos.to(x[0].dtype()), sin.to(x[0].dtype())}, name == "rotate_back")};
            }};
  }
  if (name == "hc_pre" || name == "hc_pre_two_streams" || name == "hc_pre_strong") {
    const int64_t hc = name == "hc_pre_two_streams" ? 2 : 4, mixes = 2 * hc + hc * hc;
    // Strong: logits of some size, where the iteration has not converged.
    const double strength = name == "hc_pre_strong" ? 4 : 0.5;
    return {{normal({n, hc, d}), normal({mixes, hc * d}, strength / std::sqrt(static_cast<double>(hc * d))),
             normal({mixes}), normal({3}) + 1},
            [=](V x) {
              auto config = hc_config();
              config.hc_mult = static_cast<int>(hc);
              const HcSplit split = hc_pre(x[0], {x[1], x[2], x[3]}, config);
              return std::vector{split.y, split.post, split.comb};
            }};
  }
  if (name == "hc_post")
    return {{normal({n, d}), normal({n, 4, d}), normal({n, 4}), normal({n, 4, 4})}, [](V x) {
              return std::vector{hc_post(x[0], x[1], {{}, x[2], x[3]})};
            }};
  if (name == "hc_head")
    return {{normal({n, 4, d}), normal({4, 4 * d}, 0.1), normal({4}), normal({1}) + 1}, [](V x) {
              return std::vector{hc_head(x[0], {x[1], x[2], x[3]}, hc_config())};
            }};
  if (name == "pool_overlap" || name == "pool") {
    const bool overlap = name == "pool_overlap";
    const int64_t ratio = overlap ? 4 : 3, width = overlap ? 16 : 8;
    const Packing packing = packed(t);
    const Blocks blocks = Blocks::make(packing, ratio);
    return {{normal({3 * t, width}), normal({3 * t, width}, 2), normal({ratio, width})},
            [=](V x) { return std::vector{pool(x[0], x[1], x[2], blocks)}; }};
  }
  if (name == "attend_window" || name == "attend" || name == "attend_chosen") {
    const int64_t heads = 2, hd = 8, window = large ? 11 : 3;
    const Packing packing = packed(t);
    const Blocks blocks = Blocks::make(packing, 4);
    const Tensor chosen = torch::rand({3 * t, blocks.width}) < 0.5;
    std::vector<Tensor> inputs = {normal({3 * t, heads, hd}), normal({3 * t, hd}), normal({heads})};
    if (name != "attend_window") inputs.push_back(normal({blocks.c, hd}));
    return {inputs, [=](V x) {
              Attend args{.q = x[0],
                          .kv = x[1],
                          .entries = {},
                          .sink = x[2],
                          .packing = packing,
                          .blocks = nullptr,
                          .selected = {},
                          .window = window,
                          .wants_mass = false};
              if (x.size() > 3) {
                args.entries = x[3];
                args.blocks = &blocks;
              }
              if (name == "attend_chosen") args.selected = chosen;
              return std::vector{attend(args).o};
            }};
  }
  if (name == "index_kl") {
    const Packing packing = packed(t);
    const Blocks blocks = Blocks::make(packing, 4);
    const Tensor mass = torch::rand({3 * t, blocks.width}, torch::kFloat64) * blocks.visible;
    return {{normal({3 * t, 2, 8}), normal({blocks.c, 8}), normal({3 * t, 2})}, [=](V x) {
              const Tensor scores = index_scores(hadamard(x[0]), hadamard(x[1]), x[2], packing, blocks);
              return std::vector{index_kl(scores, mass.to(x[0].dtype()), blocks.visible)};
            }};
  }
  if (name == "sqrt_softplus") {
    const Tensor u =
        torch::tensor({-60.0, -30.0, -20.5, -19.5, -3.0, -0.1, 0.0, 0.4, 2.0, 19.0, 25.0}, torch::kFloat64);
    const Tensor factor = torch::exp(-0.5 * u.clamp_max(0));  // makes the small ones count
    return {{u}, [=](V x) { return std::vector{sqrt_softplus(x[0]) * factor.to(x[0].dtype())}; }};
  }
  if (name == "route_weights") {
    const Tensor ids = torch::stack({torch::arange(n) % 4, (torch::arange(n) + 1) % 4}, 1);
    return {{normal({n, 4})}, [=](V x) { return std::vector{route_weights(sqrt_softplus(x[0]), ids, 1.5)}; }};
  }
  if (name == "swiglu")
    return {{normal({n, d}, 2), normal({n, d}, 2), normal({n})},
            [](V x) { return std::vector{swiglu(x[0], x[1], x[2], 1.5)}; }};
  if (name == "swiglu_without_weight")
    return {{normal({n, d}, 2), normal({n, d}, 2)}, [](V x) { return std::vector{swiglu(x[0], x[1], {}, 0)}; }};
  if (name == "experts") {
    const int64_t rows = large ? 60 : 5;  // expert 3 of 5 gets none
    const Tensor ids =
        torch::stack(
            {torch::arange(rows) % 3, torch::where(torch::arange(rows) % 2 == 0, 4, (torch::arange(rows) + 1) % 3)}, 1)
            .to(torch::kInt64);
    return {{normal({rows, 8}), torch::rand({rows, 2}, torch::kFloat64), normal({5, 8, 8}, 0.5), normal({5, 8, 8}, 0.5),
             normal({5, 8, 8}, 0.5)},
            [=](V x) {
              return std::vector{experts({.x = x[0],
                                          .ids = ids,
                                          .weights = x[1],
                                          .w1 = x[2],
                                          .w2 = x[3],
                                          .w3 = x[4],
                                          .limit = 1.5,
                                          .quantise = false})
                                     .y};
            }};
  }
  ADD_FAILURE() << name;
  return {};
}

// A fixed scalar of all outputs, so that one gradient checks them all.
Tensor scalar(const std::vector<Tensor>& outputs) {
  Tensor total = torch::zeros({}, outputs[0].options().requires_grad(false));
  for (const Tensor& y : outputs) {
    const Tensor weights = torch::cos(torch::arange(y.numel(), torch::kFloat64) * 1.7 + 0.3).view(y.sizes());
    total = total + (y * weights.to(y.dtype())).sum();
  }
  return total;
}

double worst(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item<double>();
}

class Piece : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Gradients, Piece,
                         ::testing::Values("linear", "linear_of_columns", "rms_norm", "rms_norm_without_weight",
                                           "rotate", "rotate_back", "hc_pre", "hc_pre_two_streams", "hc_pre_strong",
                                           "hc_post", "hc_head", "pool_overlap", "pool", "attend_window", "attend",
                                           "attend_chosen", "index_kl", "sqrt_softplus", "route_weights", "swiglu",
                                           "swiglu_without_weight", "experts"),
                         [](const auto& piece) { return std::string(piece.param); });

TEST_P(Piece, HasTheGradientOfCentralDifferences) {
  torch::manual_seed(3);
  Case piece = make(GetParam(), false);
  for (Tensor& x : piece.inputs) x.requires_grad_(true);
  scalar(piece.run(piece.inputs)).backward();
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < piece.inputs.size(); ++i) {
    const Tensor& x = piece.inputs[i];
    const Tensor numeric = torch::zeros_like(x);
    for (int64_t j = 0; j < x.numel(); ++j) {
      constexpr double kStep = 1e-5;
      double* value = x.data_ptr<double>() + j;
      const double before = *value;
      *value = before + kStep;
      const double above = scalar(piece.run(piece.inputs)).item<double>();
      *value = before - kStep;
      const double below = scalar(piece.run(piece.inputs)).item<double>();
      *value = before;
      numeric.data_ptr<double>()[j] = (above - below) / (2 * kStep);
    }
    ASSERT_TRUE(x.grad().defined()) << "input " << i;
    EXPECT_LE(worst(x.grad(), numeric), 1e-6) << "input " << i;
  }
}

// Float32 in two orders of summation: a few units of 2^-24 per value, times the length of the sums.
TEST_P(Piece, ByHandEqualsTheTorchOperations) {
  torch::manual_seed(4);
  const Case piece = make(GetParam(), true);
  const auto run = [&](std::vector<Tensor>& inputs) {
    for (const Tensor& x : piece.inputs) inputs.push_back(x.to(torch::kFloat32).requires_grad_(true));
    auto outputs = piece.run(inputs);
    scalar(outputs).backward();
    return outputs;
  };
  std::vector<Tensor> by_hand, again, plain;
  const auto y = run(by_hand), y_again = run(again);
  const PlainScope scope;
  const auto expected = run(plain);
  for (size_t i = 0; i < y.size(); ++i) {
    EXPECT_LE(worst(y[i], expected[i]), 3e-6) << "output " << i;
    EXPECT_TRUE(torch::equal(y[i], y_again[i])) << "output " << i;
  }
  for (size_t i = 0; i < by_hand.size(); ++i) {
    EXPECT_LE(worst(by_hand[i].grad(), plain[i].grad()), 1e-5) << "input " << i;
    EXPECT_TRUE(torch::equal(by_hand[i].grad(), again[i].grad())) << "input " << i;
  }
}

TEST(Attend, MassIsTheAttentionOnEntries) {
  torch::manual_seed(5);
  const Packing packing = packed(83);
  const Blocks blocks = Blocks::make(packing, 4);
  const Attend args{.q = torch::randn({249, 2, 8}),
                    .kv = torch::randn({249, 8}),
                    .entries = torch::randn({blocks.c, 8}),
                    .sink = torch::randn({2}),
                    .packing = packing,
                    .blocks = &blocks,
                    .selected = {},
                    .window = 11,
                    .wants_mass = true};
  const Attended by_hand = attend(args);
  const PlainScope scope;
  const Attended plain = attend(args);
  EXPECT_LE(worst(by_hand.mass, plain.mass), 3e-6);
  EXPECT_LE(worst(by_hand.sink_mass, plain.sink_mass), 3e-6);
  EXPECT_EQ(by_hand.mass.masked_select(blocks.visible.logical_not()).abs().sum().item<double>(), 0);
}

// Rounding is the same function of the same values; a value next to a boundary may fall the other
// way.
TEST(Attend, RoundsItsWeightsInBothForms) {
  torch::manual_seed(8);
  const Packing packing = packed(83);
  const Blocks blocks = Blocks::make(packing, 4);
  Attend args{.q = torch::randn({249, 2, 8}),
              .kv = torch::randn({249, 8}),
              .entries = torch::randn({blocks.c, 8}),
              .sink = torch::randn({2}),
              .packing = packing,
              .blocks = &blocks,
              .selected = {},
              .window = 11,
              .wants_mass = false,
              .rounds = true};
  const Tensor by_hand = attend(args).o;
  Tensor plain;
  {
    const PlainScope scope;
    plain = attend(args).o;
  }
  EXPECT_LE(worst(by_hand, plain), 0x1p-9);
  EXPECT_LE((by_hand - plain).abs().mean().item<double>(), 1e-6);
  args.rounds = false;
  EXPECT_GT((by_hand - attend(args).o).abs().mean().item<double>(), 1e-4);
}

// Every remainder of the tiles and blocks of the product.
TEST(Linear, EqualsTheTorchProductAtAllSizes) {
  torch::manual_seed(9);
  for (const int64_t n : {1, 5, 6, 97, 200})
    for (const int64_t in : {1, 7, 256, 300})
      for (const int64_t out : {1, 15, 16, 33, 1030}) {
        const Tensor x = torch::randn({n, in}), w = torch::randn({out, in});
        EXPECT_LE(worst(train::linear(x, w), torch::mm(x, w.t())), 3e-6) << n << " " << in << " " << out;
      }
}

TEST(IndexKl, IsZeroAtTheMassAndItsGradientIsSoftmaxMinusMass) {
  torch::manual_seed(6);
  const Tensor chosen = torch::tensor({true, true, false, true, false, false, false, false}).view({2, 4});
  const Tensor mass = torch::rand({2, 4}, torch::kFloat64) * chosen;
  const Tensor p = mass[0] / mass[0].sum();
  EXPECT_NEAR(index_kl(torch::log(mass.clamp_min(1e-300)), mass, chosen).item<double>(), 0, 1e-12);
  const Tensor scores = torch::randn({2, 4}, torch::kFloat64).requires_grad_(true);
  index_kl(scores, mass, chosen).backward();  // the second row sees nothing and does not count
  const Tensor softmax = torch::softmax(scores.detach()[0].masked_fill(chosen[0].logical_not(), -1e30), 0);
  EXPECT_LE((scores.grad()[0] - (softmax - p)).abs().max().item<double>(), 1e-12);
  EXPECT_EQ(scores.grad()[1].abs().sum().item<double>(), 0);
}

TEST(SelectEntries, TakesTheLargestVisibleAndOfEqualOnesTheFirst) {
  const Packing packing = Packing::make(torch::zeros({1, 24}, torch::kInt64), {});
  const Blocks blocks = Blocks::make(packing, 4);
  const Tensor scores = torch::tensor({0.0f, 2.0f, 1.0f, 2.0f, 1.0f, 9.0f}).expand({24, 6});
  const Tensor chosen = select_entries(scores, blocks, 3);
  const auto row = [](std::vector<int64_t> x) { return torch::tensor(x, torch::kInt64).to(torch::kBool); };
  EXPECT_TRUE(torch::equal(chosen[2], row({0, 0, 0, 0, 0, 0})));
  EXPECT_TRUE(torch::equal(chosen[3], row({1, 0, 0, 0, 0, 0})));
  EXPECT_TRUE(torch::equal(chosen[19], row({0, 1, 1, 1, 0, 0})));  // 1.0 twice: the smaller entry
  EXPECT_TRUE(torch::equal(chosen[23], row({0, 1, 0, 1, 0, 1})));
}

// --- Quantisers ---

struct Quantiser {
  const char* name;
  std::function<Tensor(const Tensor&)> run;
};

std::vector<Quantiser> quantisers() {
  return {{"bf16", [](const Tensor& x) { return round_to_bf16(x); }},
          {"inputs", [](const Tensor& x) { return quantise_fp8(x, 128); }},
          {"kv", [](const Tensor& x) { return quantise_fp8(x, 64, 136); }},
          {"index", [](const Tensor& x) { return quantise_fp4(x); }},
          {"fp8 weights", [](const Tensor& x) { return quantise_weight_fp8(x); }},
          {"fp4 weights", [](const Tensor& x) { return quantise_weight_fp4(x); }}};
}

Tensor spread_values() {  // [2, 150, 200]: last groups are short, magnitudes differ, some groups are zero
  torch::manual_seed(7);
  Tensor x = torch::randn({2, 150, 200}) * torch::exp2(torch::randint(-30, 20, {2, 150, 1}).to(torch::kFloat32));
  x.narrow(1, 20, 3).zero_();
  return x;
}

TEST(Quantisers, PassGradientsUnchanged) {
  for (const Quantiser& quantiser : quantisers()) {
    SCOPED_TRACE(quantiser.name);
    const Tensor x = spread_values().requires_grad_(true), gradient = torch::randn(x.sizes());
    quantiser.run(x).backward(gradient);
    EXPECT_TRUE(torch::equal(x.grad(), gradient));
  }
}

TEST(Quantisers, RoundTwiceAsOnce) {
  for (const Quantiser& quantiser : quantisers()) {
    SCOPED_TRACE(quantiser.name);
    const Tensor once = quantiser.run(spread_values());
    EXPECT_TRUE(torch::equal(quantiser.run(once), once));
  }
}

TEST(Quantisers, TorchOperationsEqualTheCodecs) {
  for (const Quantiser& quantiser : quantisers()) {
    SCOPED_TRACE(quantiser.name);
    const Tensor by_codec = quantiser.run(spread_values());
    const PlainScope scope;
    EXPECT_TRUE(torch::equal(quantiser.run(spread_values()), by_codec));
  }
}

// The check vectors of the architecture report, A.15.
TEST(Quantisers, HaveTheCheckVectors) {
  std::vector<float> x;
  for (int i = 0; i < 64; ++i) x.push_back(round_bf16(static_cast<float>(((29 * i) % 64 - 32) * 0.37)));
  const Tensor y = quantise_fp8(torch::tensor(x).unsqueeze(0), 64);
  EXPECT_TRUE(
      torch::equal(y[0].narrow(0, 0, 8), torch::tensor({-12.f, -1.125f, 10.f, -3.25f, 7.5f, -5.5f, 5.f, -8.f})));
  // Largest value 6 2^k: scale 2^k exactly; halves and ties to the even code.
  std::vector<float> halves(32, 0.0f);
  const std::vector<float> ties = {6, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -0.25f, -5};
  std::copy(ties.begin(), ties.end(), halves.begin());
  const Tensor z = quantise_fp4(torch::tensor(halves).unsqueeze(0));
  EXPECT_TRUE(torch::equal(z[0].narrow(0, 0, 10), torch::tensor({6.f, 0.f, 1.f, 1.f, 2.f, 2.f, 4.f, 4.f, 0.f, -4.f})));
}

// Within a block the scale is the smallest power of two that holds its largest value.
TEST(Quantisers, WeightBlocksHaveTheirOwnScales) {
  Tensor w = torch::full({200, 300}, 1.0f / 3);
  w[0][0] = 448 * 64;
  const Tensor y = quantise_weight_fp8(w);
  EXPECT_EQ(y[0][0].item<float>(), 448 * 64);
  EXPECT_EQ(y[5][5].item<float>(),
            0.375f);                             // scale 64: the step below its smallest normal is 64 / 512
  EXPECT_EQ(y[5][130].item<float>(), 0.34375f);  // another block: 11 / 32, three mantissa bits
}

}  // namespace
}  // namespace hadal::train
