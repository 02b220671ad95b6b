#include "kernels/linear.h"

#include <algorithm>

#include "kernels/isa.h"

namespace hadal::kernels {
namespace {

// Rows per task: enough work to outweigh taking the task, few enough to balance threads. A multiple of the
// row tile of every instruction set.
constexpr int64_t kRowsPerTask = 64;

}  // namespace

void linear(ThreadPool& pool, const Isa& isa, std::span<const LinearJob> jobs) {
  std::vector<int64_t> first_task(jobs.size() + 1, 0);
  for (size_t i = 0; i < jobs.size(); ++i) {
    const int64_t n = jobs[i].n_tokens > 0 ? (jobs[i].n_rows + kRowsPerTask - 1) / kRowsPerTask : 0;
    first_task[i + 1] = first_task[i] + n;
  }
  pool.run(first_task.back(), [&](int64_t task, int) {
    const auto next = std::upper_bound(first_task.begin(), first_task.end(), task);
    const size_t i = static_cast<size_t>(next - first_task.begin()) - 1;
    const int64_t begin = (task - first_task[i]) * kRowsPerTask;
    isa.linear(jobs[i], begin, std::min(begin + kRowsPerTask, jobs[i].n_rows));
  });
}

const LinearInput& QuantisedInput::quantise(ThreadPool& pool, const Isa& isa, const float* x, int64_t stride,
                                            int64_t n_tokens, int64_t n_cols) {
  const int64_t padded = (n_cols + 127) / 128 * 128, n_blocks = padded / 128;
  const auto grow = [](auto& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
  };
  grow(values_, n_tokens * padded);
  grow(scales_, n_tokens * n_blocks);
  grow(chunks_, n_tokens * n_blocks);
  pool.run(n_tokens, [&](int64_t t, int) {
    isa.quantise(x + t * stride, n_cols, values_.data() + t * padded, scales_.data() + t * n_blocks,
                 chunks_.data() + t * n_blocks);
  });
  input_ = {.values = values_.data(), .stride = padded, .scales = scales_.data(), .scale_stride = n_blocks,
            .chunks = chunks_.data(), .n_cols = n_cols};
  return input_;
}

}  // namespace hadal::kernels
