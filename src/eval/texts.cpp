#include "eval/texts.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/score.h"
#include "text/parse_completion.h"
#include "text/templates.h"
#include "text/unicode.h"

namespace hadal::eval {
namespace {

// Runs requests side by side; hands each completion over as it ends.
template <class Done>
Status complete_all(engine::Engine& engine, std::vector<engine::Request> requests, const Progress& progress,
                    const Done& done) {
  constexpr size_t kSideBySide = 16;
  engine::Batch batch(engine);
  std::map<int, size_t> request_of;
  std::vector<engine::Event> events;
  size_t next = 0;
  int64_t finished = 0;
  while (next < requests.size() || !batch.empty()) {
    while (next < requests.size() && batch.size() < kSideBySide) {
      const int id = HADAL_TRY(batch.add(std::move(requests[next])));
      request_of[id] = next++;
    }
    HADAL_TRY(batch.step(events));
    for (const engine::Event& event : events) {
      if (event.kind != engine::Event::Kind::kDone) continue;
      if (!event.error.ok()) return event.error.error();
      done(request_of.at(event.id), batch.take(event.id).completion);
      if (progress) progress(++finished, static_cast<int64_t>(requests.size()));
    }
  }
  return {};
}

// A coarse script of a letter: the block groups that tell the languages of the world apart. 0: none of these.
int script_of(uint32_t c) {
  if ((text::unicode_classes(c) & text::kLetter) == 0) return 0;
  static constexpr struct {
    uint32_t first, last;
    int script;
  } kScripts[] = {{0x41, 0x24F, 1},    {0x370, 0x3FF, 2},     {0x400, 0x52F, 3},    {0x530, 0x58F, 4},
                  {0x590, 0x5FF, 5},   {0x600, 0x77F, 6},     {0x900, 0x97F, 7},    {0x980, 0xDFF, 8},
                  {0xE00, 0xE7F, 9},   {0x10A0, 0x10FF, 10},  {0x1100, 0x11FF, 11}, {0x1E00, 0x1EFF, 1},
                  {0x1F00, 0x1FFF, 2}, {0x3040, 0x30FF, 12},  {0x3400, 0x9FFF, 13}, {0xAC00, 0xD7AF, 11},
                  {0xFB50, 0xFEFC, 6}, {0x20000, 0x3FFFF, 13}};
  for (const auto& range : kScripts)
    if (c >= range.first && c <= range.last) return range.script;
  return 14;
}

template <class Each>
void for_each_letter(std::string_view text, const Each& each) {
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const text::Utf8Char c = text::decode_utf8(p, text.data() + text.size());
    if (const int script = script_of(c.code_point)) each(script);
    p += c.size;
  }
}

}  // namespace

double Perplexity::per_token() const { return tokens ? std::exp(nats / static_cast<double>(tokens)) : 0; }
double Perplexity::bits_per_byte() const { return bytes ? nats / std::log(2.0) / static_cast<double>(bytes) : 0; }

Result<Perplexity> perplexity(engine::Engine& engine, const text::Tokenizer& tokenizer,
                              const std::vector<std::string>& texts, int64_t longest, const Progress& progress) {
  Perplexity sum;
  const size_t most = static_cast<size_t>(std::min(longest, engine.config().max_position_embeddings));
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<TokenId> ids = tokenizer.encode(text::kBos);
    for (const TokenId id : tokenizer.encode(texts[i], false)) ids.push_back(id);
    if (ids.size() > most) ids.resize(most);
    if (progress) progress(static_cast<int64_t>(i), static_cast<int64_t>(texts.size()));
    if (ids.size() < 2) continue;
    ++sum.texts;
    const auto scored = HADAL_TRY(engine::score(engine, ids));
    for (size_t t = 0; t < scored.size(); ++t) {
      sum.nats -= scored[t].logprob;
      sum.likeliest += scored[t].likeliest;
      sum.bytes += static_cast<int64_t>(tokenizer.piece(ids[t + 1]).size());
    }
    sum.tokens += static_cast<int64_t>(scored.size());
  }
  return sum;
}

