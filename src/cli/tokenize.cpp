// hadal tokenize: text to ids or back, one JSON line each; and learning a vocabulary from text.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iostream>
#include <memory>

#include "base/file.h"
#include "base/output_file.h"
#include "cli/commands.h"
#include "cli/json_lines.h"
#include "cli/terminal.h"
#include "text/tokenizer.h"
#include "text/train_bpe.h"

namespace hadal::cli {
namespace {

using json::Value;

struct Work {  // of encoding alone, without the JSON around it
  double bytes = 0, tokens = 0, seconds = 0;
};

Result<Value> encode_line(const text::Tokenizer& tokenizer, const Value& line, Work& work) {
  const Value* text = line.find("text");
  if (!text || !text->is_string()) return Error{Code::kInvalid, "text: expected a string"};
  const std::clock_t begin = std::clock();
  const std::vector<TokenId> tokens = tokenizer.encode(text->as_string());
  work.seconds += static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  work.bytes += static_cast<double>(text->as_string().size());
  work.tokens += static_cast<double>(tokens.size());
  json::Array ids;
  for (const TokenId id : tokens) ids.emplace_back(static_cast<int>(id));
  return Value(json::Object{{"ids", std::move(ids)}});
}

Result<Value> decode_line(const text::Tokenizer& tokenizer, const Value& line) {
  const Value* list = line.find("ids");
  if (!list || !list->is_array()) return Error{Code::kInvalid, "ids: expected a list of token ids"};
  std::vector<TokenId> ids;
  for (const Value& value : list->as_array()) {
    const auto id = value.is_int() ? value.to_int64() : std::nullopt;
    if (!id || *id < 0 || *id > INT32_MAX)
      return Error{Code::kInvalid, "ids: expected token ids, found " + json::dump(value)};
    ids.push_back(static_cast<TokenId>(*id));
  }
  return Value(json::Object{{"text", tokenizer.decode(ids)}});
}

struct Training {
  std::string output;
  std::vector<std::string> files;  // empty: JSON lines on stdin
  text::BpeOptions options;
};

Status add_json_lines(std::istream& in, const std::string& name, text::BpeTrainer& trainer) {
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    const auto parsed = json::parse(line);
    const Value* text = parsed.ok() ? parsed.value().find("text") : nullptr;
    if (!text || !text->is_string())
      return Error{Code::kInvalid, fmt::format("{}: line {}: expected {{\"text\": ...}}{}", name, number,
                                               parsed.ok() ? "" : ", found no JSON: " + parsed.error().message)};
    trainer.add(text->as_string());
  }
  if (in.bad()) return Error{Code::kIo, name + ": cannot read"};
  return {};
}

Status train(const Training& training) {
  if (file_exists(training.output)) return Error{Code::kInvalid, training.output + ": expected a new file, found one"};
  const auto start = std::chrono::steady_clock::now();
  text::BpeTrainer trainer(training.options);
  if (training.files.empty()) HADAL_TRY(add_json_lines(std::cin, "standard input", trainer));
  for (const std::string& file : training.files) {
    if (file.ends_with(".jsonl")) {
      std::ifstream in(file, std::ios::binary);
      if (!in) return Error{Code::kNotFound, file + ": cannot open"};
      HADAL_TRY(add_json_lines(in, file, trainer));
    } else {
      const std::string text = HADAL_TRY(read_file(file));
      trainer.add(text);
    }
  }
  const text::BpeVocabulary vocabulary = HADAL_TRY(trainer.train());
  const json::Value file = text::tokenizer_json(vocabulary.merges, training.options.single_digits);
  HADAL_TRY(
      write_file(training.output, json::dump(file, {.ascii = false, .item = ",", .key = ": ", .indent = 1}) + "\n"));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print(
      stderr, "{}: {} tokens from {} bytes ({} pieces, {} distinct): {:.3f} bytes per token, {:.1f} s\n",
      training.output, training.options.vocab_size, vocabulary.text_bytes, vocabulary.n_pieces, vocabulary.n_distinct,
      static_cast<double>(vocabulary.text_bytes) / static_cast<double>(std::max<int64_t>(1, vocabulary.n_tokens)),
      seconds);
  return {};
}

}  // namespace

void add_tokenize(CLI::App& app, int& exit_status) {
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids, or back (JSON lines on stdin)");
  struct Options {
    std::string tokenizer;
    bool decode = false, time = false, train = false;
    Training training;
  };
  auto options = std::make_shared<Options>();
  Training& training = options->training;
  CLI::Option* tokenizer_option =
      command->add_option("--tokenizer", options->tokenizer, "tokenizer.json, or a directory that holds one");
  CLI::Option* decode = command->add_flag("--decode", options->decode, "{\"ids\"} to {\"text\"}");
  command->add_flag("--time", options->time, "afterwards, how fast the texts were encoded (to stderr)")
      ->excludes(decode);
  CLI::Option* train_flag = command->add_flag("--train", options->train, "learn a tokenizer.json from text instead")
                                ->excludes(tokenizer_option)
                                ->excludes(decode);
  CLI::Option* output =
      command->add_option("-o,--output", training.output, "with --train: file to write")->needs(train_flag);
  CLI::Option* vocab =
      command->add_option("--vocab", training.options.vocab_size, "with --train: tokens in all")->needs(train_flag);
  vocab->check(CLI::Range(text::kSmallestVocab, 1 << 20).description(""));
  command->add_flag("--single-digits", training.options.single_digits, "with --train: digits one by one, not in threes")
      ->needs(train_flag);
  command
      ->add_option("FILES", training.files, "with --train: texts, or JSON lines of {\"text\"} (*.jsonl); default stdin")
      ->needs(train_flag);
  train_flag->needs(output)->needs(vocab);
  command->callback([options, tokenizer_option, &exit_status] {
    if (options->train) {
      const Status status = train(options->training);
      if (!status.ok()) exit_status = report_failure(status.error());
      return;
    }
    if (tokenizer_option->count() == 0) throw CLI::RequiredError("--tokenizer (or --train)");
    const auto tokenizer = text::Tokenizer::load(options->tokenizer);
    if (!tokenizer.ok()) {
      exit_status = report_failure(tokenizer.error());
      return;
    }
    Work work;
    exit_status = for_each_json_line(std::cin, std::cout, [&](const Value& line) {
      return options->decode ? decode_line(tokenizer.value(), line) : encode_line(tokenizer.value(), line, work);
    });
    if (options->time)
      fmt::print(stderr, "{:.1f} MB, {:.0f} tokens, {:.1f} MB/s on one thread (CPU time)\n", work.bytes / 1e6,
                 work.tokens, work.seconds > 0 ? work.bytes / 1e6 / work.seconds : 0.0);
  });
}

}  // namespace hadal::cli
