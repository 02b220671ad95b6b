// The one way to fail: a function that meets a wrong world (file, request, disk) returns Result<T>.
//
//   Result<Config> read(...) {
//     auto text = HADAL_TRY(read_file(path));           // returns the error to the caller
//     if (text.empty()) return Error{Code::kCorrupt, fmt::format("{}: empty", path)};
//     return parse(text);
//   }
//
// Messages are one line: what and where, expected, found. Broken invariants of our own are HADAL_CHECK.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace hadal {

enum class Code {
  kInvalid,      // the caller's data or arguments
  kNotFound,     // a file, a name
  kCorrupt,      // bytes that contradict their format
  kUnsupported,  // well-formed, but not something hadal computes
  kBusy,         // out of a resource for now; try later
  kCancelled,
  kIo,  // the system refused
};

struct Error {
  Code code = Code::kInvalid;
  std::string message;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT: implicit, so that `return value;` works
  Result(Error error) : state_(std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  const Error& error() const {
    HADAL_CHECK(!ok());
    return *std::get_if<Error>(&state_);
  }
  T& value() & {
    HADAL_CHECK(ok());
    return *std::get_if<T>(&state_);
  }
  const T& value() const& {
    HADAL_CHECK(ok());
    return *std::get_if<T>(&state_);
  }
  T&& value() && { return std::move(value()); }

 private:
  std::variant<T, Error> state_;
};

// Result<void>: success carries nothing.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT

  bool ok() const { return !error_.has_value(); }
  const Error& error() const {
    HADAL_CHECK(!ok());
    return *error_;
  }
  void value() const { HADAL_CHECK(ok()); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace hadal

// The value of `expr`, or an early return of its error.
#define HADAL_TRY(expr)                                                  \
  __extension__({                                                        \
    auto hadal_result = (expr);                                          \
    if (!hadal_result.ok()) return ::hadal::Error(hadal_result.error()); \
    std::move(hadal_result).value();                                     \
  })