Runs common_runs(std::span<const TokenId> written, std::span<const TokenId> original, int run) {
  // length[j]: of the run that ends at written[i] and original[j]
  std::vector<int64_t> before(original.size() + 1, 0), now(original.size() + 1, 0);
  Runs runs;
  std::vector<bool> covered(written.size(), false);
  for (size_t i = 0; i < written.size(); ++i) {
    int64_t here = 0;
    for (size_t j = 0; j < original.size(); ++j) {
      now[j + 1] = written[i] == original[j] ? before[j] + 1 : 0;
      here = std::max(here, now[j + 1]);
    }
    runs.longest = std::max(runs.longest, here);
    if (here >= run)
      for (int64_t k = 0; k < here; ++k) covered[i - static_cast<size_t>(k)] = true;
    std::swap(before, now);
  }
  runs.inside = std::count(covered.begin(), covered.end(), true);
  return runs;
}

Result<Reproduction> reproduction(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                  const std::vector<std::string>& texts, int64_t prefix, int64_t length,
                                  const Progress& progress) {
  Reproduction sum;
  std::vector<engine::Request> requests;
  std::vector<std::vector<TokenId>> originals;
  for (const std::string& text : texts) {
    std::vector<TokenId> ids = tokenizer.encode(text::kBos);
    for (const TokenId id : tokenizer.encode(text, false)) ids.push_back(id);
    const int64_t begin = 1 + prefix;
    if (static_cast<int64_t>(ids.size()) < begin + length) continue;
    originals.emplace_back(ids.begin() + begin, ids.begin() + begin + length);
    ids.resize(static_cast<size_t>(begin));
    requests.push_back({.prompt = std::move(ids), .start = {}, .sampling = {.temperature = 0}, .max_tokens = length});
  }
  sum.texts = static_cast<int64_t>(requests.size());
  HADAL_TRY(complete_all(engine, std::move(requests), progress, [&](size_t i, const engine::Completion& completion) {
    const Runs runs = common_runs(completion.tokens, originals[i], Reproduction::kRun);
    sum.tokens += static_cast<int64_t>(completion.tokens.size());
    sum.longest_run = std::max(sum.longest_run, runs.longest);
    sum.in_runs += runs.inside;
    sum.exact += completion.tokens == originals[i];
  }));
  return sum;
}

Result<std::map<std::string, LanguageResult>> languages(engine::Engine& engine, const text::Tokenizer& tokenizer,
                                                        text::Encoding encoding,
                                                        const std::vector<LanguagePrompt>& prompts, int64_t max_tokens,
                                                        const Progress& progress) {
  std::vector<engine::Request> requests;
  for (const LanguagePrompt& prompt : prompts) {
    text::EncodeOptions options;
    options.encoding = encoding;
    options.thinking_mode = "chat";
    const auto encoded = text::encode_prompt({json::Object{{"role", "user"}, {"content", prompt.prompt}}}, options);
    if (const auto* error = std::get_if<text::EncodeError>(&encoded)) return Error{Code::kInvalid, error->message};
    requests.push_back({.prompt = tokenizer.encode(std::get<text::EncodedPrompt>(encoded).text),
                        .start = {},
                        .sampling = {.temperature = 0},
                        .max_tokens = max_tokens});
  }
  std::map<std::string, LanguageResult> results;
  HADAL_TRY(complete_all(engine, std::move(requests), progress, [&](size_t i, const engine::Completion& completion) {
    LanguageResult& result = results[prompts[i].language];
    const std::string answer = tokenizer.decode(completion.tokens);
    const bool ended = completion.finish == engine::Finish::kStop;
    ++result.prompts;
    result.tokens += static_cast<int64_t>(completion.tokens.size());
    result.well_formed += std::holds_alternative<text::AssistantMessage>(
        text::parse_completion(ended ? answer + text::kEos : answer, false));
    std::set<int> scripts;
    for_each_letter(prompts[i].prompt, [&](int script) { scripts.insert(script); });
    for_each_letter(answer, [&](int script) {
      ++result.letters;
      result.in_script += scripts.count(script) > 0;
    });
  }));
  return results;
}

}  // namespace hadal::eval
