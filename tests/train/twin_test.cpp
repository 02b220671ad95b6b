// The twin computes what the engine computes: the golden files' exact logits, the engine's on
// another architecture; packed documents are separate ones; no token sees a later one.

#include "train/twin.h"

#include <gtest/gtest.h>

#include <set>

#include "checkpoint/inventory.h"
#include "checkpoint/synth.h"
#include "cli/golden.h"
#include "tests/support/model.h"
#include "tests/support/shared.h"
#include "train/ops.h"

namespace hadal::train {
namespace {

using testing::fixture;
using torch::Tensor;

std::shared_ptr<Twin> load_twin(const std::string& directory) {
  auto checkpoint = checkpoint::Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint.ok()) << (checkpoint.ok() ? "" : checkpoint.error().message);
  if (!checkpoint.ok()) return nullptr;
  auto twin = Twin::load(checkpoint.value());
  EXPECT_TRUE(twin.ok());
  return twin.ok() ? twin.value() : nullptr;
}

Tensor row_of(const std::vector<TokenId>& tokens) {
  std::vector<int64_t> ids(tokens.begin(), tokens.end());
  return torch::tensor(ids, torch::kInt64).unsqueeze(0);
}

// Worst row of max|a-b| / max|b|, the tolerance of docs/numerics.md.
double worst_row(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().amax(1) / b.abs().amax(1)).max().item<double>();
}

void expect_rows_equal(const Tensor& logits, const std::vector<int64_t>& rows, const std::vector<float>& expected,
                       double tolerance) {
  const Tensor b = torch::tensor(expected).view({static_cast<int64_t>(rows.size()), -1});
  const Tensor a = logits.index_select(0, torch::tensor(rows, torch::kInt64));
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE(worst_row(a, b), tolerance);
  EXPECT_TRUE(torch::equal(a.argmax(1), b.argmax(1)));
}

void expect_golden(const std::string& directory, const std::string& file, bool is_plain) {
  const auto golden = cli::Golden::open(file);
  ASSERT_TRUE(golden.ok());
  const auto twin = load_twin(directory);
  ASSERT_TRUE(twin);
  torch::NoGradGuard no_grad;
  std::optional<PlainScope> plain;
  if (is_plain) plain.emplace();
  const Output out = twin->forward({row_of(golden.value().tokens()), {}, {}}, {.sparse = true});
  expect_rows_equal(out.logits[0], golden.value().integers("exact.rows"), golden.value().floats("exact.logits"), 1e-5);
  if (golden.value().has("exact.mtp_logits"))
    expect_rows_equal(out.mtp_logits[0], golden.value().integers("mtp_rows"), golden.value().floats("exact.mtp_logits"),
                      1e-5);
}

TEST(Twin, HasTheFixturesExactLogits) {
  for (const bool is_plain : {false, true}) {
    SCOPED_TRACE(is_plain);
    expect_golden(fixture("micro"), fixture("micro/expected.safetensors"), is_plain);
  }
}

class Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Golden, HasItsExactLogits) {
  HADAL_NEEDS_SHARED(std::string("golden/model/") + GetParam());
  for (const bool is_plain : {false, true}) {
    SCOPED_TRACE(is_plain);
    expect_golden(testing::shared_path(std::string("golden/model/") + GetParam()),
                  testing::shared_path(std::string("golden/expected/") + GetParam() + ".safetensors"), is_plain);
  }
}

INSTANTIATE_TEST_SUITE_P(Twin, Golden,
                         ::testing::Values("micro", "flash-tiny", "pro-tiny", "traps", "base-tiny", "bf16-tiny",
                                           "sharded", "legacy-names", "long"));

