#include "checkpoint/summary.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

namespace hadal::checkpoint {
namespace {

// Adds every tensor; bytes(expected) tells how many files hold it and how many bytes they take.
template <class Bytes>
Summary add_up(const ModelConfig& config, Draft draft, int n_draft_blocks, const Bytes& bytes_of) {
  Summary summary;
  summary.draft = draft;
  summary.n_draft_blocks = n_draft_blocks;
  for (const ExpectedTensor& tensor : expected_tensors(config, draft, n_draft_blocks)) {
    const auto [n_stored, bytes] = bytes_of(tensor);
    GroupFigures& figures = summary.groups[static_cast<size_t>(tensor.group)];
    figures.parameters += tensor.n_elements();
    figures.bytes += bytes;
    summary.n_tensors += n_stored;
    summary.total_bytes += bytes;
    if (tensor.name.starts_with("layers.0.ffn.experts.0.")) summary.expert_bytes += bytes;
  }
  for (int g = 0; g < kGroupCount; ++g) {
    GroupFigures& figures = summary.groups[static_cast<size_t>(g)];
    const Group group = static_cast<Group>(g);
    if (group == Group::kDraft) {
      summary.draft_parameters = figures.parameters;
      continue;
    }
    int64_t active = figures.parameters;
    figures.bytes_per_token = figures.bytes;
    if (group == Group::kRoutedExperts) {
      active = active / config.n_routed_experts * config.n_activated_experts;
      figures.bytes_per_token = figures.bytes / config.n_routed_experts * config.n_activated_experts;
    }
    if (group == Group::kEmbed || group == Group::kHashTables) {
      active = 0;
      figures.bytes_per_token = figures.bytes / config.vocab_size;  // one row
    }
    summary.parameters += figures.parameters;
    summary.active_parameters += active;
    summary.bytes_per_token += figures.bytes_per_token;
  }
  return summary;
}

struct Stored {
  int64_t n = 0, bytes = 0;
};

}  // namespace

Summary summarise(const ModelConfig& config) {
  const bool is_dspark = config.dspark_markov_rank > 0;
  const Draft draft = is_dspark ? Draft::kDspark : config.n_mtp_layers > 0 ? Draft::kMtp : Draft::kNone;
  const ReleaseKind kind = release_kind(config);
  // The config does not tell the number of DSpark stages: three in all releases.
  Summary summary = add_up(config, draft, is_dspark ? 3 : config.n_mtp_layers, [&](const ExpectedTensor& tensor) {
    Stored stored;
    for (const StoredTensor& part : stored_as(tensor, kind)) {
      ++stored.n;
      stored.bytes += part.size_bytes();
    }
    return stored;
  });
  summary.assumed = kind.assumed;
  summary.assumed_fp4 = config.expert_dtype.empty() && kind.experts == Dtype::kI8;
  return summary;
}

Summary summarise(const Checkpoint& checkpoint) {
  return add_up(checkpoint.config(), checkpoint.draft(), checkpoint.n_draft_blocks(),
                [&](const ExpectedTensor& tensor) {
                  Stored stored{1, checkpoint.tensor(tensor.name).size_bytes()};
                  if (tensor.storage == Storage::kLinear || tensor.storage == Storage::kExpert)
                    if (const Tensor* scale = checkpoint.find(scale_name(tensor.name))) {
                      ++stored.n;
                      stored.bytes += scale->size_bytes();
                    }
                  return stored;
                });
}

namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    works_ = context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
  }
  bool works() const { return works_; }
  void add(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    static constexpr char kHex[] = "0123456789abcdef";
    std::string text;
    for (unsigned i = 0; i < size; ++i) {
      text += kHex[digest[i] >> 4];
      text += kHex[digest[i] & 15];
    }
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
  bool works_ = false;
};
const Error kNoSha256{Code::kIo, "SHA-256 is not available"};

}  // namespace

Result<std::string> sha256_of_file(const FileMap& file, const std::function<void(uint64_t)>& progress) {
  Sha256 hash;
  if (!hash.works()) return kNoSha256;
  constexpr uint64_t kStep = uint64_t{64} << 20;
  const auto bytes = file.bytes();
  for (uint64_t begin = 0; begin < bytes.size(); begin += kStep) {
    const uint64_t n = std::min<uint64_t>(kStep, bytes.size() - begin);
    file.populate(begin, n);
    hash.add(bytes.data() + begin, n);
    if (progress) progress(begin + n);
  }
  return hash.hex();
}

Result<std::string> sampled_fingerprint(const std::string& directory) {
  Sha256 hash;
  if (!hash.works()) return kNoSha256;
  std::vector<std::string> paths;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ec))
    if (const auto extension = entry.path().extension(); extension == ".safetensors" || extension == ".json")
      paths.push_back(entry.path().string());
  if (ec || paths.empty()) return Error{Code::kIo, fmt::format("{}: no checkpoint to fingerprint", directory)};
  std::sort(paths.begin(), paths.end());
  constexpr uint64_t kBlock = 4096, kHead = uint64_t{1} << 20, kSamples = 64;
  for (const std::string& path : paths) {
    const FileMap file = HADAL_TRY(FileMap::open(path));
    const auto bytes = file.bytes();
    const std::string name = fmt::format("{} {}\n", std::filesystem::path(path).filename().string(), bytes.size());
    hash.add(name.data(), name.size());
    hash.add(bytes.data(), std::min<uint64_t>(kHead, bytes.size()));
    for (uint64_t i = 0; bytes.size() > kHead && i < kSamples; ++i) {
      const uint64_t begin = bytes.size() / kSamples * i;
      hash.add(bytes.data() + begin, std::min<uint64_t>(kBlock, bytes.size() - begin));
    }
  }
  return hash.hex();
}

}  // namespace hadal::checkpoint
