// hadal verify: recomputes what a golden file holds and judges it by one rule for all files
// (docs/numerics.md, "Tolerances").

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "cli/commands.h"
#include "cli/golden.h"
#include "cli/model_option.h"
#include "cli/taps.h"
#include "model/transformer.h"
#include "tensor/formats.h"

namespace hadal::cli {
namespace {

using model::Transformer;

// The golden files hold no steps for `exact`: our own are compared with the prefill, on the prompt's beginning.
constexpr int64_t kExactPrompt = 200, kExactSteps = 40;

struct VerifyOptions {
  std::string model, golden, numerics = "both", isa = "auto";
  int64_t chunk = 0;  // 0: the whole prompt in one call
  int threads = 0;
  int batch = 1;
};

// |a - b|; infinite where one is not a number, so that no maximum and no quantile can lose it.
double distance(float a, float b) {
  const double d = std::fabs(static_cast<double>(a) - b);
  return std::isfinite(d) ? d : INFINITY;
}

// max|a-b| / max|b| of one row
double row_error(const float* a, const float* b, int64_t n) {
  double difference = 0, scale = 1e-30;
  for (int64_t i = 0; i < n; ++i) {
    difference = std::max(difference, distance(a[i], b[i]));
    if (std::isfinite(b[i])) scale = std::max(scale, std::fabs(static_cast<double>(b[i])));
  }
  return difference / scale;
}

int64_t argmax(const float* x, int64_t n) { return std::max_element(x, x + n) - x; }

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

// The distance of the two largest logits as a share of the row's largest magnitude.
double gap_share(const float* x, int64_t n) {
  float first = -INFINITY, second = -INFINITY, magnitude = 0;
  for (int64_t i = 0; i < n; ++i) {
    magnitude = std::max(magnitude, std::fabs(x[i]));
    if (x[i] > first) {
      second = first;
      first = x[i];
    } else {
      second = std::max(second, x[i]);
    }
  }
  return (first - second) / std::max(magnitude, 1e-30f);
}

class Report {
 public:
  void line(const std::string& name, bool ok, const std::string& text) {
    fmt::print("{:<32} {} {}\n", name, ok ? "ok  " : "FAIL", text);
    ++n_checks_;
    if (!ok) failed_.push_back(name);
  }

  struct Limits {
    double max = INFINITY, median = INFINITY, p95 = INFINITY;
    double argmax = 1;     // share of the rows with a clear winner that must agree
    double clear_gap = 0;  // a winner is clear from this gap_share on
  };
  void rows(const std::string& name, const std::vector<float>& got, const std::vector<float>& expected, int64_t width,
            const Limits& limits) {
    if (got.size() != expected.size() || width == 0) {
      line(name, false, fmt::format("expected {} values, computed {}", expected.size(), got.size()));
      return;
    }
    std::vector<double> errors;
    int64_t agree = 0, clear = 0, clear_agree = 0;
    const int64_t n = static_cast<int64_t>(got.size()) / width;
    if (n == 0) return line(name, false, "no rows to compare");
    for (int64_t i = 0; i < n; ++i) {
      const float* a = got.data() + i * width;
      const float* b = expected.data() + i * width;
      errors.push_back(row_error(a, b, width));
      const bool same = argmax(a, width) == argmax(b, width);
      agree += same;
      if (gap_share(b, width) > limits.clear_gap || limits.clear_gap == 0) {
        ++clear;
        clear_agree += same;
      }
    }
    const double max = *std::max_element(errors.begin(), errors.end());
    const double median = quantile(errors, 0.5), p95 = quantile(errors, 0.95);
    const bool ok = max <= limits.max && median <= limits.median && p95 <= limits.p95 &&
                    static_cast<double>(clear_agree) >= limits.argmax * static_cast<double>(clear);
    line(name, ok,
         fmt::format("rows {} median {:.1e} p95 {:.1e} max {:.1e} argmax {}/{}", n, median, p95, max, agree, n));
  }

  void bits(const std::string& name, const std::vector<float>& values) {
    uint64_t hash = 1469598103934665603u;
    for (const float value : values) hash = (hash ^ bits_of(value)) * 1099511628211u;
    fmt::print("{:<32} bits {:016x}\n", name, hash);
  }

