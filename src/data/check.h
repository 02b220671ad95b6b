// The properties every environment must have, measured: what `hadal data check` and the tests run.
//
//   the reference solution passes in every mode, at every difficulty; rendered, it parses back
//   the same key gives the same bytes; answers are short; an instance belongs to one split
//   who does nothing, repeats the question, answers at random or replays the solution of another
//   world, fails
#pragma once

#include <array>
#include <string>
#include <vector>

#include "data/family.h"

namespace hadal::data {

enum class Policy { kNothing, kCopy, kRandom, kOtherWorld };
inline constexpr Policy kPolicies[] = {Policy::kNothing, Policy::kCopy, Policy::kRandom, Policy::kOtherWorld};
const char* policy_name(Policy policy);  // "nothing", "copy", "random", "other world"

inline constexpr size_t kLongestAnswer = 700;  // bytes; stories are the longest

struct FamilyReport {
  int tasks = 0;
  std::array<int, 4> plays{}, passes{};  // by policy
  std::vector<std::string> failures;     // the first few, one line each

  double rate(Policy policy) const;  // of passes; 0 without plays
};

// `seeds` training tasks spread over the difficulties, and a tenth as many of dev and test.
FamilyReport check_family(const Family& family, int seeds);

}  // namespace hadal::data