// Quantising, the twin is the release's `faithful` numerics up to roundings that fall the other
// way: on three of these checkpoints most rows agree to 1e-7. Judged as `hadal verify` judges an
// engine (docs/numerics.md), but for the share of equal argmax, where one of flash-tiny's 36 clear
// rows differs: the twin rounds the attention's weights by the maximum of all keys, the release by
// the running one of its blocks of 64.
class FaithfulGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(FaithfulGolden, IsNearWhenQuantising) {
  HADAL_NEEDS_SHARED(std::string("golden/model/") + GetParam());
  const auto golden =
      cli::Golden::open(testing::shared_path(std::string("golden/expected/") + GetParam() + ".safetensors"));
  ASSERT_TRUE(golden.ok());
  const auto twin = load_twin(testing::shared_path(std::string("golden/model/") + GetParam()));
  ASSERT_TRUE(twin);
  torch::NoGradGuard no_grad;
  const Output out = twin->forward({row_of(golden.value().tokens()), {}, {}}, {.sparse = true, .quantise = true});
  const auto rows = golden.value().integers("rows");
  const Tensor b =
      torch::tensor(golden.value().floats("faithful.prefill_logits")).view({static_cast<int64_t>(rows.size()), -1});
  const Tensor a = out.logits[0].index_select(0, torch::tensor(rows, torch::kInt64));
  const Tensor errors = (a - b).abs().amax(1) / b.abs().amax(1);
  const Tensor best = std::get<0>(b.topk(2, 1));
  const Tensor clear = (best.select(1, 0) - best.select(1, 1)) > 0.1 * b.abs().amax(1);
  const Tensor agree = a.argmax(1) == b.argmax(1);
  const double share = agree.logical_and(clear).sum().item<double>() / clear.sum().item<double>();
  const double median = errors.median().item<double>();
  const auto stored = [&](const char* field) { return golden.value().stat("faithful.f32_vs_f64", field); };
  EXPECT_LE(median, std::max(0.02, 2 * stored("median")));
  EXPECT_LE(errors.quantile(0.95).item<double>(), std::max(0.05, 2 * stored("p95")));
  EXPECT_GE(share, 0.97);
}

INSTANTIATE_TEST_SUITE_P(Twin, FaithfulGolden,
                         ::testing::Values("micro", "flash-tiny", "pro-tiny", "traps", "sharded", "legacy-names"));

// A larger architecture of the kind that is trained, random weights, against the engine's own
// forward.
TEST(Twin, HasTheEnginesLogitsOnARandomNano) {
  const std::string directory = testing::temp_dir("nano-twin");
  auto config = checkpoint::load_config_json("nano");
  ASSERT_TRUE(config.ok());
  ThreadPool pool(1);
  ASSERT_TRUE(checkpoint::synthesise(config.value(), {.directory = directory, .seed = 3}, pool).ok());
  auto engine = testing::TestModel::open(directory, Numerics::kExact);
  ASSERT_TRUE(engine);
  const int vocab = engine->checkpoint.config().vocab_size;
  const auto tokens = testing::random_tokens(11, 300, vocab);
  auto state = engine->transformer->new_sequence();
  const Tensor expected = torch::tensor(engine->logits(state, tokens, {300})).view({300, vocab});
  torch::NoGradGuard no_grad;
  const Output out = load_twin(directory)->forward({row_of(tokens), {}, {}}, {.sparse = true});
  EXPECT_LE(worst_row(out.logits[0], expected), 1e-5);
  EXPECT_TRUE(torch::equal(out.logits[0].argmax(1), expected.argmax(1)));
}

// --- Laws, on the fixture: ratios 0, 4, 128 and the MTP block ---

class TwinLaws : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) plain_.emplace();
    twin_ = load_twin(fixture("micro"));
    ASSERT_TRUE(twin_);
  }
  Tensor random_row(uint64_t seed, int64_t n) {
    return row_of(testing::random_tokens(seed, n, twin_->config().vocab_size));
  }
  Output run(const Tensor& tokens, const Tensor& documents, const ForwardOptions& options) {
    torch::NoGradGuard no_grad;
    return twin_->forward({tokens, documents, {}}, options);
  }

  std::optional<PlainScope> plain_;
  std::shared_ptr<Twin> twin_;
};