  int finish() const {
    if (failed_.empty()) {
      fmt::print("verify: OK {} checks\n", n_checks_);
      return 0;
    }
    fmt::print("verify: FAIL {} of {} checks: {}\n", failed_.size(), n_checks_, fmt::join(failed_, ", "));
    return 1;
  }

 private:
  int n_checks_ = 0;
  std::vector<std::string> failed_;
};

// The sequence under test among `batch` - 1 companions that differ in tokens, length and phase.
class Runner {
 public:
  Runner(Transformer& model, const VerifyOptions& options, std::span<const TokenId> tokens)
      : model_(model), chunk_(options.chunk), tokens_(tokens), state_(model.new_sequence()) {
    for (int i = 1; i < options.batch; ++i) companions_.push_back({model.new_sequence(), i});
  }

  // Feeds the next `n` tokens, in chunks; appends logits (and MTP logits) of all of them.
  Status feed(std::span<const TokenId> tokens, std::vector<float>& logits, std::vector<float>* mtp_logits = nullptr) {
    const int64_t chunk = chunk_ > 0 ? chunk_ : static_cast<int64_t>(tokens.size());
    for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(chunk)) {
      const auto piece = tokens.subspan(begin, std::min(static_cast<size_t>(chunk), tokens.size() - begin));
      HADAL_TRY(feed_piece(piece, logits, mtp_logits));
    }
    return {};
  }

  kv::SequenceState& state() { return state_; }

 private:
  struct Companion {
    kv::SequenceState state;
    int index;
  };

  Status feed_piece(std::span<const TokenId> piece, std::vector<float>& logits, std::vector<float>* mtp_logits) {
    const int64_t position = state_.length(), n = static_cast<int64_t>(piece.size());
    std::vector<std::vector<TokenId>> companion_tokens;
    std::vector<model::Sequence> batch;
    for (Companion& companion : companions_) {
      // Other tokens (the prompt from another place, another stride), other lengths, started later.
      const int64_t skip = 3 * companion.index + companion.state.length() * 7;
      std::vector<TokenId> tokens;
      if (position > 0 || companion.index % 2 == 0)
        for (int64_t i = 0; i < 1 + (n + companion.index) % 5; ++i)
          tokens.push_back(tokens_[static_cast<size_t>((skip + i) % static_cast<int64_t>(tokens_.size()))]);
      companion_tokens.push_back(std::move(tokens));
    }
    size_t mine = companions_.size() / 2;
    for (size_t i = 0; i <= companions_.size(); ++i) {
      if (i == mine) batch.push_back({&state_, piece, n});
      if (i < companions_.size()) batch.push_back({&companions_[i].state, companion_tokens[i], 1});
    }
    std::vector<float> out, streams;
    HADAL_TRY(model_.forward(batch, out, mtp_logits ? &streams : nullptr));
    const int64_t vocab = model_.config().vocab_size;
    int64_t before = 0;
    for (size_t i = 0; i < mine; ++i) before += companion_tokens[i].empty() ? 0 : 1;
    logits.insert(logits.end(), out.begin() + before * vocab, out.begin() + (before + n) * vocab);
    if (!mtp_logits) return {};
    // Rows whose next token is known: all but the prompt's last. A companion's rows meet its tokens
    // as they are.
    const int64_t n_mtp = std::min<int64_t>(n, static_cast<int64_t>(tokens_.size()) - 1 - position);
    if (n_mtp <= 0) return {};
    const int64_t width = static_cast<int64_t>(model_.config().hc_mult) * model_.config().dim;
    std::vector<model::MtpSequence> mtp;
    const float* rows = streams.data();
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto next =
          i == mine ? tokens_.subspan(static_cast<size_t>(position) + 1, static_cast<size_t>(n_mtp)) : batch[i].tokens;
      mtp.push_back({batch[i].state, rows, next, i == mine ? n_mtp : 1});
      rows += static_cast<int64_t>(batch[i].tokens.size()) * width;
    }
    std::vector<float> mtp_out;
    HADAL_TRY(model_.mtp(mtp, mtp_out));
    mtp_logits->insert(mtp_logits->end(), mtp_out.begin() + before * vocab, mtp_out.begin() + (before + n_mtp) * vocab);
    return {};
  }

