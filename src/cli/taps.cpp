#include "cli/taps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/json.h"

namespace hadal::cli {

Status TapCollector::record(model::Transformer& transformer, std::span<const TokenId> tokens) {
  constexpr size_t kChunk = 256;
  transformer.set_probe(this);
  kv::SequenceState state = transformer.new_sequence();
  std::vector<float> logits, streams;
  Status status;
  for (size_t begin = 0; status.ok() && begin < tokens.size(); begin += kChunk) {
    const auto piece = tokens.subspan(begin, std::min(kChunk, tokens.size() - begin));
    const model::Sequence sequence{&state, piece, 0};
    status = transformer.forward({&sequence, 1}, logits, &streams);
    const auto next = tokens.subspan(begin + 1, std::min(kChunk, tokens.size() - begin - 1));
    if (!status.ok() || !transformer.has_mtp() || next.empty()) continue;
    const model::MtpSequence draft{&state, streams.data(), next, 0};
    status = transformer.mtp({&draft, 1}, logits);
  }
  transformer.set_probe(nullptr);
  return status;
}

Status TapCollector::write(const std::string& path) const {
  json::Object header;
  int64_t offset = 0;
  for (const auto& [name, tap] : taps_) {
    json::Array shape;
    for (const int64_t extent : tap.shape) shape.emplace_back(extent);
    const int64_t size = 4 * static_cast<int64_t>(tap.floats.size() + tap.ints.size());
    header.emplace_back("tap." + name, json::Object{{"dtype", tap.ints.empty() ? "F32" : "I32"},
                                                    {"shape", std::move(shape)},
                                                    {"data_offsets", json::Array{offset, offset + size}}});
    offset += size;
  }
  std::string text = json::dump(json::Value(std::move(header)), json::kCompact);
  text.append((8 - text.size() % 8) % 8, ' ');
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) return Error{Code::kIo, fmt::format("{}: cannot write: {}", path, std::strerror(errno))};
  const uint64_t length = text.size();
  bool ok = std::fwrite(&length, 8, 1, file) == 1 && std::fwrite(text.data(), text.size(), 1, file) == 1;
  for (const auto& [name, tap] : taps_) {
    const size_t n = std::max(tap.floats.size(), tap.ints.size());  // one of both is empty
    const void* data = tap.ints.empty() ? static_cast<const void*>(tap.floats.data()) : tap.ints.data();
    ok = ok && (n == 0 || std::fwrite(data, 4, n, file) == n);
  }
  ok = std::fclose(file) == 0 && ok;
  if (!ok) return Error{Code::kIo, fmt::format("{}: cannot write: {}", path, std::strerror(errno))};
  return {};
}

}  // namespace hadal::cli
