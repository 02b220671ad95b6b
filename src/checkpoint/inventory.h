// Which tensors a V4 checkpoint holds: one list that opening, inspecting and synthesising share (architecture
// report A.11; for V4-Flash it gives exactly the 69,187 tensors of the release).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/config.h"
#include "tensor/tensor.h"

namespace hadal::checkpoint {

// The draft part: detected from tensors, never assumed.
enum class Draft { kNone, kMtp, kDspark };

// Rows of hadal inspect's table.
enum class Group {
  kEmbed,
  kHead,
  kAttention,
  kAttentionVectors,
  kCompressors,
  kIndexers,
  kRoutedExperts,
  kSharedExperts,
  kGateWeights,
  kGateBias,
  kHashTables,
  kNorms,
  kHyperConnections,
  kFinal,
  kDraft
};
inline constexpr int kGroupCount = 15;
const char* group_name(Group group);

enum class Storage {
  kLinear,  // FP8 with 128x128 scales (E8M0 or F32); also BF16 or F32 without scales
  kExpert,  // like kLinear, or packed FP4 with E8M0 scales per 32
  kBf16,    // BF16, or F32
  kF32,
  kI64,
};

struct ExpectedTensor {
  std::string name;  // release spelling; linears end in .weight and may have a .scale
  Storage storage = Storage::kBf16;
  std::vector<int64_t> shape;  // in elements: [out, in] for matrices
  Group group = Group::kNorms;
  int layer = -1;  // -1: outside the layers; n_layers + i: draft block i

  int64_t n_elements() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
};

// n_draft_blocks: MTP blocks or DSpark stages.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, Draft draft, int n_draft_blocks);

// How a checkpoint of some release kind stores a tensor: the weight and, if it is quantised, its scale.
struct StoredTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  int64_t size_bytes() const;
};
struct ReleaseKind {
  bool fp8 = true;             // linears; false: BF16
  Dtype experts = Dtype::kI8;  // packed FP4, or kF8e4m3, or kBf16
  bool f32_scales = false;     // Base: of everything that is FP8
  std::string assumed;         // what the config does not say, in words; empty if it says all
};
// From a config alone: expert_dtype; without it FP4 experts, or BF16 throughout if there is no quantization_config.
ReleaseKind release_kind(const ModelConfig& config);
std::vector<StoredTensor> stored_as(const ExpectedTensor& tensor, const ReleaseKind& kind);

// Draft blocks attend to their window only. The ratios of the config's draft layers must agree: a kCorrupt error that
// names `file` if one of them is not 0, or missing for an MTP block.
Status check_draft_ratios(const ModelConfig& config, Draft draft, int n_draft_blocks, const std::string& file);

std::string scale_name(std::string_view weight_name);  // X.weight -> X.scale

// Release spelling of a tensor name in a file (old aliases, a leading "model."), or nothing for the draft's
// copies of embedding and head, which the official loader ignores.
std::optional<std::string> canonical_name(std::string_view name);

}  // namespace hadal::checkpoint