  Transformer& model_;
  int64_t chunk_;
  std::span<const TokenId> tokens_;
  kv::SequenceState state_;
  std::vector<Companion> companions_;
};

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) { return bits_of(x) == bits_of(y); });
}

// The prompt, or its beginning, once more: the first `start` tokens, then one token at a time. `steps`: logits
// from position start - 1 on. They and the MTP logits must have the bits of the prefill.
Status run_steps(Transformer& model, const VerifyOptions& options, std::span<const TokenId> tokens, int64_t start,
                 const std::vector<float>& prefill, const std::vector<float>& prefill_mtp, const std::string& numerics,
                 std::vector<float>& steps, Report& report) {
  const size_t first = static_cast<size_t>(start), vocab = static_cast<size_t>(model.config().vocab_size);
  const bool with_mtp = !prefill_mtp.empty();
  Runner stepper(model, options, tokens);
  std::vector<float> all, mtp;
  HADAL_TRY(stepper.feed(tokens.first(first), all, with_mtp ? &mtp : nullptr));
  for (size_t i = first; i < tokens.size(); ++i)
    HADAL_TRY(stepper.feed(tokens.subspan(i, 1), all, with_mtp ? &mtp : nullptr));
  const bool same = all.size() <= prefill.size() && same_bits(all, std::span(prefill).first(all.size()));
  report.line(numerics + " prefill = steps", same, same ? "bit for bit" : "bits differ");
  if (with_mtp) {
    const bool same_mtp = mtp.size() <= prefill_mtp.size() && same_bits(mtp, std::span(prefill_mtp).first(mtp.size()));
    report.line(numerics + " MTP prefill = steps", same_mtp, same_mtp ? "bit for bit" : "bits differ");
  }
  steps.assign(all.begin() + static_cast<ptrdiff_t>((first - 1) * vocab), all.end());
  return {};
}

std::vector<float> pick_rows(const std::vector<float>& all, const std::vector<int64_t>& rows, int64_t width) {
  std::vector<float> picked;
  for (const int64_t row : rows)
    picked.insert(picked.end(), all.begin() + row * width, all.begin() + (row + 1) * width);
  return picked;
}

// Greedy continuation, compared up to the first step whose gap in the golden file is below `least_gap`.
Status check_greedy(Transformer& model, Runner& runner, const Golden& golden, const std::string& numerics,
                    const float* last_logits, double least_gap, Report& report) {
  const std::string name = numerics + ".greedy";
  if (!golden.has(name)) return {};
  const auto expected = golden.integers(name);
  const auto gaps = golden.floats(name + "_gap");
  const int64_t vocab = model.config().vocab_size;
  std::vector<float> logits(last_logits, last_logits + vocab);
  size_t compared = 0;
  bool equal = true;
  for (; compared < expected.size() && gaps[compared] >= least_gap; ++compared) {
    const TokenId token = static_cast<TokenId>(argmax(logits.data(), vocab));
    if (token != expected[compared]) {
      equal = false;
      break;
    }
    logits.clear();
    HADAL_TRY(runner.feed({&token, 1}, logits));
  }
  report.line(name, equal,
              fmt::format("{} of {} tokens{}", compared, expected.size(),
                          equal ? " equal" : fmt::format(", token {} differs", compared)));
  return {};
}

