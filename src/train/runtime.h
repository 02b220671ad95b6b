// What must hold before torch computes anything: a real BLAS, one thread, memory that is kept.
#pragma once

#include <string>

#include "base/result.h"

namespace hadal::train {

// One thread for torch and OpenBLAS alike (a busy machine's spin barriers cost more than a second
// thread gives, and results depend on the number), freed memory kept for the next step. Refuses a
// BLAS without kernels: a product of 512 x 512 matrices is timed in CPU seconds. Returns a line for
// people: core and rate.
Result<std::string> prepare_runtime(int threads);

}  // namespace hadal::train
