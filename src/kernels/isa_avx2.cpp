#include "kernels/vector_avx2.h"
//
#include "kernels/vector_attention.h"
#include "kernels/vector_linear.h"
#include "kernels/vector_probes.h"

namespace hadal::kernels {
namespace {

bool supported() {
  // F16C is in every processor with AVX2.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

constexpr Isa kAvx2 = {.name = "avx2",
                       .supported = supported,
                       .linear = linear,
                       .attend = attend,
                       .index_scores = index_scores,
                       HADAL_ROW_FUNCTIONS,
                       .probe_read = probe_read,
                       .probe_fma = probe_fma,
                       .probe_int8 = probe_int8};

}  // namespace

const Isa& avx2() { return kAvx2; }

}  // namespace hadal::kernels
