// The processes that share a step's rows: data parallelism over torch's c10d with Gloo, one process
// per rank. Sums are over all ranks and the same on each; one rank needs nothing. Ranks meet in a
// file, and sums use addresses of this machine.
//
// Errors: a rank that died or never came (after the timeout).
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>

#include "base/result.h"

namespace hadal::train {

class Ranks {
 public:
  Ranks();  // one rank: this process
  static Result<Ranks> join(int rank, int size, const std::string& store_file);
  Ranks(Ranks&&) noexcept;
  Ranks& operator=(Ranks&&) noexcept;
  ~Ranks();

  int rank() const { return rank_; }
  int size() const { return size_; }
  Status sum(torch::Tensor& values) const;  // in place; contiguous

 private:
  struct Group;
  int rank_ = 0, size_ = 1;
  std::unique_ptr<Group> group_;
};

}  // namespace hadal::train
