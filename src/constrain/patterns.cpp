#include "constrain/patterns.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

namespace hadal::constrain {
namespace {

constexpr std::string_view kDayTime =
    "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9])(\\.[0-9]{1,9})?"
    "(Z|z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
constexpr std::string_view kDate =
    "([0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)|"
    "[0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8])|"
    "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";
constexpr std::string_view kByte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

}  // namespace

std::optional<std::string> format_pattern(std::string_view name) {
  const std::string label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
  const std::string host = fmt::format("{}(\\.{}){{0,8}}", label, label);
  const std::string v4 = fmt::format("{0}\\.{0}\\.{0}\\.{0}", kByte);
  std::string body;
  if (name == "email") {
    const std::string atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
    body = fmt::format("{}(\\.{})*@{}", atom, atom, host);
  } else if (name == "hostname") {
    body = host;
  } else if (name == "ipv4") {
    body = v4;
  } else if (name == "ipv6") {
    const std::string h = "[0-9A-Fa-f]{1,4}";
    const std::string last = fmt::format("({}:{}|{})", h, h, v4);
    std::string all = fmt::format("({0}:){{6}}{1}|::({0}:){{5}}{1}", h, last);
    for (int before = 1; before <= 5; ++before)  // groups before "::", at most so many
      all += fmt::format("|(({0}:){{0,{1}}}{0})?::({0}:){{{2}}}{3}", h, before - 1, 5 - before, last);
    all += fmt::format("|(({0}:){{0,5}}{0})?::{0}|(({0}:){{0,6}}{0})?::", h);
    body = all;
  } else if (name == "uuid") {
    body = "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}";
  } else if (name == "date") {
    body = kDate;
  } else if (name == "time") {
    body = kDayTime;
  } else if (name == "date-time") {
    body = fmt::format("{}[Tt]{}", kDate, kDayTime);
  } else if (name == "duration") {
    const std::string time = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)";
    body = fmt::format("P([0-9]+W|{0}|([0-9]+D|[0-9]+M([0-9]+D)?|[0-9]+Y([0-9]+M([0-9]+D)?)?)({0})?)", time);
  } else if (name == "uri") {
    body = "[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#@!$&'()*+,;=-]|\\[|\\]|%[0-9A-Fa-f]{2})+";
  } else {
    return std::nullopt;
  }
  return "^(" + body + ")$";
}

namespace {

// A bound of numbers as plain decimal digits.
struct Decimal {
  bool negative = false;
  std::string whole = "0", fraction;  // without leading and trailing zeros
};
std::optional<Decimal> decimal_of(const json::Value& number) {
  const auto value = number.to_double();
  if (!value || !std::isfinite(*value) || std::fabs(*value) >= 1e18) return std::nullopt;
  Decimal out;
  std::string text = number.is_int() ? number.as_string() : fmt::format("{:.15f}", *value);
  if (!number.is_int() && *value != 0 && std::fabs(*value) < 1e-9) return std::nullopt;
  if (text[0] == '-') {
    out.negative = true;
    text.erase(0, 1);
  }
  const size_t dot = text.find('.');
  if (dot != std::string::npos) {
    // 15 digits in all are exact in a double; what lies behind them is not meant.
    const size_t keep = dot >= 15 ? 0 : 15 - std::min<size_t>(dot, 15);
    if (std::string shortest = json::dump(number); shortest.find_first_of("eE") == std::string::npos) {
      text = shortest[0] == '-' ? shortest.substr(1) : shortest;
    } else {
      text.resize(std::min(text.size(), dot + 1 + keep));
    }
    out.fraction = text.substr(text.find('.') + 1);
    out.whole = text.substr(0, text.find('.'));
    while (!out.fraction.empty() && out.fraction.back() == '0') out.fraction.pop_back();
  } else {
    out.whole = text;
  }
  if (out.whole == "0" && out.fraction.empty()) out.negative = false;
  return out;
}

std::string digit_range(char low, char high) { return low > high ? "[]" : fmt::format("[{}-{}]", low, high); }
// Magnitudes at least, or at most, that of the bound: whole digits and a fraction that may be missing.
std::string beyond(const Decimal& bound, bool above, bool open) {
  const std::string& w = bound.whole;
  const size_t n = w.size();
  const std::string any_fraction = "(\\.[0-9]+)?";
  std::string all = above   ? fmt::format("[1-9][0-9]{{{},}}{}", n, any_fraction)
                    : n > 1 ? fmt::format("(0|[1-9][0-9]{{0,{}}}){}", n - 2, any_fraction)
                            : "[]";
  for (size_t i = 0; i < n; ++i) {  // the same up to digit i, which differs
    const char low = i == 0 && n > 1 ? '1' : '0';
    const std::string digit =
        above ? digit_range(static_cast<char>(w[i] + 1), '9') : digit_range(low, static_cast<char>(w[i] - 1));
    all += fmt::format("|{}{}[0-9]{{{}}}{}", w.substr(0, i), digit, n - i - 1, any_fraction);
  }
  // The same whole part: fractions.
  const std::string& f = bound.fraction;
  std::string fractions = "[]";
  for (size_t i = 0; i < f.size(); ++i) {
    const std::string digit =
        above ? digit_range(static_cast<char>(f[i] + 1), '9') : digit_range('0', static_cast<char>(f[i] - 1));
    fractions += fmt::format("|{}{}[0-9]*", f.substr(0, i), digit);
    if (!above && i > 0) fractions += "|" + f.substr(0, i);
  }
  if (above) {
    fractions += f.empty() ? (open ? "|0*[1-9][0-9]*" : "|[0-9]+")
                           : fmt::format("|{}{}", f, open ? "[0-9]*[1-9][0-9]*" : "[0-9]*");
  } else if (!open) {
    fractions += f.empty() ? "|0+" : fmt::format("|{}0*", f);
  }
  all += fmt::format("|{}\\.({})", w, fractions);
  const bool whole_fits = above ? f.empty() && !open : !f.empty() || !open;
  if (whole_fits) all += "|" + w;
  return "(" + all + ")";
}

}  // namespace

std::optional<std::string> bound_pattern(const json::Value& number, bool is_minimum, bool open) {
  const auto decimal = decimal_of(number);
  if (!decimal) return std::nullopt;
  const Decimal& bound = *decimal;
  const std::string any = "[0-9.]+";
  if (is_minimum)
    return bound.negative ? fmt::format("^({}|-{})$", any, beyond(bound, false, open))
                          : fmt::format("^{}$", beyond(bound, true, open));
  return bound.negative ? fmt::format("^-{}$", beyond(bound, true, open))
                        : fmt::format("^(-{}|{})$", any, beyond(bound, false, open));
}

}  // namespace hadal::constrain
