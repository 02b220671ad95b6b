#include "train/runtime.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <malloc.h>
#include <torch/types.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "train/run.h"

namespace hadal::train {
namespace {

std::string blas_core() {  // as OpenBLAS calls it, or ""
  const auto core = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename"));
  return core ? core() : "";
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double gemm_rate() {  // GFLOP per CPU second, the best of five
  constexpr int64_t kSize = 512;
  const torch::Tensor a = torch::ones({kSize, kSize}), b = torch::ones({kSize, kSize});
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const double start = cpu_seconds();
    const torch::Tensor c = torch::mm(a, b);
    best = std::max(best, 2e-9 * kSize * kSize * kSize / (cpu_seconds() - start));
  }
  return best;
}

}  // namespace

void restart_with_blas_core() {
  if (getenv("OPENBLAS_CORETYPE")) return;
  const std::string core = blas_core();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  // Cores whose kernels use what this processor has. An unknown processor is taken for a very old
  // one.
  const auto is_one_of = [&](std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
      if (strcasecmp(core.c_str(), std::string(name).c_str()) == 0) return true;
    return false;
  };
  if (core.empty() || is_one_of({"SkylakeX", "Cooperlake", "SapphireRapids"})) return;
  if (!avx512 && (!avx2 || is_one_of({"Haswell", "Zen"}))) return;
  setenv("OPENBLAS_CORETYPE", avx512 ? "SkylakeX" : "Haswell", 1);
  const auto command_line = read_file("/proc/self/cmdline", 1 << 22);
  if (!command_line.ok()) return;
  std::string text = command_line.value();
  std::vector<char*> arguments;
  for (size_t begin = 0; begin < text.size(); begin = text.find('\0', begin) + 1)
    arguments.push_back(text.data() + begin);
  arguments.push_back(nullptr);
  execv("/proc/self/exe",
        arguments.data());  // returns only if it failed: then the slow core has to do
}

Result<std::string> prepare_runtime(int threads) {
  torch::set_num_threads(threads);
  const auto set_blas_threads = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
  if (set_blas_threads) set_blas_threads(threads);
  // Each step allocates and frees the same large blocks: without this the kernel zeroes them anew
  // every time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  const double rate = gemm_rate();
  const std::string core = blas_core();
  constexpr double kLeast = 6;  // the reference BLAS reaches 3, the oldest of OpenBLAS's cores 12
  if (rate < kLeast)
    return Error{Code::kUnsupported,
                 fmt::format("matrix products: expected at least {} GFLOP per second, found {:.1f} ({}): install "
                             "libopenblas0-pthread",
                             kLeast, rate, core.empty() ? "not OpenBLAS" : "OpenBLAS core " + core)};
  return fmt::format("{}, {:.0f} GFLOP per CPU second on {} thread{}", core.empty() ? "BLAS" : "OpenBLAS core " + core,
                     rate, threads, threads == 1 ? "" : "s");
}

}  // namespace hadal::train
