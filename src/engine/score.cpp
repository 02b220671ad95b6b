#include "engine/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace hadal::engine {

Result<std::vector<Scored>> score(Engine& engine, std::span<const TokenId> tokens, int64_t chunk) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  const size_t vocab = static_cast<size_t>(engine.config().vocab_size);
  std::vector<Scored> scored;
  kv::SequenceState state = engine.transformer().new_sequence();
  std::vector<float> logits;
  for (int64_t begin = 0; begin + 1 < n; begin += chunk) {
    const int64_t rows = std::min(chunk, n - 1 - begin);  // the last token predicts nothing that is known
    const model::Sequence sequence{&state, tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)), rows};
    HADAL_TRY(engine.transformer().forward({&sequence, 1}, logits));
    for (int64_t i = 0; i < rows; ++i) {
      const std::span<const float> row = std::span(logits).subspan(static_cast<size_t>(i) * vocab, vocab);
      const float max = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (const float logit : row) sum += std::exp(static_cast<double>(logit) - max);
      if (!std::isfinite(sum))
        return Error{Code::kCorrupt,
                     fmt::format("logits at position {}: expected finite values, found others", begin + i)};
      const float own = row[static_cast<size_t>(tokens[static_cast<size_t>(begin + i + 1)])];
      scored.push_back({static_cast<double>(own) - max - std::log(sum), own == max});
    }
  }
  return scored;
}

}  // namespace hadal::engine
