// A tokenizer of bytes and V4's special tokens.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "text/tokenizer.h"
#include "text/tokenizer_json.h"

namespace hadal::testing {

inline const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::parse(json::dump(text::tokenizer_json({}, false)), "bytes").value();
  return kTokenizer;
}

inline std::optional<TokenId> letter(char c) {
  for (TokenId id = 0; id < tokenizer().size(); ++id)
    if (tokenizer().piece(id) == std::string_view(&c, 1)) return id;
  return std::nullopt;
}

}  // namespace hadal::testing
