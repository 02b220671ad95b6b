// The names that a server answers to (api.md 1.5): its own, and those that clients of the DeepSeek API use.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hadal::serve {

struct ModelName {
  std::string name;            // as asked for, without "[1m]" or a date
  bool thinks = true;          // unless the request says otherwise
  std::string_view retired{};  // the day from which the original service refuses it; empty: it does not
};

// nullopt: no such model. own: the id of the model that is served. any: every name is one.
std::optional<ModelName> find_model(std::string_view asked, std::string_view own, bool any, bool strict);

}  // namespace hadal::serve
