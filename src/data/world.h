// Tool worlds: typed records behind a few functions.
//
// A World is a description (names of its tools, fields and entities; no code). A Store holds the
// records of one instance. A StoreEnvironment offers the store through one of three interfaces:
//
//   direct  get(KEY) -> record · list(field) -> {KEY: value} · set(KEY, field, value) ·
//           move(KEY, to) or pay(from, to, amount)
//   paged   list(field, page) -> {"rows": [{"id", KEY, field}], "next": page | null};
//           set and move take ids, which only the list tells
//   noisy   as direct, but one call is refused until it is repeated as the error says
//
// KEY stands for the world's own word: two worlds share no tool name, so that knowing one does not
// solve another.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "data/rng.h"
#include "data/task.h"
#include "data/words.h"

namespace hadal::data {

enum class Interface { kDirect, kPaged, kNoisy };
inline constexpr Interface kInterfaces[] = {Interface::kDirect, Interface::kPaged, Interface::kNoisy};
const char* interface_name(Interface interface);

// How things change place: not at all, a word field takes a new value, or an amount goes from one
// record to another.
enum class Motion { kNone, kPlace, kTransfer };

struct World {
  const char* id;
  const char* plural;  // "contacts"
  const char* key;     // parameter that names a record: "contact"
  Words keys;
  const char* numbers[2];  // two number fields; the first is the one that transfers
  int low[2], high[2];
  const char* word;  // the word field
  Words word_values;
  const char* link;  // field that names another record; null without
  Motion motion;
  const char *get, *list, *set, *move;  // tool names; set and move may be null
};
std::span<const World> worlds();

struct Record {
  std::string key;
  std::array<int, 2> numbers{};
  std::string word;
  std::string link;
  std::string id;  // of the paged interface
};

struct Store {
  const World* world = nullptr;
  std::vector<Record> records;

  static Store random(const World& world, int n,
                      Rng& rng);  // number fields differ from record to record
  const Record* find(std::string_view key) const;
  Record* find(std::string_view key);
  json::Value value(const Record& record, std::string_view field) const;  // null: no such field
  bool set(Record& record, std::string_view field, const json::Value& value) const;
  std::string state() const;
};

// One refusal: the `at`-th call fails until it is repeated with the code, or with the other
// spelling of its first text.
struct Noise {
  enum class Kind { kNone, kCode, kSpelling };
  Kind kind = Kind::kNone;
  int at = 0;
  int code = 0;
};

class StoreEnvironment : public Environment {
 public:
  static constexpr size_t kPageSize = 3;

  StoreEnvironment(Store store, Interface interface, Noise noise);
  std::string call(std::string_view tool, const json::Value& arguments) override;
  std::string state() const override { return store_.state(); }
  int successful_calls() const override { return successes_; }
  std::unique_ptr<Environment> clone() const override { return std::make_unique<StoreEnvironment>(*this); }

 private:
  Result<json::Value> run(std::string_view tool, const json::Value& arguments);
  Result<json::Value> refuse_or_run(std::string_view tool, json::Value arguments);
  Result<Record*> record_of(const json::Value& arguments, std::string_view parameter);

  Store store_;
  Interface interface_;
  Noise noise_;
  int calls_ = 0, successes_ = 0;
};

// Schemas of the tools a task offers, as encode_prompt takes them.
struct Offer {
  bool get = false, list = false, set = false, move = false;
  bool sets_word = false;  // set's value is a word, else a number
};
json::Value tool_schemas(const World& world, Interface interface, const Offer& offer);

}  // namespace hadal::data