Status verify_exact(Transformer& model, const VerifyOptions& options, const Golden& golden, Report& report) {
  const auto tokens = golden.tokens();
  const int64_t vocab = model.config().vocab_size;
  // Where the epsilons of the norms are large enough to be seen, twice as sharp.
  const Report::Limits limits{.max = model.config().norm_eps >= 1e-5f ? 5e-6 : 1e-5};
  Runner runner(model, options, tokens);
  std::vector<float> logits, mtp;
  const bool with_mtp = golden.has("exact.mtp_logits");
  HADAL_TRY(runner.feed(tokens, logits, with_mtp ? &mtp : nullptr));
  report.bits("exact.logits", logits);
  report.rows("exact.logits", pick_rows(logits, golden.integers("exact.rows"), vocab), golden.floats("exact.logits"),
              vocab, limits);
  if (with_mtp)
    report.rows("exact.mtp_logits", pick_rows(mtp, golden.integers("mtp_rows"), vocab),
                golden.floats("exact.mtp_logits"), vocab, limits);
  HADAL_TRY(check_greedy(model, runner, golden, "exact", logits.data() + logits.size() - static_cast<size_t>(vocab), 0,
                         report));
  std::vector<float> steps;
  const auto beginning = std::span<const TokenId>(tokens).first(std::min<size_t>(tokens.size(), kExactPrompt));
  return run_steps(model, options, beginning, std::max<int64_t>(1, std::ssize(beginning) - kExactSteps), logits, mtp,
                   "exact", steps, report);
}

Status verify_faithful(Transformer& model, const VerifyOptions& options, const Golden& golden, Report& report) {
  const auto tokens = golden.tokens();
  const int64_t vocab = model.config().vocab_size;
  const double median = golden.stat("faithful.f32_vs_f64", "median"), p95 = golden.stat("faithful.f32_vs_f64", "p95");
  // The quantile is judged over prefill and steps together: of the few step rows alone it is the second worst.
  const Report::Limits together{
      .median = std::max(0.02, 2 * median), .p95 = std::max(0.05, 2 * p95), .argmax = 0.99, .clear_gap = 0.1};
  const Report::Limits limits{.median = together.median, .argmax = 0.99, .clear_gap = 0.1};
  Runner runner(model, options, tokens);
  std::vector<float> prefill, mtp;
  const bool with_mtp = golden.has("faithful.mtp_logits");
  HADAL_TRY(runner.feed(tokens, prefill, with_mtp ? &mtp : nullptr));
  report.bits("faithful.logits", prefill);
  report.rows("faithful.prefill_logits", pick_rows(prefill, golden.integers("rows"), vocab),
              golden.floats("faithful.prefill_logits"), vocab, limits);
  if (with_mtp)
    report.rows("faithful.mtp_logits", pick_rows(mtp, golden.integers("mtp_rows"), vocab),
                golden.floats("faithful.mtp_logits"), vocab, {.median = 0.1, .argmax = 0});
  HADAL_TRY(check_greedy(model, runner, golden, "faithful",
                         prefill.data() + prefill.size() - static_cast<size_t>(vocab), 0.3, report));

  std::vector<float> steps;
  HADAL_TRY(run_steps(model, options, tokens, golden.integers("faithful.decode_start")[0], prefill, mtp, "faithful",
                      steps, report));
  report.rows("faithful.decode_logits", steps, golden.floats("faithful.decode_logits"), vocab, limits);
  std::vector<float> got = pick_rows(prefill, golden.integers("rows"), vocab);
  std::vector<float> expected = golden.floats("faithful.prefill_logits");
  const auto expected_steps = golden.floats("faithful.decode_logits");
  got.insert(got.end(), steps.begin(), steps.end());
  expected.insert(expected.end(), expected_steps.begin(), expected_steps.end());
  report.rows("faithful prefill and steps", got, expected, vocab, together);
  return {};
}

// Modules fed with the golden inputs of their layer: no flip of an earlier layer can reach them.

double share_of_equal_rows(const std::vector<float>& a, const std::vector<float>& b, int64_t width) {
  if (a.size() != b.size() || a.empty()) return 0;
  int64_t equal = 0;
  const int64_t n = static_cast<int64_t>(a.size()) / width;
  for (int64_t i = 0; i < n; ++i)
    equal += std::equal(a.begin() + i * width, a.begin() + (i + 1) * width, b.begin() + i * width);
  return static_cast<double>(equal) / static_cast<double>(n);
}

