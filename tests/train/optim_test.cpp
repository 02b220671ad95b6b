// The optimisers against their definitions: singular values, sizes of steps, a written-out AdamW,
// and which tensor goes where.

#include "train/optim.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <set>

#include "checkpoint/inventory.h"
#include "checkpoint/synth.h"

namespace hadal::train {
namespace {

checkpoint::ModelConfig nano() {
  const json::Value config = checkpoint::load_config_json("nano").value();
  return checkpoint::parse_config(json::dump(config), "nano").value();
}

struct NamedMatrix {
  const char* name;
  torch::Tensor matrix;
};

// A.2's list: random, square, low rank plus noise, badly scaled; wide and tall.
std::vector<NamedMatrix> matrices() {
  torch::manual_seed(7);
  const torch::Tensor low_rank = torch::randn({96, 4}).matmul(torch::randn({4, 128}));
  const torch::Tensor scales = torch::logspace(-3, 3, 64).unsqueeze(1);
  return {{"wide", torch::randn({64, 256})},
          {"tall", torch::randn({256, 64})},
          {"square", torch::randn({128, 128})},
          {"low rank plus noise", low_rank + 0.1 * torch::randn({96, 128})},
          {"rows of scales 1e-3 to 1e3", scales * torch::randn({64, 256})},
          {"tiny", 1e-6 * torch::randn({32, 96})},
          {"huge", 1e12 * torch::randn({32, 96})}};
}

torch::Tensor singular_values(const torch::Tensor& matrix) {
  return std::get<1>(torch::linalg_svd(matrix.to(torch::kFloat64), false));
}

TEST(NewtonSchulz, BandAfterEightStepsAndOnesAfterTen) {
  for (const auto& [name, matrix] : matrices()) {
    const torch::Tensor before = singular_values(matrix);
    // Directions too weak for ten steps stay weak: each step grows them 3.4445-fold at most.
    const torch::Tensor strong = before / matrix.to(torch::kFloat64).norm() > 2e-4;
    const torch::Tensor eight = singular_values(newton_schulz(matrix.unsqueeze(0), 8)[0]);
    const torch::Tensor ten = singular_values(newton_schulz(matrix.unsqueeze(0))[0]);
    const int64_t n = strong.sum().item<int64_t>();
    EXPECT_GE(n, before.size(0) / 2) << name;
    EXPECT_LT(eight.max().item<double>(), 1.21) << name;
    EXPECT_GT(eight[n - 1].item<double>(), 0.68) << name;
    EXPECT_LT(ten.max().item<double>(), 1.002) << name;
    EXPECT_GT(ten[n - 1].item<double>(), 0.998) << name;
  }
}

TEST(NewtonSchulz, KeepsTheSingularVectors) {
  const torch::Tensor matrix = torch::randn({48, 80}, torch::TensorOptions().dtype(torch::kFloat64));
  const auto [u, s, v] = torch::linalg_svd(matrix, false);
  const torch::Tensor exact = u.matmul(v);
  EXPECT_LT((newton_schulz(matrix.unsqueeze(0))[0] - exact).abs().max().item<double>(), 2e-3);
}

TEST(NewtonSchulz, ZeroStaysZeroAndBatchesAreIndependent) {
  torch::manual_seed(3);
  torch::Tensor batch = torch::randn({3, 16, 40});
  batch[1].zero_();
  const torch::Tensor result = newton_schulz(batch);
  EXPECT_EQ(result[1].abs().max().item<float>(), 0);
  EXPECT_TRUE(torch::equal(result[2], newton_schulz(batch.slice(0, 2, 3))[0]));
}

Named leaf(const std::string& name, torch::Tensor value, const torch::Tensor& gradient) {
  value.requires_grad_(true);
  value.mutable_grad() = gradient;
  return {name, value};
}

TEST(Muon, StepHasRms018TimesTheRate) {
  const checkpoint::ModelConfig config = nano();
  for (const auto& shape : {std::pair<int64_t, int64_t>{256, 128}, {128, 256}, {128, 128}}) {
    torch::manual_seed(1);
    const Named weight = leaf("layers.0.attn.wq_a.weight", torch::zeros({shape.first, shape.second}),
                              torch::randn({shape.first, shape.second}));
    auto optimiser = Optimiser::create({weight}, config, {}).value();
    optimiser.step(0.01, {});
    const double rms = std::sqrt(weight.tensor.detach().pow(2).mean().item<double>()) / 0.01;
    EXPECT_NEAR(rms, 0.18, 0.0018) << shape.first << " x " << shape.second;
  }
}

// Two steps written out in double: momentum, Nesterov, decay.
TEST(Muon, MomentumNesterovAndDecay) {
  torch::manual_seed(5);
  const torch::Tensor start = torch::randn({24, 64}), g1 = torch::randn({24, 64}), g2 = torch::randn({24, 64});
  const Named weight = leaf("layers.0.attn.wkv.weight", start.clone(), g1.clone());
  auto optimiser = Optimiser::create({weight}, nano(), {}).value();
  torch::Tensor w = start.to(torch::kFloat64), m = torch::zeros_like(w);
  for (const torch::Tensor& gradient : {g1, g2}) {
    weight.tensor.mutable_grad() = gradient.clone();
    optimiser.step(0.02, {});
    const torch::Tensor g = gradient.to(torch::kFloat64);
    m = 0.95 * m + g;
    const auto [u, s, v] = torch::linalg_svd(0.95 * m + g, false);
    w = w * (1 - 0.02 * 0.1) - 0.02 * 0.18 * std::sqrt(64.0) * u.matmul(v);
  }
  EXPECT_LT((weight.tensor.detach() - w).abs().max().item<double>(), 1e-4);
}

TEST(Muon, IndependentMatricesAreOrthogonalisedAlone) {
  const checkpoint::ModelConfig config = nano();  // 2 output groups, layer 1 has ratio 4
  torch::manual_seed(2);
  struct Case {
    const char* name;
    int64_t rows, cols;
    std::vector<int64_t> borders;
  };
  for (const Case& c : {Case{"layers.0.attn.wo_a.weight", 256, 256, {0, 128, 256}},
                        Case{"layers.1.attn.compressor.wkv.weight", 256, 256, {0, 128, 256}},
                        Case{"layers.1.attn.indexer.compressor.wgate.weight", 128, 256, {0, 64, 128}},
                        Case{"layers.2.attn.compressor.wkv.weight", 128, 256, {0, 128}},
                        Case{"layers.0.hc_attn_fn", 24, 1024, {0, 4, 8, 24}}, Case{"hc_head_fn", 4, 1024, {0, 4}}}) {
    const Named weight = leaf(c.name, torch::zeros({c.rows, c.cols}), torch::randn({c.rows, c.cols}));
    auto optimiser = Optimiser::create({weight}, config, {}).value();
    optimiser.step(1, {});
    for (size_t i = 0; i + 1 < c.borders.size(); ++i) {
      const torch::Tensor piece = weight.tensor.detach().slice(0, c.borders[i], c.borders[i + 1]);
      const double expected = 0.18 * std::sqrt(static_cast<double>(std::max(piece.size(0), piece.size(1))));
      const torch::Tensor values = singular_values(piece) / expected;
      EXPECT_LT((values - 1).abs().max().item<double>(), 3e-3) << c.name << " piece " << i;
    }
  }
}

TEST(Muon, ExpertsWithoutTokensOnlyForget) {
  torch::manual_seed(4);
  const torch::Tensor start = torch::randn({256, 256});
  const Named idle = leaf("layers.1.ffn.experts.0.w1.weight", start.clone(), torch::zeros({256, 256}));
  const Named busy = leaf("layers.1.ffn.experts.3.w1.weight", start.clone(), torch::randn({256, 256}));
  auto optimiser = Optimiser::create({idle, busy}, nano(), {}).value();
  optimiser.state()[0].tensor.fill_(1);
  std::vector<torch::Tensor> counts(7, torch::ones({8}, torch::kInt64));
  counts[1][0] = 0;
  optimiser.step(0.01, counts);
  EXPECT_TRUE(torch::equal(idle.tensor.detach(), start));
  EXPECT_FALSE(torch::equal(busy.tensor.detach(), start));
  EXPECT_FLOAT_EQ(optimiser.state()[0].tensor[0][0].item<float>(), 0.95F);
}

TEST(Muon, StackedExpertsAreTheExpertsOneByOne) {
  torch::manual_seed(6);
  const torch::Tensor start = torch::randn({3, 32, 64}), gradient = torch::randn({3, 32, 64});
  const Named stack = leaf("layers.1.ffn.experts.w1.weight", start.clone(), gradient.clone());
  auto together = Optimiser::create({stack}, nano(), {}).value();
  std::vector<Named> single;
  for (int e = 0; e < 3; ++e)
    single.push_back(
        leaf("layers.1.ffn.experts." + std::to_string(e) + ".w1.weight", start[e].clone(), gradient[e].clone()));
  auto alone = Optimiser::create(single, nano(), {}).value();
  std::vector<torch::Tensor> counts(7, torch::ones({3}, torch::kInt64));
  counts[1][2] = 0;
  for (int step = 0; step < 2; ++step) {
    together.step(0.01, counts);
    alone.step(0.01, counts);
  }
  for (int e = 0; e < 3; ++e)
    EXPECT_TRUE(torch::equal(stack.tensor.detach()[e], single[static_cast<size_t>(e)].tensor.detach())) << e;
  EXPECT_TRUE(torch::equal(stack.tensor.detach()[2], start[2]));
}

TEST(AdamW, EqualsTheScalarReference) {
  for (const char* name : {"embed.weight", "norm.weight"}) {
    const bool decays = std::string(name) == "embed.weight";
    torch::manual_seed(9);
    const torch::Tensor start = decays ? torch::randn({5, 3}) : torch::randn({15});
    const Named weight = leaf(name, start.clone(), torch::Tensor());
    auto optimiser = Optimiser::create({weight}, nano(), {}).value();
    std::vector<double> w(15), m(15, 0), v(15, 0);
    for (int64_t i = 0; i < 15; ++i) w[static_cast<size_t>(i)] = start.flatten()[i].item<double>();
    for (int step = 1; step <= 20; ++step) {
      torch::Tensor gradient = torch::randn_like(start) * std::pow(10.0, step % 5 - 3);
      if (step % 2) gradient.flatten()[7] = 0;
      weight.tensor.mutable_grad() = gradient;
      const double rate = 0.003 * step;
      optimiser.step(rate, {});
      for (size_t i = 0; i < 15; ++i) {
        const double g = gradient.flatten()[static_cast<int64_t>(i)].item<double>();
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.95 * v[i] + 0.05 * g * g;
        if (decays) w[i] *= 1 - rate * 0.1;
        w[i] -= rate * (m[i] / (1 - std::pow(0.9, step))) / (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-20);
      }
    }
    for (size_t i = 0; i < 15; ++i)
      EXPECT_NEAR(weight.tensor.flatten()[static_cast<int64_t>(i)].item<double>(), w[i], 2e-6) << name << " " << i;
  }
}

// A weight that has had no gradient yet must not move, whatever epsilon is.
TEST(AdamW, NoGradientNoStep) {
  const Named weight = leaf("norm.weight", torch::ones({4}), torch::zeros({4}));
  auto optimiser = Optimiser::create({weight}, nano(), {}).value();
  optimiser.step(0.1, {});
  EXPECT_TRUE(torch::equal(weight.tensor.detach(), torch::ones({4})));
}

TEST(Placement, EveryRowOfEveryTensorOnce) {
  for (const char* config_name : {"nano", "flash", "pro"}) {
    const json::Value json = checkpoint::load_config_json(config_name).value();
    const checkpoint::ModelConfig config = checkpoint::parse_config(json::dump(json), config_name).value();
    std::set<std::string> adamw;
    for (const auto& tensor : checkpoint::expected_tensors(config, checkpoint::Draft::kMtp, 1)) {
      if (tensor.storage == checkpoint::Storage::kI64 || tensor.name.ends_with("gate.bias")) continue;  // not trained
      const auto placed = placement(tensor.name, tensor.shape, config);
      ASSERT_TRUE(placed.ok()) << placed.error().message;
      if (placed.value().rule != Rule::kMuon) {
        EXPECT_TRUE(placed.value().pieces.empty()) << tensor.name;
        if (tensor.shape.size() == 2)
          adamw.insert(tensor.name.substr(tensor.name.rfind('.', tensor.name.size() - 8) + 1));
        EXPECT_EQ(placed.value().rule == Rule::kAdamW, tensor.name == "embed.weight" || tensor.name == "head.weight");
        continue;
      }
      int64_t covered = 0;
      for (const Piece& piece : placed.value().pieces) {
        EXPECT_EQ(piece.begin, covered) << tensor.name;
        covered = piece.end;
      }
      EXPECT_EQ(covered, tensor.shape[0]) << tensor.name;
      EXPECT_EQ(placed.value().pieces[0].expert >= 0, tensor.name.find(".experts.") != std::string::npos)
          << tensor.name;
      if (placed.value().pieces[0].expert >= 0) {
        EXPECT_EQ(placed.value().block, tensor.layer) << tensor.name;
      }
    }
    EXPECT_EQ(adamw, (std::set<std::string>{"compressor.ape", "embed.weight", "head.weight"})) << config_name;
  }
  EXPECT_FALSE(placement("layers.0.attn.w_new.weight", {4, 4}, nano()).ok());
}

}  // namespace
}  // namespace hadal::train
