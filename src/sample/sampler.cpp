#include "sample/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

namespace hadal::sample {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Log of the sum of e^logit, about the largest.
double log_sum_exp(std::span<const float> logits, float most) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - most);
  return most + std::log(sum);
}

}  // namespace

Status check(const Options& o) {
  const auto wrong = [](const char* name, const char* expected, double found) {
    return Error{Code::kInvalid, fmt::format("{}: expected {}, found {}", name, expected, found)};
  };
  if (!(o.temperature >= 0 && o.temperature <= 100)) return wrong("temperature", "0 to 100", o.temperature);
  if (!(o.top_p > 0 && o.top_p <= 1)) return wrong("top_p", "more than 0, at most 1", o.top_p);
  if (o.top_k < 0) return wrong("top_k", "0 or more", o.top_k);
  if (!(o.min_p >= 0 && o.min_p <= 1)) return wrong("min_p", "0 to 1", o.min_p);
  if (!(o.repetition_penalty > 0 && o.repetition_penalty <= 100))
    return wrong("repetition_penalty", "more than 0, at most 100", o.repetition_penalty);
  if (!(std::fabs(o.frequency_penalty) <= 100)) return wrong("frequency_penalty", "-100 to 100", o.frequency_penalty);
  if (!(std::fabs(o.presence_penalty) <= 100)) return wrong("presence_penalty", "-100 to 100", o.presence_penalty);
  return {};
}

double random_number(uint64_t seed, int64_t position) {
  const uint64_t bits = mix(mix(seed) ^ mix(static_cast<uint64_t>(position) * 0xD1342543DE82EF95u + 1));
  return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
}

void Sampler::see_prompt(std::span<const TokenId> tokens) {
  if (options_.repetition_penalty == 1) return;
  for (const TokenId token : tokens) ++in_prompt_[token];
}

Result<Choice> Sampler::pick(std::span<const float> logits, int64_t position, std::span<const uint64_t> allowed) {
  float most = -INFINITY;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i]))
      return Error{Code::kCorrupt, fmt::format("logits at position {}: expected finite numbers, found {} for token {} "
                                               "(damaged weights?)",
                                               position, logits[i], i)};
    most = std::max(most, logits[i]);
  }
  penalised_.assign(logits.begin(), logits.end());
  const float r = options_.repetition_penalty;
  if (r != 1) {
    const auto repeat = [&](TokenId token) {
      if (static_cast<size_t>(token) >= penalised_.size()) return;  // in the tokenizer, but not in the model
      float& logit = penalised_[static_cast<size_t>(token)];
      logit = std::clamp(logit > 0 ? logit / r : logit * r, -FLT_MAX, FLT_MAX);  // infinities would have no difference
    };
    for (const auto& [token, count] : in_prompt_) repeat(token);
    for (const auto& [token, count] : in_completion_)
      if (!in_prompt_.contains(token)) repeat(token);
  }
  for (const auto& [token, count] : in_completion_)
    penalised_[static_cast<size_t>(token)] -=
        static_cast<float>(count) * options_.frequency_penalty + options_.presence_penalty;
  if (!allowed.empty()) {
    bool any = false;
    for (size_t begin = 0; begin < penalised_.size(); begin += 64) {
      const uint64_t bits = begin / 64 < allowed.size() ? allowed[begin / 64] : 0;
      if (bits == ~uint64_t{0}) {
        any = true;
        continue;
      }
      for (size_t i = begin; i < std::min(begin + 64, penalised_.size()); ++i)
        if (bits >> (i - begin) & 1) {
          any = true;
        } else {
          penalised_[i] = -INFINITY;
        }
    }
    if (!any) return Error{Code::kUnsupported, fmt::format("no token is allowed at position {}", position)};
  }

  Choice choice;
  choice.token = draw(penalised_, position);
  ++in_completion_[choice.token];
  if (options_.n_logprobs >= 0) {
    const double total = log_sum_exp(logits, most);
    choice.logprob = static_cast<float>(logits[static_cast<size_t>(choice.token)] - total);
    std::vector<TokenId> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const size_t n = std::min(static_cast<size_t>(options_.n_logprobs), order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(n), order.end(), [&](TokenId a, TokenId b) {
      const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
      return la != lb ? la > lb : a < b;
    });
    for (size_t i = 0; i < n; ++i)
      choice.top.push_back({order[i], static_cast<float>(logits[static_cast<size_t>(order[i])] - total)});
  }
  return choice;
}

TokenId Sampler::draw(std::vector<float>& logits, int64_t position) const {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options_.temperature == 0) return static_cast<TokenId>(best - logits.begin());
  const float most = *best;
  const double inverse_temperature = 1.0 / options_.temperature;
  const auto probability = [&](size_t i) {
    return std::exp((static_cast<double>(logits[i]) - most) * inverse_temperature);
  };
  const double u = random_number(options_.seed, position);
  const auto draw_from = [&](const auto& weights, double total) {
    double left = u * total;
    size_t last = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (weights[i] <= 0) continue;
      last = i;
      left -= weights[i];
      if (left < 0) break;
    }
    return last;
  };

  std::vector<double> weights(logits.size());
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) total += weights[i] = probability(i);
  const size_t n = logits.size();
  const size_t top_k = options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), n) : n;
  if (top_k == n && options_.top_p >= 1 && options_.min_p <= 0) return static_cast<TokenId>(draw_from(weights, total));

  // The most likely first, sorted only as far as the filters reach.
  std::vector<TokenId> order(n);
  std::iota(order.begin(), order.end(), 0);
  const auto more_likely = [&](TokenId a, TokenId b) {
    const double wa = weights[static_cast<size_t>(a)], wb = weights[static_cast<size_t>(b)];
    return wa != wb ? wa > wb : a < b;
  };
  size_t sorted = 0;
  const auto sort_to = [&](size_t end) {
    if (end <= sorted) return;
    std::partial_sort(order.begin() + static_cast<ptrdiff_t>(sorted), order.begin() + static_cast<ptrdiff_t>(end),
                      order.end(), more_likely);
    sorted = end;
  };
  if (top_k < n) {
    sort_to(top_k);
    total = 0;
    for (size_t i = 0; i < top_k; ++i) total += weights[static_cast<size_t>(order[i])];
  }
  size_t kept = 0;
  double sum = 0;
  std::vector<double> kept_weights;
  while (kept < top_k && (kept == 0 || sum < options_.top_p * total)) {
    if (kept == sorted) sort_to(std::min(top_k, std::max<size_t>(64, 4 * sorted)));
    const double weight = weights[static_cast<size_t>(order[kept])];
    if (kept > 0 && weight < options_.min_p) break;  // the largest weight is 1
    kept_weights.push_back(weight);
    sum += weight;
    ++kept;
  }
  return order[draw_from(kept_weights, sum)];
}

}  // namespace hadal::sample
