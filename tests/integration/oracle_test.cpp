// A few random architectures against the oracle (tools/check_random.py; `make verify-random` takes
// fifty).

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/shared.h"

namespace hadal {
namespace {

TEST(Oracle, RandomArchitecturesAgreeInExactNumerics) {
  HADAL_NEEDS_SHARED("golden/oracle.py");
  if (std::system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0)
    GTEST_SKIP() << "python3-numpy is not installed";
  const std::string command = std::string("/usr/bin/python3 " HADAL_SOURCE_DIR "/tools/check_random.py ") +
                              HADAL_PROGRAM + " " + testing::shared_path("golden/oracle.py");
  EXPECT_EQ(std::system((command + " --count 6 --seed 2000").c_str()), 0);
  EXPECT_EQ(std::system((command + " --wide").c_str()), 0);
}

}  // namespace
}  // namespace hadal
