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

// The model that ships: trained, exported and quantised weights, not random ones. In exact numerics: a trained model
// passes roundings on further than the random ones that the tolerances of faithful were made for (docs/numerics.md).
TEST(Oracle, TheShippedModelAgrees) {
  HADAL_NEEDS_SHARED("golden/oracle.py");
  if (std::system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0)
    GTEST_SKIP() << "python3-numpy is not installed";
  const std::string model = HADAL_SOURCE_DIR "/models/hadal-nano",
                    golden = testing::temp_dir("shipped") + "/golden.safetensors";
  ASSERT_EQ(std::system(("/usr/bin/python3 " + testing::shared_path("golden/oracle.py") + " golden " + model + " -o " +
                         golden + " --length 300 --new 8 --seed 3 --decode-start 280 >/dev/null")
                            .c_str()),
            0);
  EXPECT_EQ(std::system((std::string(HADAL_PROGRAM) + " verify --numerics exact -m " + model + " --golden " + golden +
                         " >/dev/null")
                            .c_str()),
            0);
}

}  // namespace
}  // namespace hadal