double share_of_equal_sets(const std::vector<int32_t>& a, int64_t a_width, const std::vector<int64_t>& b,
                           int64_t b_width) {
  const int64_t n = static_cast<int64_t>(b.size()) / b_width;
  if (static_cast<int64_t>(a.size()) != n * a_width || n == 0) return 0;
  int64_t equal = 0;
  for (int64_t i = 0; i < n; ++i) {
    std::multiset<int64_t> x(a.begin() + i * a_width, a.begin() + (i + 1) * a_width);
    std::multiset<int64_t> y(b.begin() + i * b_width, b.begin() + (i + 1) * b_width);
    x.erase(-1);
    y.erase(-1);
    equal += x == y;
  }
  return static_cast<double>(equal) / static_cast<double>(n);
}

struct ModuleTest {
  Transformer& model;
  const Golden& golden;
  const VerifyOptions& options;
  Report& report;
  TapCollector taps;

  const TapCollector::Tap* tap(const std::string& name) const {
    const auto it = taps.taps().find(name);
    return it == taps.taps().end() ? nullptr : &it->second;
  }

  // body(rows, number of the first) for all rows of x in pieces of --chunk.
  template <class Body>
  Status in_chunks(std::span<const float> x, const Body& body) const {
    const int64_t d = model.config().dim, t = std::ssize(x) / d, chunk = options.chunk > 0 ? options.chunk : t;
    for (int64_t first = 0; first < t; first += chunk)
      HADAL_TRY(
          body(x.subspan(static_cast<size_t>(first * d), static_cast<size_t>(std::min(chunk, t - first) * d)), first));
    return {};
  }

  void share(const std::string& name, double share, double least) {
    report.line(name, share >= least,
                fmt::format("{:.2f} % of the rows equal, at least {:.0f} %", 100 * share, 100 * least));
  }

