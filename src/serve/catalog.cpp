#include "serve/catalog.h"

#include <algorithm>
#include <cctype>

namespace hadal::serve {
namespace {

struct Alias {
  std::string_view name;  // a trailing * stands for any end
  bool thinks = true;
  std::string_view retired{};
};
constexpr Alias kAliases[] = {
    {"deepseek-v4-flash"},
    {"deepseek-flash"},
    {"deepseek-v4-pro"},
    {"deepseek-pro"},
    {"deepseek-chat", false, "2026-07-24"},
    {"deepseek-reasoner", true, "2026-07-24"},
    {"claude*"},
};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

// "name[1m]", "name-20260731": the window and the date are no part of the name.
std::string_view without_suffix(std::string_view name) {
  constexpr std::string_view kWindow = "[1m]";
  if (name.ends_with(kWindow)) name.remove_suffix(kWindow.size());
  constexpr size_t kDate = 9;
  if (name.size() > kDate && name[name.size() - kDate] == '-' &&
      std::all_of(name.end() - (kDate - 1), name.end(), [](unsigned char c) { return std::isdigit(c); }))
    name.remove_suffix(kDate);
  return name;
}

}  // namespace

std::optional<ModelName> find_model(std::string_view asked, std::string_view own, bool any, bool strict) {
  constexpr size_t kLongest = 256;  // the name is echoed in every chunk
  if (asked.size() > kLongest) return std::nullopt;
  if (lower(asked) == lower(own)) return ModelName{std::string(asked)};
  const std::string name(without_suffix(asked)), low = lower(name);
  if (low == lower(own)) return ModelName{name};
  for (const Alias& alias : kAliases) {
    const bool matches =
        alias.name.ends_with('*') ? low.starts_with(alias.name.substr(0, alias.name.size() - 1)) : low == alias.name;
    if (!matches) continue;
    if (strict && !alias.retired.empty()) return std::nullopt;
    return ModelName{name, alias.thinks, alias.retired};
  }
  if (any && !asked.empty()) return ModelName{name};
  return std::nullopt;
}

}  // namespace hadal::serve
