// Documents and mixtures: where the loss weighs, what a row holds, that both are pure.

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "checkpoint/synth.h"
#include "data/mixture.h"
#include "data/story.h"
#include "tests/support/shared.h"
#include "text/templates.h"

namespace hadal::data {
namespace {

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::parse(json::dump(checkpoint::synth_tokenizer()), "synth").value();
  return kTokenizer;
}

Task task_of(const char* id, uint64_t seed = 1, int difficulty = 0) {
  return make_task({id, Split::kTrain, seed, difficulty}).value();
}

// The text of the tokens whose weight is that of answers.
std::string weighted(const Document& document) {
  std::vector<TokenId> kept;
  for (size_t i = 0; i < document.ids.size(); ++i)
    if (document.weights[i] == 1) kept.push_back(document.ids[i]);
  return tokenizer().decode(kept);
}

TEST(Document, SftWeighsWhatTheAssistantWrites) {
  for (const char* id : {"add", "shop/verify/paged", "contacts/lookup/noisy"}) {
    const Task task = task_of(id);
    for (const Mode mode : kModes) {
      const Document document = make_document(task, mode, Form::kSft, tokenizer());
      ASSERT_EQ(document.ids.size(), document.weights.size());
      std::string expected;
      for (const Step& step : task.solution) {
        const auto message = message_of(step, mode);
        if (mode != Mode::kPlain) expected += message.reasoning + text::kThinkClose;
        expected += message.content;
        if (!message.tool_calls.empty()) {
          expected += "\n\n<｜DSML｜tool_calls>\n";
          for (const text::ToolCall& call : message.tool_calls) {
            expected += "<｜DSML｜invoke name=\"" + call.name + "\">\n";
            const json::Value arguments = json::parse(call.arguments).value();
            for (const auto& [name, value] : arguments.as_object())
              expected += "<｜DSML｜parameter name=\"" + name + "\" string=\"" +
                          (value.is_string() ? "true" : "false") + "\">" + value.as_string() + "</｜DSML｜parameter>\n";
            expected += "</｜DSML｜invoke>\n";
          }
          expected += "</｜DSML｜tool_calls>";
        }
        expected += text::kEos;
      }
      EXPECT_EQ(weighted(document), expected) << id << " " << mode_name(mode);
    }
  }
}

TEST(Document, EarlierTurnsWeighWithoutTheirReasoning) {
  const Task task = task_of("running-sum");
  const std::string text = weighted(make_document(task, Mode::kHigh, Form::kSft, tokenizer()));
  EXPECT_TRUE(text.starts_with(task.solution[0].content + text::kEos)) << text;
  EXPECT_NE(text.find(task.solution.back().reasoning + text::kThinkClose), std::string::npos) << text;
}

TEST(Document, PretrainingSparesConstantsAndFiller) {
  const Task tool = task_of("shop/lookup/direct");
  const Document chat = make_document(tool, Mode::kHigh, Form::kChat, tokenizer());
  const std::string text = weighted(chat);
  EXPECT_NE(text.find(tool.turns[0].user), std::string::npos);
  EXPECT_EQ(text.find("## Tools"), std::string::npos);
  EXPECT_EQ(text.find("\"parameters\""), std::string::npos);
  const Task recall = task_of("recall-needle", 1, 3);
  ASSERT_FALSE(recall.filler.empty());
  const std::string read = weighted(make_document(recall, Mode::kPlain, Form::kText, tokenizer()));
  for (const std::string& filler : recall.filler) EXPECT_EQ(read.find(filler), std::string::npos);
  EXPECT_NE(read.find("Answer: " + recall.solution[0].content), std::string::npos) << read;
}

TEST(Document, PairsAnswerWhatWasSaid) {
  Rng rng(3);
  const Rendering pairs = render_pairs(rng, 300);
  const Document document = tokenize(pairs, tokenizer());
  EXPECT_EQ(tokenizer().decode(document.ids), pairs.text);
  size_t answers = 0;
  std::set<std::string> lines;
  for (size_t begin = std::string_view(text::kBos).size(); begin < pairs.text.size();) {
    const size_t end = std::min(pairs.text.find('\n', begin), pairs.text.find(text::kEos, begin));
    const std::string line = pairs.text.substr(begin, end - begin);
    const bool asked = pairs.weights[end - 1] == 1;
    answers += asked;
    EXPECT_TRUE(!asked || lines.count(line)) << line;  // an answer was said before
    lines.insert(line);
    begin = pairs.text[end] == '\n' ? end + 1 : pairs.text.size();
  }
  EXPECT_GT(answers, 20u);
}

TEST(Mixture, RowsArePureAndWhole) {
  for (const std::string& name : Mixture::names()) {
    const Mixture mixture = Mixture::named(name, &tokenizer(), nullptr).value();
    const int length = 3000;  // bytes: the tokenizer has no merges
    size_t weighing = 0, starts = 0;
    for (uint64_t r = 0; r < 4; ++r) {
      const Row row = mixture.row(7, 2, r, length), again = mixture.row(7, 2, r, length),
                other = mixture.row(7, 3, r, length);
      EXPECT_EQ(row.ids, again.ids);
      EXPECT_EQ(row.documents, again.documents);
      EXPECT_EQ(row.weights, again.weights);
      EXPECT_NE(row.ids, other.ids);
      ASSERT_EQ(row.ids.size(), static_cast<size_t>(length));
      ASSERT_EQ(row.documents.size(), row.ids.size());
      ASSERT_EQ(row.weights.size(), row.ids.size());
      for (size_t i = 0; i < row.ids.size(); ++i) {
        const auto begin = static_cast<size_t>(row.documents[i]);
        const bool first = i == 0 || row.documents[i - 1] != row.documents[i];
        EXPECT_TRUE(first ? begin == i : begin < i);
        const bool last = i + 1 == row.ids.size() || row.documents[i + 1] != row.documents[i];
        if (last) {
          EXPECT_EQ(row.weights[i], 0);
        }
        starts += first;
        weighing += row.weights[i] > 0;
        // Every document begins with the token that begins all sentences; padding has no weight.
        if (first && row.ids[i] != tokenizer().id_of(text::kBos)) {
          EXPECT_EQ(row.ids[i], tokenizer().id_of(text::kEos));
        }
      }
    }
    EXPECT_GT(starts, 8u) << name;
    EXPECT_GT(weighing, 4u * 300u) << name;
  }
  EXPECT_EQ(Mixture::named("none", nullptr, nullptr).error().code, Code::kNotFound);
}

TEST(Mixture, NeverShowsWhatIsHeldOut) {
  size_t tools = 0;
  for (const std::string& name : Mixture::names())
    for (const std::string& id : Mixture::named(name, nullptr, nullptr).value().environments()) {
      ASSERT_NE(find_family(id), nullptr) << id;
      EXPECT_FALSE(find_family(id)->held_out) << name << " draws from " << id;
      tools += name == "sft" && find_family(id)->kind == "tool";
    }
  EXPECT_GT(tools, 280u);
  Rng rng(1);
  const Mixture sft = Mixture::named("sft", nullptr, nullptr).value();
  for (int i = 0; i < 300; ++i) EXPECT_FALSE(assistant_spans(sft.document(rng, 2048).text).empty());
}

TEST(Corpus, LoadsSamplesAndRefuses) {
  const std::string directory = testing::temp_dir("corpus"), path = directory + "/corpus.jsonl";
  {
    std::ofstream file(path);
    for (int i = 0; i < 400; ++i)
      file << json::dump(json::Object{{"source", i % 2 ? "wordnet" : "other"},
                                      {"text", "line " + std::to_string(i) + " one\nline two of it\nline three of it"}})
           << "\n";
  }
  const Corpus corpus = Corpus::load(path).value();
  EXPECT_EQ(corpus.passages(), 400u);
  Rng rng(1);
  std::set<std::string> train, dev;
  for (int i = 0; i < 3000; ++i) {
    train.emplace(corpus.sample(rng, Split::kTrain, 1000));
    dev.emplace(corpus.sample(rng, Split::kDev, 1000));
    EXPECT_LE(corpus.sample(rng, Split::kTrain, 20).size(), 20u);
  }
  EXPECT_GT(train.size(), 300u);
  for (const std::string& text : dev) EXPECT_FALSE(train.count(text)) << text;
  const Mixture mixture = Mixture::named("base", &tokenizer(), &corpus).value();
  bool seen = false;
  for (uint64_t r = 0; r < 5; ++r)
    seen = seen || tokenizer().decode(mixture.row(1, 1, r, 2000).ids).find("line three of it") != std::string::npos;
  EXPECT_TRUE(seen);

  EXPECT_EQ(Corpus::load(directory + "/none").error().code, Code::kNotFound);
  std::ofstream(directory + "/bad") << "{\"source\": 1}\n";
  EXPECT_EQ(Corpus::load(directory + "/bad").error().code, Code::kCorrupt);
  std::ofstream(directory + "/empty") << "";
  EXPECT_EQ(Corpus::load(directory + "/empty").error().code, Code::kInvalid);
}

}  // namespace
}  // namespace hadal::data
