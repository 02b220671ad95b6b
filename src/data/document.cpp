#include "data/document.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/words.h"
#include "text/templates.h"

namespace hadal::data {
namespace {

void weigh(Rendering& r, size_t begin, size_t end, float weight) {
  std::fill(r.weights.begin() + static_cast<std::ptrdiff_t>(begin),
            r.weights.begin() + static_cast<std::ptrdiff_t>(end), weight);
}

void weigh_all(Rendering& r, std::string_view piece, float weight) {
  if (piece.empty()) return;
  for (size_t at = 0; (at = r.text.find(piece, at)) != std::string::npos; at += piece.size())
    weigh(r, at, at + piece.size(), weight);
}

Rendering render_plain(const Task& task, Mode mode) {
  Rendering r;
  r.add(text::kBos, 0);
  if (!task.response_format.is_null())
    r.add(fmt::format("Format: {}\n", json::dump(task.response_format)), kFillerWeight);
  for (size_t i = 0; i < task.turns.size(); ++i) {
    const auto message = message_of(task.solution[i], mode);
    r.add(fmt::format("{}Question: {}\n", i ? "\n" : "", task.turns[i].user), 1);
    if (!message.reasoning.empty()) r.add(fmt::format("Thoughts: {}\n", message.reasoning), 1);
    r.add(fmt::format("Answer: {}", message.content), 1);
  }
  for (const std::string& filler : task.filler) weigh_all(r, filler, kFillerWeight);
  r.add(text::kEos, 1);
  return r;
}

}  // namespace

std::vector<AssistantSpan> assistant_spans(std::string_view text) {
  std::vector<AssistantSpan> spans;
  const std::string_view assistant = text::kAssistant, open = text::kThinkOpen, close = text::kThinkClose;
  for (size_t at = 0; (at = text.find(assistant, at)) != std::string_view::npos;) {
    at += assistant.size();
    AssistantSpan span{.thinking = text.substr(at).starts_with(open)};
    if (span.thinking)
      at += open.size();
    else if (text.substr(at).starts_with(close))
      at += close.size();
    const size_t eos = text.find(text::kEos, at);
    if (eos == std::string_view::npos) break;  // the header of an answer yet to come
    span.begin = at;
    at = span.end = eos + std::string_view(text::kEos).size();
    spans.push_back(span);
  }
  return spans;
}

const char* form_name(Form form) {
  static constexpr const char* kNames[] = {"sft", "chat", "text"};
  return kNames[static_cast<size_t>(form)];
}

void Rendering::add(std::string_view piece, float weight) {
  text += piece;
  weights.resize(text.size(), weight);
}

Rendering render(const Task& task, Mode mode, Form form) {
  if (form == Form::kText && !task.environment) return render_plain(task, mode);
  const Played played = play_solution(task, mode);
  const auto encoded = text::encode_prompt(played.messages, encode_options(mode));
  HADAL_CHECK(std::holds_alternative<text::EncodedPrompt>(encoded));  // our own messages are well formed
  Rendering r;
  r.add(std::get<text::EncodedPrompt>(encoded).text, form == Form::kSft ? 0.0f : 1.0f);
  if (form != Form::kSft) {
    for (const char* constant :
         {text::kBos, text::kUser, text::kAssistant, text::kEffortAbsolute, text::kResponseFormat})
      weigh_all(r, constant, 0);
    if (const size_t head = r.text.find(text::kToolsHead); head != std::string::npos) {
      const size_t schemas = head + std::string_view(text::kToolsHead).size(),
                   tail = r.text.find(text::kToolsTail, schemas);
      weigh(r, head, schemas, 0);
      weigh(r, schemas, tail, kFillerWeight);
      weigh(r, tail, tail + std::string_view(text::kToolsTail).size(), 0);
    }
    for (const std::string& filler : task.filler) weigh_all(r, filler, kFillerWeight);
  }
  for (const AssistantSpan& span : assistant_spans(r.text)) weigh(r, span.begin, span.end, 1);
  return r;
}

Rendering render_text(std::string_view text) {
  Rendering r;
  r.add(text::kBos, 0);
  r.add(text, 1);
  r.add(text::kEos, 1);
  return r;
}

Rendering render_pairs(Rng& rng, int tokens) {
  // Slots of one pair each; a fact takes a free slot and a later one, at a distance drawn by its
  // logarithm.
  const Words keys = words::kShort;
  const int n_slots = std::max(4, tokens / 3);
  std::vector<std::string> slots(static_cast<size_t>(n_slots));
  std::vector<int> again(static_cast<size_t>(n_slots), 0);
  int largest = 0;
  while ((2 << largest) < n_slots) ++largest;
  std::vector<std::string> used;
  for (int i = 0; i < n_slots; ++i) {
    if (!slots[static_cast<size_t>(i)].empty()) continue;
    std::string key = rng.pick(keys);
    // A key has one value; long texts need keys of two words to have enough of them.
    while (std::find(used.begin(), used.end(), key) != used.end() ||
           (n_slots > 60 && key.find(' ') == std::string::npos))
      key = std::string(rng.pick(keys)) + " " + rng.pick(keys);
    used.push_back(key);
    slots[static_cast<size_t>(i)] = fmt::format("{} {}", key, rng.pick(words::kColours));
    const int power = rng.range(0, largest),
              distance = std::max(1, (1 << power) + static_cast<int>(rng.below(size_t{1} << power)));
    for (int j = i + distance; j < n_slots; ++j) {
      if (!slots[static_cast<size_t>(j)].empty()) continue;
      slots[static_cast<size_t>(j)] = slots[static_cast<size_t>(i)];
      again[static_cast<size_t>(j)] = 1;
      break;
    }
  }
  Rendering r;
  r.add(text::kBos, 0);
  for (int i = 0; i < n_slots; ++i) {
    const std::string& pair = slots[static_cast<size_t>(i)];
    const size_t value = pair.rfind(' ');
    r.add((i ? "\n" : "") + pair.substr(0, value), kFillerWeight);
    r.add(pair.substr(value), again[static_cast<size_t>(i)] ? 1.0f : kFillerWeight);
  }
  r.add(text::kEos, kFillerWeight);
  return r;
}

Document tokenize(const Rendering& rendering, const text::Tokenizer& tokenizer) {
  Document document{.ids = tokenizer.encode(rendering.text), .weights = {}};
  document.weights.reserve(document.ids.size());
  size_t end = 0;
  for (const TokenId id : document.ids) {
    end += tokenizer.piece(id).size();
    document.weights.push_back(rendering.weights[end - 1]);
  }
  HADAL_CHECK(end == rendering.text.size());  // tokens are the text, byte for byte
  if (!document.weights.empty()) document.weights[0] = 0;
  return document;
}

Document make_document(const Task& task, Mode mode, Form form, const text::Tokenizer& tokenizer) {
  return tokenize(render(task, mode, form), tokenizer);
}

}  // namespace hadal::data
