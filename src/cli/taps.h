// Collects the taps of forward passes (model/step.h), call after call, and writes them as a safetensors file
// with the golden files' names: tap.layers.3.attn_in and so on.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/step.h"
#include "model/transformer.h"

namespace hadal::cli {

class TapCollector : public model::Probe {
 public:
  struct Tap {
    std::vector<int64_t> shape;  // first extent: rows so far
    std::vector<float> floats;
    std::vector<int32_t> ints;
  };

  void floats(const std::string& name, std::span<const int64_t> shape, const float* values) override {
    Tap& tap = grow(name, shape);
    tap.floats.insert(tap.floats.end(), values, values + count(shape));
  }
  void ints(const std::string& name, std::span<const int64_t> shape, const int32_t* values) override {
    Tap& tap = grow(name, shape);
    tap.ints.insert(tap.ints.end(), values, values + count(shape));
  }

  // Runs a text through the model, and through its MTP block where it has one (position i with token i + 1).
  Status record(model::Transformer& transformer, std::span<const TokenId> tokens);

  const std::map<std::string, Tap>& taps() const { return taps_; }
  void clear() { taps_.clear(); }
  Status write(const std::string& path) const;

 private:
  static int64_t count(std::span<const int64_t> shape) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
  Tap& grow(const std::string& name, std::span<const int64_t> shape) {
    Tap& tap = taps_[name];
    if (tap.shape.empty()) {
      tap.shape.assign(shape.begin(), shape.end());
    } else {
      tap.shape[0] += shape[0];
    }
    return tap;
  }

  std::map<std::string, Tap> taps_;
};

}  // namespace hadal::cli