  Status attention(int layer, const std::string& prefix) {
    const auto x = golden.floats("tap." + prefix + "attn_in"), expected = golden.floats("tap." + prefix + "attn_out");
    const int64_t d = model.config().dim;
    kv::SequenceState state = model.new_sequence();
    std::vector<float> got, piece;
    taps.clear();
    const Status fed = in_chunks(x, [&](std::span<const float> rows, int64_t) -> Status {
      HADAL_TRY(model.attention_only(layer, state, rows, piece));
      const int64_t n = std::ssize(rows) / d;
      layer < model.config().n_layers ? state.advance(n) : state.advance_draft(n);
      got.insert(got.end(), piece.begin(), piece.end());
      return {};
    });
    HADAL_TRY(fed);
    double difference = 0, scale = 0, square = 0, reference = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double e = distance(got[i], expected[i]);
      difference = std::max(difference, e);
      scale = std::max(scale, std::fabs(static_cast<double>(expected[i])));
      square += e * e;
      reference += static_cast<double>(expected[i]) * expected[i];
    }
    const double max = difference / scale, rms = std::sqrt(square / reference);
    report.line(prefix + "attn_out", max <= 2e-2 && rms <= 1e-2,
                fmt::format("max {:.1e} rms {:.1e}, {:.1f} % of the rows equal", max, rms,
                            100 * share_of_equal_rows(got, expected, d)));
    if (golden.has("tap." + prefix + "entries"))
      share(prefix + "entries",
            share_of_equal_rows(tap(prefix + "entries")->floats, golden.floats("tap." + prefix + "entries"),
                                model.config().head_dim),
            0.99);
    if (golden.has("tap." + prefix + "index_sel"))
      share(prefix + "index_sel",
            share_of_equal_sets(tap(prefix + "index_sel")->ints, model.config().index_topk,
                                golden.integers("tap." + prefix + "index_sel"),
                                golden.shape("tap." + prefix + "index_sel")[1]),
            0.99);
    return {};
  }

  Status moe(int layer, const std::string& prefix) {
    const auto x = golden.floats("tap." + prefix + "ffn_in"), expected = golden.floats("tap." + prefix + "ffn_out");
    auto tokens = golden.tokens();
    if (layer >= model.config().n_layers) tokens.erase(tokens.begin());  // MTP row i has token i + 1
    tokens.resize(x.size() / static_cast<size_t>(model.config().dim));
    std::vector<float> got, piece;
    taps.clear();
    const Status fed = in_chunks(x, [&](std::span<const float> rows, int64_t first) -> Status {
      const size_t n = rows.size() / static_cast<size_t>(model.config().dim);
      HADAL_TRY(model.moe_only(layer, std::span(tokens).subspan(static_cast<size_t>(first), n), rows, piece));
      got.insert(got.end(), piece.begin(), piece.end());
      return {};
    });
    HADAL_TRY(fed);
    share(prefix + "ffn_out", share_of_equal_rows(got, expected, model.config().dim), 0.98);
    const int64_t k = model.config().n_activated_experts;
    share(prefix + "route_sel",
          share_of_equal_sets(tap(prefix + "route_sel")->ints, k, golden.integers("tap." + prefix + "route_sel"), k),
          0.99);
    // Weights of the rows whose experts agree in order.
    const auto weights = golden.floats("tap." + prefix + "route_w");
    const auto chosen = golden.integers("tap." + prefix + "route_sel");
    double worst = 0;
    for (size_t i = 0; i < weights.size(); ++i)
      if (tap(prefix + "route_sel")->ints[i] == chosen[i])
        worst = std::max(worst, distance(tap(prefix + "route_w")->floats[i], weights[i]) / weights[i]);
    report.line(prefix + "route_w", worst <= 1e-6, fmt::format("max {:.1e}", worst));
    return {};
  }

  Status run() {
    model.set_probe(&taps);
    const int n_blocks = model.config().n_layers + model.config().n_mtp_layers;
    for (int layer = 0; layer < n_blocks; ++layer) {
      const std::string prefix = layer < model.config().n_layers
                                     ? fmt::format("layers.{}.", layer)
                                     : fmt::format("mtp.{}.", layer - model.config().n_layers);
      const bool is_draft = layer >= model.config().n_layers;
      const std::string tap = "tap." + prefix;
      const int64_t t = golden.shape("tokens")[0] - is_draft, d = model.config().dim;
      if (golden.has(tap + "attn_in") && golden.has(tap + "attn_out")) {
        for (const char* name : {"attn_in", "attn_out"}) HADAL_TRY(golden.expect(tap + name, false, {t, d}));
        const int ratio = model.layout()->ratio(layer);
        if (golden.has(tap + "entries"))
          HADAL_TRY(golden.expect(tap + "entries", false, {ratio == 0 ? 0 : t / ratio, model.config().head_dim}));
        if (golden.has(tap + "index_sel"))
          HADAL_TRY(golden.expect(tap + "index_sel", true,
                                  {t, ratio == 4 ? std::min<int64_t>(model.config().index_topk, t / 4) : 0}));
        HADAL_TRY(attention(layer, prefix));
      }
      if (golden.has(tap + "ffn_in") && golden.has(tap + "ffn_out") && golden.has(tap + "route_sel") &&
          golden.has(tap + "route_w")) {
        for (const char* name : {"ffn_in", "ffn_out"}) HADAL_TRY(golden.expect(tap + name, false, {t, d}));
        HADAL_TRY(golden.expect(tap + "route_sel", true, {t, model.config().n_activated_experts}));
        HADAL_TRY(golden.expect(tap + "route_w", false, {t, model.config().n_activated_experts}));
        HADAL_TRY(moe(layer, prefix));
      }
    }
    model.set_probe(nullptr);
    return {};
  }
};

