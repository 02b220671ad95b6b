// Associative recall at a distance, the smallest task that tells compressed attention from a window
// (training report L.1, "mixed"): random fillers, in which facts "key value" are written once and
// again `distance` tokens later. The second value is the answer: only the first writing tells it.
//
// Ids: keys 0 .. keys - 1, then values, then fillers. Distances are log-uniform from min_distance
// to what the row has room for (or max_distance), positions uniform, keys distinct within a
// document. Answers weigh 1 in the loss, everything else, being random, other_weight.
#pragma once

#include "data/source.h"

namespace hadal::data {

struct RecallOptions {
  int keys = 64, values = 64, fillers = 64;
  int facts = 20;                          // tried; those that find no place are left out
  int min_distance = 3, max_distance = 0;  // 0: the document's length - 6
  float other_weight = 0.1F;
};

class Recall final : public Source {
 public:
  explicit Recall(const RecallOptions& options) : options_(options) {}
  static Result<std::unique_ptr<Source>> open(const json::Value& description, const std::string& where);
  Row row(uint64_t seed, uint64_t step, uint64_t row, int length) const override;  // one document
  int vocabulary() const override { return options_.keys + options_.values + options_.fillers; }
  const RecallOptions& options() const { return options_; }

 private:
  RecallOptions options_;
};

// Right answers by distance. Bucket i holds distances up to edges[i], the last all beyond.
class RecallScore {
 public:
  explicit RecallScore(std::vector<int> edges)
      : edges_(std::move(edges)), right_(edges_.size() + 1), total_(edges_.size() + 1) {}
  void add(int distance, bool is_right);
  size_t n_buckets() const { return total_.size(); }
  int64_t total(size_t bucket) const { return total_[bucket]; }
  double accuracy(size_t bucket) const;        // 0 where nothing was asked
  double accuracy_beyond(int distance) const;  // over the buckets that begin at or after `distance`
  std::string name(size_t bucket) const;       // "16..30", "> 86"

 private:
  std::vector<int> edges_;
  std::vector<int64_t> right_, total_;
};

}  // namespace hadal::data
