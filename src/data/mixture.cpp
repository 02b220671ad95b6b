#include "data/mixture.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/story.h"
#include "text/templates.h"

namespace hadal::data {
namespace {

constexpr int kBytesPerToken = 3;  // at least, in English under a small vocabulary
constexpr int kShortestFill = 24;  // tokens worth filling with text
constexpr int kMeasured = 100;     // documents per component
constexpr int kDraws = 6;          // documents tried for the rest of a row before it is filled with text
constexpr std::string_view kRules = "list number logic text json word";
constexpr std::string_view kTalks = "chat talk word list number text json logic story";

// How often a family is drawn, against the others of its component, in the stages that make the shipped model talk: a
// small model has room for little, and what everything else stands on comes first.
int weight_of(const Family& family, std::string_view mixture) {
  const auto has = [&](std::string_view part) { return family.id.find(part) != std::string::npos; };
  if (family.kind == "tool" && mixture == "goals")
    return (has("/direct") ? 3 : 1) * (has("/lookup/") || has("/link/") || has("/update/") ? 4
                                       : has("/verify/")                                   ? 1
                                                                                           : 2);
  if (family.kind == "tool")
    return (has("/direct") ? 3 : 1) * (has("/lookup/") ? 10 : has("/update/") || has("/link/") ? 2 : 1);
  if (family.id == "copy" || family.id == "reverse" || family.id == "add") return 6;
  if (family.id == "recall-needle") return 6;
  if (family.id == "small-talk" && mixture == "goals") return 12;
  return family.kind == "json" || family.kind == "talk" ? 2 : 1;
}

}  // namespace

std::vector<std::string> Mixture::names() { return {"base", "long", "tools", "skills", "calls", "goals", "sft"}; }

std::vector<std::string> Mixture::environments() const {
  std::vector<std::string> ids;
  for (const Component& component : components_)
    for (const Family* family : component.families)
      if (std::find(ids.begin(), ids.end(), family->id) == ids.end()) ids.push_back(family->id);
  return ids;
}

Result<Mixture> Mixture::named(std::string_view name, const text::Tokenizer* tokenizer, const Corpus* corpus) {
  Mixture m;
  m.tokenizer_ = tokenizer;
  m.corpus_ = corpus;
  const auto tasks = [](int share, Form form, bool thinking, std::string_view kinds) {
    return Component{
        .part = Part::kTasks, .share = share, .form = form, .thinking = thinking, .kinds = kinds, .families = {}};
  };
  // Chat form of "chat" and "talk" where others are plain text: conversations have no other form
  // worth learning.
  if (name == "base") {
    m.components_ = {{.part = Part::kEnglish, .share = 33, .kinds = {}, .families = {}},
                     {.part = Part::kStory, .share = 12, .kinds = {}, .families = {}},
                     {.part = Part::kPairs, .share = 12, .kinds = {}, .families = {}},
                     tasks(8, Form::kText, false, "recall"),
                     tasks(13, Form::kText, false, kRules),
                     tasks(12, Form::kText, true, kRules),
                     tasks(5, Form::kChat, false, kTalks),
                     tasks(5, Form::kChat, true, kTalks)};
  } else if (name == "long" || name == "tools") {
    const bool more = name == "tools";
    m.components_ = {{.part = Part::kEnglish, .share = more ? 20 : 25, .kinds = {}, .families = {}},
                     {.part = Part::kStory, .share = 8, .kinds = {}, .families = {}},
                     {.part = Part::kPairs, .share = more ? 7 : 12, .kinds = {}, .families = {}},
                     tasks(more ? 8 : 13, Form::kText, false, "recall"),
                     tasks(5, Form::kChat, true, "recall"),
                     tasks(6, Form::kText, false, kRules),
                     tasks(6, Form::kText, true, kRules),
                     tasks(5, Form::kChat, false, kTalks),
                     tasks(5, Form::kChat, true, kTalks),
                     tasks(more ? 15 : 8, Form::kChat, true, "tool"),
                     tasks(more ? 15 : 7, Form::kChat, false, "tool")};
  } else if (name == "skills") {
    m.components_ = {{.part = Part::kEnglish, .share = 5, .kinds = {}, .families = {}},
                     {.part = Part::kPairs, .share = 5, .kinds = {}, .families = {}},
                     tasks(8, Form::kSft, false, "copy reverse"),
                     tasks(4, Form::kSft, true, "copy reverse"),
                     tasks(3, Form::kSft, false, "add"),
                     tasks(7, Form::kSft, true, "add"),
                     tasks(14, Form::kSft, false, "recall-needle"),
                     tasks(4, Form::kSft, true, "recall-needle"),
                     tasks(8, Form::kChat, false, "json"),
                     tasks(4, Form::kChat, true, "json"),
                     tasks(4, Form::kSft, false, "talk chat story"),
                     tasks(4, Form::kSft, true, "talk chat story"),
                     tasks(16, Form::kChat, false, "tool"),
                     tasks(14, Form::kChat, true, "tool")};
  } else if (name == "calls") {
    m.components_ = {tasks(36, Form::kSft, false, "tool"),         tasks(34, Form::kSft, true, "tool"),
                     tasks(6, Form::kSft, false, "json"),          tasks(4, Form::kSft, true, "json"),
                     tasks(6, Form::kSft, false, "recall-needle"), tasks(4, Form::kSft, true, "add"),
                     tasks(3, Form::kSft, true, "copy reverse"),   tasks(2, Form::kSft, false, "copy reverse"),
                     tasks(3, Form::kSft, false, "talk chat"),     tasks(2, Form::kSft, true, "talk chat")};
  } else if (name == "goals") {
    m.components_ = {tasks(16, Form::kSft, false, "tool"),
                     tasks(16, Form::kSft, true, "tool"),
                     tasks(6, Form::kSft, false, "json"),
                     tasks(6, Form::kSft, true, "json"),
                     tasks(6, Form::kSft, false, "recall-needle"),
                     tasks(7, Form::kSft, true, "recall-needle"),
                     tasks(5, Form::kSft, false, "copy reverse"),
                     tasks(9, Form::kSft, true, "copy reverse"),
                     tasks(2, Form::kSft, false, "add"),
                     tasks(5, Form::kSft, true, "add"),
                     tasks(11, Form::kSft, false, "talk chat story"),
                     tasks(11, Form::kSft, true, "talk chat story")};
  } else if (name == "sft") {
    m.components_ = {tasks(15, Form::kSft, true, kTalks),   tasks(10, Form::kSft, true, kRules),
                     tasks(10, Form::kSft, true, "recall"), tasks(20, Form::kSft, false, kTalks),
                     tasks(10, Form::kSft, false, kRules),  tasks(5, Form::kSft, false, "recall"),
                     tasks(16, Form::kSft, true, "tool"),   tasks(14, Form::kSft, false, "tool")};
  } else {
    return Error{Code::kNotFound, fmt::format("mixture: expected one of {}, found {}", join(names()), name)};
  }
  m.focused_ = name != "base" && name != "long";
  for (Component& component : m.components_) {
    if (component.part == Part::kEnglish && !corpus) component.part = Part::kStory;
    if (component.part != Part::kTasks) continue;
    const std::string wanted = fmt::format(" {} ", component.kinds);
    for (const Family& family : families())
      if (!family.held_out && (wanted.find(" " + family.kind + " ") != std::string::npos ||
                               wanted.find(" " + family.id + " ") != std::string::npos))
        component.families.insert(component.families.end(),
                                  m.focused_ ? static_cast<size_t>(weight_of(family, name)) : 1, &family);
    HADAL_CHECK(!component.families.empty());
  }
  // Shares count text, draws count documents: how long the documents of each component are is
  // measured.
  for (Component& component : m.components_) {
    Rng rng(17);
    component.bytes = 0;
    for (int i = 0; i < kMeasured; ++i)
      component.bytes += m.draw(component, rng, name == "base" ? 512 : 2048).text.size() / kMeasured + 1;
  }
  if (tokenizer) {
    const auto eos = tokenizer->id_of(text::kEos);
    if (!eos || !tokenizer->id_of(text::kBos))
      return Error{Code::kUnsupported, "the tokenizer lacks the begin or end of sentence token of V4"};
    m.padding_ = *eos;
  }
  return m;
}

Result<std::unique_ptr<Source>> Mixture::open(const json::Value& description, const std::string& where) {
  std::string name, tokenizer_path, corpus_path;
  const std::pair<const char*, std::string*> keys[] = {
      {"name", &name}, {"tokenizer", &tokenizer_path}, {"corpus", &corpus_path}};
  for (const auto& member : description.as_object()) {
    const std::string& key = member.first;  // clang 14 lets no lambda capture a binding
    const json::Value& value = member.second;
    if (key == "kind") continue;
    const auto found = std::find_if(std::begin(keys), std::end(keys), [&](const auto& k) { return key == k.first; });
    if (found == std::end(keys)) return Error{Code::kInvalid, fmt::format("{}: {}: no such key", where, key)};
    if (!value.is_string())
      return Error{Code::kInvalid, fmt::format("{}: {}: expected a string, found {}", where, key, value.kind_name())};
    *found->second = value.as_string();
  }
  if (tokenizer_path.empty())
    return Error{Code::kInvalid,
                 fmt::format("{}: tokenizer: expected the path of a tokenizer.json, found nothing", where)};
  auto tokenizer = std::make_shared<const text::Tokenizer>(HADAL_TRY(text::Tokenizer::load(tokenizer_path)));
  std::shared_ptr<const Corpus> corpus;
  if (!corpus_path.empty()) corpus = std::make_shared<const Corpus>(HADAL_TRY(Corpus::load(corpus_path)));
  auto mixture = Mixture::named(name, tokenizer.get(), corpus.get());
  if (!mixture.ok()) return Error{mixture.error().code, where + ": " + mixture.error().message};
  auto owner = std::make_unique<Mixture>(std::move(mixture).value());
  owner->own_tokenizer_ = std::move(tokenizer);
  owner->own_corpus_ = std::move(corpus);
  return std::unique_ptr<Source>(std::move(owner));
}

Rendering Mixture::draw(const Component& component, Rng& rng, int length) const {
  switch (component.part) {
    case Part::kEnglish:
      return render_text(
          corpus_->sample(rng, Split::kTrain, static_cast<size_t>(std::min(length, 600) * kBytesPerToken)));
    case Part::kStory:
      return render_text(make_story(rng).text);
    case Part::kPairs:
      return render_pairs(rng, rng.range(60, std::max(61, std::min(length * 3 / 4, 1500))));
    case Part::kTasks:
      break;
  }
  const Family& family = *rng.pick(component.families);
  int hardest = family.trained;
  if (family.kind == "recall")  // the distance must fit into the row: 256 into 512, 512 into 1024, ...
    hardest = length >= 4096 ? 6 : length >= 2048 ? 5 : length >= 1024 ? 4 : length >= 512 ? 3 : 1;
  const auto draw_difficulty = [&] { return static_cast<int>(rng.below(static_cast<size_t>(hardest + 1))); };
  int difficulty = draw_difficulty();
  if (focused_) difficulty = std::min(difficulty, draw_difficulty());  // easy ones more often
  // One conversation in five comes from a small pool, so that the same question is met in every
  // mode.
  const uint64_t seed = component.form == Form::kSft && rng.chance(20) ? rng.below(8) : rng.next();
  const Result<Task> task = make_task({family.id, Split::kTrain, seed, difficulty});
  HADAL_CHECK(task.ok());  // the tests make every family at every difficulty
  // Reasoning to the utmost costs a long instruction in the prompt; one in eight is enough to know
  // it.
  const Mode mode = !component.thinking                              ? Mode::kPlain
                    : component.form == Form::kSft && rng.chance(12) ? Mode::kMax
                                                                     : Mode::kHigh;
  return render(task.value(), mode, component.form);
}

Rendering Mixture::document(Rng& rng, int length) const {
  size_t total = 0;
  const auto odds = [](const Component& c) { return 1000000 * static_cast<size_t>(c.share) / c.bytes; };
  for (const Component& component : components_) total += odds(component);
  size_t at = rng.below(total);
  for (const Component& component : components_) {
    if (at < odds(component)) return draw(component, rng, length);
    at -= odds(component);
  }
  return draw(components_.back(), rng, length);
}

Row Mixture::row(uint64_t seed, uint64_t step, uint64_t row_index, int length) const {
  HADAL_CHECK(tokenizer_ && length > 1);
  Rng rng(combine(combine(seed, step), row_index));
  Row row;
  const auto size = static_cast<size_t>(length);
  row.ids.reserve(size);
  const auto put = [&](const Document& document, size_t n) {
    const auto begin = static_cast<int32_t>(row.ids.size());
    for (size_t i = 0; i < n; ++i) {
      row.ids.push_back(document.ids[i]);
      row.documents.push_back(begin);
      row.weights.push_back(i + 1 < n ? document.weights[i + 1] : 0);
    }
  };
  for (int tries = 0; row.ids.size() < size && tries < kDraws;) {
    const Document document = tokenize(this->document(rng, length), *tokenizer_);
    if (document.ids.size() <= size - row.ids.size()) {
      put(document, document.ids.size());
      tries = 0;
    } else {
      ++tries;
    }
  }
  // The rest: text cut to fit, where the mixture has text.
  if (const size_t left = size - row.ids.size(); left >= kShortestFill && components_[0].part != Part::kTasks) {
    std::string text;
    while (text.size() < left * 5) {
      if (!text.empty()) text += "\n\n";
      text += corpus_ ? std::string(corpus_->sample(rng, Split::kTrain, left * 5)) : make_story(rng).text;
    }
    const Document document = tokenize(render_text(text), *tokenizer_);
    put(document, std::min(left, document.ids.size()));
  }
  if (const size_t left = size - row.ids.size(); left > 0) {
    const Document padding{.ids = std::vector<TokenId>(left, padding_), .weights = std::vector<float>(left, 0)};
    put(padding, left);
  }
  return row;
}

}  // namespace hadal::data
