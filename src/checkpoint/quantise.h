// A checkpoint of any stored precision into the release format: linears FP8 with 128 x 128 E8M0
// scales, routed experts FP4 with E8M0 scales per 32 (or FP8), everything else as the releases
// store it; names of the release.
//
// Tensors that are in the format already keep their bytes, so quantising a release checkpoint
// changes nothing; FP8 blocks whose F32 scale (Base) is a power of two keep their codes. Streamed:
// memory is a few pieces of rows whatever the size of the model. Results do not depend on the
// number of threads.
//
// Errors name file, tensor and element: a value that is not finite or does not fit BF16, FP4 rows
// that are no multiple of 32, an output that exists, a full disk. Nothing is left behind then
// (writer.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"

namespace hadal::checkpoint {

enum class ExpertFormat { kFp4, kFp8 };

struct QuantiseOptions {
  std::string directory;  // created; must not hold a checkpoint
  ExpertFormat experts = ExpertFormat::kFp4;
  int64_t shard_bytes = int64_t{4} << 30;
  std::function<void(int64_t done, int64_t total)> progress;  // bytes written
};

// What became of the tensors of a group. Errors are over the tensors that were converted.
struct GroupReport {
  int64_t n_tensors = 0;                      // weights; scales not counted
  int64_t n_converted = 0;                    // of these, not copied as they are
  int64_t bytes_before = 0, bytes_after = 0;  // scales included
  double squared_error = 0, squared = 0;      // sums over the values
  double max_error = 0;                       // largest |value - stored| as a share of the largest |value| of its block
                                              // (FP8 128 x 128, FP4 32, BF16 row)
  int64_t n_values = 0, n_saturated = 0;      // saturated: beyond the largest code of the grid
  int64_t n_tiles = 0;                        // 128 x 128 tiles of FP4 weights, source or result
  int64_t n_inexact_tiles = 0;                // of these, with scales too far apart to become FP8 exactly (above 2^14)

  double relative_rms() const;  // sqrt(squared_error / squared), 0 if nothing was converted
  void add(const GroupReport& other);
};

struct QuantiseReport {
  std::array<GroupReport, kGroupCount> groups;  // by Group
  int64_t n_shards = 0;
  GroupReport total() const;
  const GroupReport& operator[](Group group) const { return groups[static_cast<size_t>(group)]; }
};

Result<QuantiseReport> quantise(const Checkpoint& source, const QuantiseOptions& options, ThreadPool& pool);

}  // namespace hadal::checkpoint
