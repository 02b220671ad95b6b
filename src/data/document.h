// Training documents: text with a weight of the loss per byte, and their tokens.
//
//   sft   the conversation in the released V4 format; weight 1 on what the assistant writes after
//         the tag of its header (reasoning, </think>, answer, calls, end of sentence), 0 elsewhere
//   chat  the same text; weight 1 also on what users say, little on filler and schemas, 0 on
//         constant texts
//   text  "Question: ... Answer: ..." without markup; weight 1, little on filler; tasks with tools
//         are rendered as chat
//
// Weights belong to targets: weights[i] is that of predicting ids[i] from those before. The first
// is 0.
#pragma once

#include <string>
#include <vector>

#include "base/types.h"
#include "data/rng.h"
#include "data/task.h"
#include "text/tokenizer.h"

namespace hadal::data {

enum class Form { kSft, kChat, kText };
const char* form_name(Form form);  // "sft", "chat", "text"

inline constexpr float kFillerWeight = 0.1f;  // of what nobody can predict

struct Rendering {
  std::string text;
  std::vector<float> weights;  // one per byte

  void add(std::string_view piece, float weight);
};

// The task with its reference solution. Tasks with tools have no form `text`; they are rendered as
// chat.
Rendering render(const Task& task, Mode mode, Form form);
// What the assistant wrote in an encoded conversation: after the tag of each header, up to and with
// the end of sentence.
struct AssistantSpan {
  size_t begin = 0, end = 0;
  bool thinking = false;  // after <think>
};
std::vector<AssistantSpan> assistant_spans(std::string_view text);

// BOS, the text, EOS.
Rendering render_text(std::string_view text);
// Induction in its purest form: "key value" pairs of random words, each said twice at distances
// log-uniform up to the length; weight 1 on values said again, kFillerWeight elsewhere. About
// `tokens` tokens.
Rendering render_pairs(Rng& rng, int tokens);

struct Document {
  std::vector<TokenId> ids;
  std::vector<float> weights;
};
Document tokenize(const Rendering& rendering, const text::Tokenizer& tokenizer);
Document make_document(const Task& task, Mode mode, Form form, const text::Tokenizer& tokenizer);

}  // namespace hadal::data
