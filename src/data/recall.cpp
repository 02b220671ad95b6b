#include "data/recall.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/rng.h"

namespace hadal::data {

Row Recall::row(uint64_t seed, uint64_t step, uint64_t row_index, int length) const {
  Rng random(combine(combine(seed, step), row_index));
  const auto unit = [&] { return static_cast<double>(random.next() >> 11) * 0x1p-53; };
  const RecallOptions& o = options_;
  Row row;
  const auto n = static_cast<size_t>(length);
  row.ids.resize(n);
  for (TokenId& id : row.ids) id = o.keys + o.values + random.range(0, o.fillers - 1);
  row.documents.assign(n, 0);
  row.weights.assign(n, o.other_weight);
  row.weights[n - 1] = 0;

  const int longest = o.max_distance > 0 ? std::min(o.max_distance, length - 4) : length - 6;
  if (longest < o.min_distance) return row;
  std::vector<int> keys(static_cast<size_t>(o.keys));
  std::iota(keys.begin(), keys.end(), 0);
  std::vector<bool> taken(n);
  const double low = std::log(o.min_distance), high = std::log(longest + 1);
  for (int fact = 0; fact < std::min(o.facts, o.keys); ++fact) {
    std::swap(keys[static_cast<size_t>(fact)], keys[static_cast<size_t>(fact + random.range(0, o.keys - fact - 1))]);
    const int value = o.keys + random.range(0, o.values - 1);
    constexpr int kTries = 8;
    for (int attempt = 0; attempt < kTries; ++attempt) {
      const int distance = std::min(longest, static_cast<int>(std::exp(low + unit() * (high - low))));
      const auto first = static_cast<size_t>(random.range(0, length - distance - 2));
      const size_t second = first + static_cast<size_t>(distance);
      if (taken[first] || taken[first + 1] || taken[second] || taken[second + 1]) continue;
      for (const size_t begin : {first, second}) {
        row.ids[begin] = keys[static_cast<size_t>(fact)];
        row.ids[begin + 1] = value;
        taken[begin] = taken[begin + 1] = true;
      }
      row.weights[second] = 1;
      row.answers.push_back({static_cast<int>(second), distance});
      break;
    }
  }
  return row;
}

Result<std::unique_ptr<Source>> Recall::open(const json::Value& description, const std::string& where) {
  RecallOptions options;
  for (const auto& member : description.as_object()) {
    const std::string& name = member.first;  // clang 14 lets no lambda capture a binding
    const json::Value& value = member.second;
    if (name == "kind") continue;
    const std::pair<const char*, int*> integers[] = {{"keys", &options.keys},
                                                     {"values", &options.values},
                                                     {"fillers", &options.fillers},
                                                     {"facts", &options.facts},
                                                     {"min_distance", &options.min_distance},
                                                     {"max_distance", &options.max_distance}};
    const auto found =
        std::find_if(std::begin(integers), std::end(integers), [&](const auto& i) { return name == i.first; });
    if (found != std::end(integers)) {
      const auto number = value.is_number() ? value.to_int64() : std::nullopt;
      const int least = name == "max_distance" ? 0 : name == "min_distance" ? 2 : 1;
      if (!number || *number < least || *number > 1 << 20)
        return Error{Code::kInvalid, fmt::format("{}: {}: expected an integer from {} to {}, found {}", where, name,
                                                 least, 1 << 20, json::dump(value))};
      *found->second = static_cast<int>(*number);
    } else if (name == "other_weight") {
      const auto number = value.to_double();
      if (!number || !(*number >= 0 && *number <= 1))
        return Error{Code::kInvalid, fmt::format("{}: other_weight: expected a number from 0 to 1, found {}", where,
                                                 json::dump(value))};
      options.other_weight = static_cast<float>(*number);
    } else {
      return Error{Code::kInvalid, fmt::format("{}: {}: no such key", where, name)};
    }
  }
  return std::unique_ptr<Source>(std::make_unique<Recall>(options));
}

void RecallScore::add(int distance, bool is_right) {
  const auto bucket = static_cast<size_t>(std::lower_bound(edges_.begin(), edges_.end(), distance) - edges_.begin());
  ++total_[bucket];
  right_[bucket] += is_right;
}

double RecallScore::accuracy(size_t bucket) const {
  return total_[bucket] ? static_cast<double>(right_[bucket]) / static_cast<double>(total_[bucket]) : 0;
}

double RecallScore::accuracy_beyond(int distance) const {
  int64_t right = 0, total = 0;
  for (size_t i = 1; i < total_.size(); ++i) {
    if (edges_[i - 1] < distance) continue;
    right += right_[i];
    total += total_[i];
  }
  return total ? static_cast<double>(right) / static_cast<double>(total) : 0;
}

std::string RecallScore::name(size_t bucket) const {
  if (edges_.empty()) return "all";
  if (bucket == edges_.size()) return fmt::format("> {}", edges_.back());
  return fmt::format("{}..{}", bucket ? edges_[bucket - 1] + 1 : 0, edges_[bucket]);
}

}  // namespace hadal::data
