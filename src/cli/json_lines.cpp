#include "cli/json_lines.h"

#include <fmt/format.h>

#include <istream>
#include <ostream>

namespace hadal::cli {

json::Value json_error(std::string_view kind, std::string_view message) {
  return json::Object{{"error", json::Object{{"kind", kind}, {"message", message}}}};
}

int for_each_json_line(std::istream& in, std::ostream& out, const LineAnswer& answer) {
  int exit_status = 0;
  int64_t number = 0;
  std::string line;
  const auto bad = [&](std::string_view kind, const std::string& message) {
    exit_status = 1;
    return json_error(kind, fmt::format("line {}: {}", number, message));
  };
  while (std::getline(in, line)) {
    ++number;
    json::Value written;
    const Result<json::Value> parsed = json::parse(line);
    if (!parsed.ok()) {
      written = bad("invalid_json", parsed.error().message);
    } else if (Result<json::Value> result = answer(parsed.value()); result.ok()) {
      written = std::move(result).value();
    } else {
      written = bad("invalid_line", result.error().message);
    }
    out << json::dump(written, json::kCompact) << '\n' << std::flush;
    if (!out) return 1;
  }
  return in.bad() ? 1 : exit_status;
}

}  // namespace hadal::cli
