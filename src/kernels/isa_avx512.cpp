#include "kernels/vector_avx512.h"
//
#include "kernels/vector_attention.h"
#include "kernels/vector_linear.h"
#include "kernels/vector_probes.h"

namespace hadal::kernels {
namespace {

bool supported() {  // the compiler's builtin also asks the operating system for the registers
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

constexpr Isa kAvx512 = {.name = "avx512",
                         .supported = supported,
                         .linear = linear,
                         .attend = attend,
                         .index_scores = index_scores,
                         HADAL_ROW_FUNCTIONS,
                         .probe_read = probe_read,
                         .probe_fma = probe_fma,
                         .probe_int8 = probe_int8};

}  // namespace

const Isa& avx512() { return kAvx512; }

}  // namespace hadal::kernels