INSTANTIATE_TEST_SUITE_P(Forms, TwinLaws, ::testing::Bool());

TEST_P(TwinLaws, PackedDocumentsAreSeparateOnes) {
  const std::vector<std::vector<int64_t>> rows = {{137, 3, 1, 159}, {4, 140, 156}};
  std::vector<Tensor> tokens, documents;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<int64_t> first;
    for (const int64_t n : rows[i]) {
      const int64_t begin = static_cast<int64_t>(first.size());
      first.insert(first.end(), static_cast<size_t>(n), begin);
    }
    tokens.push_back(random_row(i + 1, 300));
    documents.push_back(torch::tensor(first, torch::kInt64).unsqueeze(0));
  }
  for (const bool sparse : {false, true}) {
    const ForwardOptions options{.sparse = sparse};
    const Output packed = run(torch::cat(tokens), torch::cat(documents), options);
    for (size_t i = 0; i < rows.size(); ++i) {
      int64_t begin = 0;
      for (const int64_t n : rows[i]) {
        SCOPED_TRACE(n);
        const Output alone = run(tokens[i].narrow(1, begin, n), {}, options);
        const int64_t row = static_cast<int64_t>(i);
        EXPECT_LE(worst_row(packed.logits[row].narrow(0, begin, n), alone.logits[0]), 1e-5);
        if (n > 1) {
          EXPECT_LE(worst_row(packed.mtp_logits[row].narrow(0, begin, n - 1), alone.mtp_logits[0]), 1e-5);
        }
        begin += n;
      }
    }
  }
}

TEST_P(TwinLaws, NoTokenSeesALaterOne) {
  const Tensor tokens = random_row(5, 270);
  for (const bool sparse : {false, true}) {
    const ForwardOptions options{.sparse = sparse};
    const Output before = run(tokens, {}, options);
    for (const int64_t p : {1, 3, 4, 7, 8, 31, 32, 127, 128, 131, 255, 256, 269}) {
      SCOPED_TRACE(p);
      Tensor changed = tokens.clone();
      changed[0][p] = (changed[0][p] + 1) % twin_->config().vocab_size;
      const Output after = run(changed, {}, options);
      // Experts are multiplied in groups whose sizes change, so equality is to rounding.
      EXPECT_LE(worst_row(after.logits[0].narrow(0, 0, p), before.logits[0].narrow(0, 0, p)), 2e-6);
      EXPECT_GT(worst_row(after.logits[0].narrow(0, p, 1), before.logits[0].narrow(0, p, 1)), 1e-3);
      if (p > 1) {
        EXPECT_LE(worst_row(after.mtp_logits[0].narrow(0, 0, p - 1), before.mtp_logits[0].narrow(0, 0, p - 1)), 2e-6);
      }
      EXPECT_GT(worst_row(after.mtp_logits[0].narrow(0, p - 1, 1), before.mtp_logits[0].narrow(0, p - 1, 1)), 1e-3);
    }
  }
}

// A block's entry reaches exactly the tokens from its last one on: beyond all windows, a change in
// block b is seen through the entry alone.
TEST_P(TwinLaws, EntriesReachBeyondTheWindows) {
  const Tensor tokens = random_row(6, 270);
  Tensor changed = tokens.clone();
  changed[0][0] = (changed[0][0] + 1) % twin_->config().vocab_size;
  const Output a = run(tokens, {}, {}), b = run(changed, {}, {});
  EXPECT_GT(worst_row(b.logits[0].narrow(0, 200, 70), a.logits[0].narrow(0, 200, 70)), 1e-4);
}

