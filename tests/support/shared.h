// Where tests find things: fixtures in the repository, and the shared goldens that may lie beside it.
#pragma once

#include <string>

namespace hadal::testing {

std::string fixture(const std::string& name);      // tests/fixtures/<name>
std::string shared_path(const std::string& name);  // <shared>/<name>, or "" when it is absent
std::string temp_dir(const std::string& name);     // a fresh empty directory, removed at exit

}  // namespace hadal::testing

// Skips a test by the name of what is missing.
#define HADAL_NEEDS_SHARED(name)                                            \
  if (::hadal::testing::shared_path(name).empty()) {                        \
    GTEST_SKIP() << "shared/" << (name) << " is not beside the repository"; \
  }                                                                         \
  static_assert(true)
