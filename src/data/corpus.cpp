#include "data/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

namespace hadal::data {
namespace {

// Shares of the sources known to tools/corpus.sh; plain narrative and definitions weigh more than
// manuals.
constexpr std::pair<std::string_view, uint64_t> kShares[] = {
    {"wordnet", 22},         {"gcide", 8},      {"gnome-user-docs", 18}, {"bible-kjv", 12},
    {"debian-handbook", 12}, {"anarchism", 10}, {"python-doc", 10}};
constexpr uint64_t kOtherShare = 4;

}  // namespace

Result<Corpus> Corpus::load(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Error{Code::kNotFound, fmt::format("{}: cannot be read", path)};
  Corpus corpus;
  int64_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const auto parsed = json::parse(line);
    const json::Value* source = parsed.ok() ? parsed.value().find("source") : nullptr;
    const json::Value* text = parsed.ok() ? parsed.value().find("text") : nullptr;
    if (!source || !source->is_string() || !text || !text->is_string())
      return Error{Code::kCorrupt,
                   fmt::format("{}: line {}: expected {{\"source\": \"...\", \"text\": \"...\"}}", path, number)};
    const std::string& name = source->as_string();
    if (text->as_string().empty()) continue;
    auto it =
        std::find_if(corpus.sources_.begin(), corpus.sources_.end(), [&](const Source& s) { return s.name == name; });
    if (it == corpus.sources_.end()) {
      const auto* share =
          std::find_if(std::begin(kShares), std::end(kShares), [&](const auto& s) { return s.first == name; });
      it = corpus.sources_.insert(it, Source{name, share == std::end(kShares) ? kOtherShare : share->second, {}});
    }
    corpus.bytes_ += text->as_string().size();
    it->passages[hash(text->as_string()) % 100 == 0].push_back(text->as_string());
  }
  if (corpus.sources_.empty()) return Error{Code::kInvalid, fmt::format("{}: holds no text", path)};
  for (Source& source : corpus.sources_)  // a source of few lines has no part to spare
    for (const int part : {0, 1})
      if (source.passages[part].empty()) source.passages[part] = source.passages[1 - part];
  return corpus;
}

size_t Corpus::passages() const {
  size_t n = 0;
  for (const Source& source : sources_) n += source.passages[0].size() + source.passages[1].size();
  return n;
}

std::string_view Corpus::sample(Rng& rng, Split split, size_t bytes) const {
  uint64_t total = 0;
  for (const Source& source : sources_) total += source.share;
  uint64_t at = rng.below(total);
  const Source* source = &sources_[0];
  for (const Source& s : sources_) {
    source = &s;
    if (at < s.share) break;
    at -= s.share;
  }
  std::string_view text = rng.pick(source->passages[split == Split::kTrain ? 0 : 1]);
  if (text.size() <= bytes) return text;
  if (const size_t line = text.find('\n', rng.below(text.size() - bytes + 1));
      line != std::string_view::npos && line + 1 < text.size())
    text.remove_prefix(line + 1);
  text = text.substr(0, bytes);
  if (const size_t blank = text.rfind(' '); blank != std::string_view::npos && blank > 0) text = text.substr(0, blank);
  while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80))
    text.remove_suffix(1);  // no half character at the end
  return text;
}

}  // namespace hadal::data
