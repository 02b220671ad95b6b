// Runs the program as a shell does.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "base/file.h"
#include "tests/support/shared.h"

namespace hadal::testing {

struct Outcome {
  int status = -1;
  std::string out, err;
};

inline Outcome hadal(const std::string& arguments, const std::string& input = "") {
  const std::string directory = temp_dir("cli");
  std::ofstream(directory + "/in", std::ios::binary) << input;
  const std::string command = std::string(HADAL_PROGRAM) + " " + arguments + " <" + directory + "/in >" + directory +
                              "/out 2>" + directory + "/err";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(directory + "/out").value(),
          read_file(directory + "/err").value()};
}

}  // namespace hadal::testing