TEST_P(TwinLaws, SparseIsDenseWhileTheIndexerHasRoom) {
  const int64_t room = 4 * twin_->config().index_topk + 3;
  const Tensor tokens = random_row(7, 270);
  const Tensor dense = run(tokens, {}, {}).logits[0], sparse = run(tokens, {}, {.sparse = true}).logits[0];
  EXPECT_LE(worst_row(sparse.narrow(0, 0, room), dense.narrow(0, 0, room)), 2e-6);
  EXPECT_GT(worst_row(sparse.narrow(0, room, 270 - room), dense.narrow(0, room, 270 - room)), 1e-4);
}

TEST_P(TwinLaws, CountsLossesAndMetricsAreThere) {
  const Tensor tokens = random_row(8, 256).view({2, 128});
  const Output out = run(tokens, {}, {.indexer_loss = true});
  ASSERT_EQ(out.expert_counts.size(), 4u);  // three layers and the MTP block
  const int64_t k = twin_->config().n_activated_experts;
  EXPECT_EQ(out.expert_counts[0].sum().item<int64_t>(), 256 * k);
  EXPECT_EQ(out.expert_counts[3].sum().item<int64_t>(), 254 * k);
  EXPECT_GE(out.balance.item<double>(),
            2.9);  // 1 per score-routed layer when balanced; not below by much
  EXPECT_GT(out.indexer_kl.item<double>(), 0);
  for (const char* name :
       {"clamp_rate", "stream_rms", "sink_mass", "index_recall", "index_kl", "layers.1.index_recall"})
    EXPECT_TRUE(out.metrics.contains(name)) << name;
  EXPECT_GT(out.metrics.at("index_recall"), 0);
  EXPECT_LE(out.metrics.at("index_recall"), 1 + 1e-6);
}

TEST_P(TwinLaws, GradientsReachEveryWeightAndTheIndexerOnlyItsOwn) {
  const Tensor tokens = random_row(9, 260);
  const Output out = twin_->forward({tokens, {}, {}}, {.indexer_loss = true});
  const Tensor loss =
      torch::log_softmax(out.logits, 2).select(2, 1).mean() + torch::log_softmax(out.mtp_logits, 2).select(2, 1).mean();
  loss.backward({}, /*keep_graph=*/true);
  for (const auto& [name, weight] : twin_->weights()) {
    if (!weight.requires_grad()) continue;
    const bool has_gradient = weight.grad().defined() && weight.grad().abs().sum().item<double>() > 0;
    EXPECT_EQ(has_gradient, name.find("indexer") == std::string::npos) << name;
  }
  twin_->zero_grad();
  out.indexer_kl.backward();
  for (const auto& [name, weight] : twin_->weights()) {
    if (!weight.requires_grad()) continue;
    const bool has_gradient = weight.grad().defined() && weight.grad().abs().sum().item<double>() > 0;
    EXPECT_EQ(has_gradient, name.find("indexer") != std::string::npos) << name;
  }
}

TEST(Twin, ReleaseTensorsAreTheInventorysInOrder) {
  const auto twin = load_twin(fixture("micro"));
  ASSERT_TRUE(twin);
  const auto expected = checkpoint::expected_tensors(twin->config(), checkpoint::Draft::kMtp, 1);
  const auto tensors = twin->release_tensors();
  ASSERT_EQ(tensors.size(), expected.size());
  std::set<const void*> places;
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tensors[i].first, expected[i].name);
    EXPECT_EQ(tensors[i].second.sizes().vec(), expected[i].shape) << expected[i].name;
    EXPECT_TRUE(places.insert(tensors[i].second.data_ptr()).second) << expected[i].name;
  }
  int64_t n_parameters = 0, n_released = 0;
  for (const Tensor& parameter : twin->parameters()) n_parameters += parameter.numel();
  for (const Tensor& buffer : twin->buffers()) n_parameters += buffer.numel();
  for (const auto& [name, tensor] : tensors) n_released += tensor.numel();
  EXPECT_EQ(n_parameters, n_released);
}

}  // namespace
}  // namespace hadal::train
