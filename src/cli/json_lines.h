// JSON lines: one value per line on stdin, one line per line on stdout, in the same order. What
// tokenize, encode and parse share.
//
// Lines end in '\n' only (a last one may lack it); U+2028 and the like inside a string do not end
// one. Every line read gives exactly one line written, flushed at once, so that another program can
// talk to ours line by line. A line that is no JSON, or that `answer` refuses with an Error, gives
//   {"error":{"kind":"invalid_json"|"invalid_line","message":"line 3: …"}}
// and the next line is read. An error that is itself an answer (a conversation that the encoding
// forbids) is returned by `answer` as a value: json_error(kind, message).
//
// Returns the exit status: 0, or 1 when a line was bad or the output could not be written.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace hadal::cli {

using LineAnswer = std::function<Result<json::Value>(const json::Value& line)>;

int for_each_json_line(std::istream& in, std::ostream& out, const LineAnswer& answer);

json::Value json_error(std::string_view kind, std::string_view message);

}  // namespace hadal::cli