// Everything that will be read of the golden file has the shape that this model and the prompt
// imply.
Status check_shapes(const Golden& golden, const checkpoint::ModelConfig& config) {
  const int64_t t = golden.shape("tokens")[0], vocab = config.vocab_size;
  // The rows named by `rows` (positions below `end`) are in `values`.
  const auto rows_of = [&](const std::string& rows, int64_t end, const std::string& values) -> Status {
    const int64_t n = golden.has(rows) && !golden.shape(rows).empty() ? golden.shape(rows)[0] : 0;
    HADAL_TRY(golden.expect(rows, true, {n}));
    HADAL_TRY(golden.expect(values, false, {n, vocab}));
    for (const int64_t row : golden.integers(rows))
      if (row < 0 || row >= end)
        return Error{Code::kCorrupt,
                     fmt::format("golden {}: expected positions from 0 to {}, found {}", rows, end - 1, row)};
    return {};
  };
  for (const std::string numerics : {"exact", "faithful"}) {
    const bool exact = numerics == "exact";
    const std::string logits = exact ? "exact.logits" : "faithful.prefill_logits";
    if (!golden.has(logits)) continue;
    HADAL_TRY(rows_of(exact ? "exact.rows" : "rows", t, logits));
    if (golden.has(numerics + ".mtp_logits")) HADAL_TRY(rows_of("mtp_rows", t - 1, numerics + ".mtp_logits"));
    if (golden.has(numerics + ".greedy")) {
      const auto& shape = golden.shape(numerics + ".greedy");
      const int64_t n = shape.empty() ? 0 : shape[0];
      HADAL_TRY(golden.expect(numerics + ".greedy", true, {n}));
      HADAL_TRY(golden.expect(numerics + ".greedy_gap", false, {n}));
    }
    if (exact) continue;
    HADAL_TRY(golden.expect("faithful.decode_start", true, {1}));
    const int64_t start = golden.integers("faithful.decode_start")[0];
    if (start < 1 || start > t)
      return Error{Code::kCorrupt, fmt::format("golden faithful.decode_start: expected 1 to {}, found {}", t, start)};
    HADAL_TRY(golden.expect("faithful.decode_logits", false, {t - start + 1, vocab}));
  }
  return {};
}

Result<int> verify(const VerifyOptions& options) {
  const kernels::Isa* isa = kernels::find_isa(options.isa);
  if (!isa)
    return Error{Code::kUnsupported, fmt::format("--isa {}: not an instruction set of this machine", options.isa)};
  const auto golden = HADAL_TRY(Golden::open(options.golden));
  const auto checkpoint = HADAL_TRY(checkpoint::Checkpoint::open(options.model));
  HADAL_TRY(check_shapes(golden, checkpoint.config()));
  ThreadPool pool(options.threads > 0 ? options.threads : ThreadPool::default_threads());
  fmt::print("isa {}, {} threads, chunk {}, batch {}\n", isa->name, pool.size(),
             options.chunk ? std::to_string(options.chunk) : "all", options.batch);
  Report report;
  bool any = false;
  for (const auto& [name, numerics] :
       {std::pair{"exact", Numerics::kExact}, std::pair{"faithful", Numerics::kFaithful}}) {
    if (options.numerics != "both" && options.numerics != name) continue;
    const bool exact = numerics == Numerics::kExact;
    if (!golden.has(exact ? "exact.logits" : "faithful.prefill_logits")) continue;
    any = true;
    auto model = HADAL_TRY(Transformer::bind(checkpoint, numerics, *isa, pool));
    if (exact) {
      HADAL_TRY(verify_exact(model, options, golden, report));
    } else {
      HADAL_TRY(verify_faithful(model, options, golden, report));
      HADAL_TRY((ModuleTest{model, golden, options, report, {}}.run()));
    }
  }
  if (!any)
    return Error{Code::kNotFound,
                 fmt::format("{}: holds no values for --numerics {}", options.golden, options.numerics)};
  return report.finish();
}

}  // namespace

void add_verify(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("verify", "Recompute what a golden file holds and compare");
  auto options = std::make_shared<VerifyOptions>();
  add_model_option(*command, options->model);
  command->add_option("--golden", options->golden, "golden file (.safetensors)")->required();
  command->add_option("--numerics", options->numerics, "exact, faithful or both")
      ->check(CLI::IsMember({"exact", "faithful", "both"}))
      ->capture_default_str();
  command->add_option("--chunk", options->chunk, "tokens per call (0: all at once)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--threads", options->threads, "threads (0: one per core)")->check(CLI::Range(0, 1024));
  command->add_option("--batch", options->batch, "sequences side by side")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--isa", options->isa, "reference, avx2, avx512 or auto")
      ->check(CLI::IsMember({"reference", "avx2", "avx512", "auto"}))
      ->capture_default_str();
  command->callback([options, &exit_status] {
    const auto result = verify(*options);
    if (result.ok()) {
      exit_status = result.value();
      return;
    }
    fmt::print(stderr, "hadal: {}\n", result.error().message);
    fmt::print("verify: FAIL {}\n", result.error().message);
    exit_status = 1;
  });
}

}  // namespace hadal::cli
