#include "tests/support/scripted_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/json.h"
#include "text/templates.h"

namespace hadal::testing {
namespace {

constexpr std::string_view kResult = "<tool_result>", kResultEnd = "</tool_result>";

std::string call_text(std::string_view name, const json::Value& arguments) {
  std::string text = fmt::format("<｜DSML｜invoke name=\"{}\">\n", name);
  bool first = true;
  for (const auto& [key, value] : arguments.as_object()) {
    if (!first) text += '\n';
    first = false;
    text += fmt::format("<｜DSML｜parameter name=\"{}\" string=\"{}\">{}</｜DSML｜parameter>", key, value.is_string(),
                        value.is_string() ? value.as_string() : json::dump(value));
  }
  return text + "\n</｜DSML｜invoke>";
}

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \n");
  return begin == std::string_view::npos ? ""
                                         : std::string(text.substr(begin, text.find_last_not_of(" \n") + 1 - begin));
}

// Where the object that begins at `open` ends; npos: nowhere.
size_t object_end(std::string_view text, size_t open) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = open; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return i;
    }
  }
  return std::string_view::npos;
}

std::vector<std::string> parts_of(const std::string& text, const std::string& divider) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at = text.find(divider); at != std::string::npos; at = text.find(divider, begin)) {
    parts.push_back(trimmed(text.substr(begin, at - begin)));
    begin = at + divider.size();
  }
  parts.push_back(trimmed(text.substr(begin)));
  return parts;
}

}  // namespace

std::string scripted_answer(const std::string& prompt) {
  // User turns: the last one that is not results only gives the line, results after it are counted.
  const std::string user = text::kUser, assistant = text::kAssistant;
  std::string line, last_result;
  size_t n_results = 0;
  for (size_t at = prompt.find(user); at != std::string::npos; at = prompt.find(user, at + 1)) {
    const size_t begin = at + user.size();
    std::string turn = prompt.substr(begin, std::min(prompt.find(assistant, begin), prompt.size()) - begin);
    size_t n = 0;
    for (size_t r = turn.find(kResult); r != std::string::npos; r = turn.find(kResult)) {
      const size_t end = turn.find(kResultEnd, r);
      if (end == std::string::npos) break;
      last_result = turn.substr(r + kResult.size(), end - r - kResult.size());
      turn.erase(r, end + kResultEnd.size() - r);
      ++n;
    }
    if (n > 0) {
      ++n_results;
      continue;
    }
    line = turn;
    n_results = 0;
  }

  const bool thinks = trimmed(prompt).ends_with(text::kThinkOpen);
  const std::string before = thinks ? std::string("Let me see.") + text::kThinkClose : "";
  if (const size_t raw = line.find("RAW "); raw != std::string::npos) return line.substr(raw + 4);
  const size_t call = line.find("CALL "), say = line.find("SAY "), count = line.find("COUNT ");
  if (call != std::string::npos) {
    const std::vector<std::string> steps = parts_of(line.substr(call), "THEN ");
    if (n_results >= steps.size()) return before + "Done: " + last_result;
    std::vector<std::string> calls;
    for (const std::string& one : parts_of(steps[n_results], "AND ")) {
      const size_t name = std::string("CALL ").size(), space = one.find(' ', name), open = one.find('{');
      const size_t end = open == std::string::npos ? open : object_end(one, open);
      if (space == std::string::npos || open == std::string::npos || end == std::string::npos) return before + "What?";
      const auto arguments = json::parse(one.substr(open, end + 1 - open));
      if (!arguments.ok() || !arguments.value().is_object()) return before + "What?";
      calls.push_back(call_text(one.substr(name, space - name), arguments.value()));
    }
    return before + fmt::format("On it.\n\n<｜DSML｜tool_calls>\n{}\n</｜DSML｜tool_calls>", fmt::join(calls, "\n"));
  }
  if (say != std::string::npos) return before + line.substr(say + 4);
  if (count != std::string::npos) {
    std::string numbers;
    for (int i = 1, n = std::atoi(line.c_str() + count + 6); i <= n; ++i) numbers += fmt::format("{} ", i);
    return before + numbers;
  }
  return before + "You said: " + line;
}

ScriptedDecoder::ScriptedDecoder(const text::Tokenizer& tokenizer, int64_t max_tokens)
    : tokenizer_(tokenizer),
      max_tokens_(max_tokens),
      layout_(std::make_shared<kv::Layout>(
          kv::Layout{.n_nope = 64, .n_rope = 16, .index_dim = 32, .window = 8, .hidden_floats = 2, .ratios = {0}})),
      end_({*tokenizer.id_of(text::kEos)}),
      assistant_(*tokenizer.id_of(text::kAssistant)) {}

Status ScriptedDecoder::forward(std::span<const model::Sequence> batch, std::vector<float>& logits) {
  logits.clear();
  for (const model::Sequence& sequence : batch) {
    std::vector<float>& place = sequence.state->last_hidden();  // the node, in halves that floats hold exactly
    int32_t node = sequence.state->length() == 0 || place.empty()
                       ? -1
                       : static_cast<int32_t>(place[0]) * 65536 + static_cast<int32_t>(place[1]);
    for (const TokenId token : sequence.tokens) {
      nodes_.push_back({node, token});
      node = static_cast<int32_t>(nodes_.size()) - 1;
    }
    place = {static_cast<float>(node / 65536), static_cast<float>(node % 65536)};
    sequence.state->advance(static_cast<int64_t>(sequence.tokens.size()));
    if (sequence.n_logits == 0) continue;
    const auto token = next(node);
    if (!token) return Error{Code::kCorrupt, "the script says so"};
    std::vector<float> row(static_cast<size_t>(vocab_size()), 0.0f);
    row[static_cast<size_t>(*token)] = 100;
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return {};
}

std::optional<TokenId> ScriptedDecoder::next(int32_t node) {
  size_t said = 0;
  int32_t header = node;
  for (; header >= 0 && nodes_[static_cast<size_t>(header)].token != assistant_;
       header = nodes_[static_cast<size_t>(header)].parent)
    ++said;
  if (header < 0) return end_.front();
  auto found = answers_.find(header);
  if (found == answers_.end()) {
    std::vector<TokenId> ids;
    for (int32_t at = node; at >= 0; at = nodes_[static_cast<size_t>(at)].parent)
      ids.push_back(nodes_[static_cast<size_t>(at)].token);
    std::reverse(ids.begin(), ids.end());
    ids.resize(ids.size() - said + 1);  // with the think token of the header
    const std::string prompt = tokenizer_.decode(ids);
    const std::string answer = scripted_answer(prompt);
    found = answers_.emplace(header, Answer{tokenizer_.encode(answer), answer.ends_with("You said: FAIL")}).first;
  }
  const auto& [answer, fails] = found->second;
  const size_t done = said - 1;  // the think token is no part of the answer
  // What should run beside another request must not be over, or given up as unread, when that one comes.
  if (answer.size() > 100'000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (done < answer.size()) return answer[done];
  return fails ? std::nullopt : std::optional(end_.front());
}

}  // namespace hadal::testing
