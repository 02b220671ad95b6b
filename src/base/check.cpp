#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace hadal {

void check_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "hadal: internal error: %s does not hold (%s:%d)\n", expression, file, line);
  std::abort();
}

}  // namespace hadal
