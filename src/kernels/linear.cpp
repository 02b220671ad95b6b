#include "kernels/linear.h"

#include <algorithm>

#include "kernels/isa.h"

namespace hadal::kernels {
namespace {

// Rows per task: enough work to outweigh taking the task, few enough that narrow jobs (the 24 mixes of the
// hyper-connections, the gate) still occupy every thread. Multiples of the row tiles and, where many tokens meet
// block-scaled weights, of the panels of every instruction set.
constexpr int64_t kMostRows = 64, kPanelRows = 32, kLeastRows = 8;
constexpr int64_t kTasksPerThread = 4;

// Below so many multiply-adds (some microseconds) waking the other threads costs more than it gives, and far more
// when they have to be scheduled first.
constexpr int64_t kLeastWork = int64_t{1} << 16;
constexpr int64_t kLeastQuantised = int64_t{1} << 13;  // values

int64_t rows_per_task(const LinearJob& job, int64_t share) {
  const int64_t least = job.weight->quantised() && job.n_tokens > 1 ? kPanelRows : kLeastRows;
  return std::clamp(share / least * least, least, kMostRows);
}

}  // namespace

void linear(ThreadPool& pool, const Isa& isa, std::span<const LinearJob> jobs) {
  int64_t total_rows = 0, work = 0;
  for (const LinearJob& job : jobs) {
    total_rows += job.n_tokens > 0 ? job.n_rows : 0;
    work += job.n_tokens * job.n_rows * job.weight->cols;
  }
  if (work < kLeastWork) {
    for (const LinearJob& job : jobs)
      if (job.n_tokens > 0) isa.linear(job, 0, job.n_rows);
    return;
  }
  const int64_t share = total_rows / (kTasksPerThread * pool.size());
  std::vector<int64_t> first_task(jobs.size() + 1, 0);
  for (size_t i = 0; i < jobs.size(); ++i) {
    const int64_t rows = rows_per_task(jobs[i], share);
    first_task[i + 1] = first_task[i] + (jobs[i].n_tokens > 0 ? (jobs[i].n_rows + rows - 1) / rows : 0);
  }
  pool.run(first_task.back(), [&](int64_t task, int) {
    const auto next = std::upper_bound(first_task.begin(), first_task.end(), task);
    const size_t i = static_cast<size_t>(next - first_task.begin()) - 1;
    const int64_t rows = rows_per_task(jobs[i], share), begin = (task - first_task[i]) * rows;
    isa.linear(jobs[i], begin, std::min(begin + rows, jobs[i].n_rows));
  });
}

const LinearInput& QuantisedInput::quantise(ThreadPool& pool, const Isa& isa, const float* x, int64_t stride,
                                            int64_t n_tokens, int64_t n_cols) {
  // A line more than a row: rows a power of two apart would all fall into a few sets of the caches.
  const int64_t n_blocks = (n_cols + 127) / 128, padded = 128 * n_blocks + 16;
  const auto grow = [](auto& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
  };
  grow(values_, n_tokens * padded);
  grow(scales_, n_tokens * n_blocks);
  grow(chunks_, n_tokens * n_blocks);
  const auto quantise_row = [&](int64_t t, int) {
    isa.quantise(x + t * stride, n_cols, values_.data() + t * padded, scales_.data() + t * n_blocks,
                 chunks_.data() + t * n_blocks);
  };
  if (n_tokens * n_cols < kLeastQuantised) {
    for (int64_t t = 0; t < n_tokens; ++t) quantise_row(t, 0);
  } else {
    pool.run(n_tokens, quantise_row);
  }
  input_ = {.values = values_.data(),
            .stride = padded,
            .scales = scales_.data(),
            .scale_stride = n_blocks,
            .chunks = chunks_.data(),
            .n_cols = n_cols};
  return input_;
}

}  // namespace hadal::kernels
