#include "train/ranks.h"

#include <fmt/format.h>

#include <chrono>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace hadal::train {

struct Ranks::Group {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

Ranks::Ranks() = default;
Ranks::Ranks(Ranks&&) noexcept = default;
Ranks& Ranks::operator=(Ranks&&) noexcept = default;
Ranks::~Ranks() = default;

Result<Ranks> Ranks::join(int rank, int size, const std::string& store_file) {
  try {
    auto store = c10::make_intrusive<c10d::FileStore>(store_file, size);
    auto options = c10d::ProcessGroupGloo::Options::create();
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
    options->timeout = std::chrono::minutes(10);
    options->threads = 1;
    Ranks ranks;
    ranks.rank_ = rank;
    ranks.size_ = size;
    ranks.group_ = std::make_unique<Group>();
    ranks.group_->gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
    return ranks;
  } catch (const std::exception& error) {
    return Error{Code::kIo, fmt::format("rank {} of {}: cannot join the others: {}", rank, size, error.what())};
  }
}

// Gloo's ring adds each chunk in an order that depends only on the number of ranks: the same bits
// in every run.
Status Ranks::sum(torch::Tensor& values) const {
  if (!group_) return {};
  try {
    std::vector<at::Tensor> list{values};
    group_->gloo->allreduce(list)->wait();
    return {};
  } catch (const std::exception& error) {
    return Error{Code::kIo, fmt::format("rank {} of {}: a sum over the ranks failed: {}", rank_, size_, error.what())};
  }
}

}  // namespace hadal::train
