#include "model/step.h"

#include <fmt/format.h>

namespace hadal::model {
namespace {

std::string tap_name(const Step& step, int layer, const char* name) {
  return layer < step.config.n_layers ? fmt::format("layers.{}.{}", layer, name)
                                      : fmt::format("mtp.{}.{}", layer - step.config.n_layers, name);
}

}  // namespace

void Step::prepare_angles() {
  const int64_t pairs = config.rope_head_dim / 2;
  for (const bool compressed : {false, true}) {
    float* cosines = work.cos[compressed].take(n_rows() * pairs);
    float* sines = work.sin[compressed].take(n_rows() * pairs);
    each_row([&](int64_t i) { rope[compressed].angles(row(i).position, cosines + i * pairs, sines + i * pairs); });
  }
}

void Step::tap(int layer, const char* name, std::initializer_list<int64_t> shape, const float* values) const {
  if (probe) probe->floats(tap_name(*this, layer, name), {shape.begin(), shape.size()}, values);
}

void Step::tap(int layer, const char* name, std::initializer_list<int64_t> shape, const int32_t* values) const {
  if (probe) probe->ints(tap_name(*this, layer, name), {shape.begin(), shape.size()}, values);
}

}  // namespace hadal::model
