// Which tensors a V4 checkpoint holds: one list that inspecting, synthesising and checking share
// (architecture report A.11: it generates exactly the 69,187 tensors of V4-Flash).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/config.h"
#include "tensor/tensor.h"

namespace hadal::checkpoint {

// The draft part: detected from tensors (or dspark_* keys), never assumed.
enum class Draft { kNone, kMtp, kDspark };

// Rows of hadal inspect's table.
enum class Group {
  kEmbed, kHead, kAttention, kCompressors, kIndexers, kRoutedExperts, kSharedExperts, kGates, kHyperConnections,
  kNorms, kDraft
};

struct ExpectedTensor {
  std::string name;                // release spelling
  std::vector<Dtype> dtypes;       // allowed; the first is what the instruct release has
  std::vector<int64_t> shape;      // for FP4 experts, the shape of the packed bytes when dtype is kI8
  Group group = Group::kNorms;
  int layer = -1;                  // -1: outside the layers; n_layers + i: draft block i
};

}  // namespace hadal::checkpoint
