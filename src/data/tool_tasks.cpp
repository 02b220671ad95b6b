#include "data/tool_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "data/solver.h"

namespace hadal::data {
namespace {

using json::Value;

std::string and_list(const std::vector<std::string>& items) {
  if (items.size() == 1) return items[0];
  return join({items.begin(), items.end() - 1}) + " and " + items.back();
}

class Builder {
 public:
  Builder(Draft& draft, const World& world, Goal goal, Interface interface)
      : draft_(draft),
        rng_(draft.rng),
        w_(world),
        goal_(goal),
        interface_(interface),
        items_(draft.difficulty < 2               ? 1
               : draft.difficulty <= kToolTrained ? 2
                                                  : 3),
        store_(Store::random(world, 4 + 2 * draft.difficulty, draft.rng)),
        end_(store_) {}

  void build() {
    const Noise noise = draw_noise();
    switch (goal_) {
      case Goal::kLookup:
        lookup();
        break;
      case Goal::kLink:
        link();
        break;
      case Goal::kCount:
        count();
        break;
      case Goal::kExtreme:
        extreme();
        break;
      case Goal::kUpdate:
        update();
        break;
      case Goal::kMove:
        move();
        break;
      case Goal::kConditional:
        conditional();
        break;
      case Goal::kVerify:
        verify();
        break;
    }
    if (!draft_.admits(fmt::format("{}|{}|{}.{}.{}|{}", wanted_, interface_name(interface_),
                                   static_cast<int>(noise.kind), noise.at, noise.code, store_.state())))
      return;
    Task& task = draft_.task;
    static constexpr const char* kSystems[] = {"", "", "You are hadal-nano.", "Answer with few words.",
                                               "Use the tools."};
    task.system = rng_.pick(kSystems);
    offer_.get = offer_.get && interface_ != Interface::kPaged;
    offer_.list = offer_.list || interface_ == Interface::kPaged;
    task.tools = tool_schemas(w_, interface_, offer_);
    const auto environment = std::make_shared<StoreEnvironment>(store_, interface_, noise);
    task.environment = environment;
    task.end_state = end_.state();
    draft_.ask(question_());
    Solver solver(draft_, w_, interface_, *environment);
    solve_(solver);
  }

 private:
  Noise draw_noise() {
    if (interface_ != Interface::kNoisy) return {};
    const int per_item = goal_ == Goal::kConditional ? 2 : goal_ == Goal::kVerify ? 3 : 1;
    const int calls = goal_ == Goal::kCount || goal_ == Goal::kExtreme ? 1
                      : goal_ == Goal::kLink                           ? items_ + 1
                                                                       : per_item * items_;
    return {rng_.chance(50) ? Noise::Kind::kCode : Noise::Kind::kSpelling,
            static_cast<int>(rng_.below(static_cast<size_t>(calls))), rng_.range(100, 999)};
  }

  std::vector<std::string> keys(int n) {
    std::vector<std::string> out;
    for (const size_t i : rng_.sample(store_.records.size(), static_cast<size_t>(n)))
      out.push_back(store_.records[i].key);
    return out;
  }
  std::string any_field() {
    const size_t which = rng_.below(3);
    return which < 2 ? w_.numbers[which] : w_.word;
  }
  int draw_number(size_t f) { return rng_.range(w_.low[f], w_.high[f]); }
  std::string draw_word(const std::string& other_than) {
    for (;;)
      if (std::string word = rng_.pick(w_.word_values); word != other_than) return word;
  }
  std::string shown(const Value& value) const { return value.as_string(); }

  // --- the goals: each draws its parameters (wanted_ names them), the end state, the question and
  // the solution ---

  void lookup() {
    const auto asked = keys(items_);
    const std::string field = any_field();
    const bool one_by_one = items_ > 1 && rng_.chance(40);  // the rest in later turns that lean on the first
    wanted_ = fmt::format("lookup {} {} {}", field, join(asked), one_by_one);
    offer_ = {.get = true};
    question_ = [=, this] {
      return draft_.phrase(
          {"What is the {field} of {keys}?", "Tell me the {field} of {keys}.", "Give me the {field} of {keys}.",
           "I need the {field} of {keys}.", "Please look up the {field} of {keys}.", "Find the {field} of {keys}.",
           "Do you know the {field} of {keys}?", "Which {field} does the {key} {keys} have?"},
          {{"field", field}, {"key", w_.key}, {"keys", one_by_one ? asked[0] : and_list(asked)}});
    };
    solve_ = [=, this](Solver& s) {
      if (one_by_one) {
        for (const std::string& key : asked) {
          if (key != asked[0])
            draft_.ask(draft_.phrase({"And {k}?", "What about {k}?", "And the {f} of {k}?", "The same for {k}, please.",
                                      "Now {k}.", "How about {k}?"},
                                     {{"k", key}, {"f", field}}));
          s.finish(s.read(key, field).as_string());
        }
        return;
      }
      std::vector<std::string> values;
      for (const Value& value : s.read_all(asked, field)) values.push_back(value.as_string());
      s.finish(join(values));
    };
  }

  void link() {
    const std::string key = keys(1)[0];
    const std::string field = any_field();
    const int hops = items_;  // 1: from the key to its neighbour, whose field is asked
    wanted_ = fmt::format("link {} {} {}", field, hops, key);
    offer_ = {.get = true};
    std::string chain = key;
    for (int i = 0; i < hops; ++i) chain = fmt::format("the {} of {}", w_.link, chain);
    question_ = [=, this] {
      return draft_.phrase({"What is the {field} of {chain}?", "Tell me the {field} of {chain}.",
                            "Give me the {field} of {chain}.", "Please find the {field} of {chain}.",
                            "I want to know the {field} of {chain}.", "Look up the {field} of {chain}."},
                           {{"field", field}, {"chain", chain}});
    };
    solve_ = [=, this](Solver& s) {
      std::string at = key;
      for (int i = 0; i < hops; ++i) at = s.read(at, w_.link).as_string();
      s.finish(s.read(at, field).as_string());
    };
  }

  void count() {
    const size_t f = rng_.below(3);
    const bool by_word = f == 2, filter = rng_.chance(50);
    const bool above = rng_.chance(50);
    const Record& pivot = rng_.pick(store_.records);
    const std::string field = by_word ? w_.word : w_.numbers[f];
    const int limit = by_word ? 0 : pivot.numbers[f];
    const std::string word = pivot.word;
    const auto fits = [=](const Value& value) {
      return by_word ? value.as_string() == word : above ? *value.to_int64() >= limit : *value.to_int64() <= limit;
    };
    const std::string condition = by_word ? fmt::format("{} {}", field, word)
                                          : fmt::format("{} {} {}", field, above ? "at least" : "at most", limit);
    wanted_ = fmt::format("{} {}", filter ? "filter" : "count", condition);
    offer_ = {.list = true};
    question_ = [=, this] {
      const Slots slots = {{"many", w_.plural}, {"condition", condition}};
      if (filter)
        return draft_.phrase({"Which {many} have {condition}?", "Name the {many} with {condition}.",
                              "List all {many} that have {condition}.", "Tell me which {many} have {condition}.",
                              "Find every one of the {many} with {condition}.", "What {many} have {condition}?"},
                             slots);
      return draft_.phrase(
          {"How many {many} have {condition}?", "Count the {many} with {condition}.",
           "Tell me how many {many} have {condition}.", "What is the number of {many} with {condition}?",
           "Please count all {many} that have {condition}.", "I want the number of {many} that have {condition}."},
          slots);
    };
    solve_ = [=](Solver& s) {
      std::vector<std::string> found, seen;
      for (const auto& [key, value] : s.list(field)) {
        if (!fits(value)) continue;
        found.push_back(key);
        seen.push_back(fmt::format("{} {}", key, value.as_string()));
      }
      s.think(fmt::format("With {}: {}. That is {}.", condition, join(seen), found.size()));
      s.finish(filter ? join(found) : text(static_cast<int>(found.size())));
    };
  }

  void extreme() {
    const size_t f = rng_.below(2);
    const bool high = rng_.chance(50);
    const std::string field = w_.numbers[f];
    wanted_ = fmt::format("{} {}", high ? "highest" : "lowest", field);
    offer_ = {.list = true};
    question_ = [=, this] {
      return draft_.phrase(
          {"Which {key} has the {end} {field}?", "Name the {key} with the {end} {field}.",
           "Find the {key} that has the {end} {field}.", "Tell me which {key} has the {end} {field}.",
           "What {key} has the {end} {field}?", "Of all {many}, which has the {end} {field}?"},
          {{"key", w_.key}, {"many", w_.plural}, {"end", high ? "highest" : "lowest"}, {"field", field}});
    };
    solve_ = [=](Solver& s) {
      std::string best, steps;
      int64_t at = 0;
      for (const auto& [key, value] : s.list(field)) {
        const int64_t number = *value.to_int64();
        if (!best.empty() && (high ? number <= at : number >= at)) continue;
        best = key;
        at = number;
        steps += fmt::format("{}{} {}", steps.empty() ? "" : ", then ", key, number);
      }
      s.think(fmt::format("The {} so far: {}. So it is {}.", high ? "highest" : "lowest", steps, best));
      s.finish(best);
    };
  }

  struct Change {
    std::string key, field;
    Value value;
  };
  void update() {
    const bool is_word = rng_.chance(30);
    const size_t f = rng_.below(2);
    std::vector<Change> changes;
    std::vector<std::string> said;
    for (const std::string& key : keys(items_)) {
      Record& record = *end_.find(key);
      Change change{key, is_word ? w_.word : w_.numbers[f], {}};
      if (is_word) {
        change.value = draw_word(record.word);
      } else {
        int value = draw_number(f);
        if (value == record.numbers[f]) ++value;
        change.value = value;
      }
      end_.set(record, change.field, change.value);
      said.push_back(fmt::format("the {} of {} to {}", change.field, key, shown(change.value)));
      changes.push_back(std::move(change));
    }
    wanted_ = "update " + join(said);
    offer_ = {.get = rng_.chance(30), .set = true, .sets_word = is_word};
    question_ = [=, this] {
      return draft_.phrase({"Set {what}.", "Change {what}.", "Please set {what}.", "Update {what}.", "Put {what}.",
                            "I want you to change {what}.", "Can you set {what}?"},
                           {{"what", and_list(said)}});
    };
    solve_ = [=](Solver& s) {
      for (const Change& change : changes) s.set(change.key, change.field, change.value);
      s.finish("Done.");
    };
  }

  void move() {
    if (w_.motion == Motion::kTransfer) return transfer();
    std::vector<Change> changes;
    std::vector<std::string> said;
    for (const std::string& key : keys(items_)) {
      Record& record = *end_.find(key);
      Change change{key, w_.word, draw_word(record.word)};
      record.word = change.value.as_string();
      said.push_back(fmt::format("{} to {}", key, record.word));
      changes.push_back(std::move(change));
    }
    wanted_ = "move " + join(said);
    offer_ = {.get = rng_.chance(30), .move = true};
    question_ = [=, this] {
      return draft_.phrase({"Move {what}.", "Please move {what}.", "Bring {what}.", "I want to move {what}.",
                            "Shift {what}.", "Could you move {what}?"},
                           {{"what", and_list(said)}});
    };
    solve_ = [=](Solver& s) {
      for (const Change& change : changes) s.place(change.key, change.value.as_string());
      s.finish("Done.");
    };
  }

  struct Payment {
    std::string from, to;
    int amount;
  };
  void transfer() {
    std::vector<Payment> payments;
    std::vector<std::string> said;
    const auto names = keys(items_ + 1);
    for (size_t i = 0; i + 1 < names.size(); ++i) {
      Payment payment{names[i], names[i + 1], 0};
      Record &from = *end_.find(payment.from), &to = *end_.find(payment.to);
      payment.amount = rng_.range(2, from.numbers[0] / 2);
      from.numbers[0] -= payment.amount;
      to.numbers[0] += payment.amount;
      said.push_back(fmt::format("{} from {} to {}", payment.amount, payment.from, payment.to));
      payments.push_back(std::move(payment));
    }
    wanted_ = "transfer " + join(said);
    offer_ = {.get = rng_.chance(30), .move = true};
    question_ = [=, this] {
      return draft_.phrase({"Move {what}.", "Please move {what}.", "Send {what}.", "I want to move {what}.",
                            "Transfer {what}.", "Could you move {what}?"},
                           {{"what", and_list(said)}});
    };
    solve_ = [=](Solver& s) {
      for (const Payment& payment : payments) s.transfer(payment.from, payment.to, payment.amount);
      s.finish("Done.");
    };
  }

  struct Rule {
    std::string key;
    int limit, then, otherwise;
  };
  void conditional() {
    const size_t f = rng_.below(2);
    const std::string field = w_.numbers[f], target = w_.numbers[1 - f];
    std::vector<Rule> rules;
    std::vector<std::string> said;
    for (const std::string& key : keys(items_)) {
      Record& record = *end_.find(key);
      Rule rule{key, record.numbers[f] + rng_.range(1, 9) * (rng_.chance(50) ? 1 : -1), draw_number(1 - f), 0};
      if (rule.limit < 0) rule.limit = 0;
      rule.otherwise = rule.then + rng_.range(1, 9);
      record.numbers[1 - f] = record.numbers[f] > rule.limit ? rule.then : rule.otherwise;
      said.push_back(fmt::format("the {} of {} is over {}, set its {} to {}, else to {}", field, key, rule.limit,
                                 target, rule.then, rule.otherwise));
      rules.push_back(std::move(rule));
    }
    wanted_ = "if " + join(said);
    offer_ = {.get = true, .set = true};
    question_ = [=, this] {
      return draft_.phrase({"If {what}.", "Please do this: if {what}.", "When {what}.", "Look first: if {what}.",
                            "Check this: if {what}.", "In case {what}."},
                           {{"what", join(said, ". If ")}});
    };
    solve_ = [=](Solver& s) {
      for (const Rule& rule : rules) {
        const int64_t found = *s.read(rule.key, field).to_int64();
        const bool over = found > rule.limit;
        s.think(fmt::format("{} is {} {}, so I set {} to {}.", found, over ? "over" : "not over", rule.limit, target,
                            over ? rule.then : rule.otherwise));
        s.set(rule.key, target, over ? rule.then : rule.otherwise);
      }
      s.finish("Done.");
    };
  }

  struct Sum {
    std::string key;
    int add;
  };
  void verify() {
    const size_t f = rng_.below(2);
    const std::string field = w_.numbers[f];
    std::vector<Sum> sums;
    std::vector<std::string> said;
    for (const std::string& key : keys(items_)) {
      Sum sum{key, rng_.range(1, 20)};
      end_.find(key)->numbers[f] += sum.add;
      said.push_back(fmt::format("{} to the {} of {}", sum.add, field, key));
      sums.push_back(std::move(sum));
    }
    wanted_ = "verify " + join(said);
    offer_ = {.get = true, .set = true};
    question_ = [=, this] {
      return draft_.phrase(
          {"Add {what}, check it, and tell me the new {field}.", "Please add {what} and report the new {field}.",
           "Add {what}. What is the {field} now?", "Add {what}, read it again and say what it is now.",
           "I want you to add {what} and to tell me the result.", "Add {what} and report the {field} after that."},
          {{"what", and_list(said)}, {"field", field}});
    };
    solve_ = [=](Solver& s) {
      std::vector<std::string> now;
      for (const Sum& sum : sums) {
        const int before = static_cast<int>(*s.read(sum.key, field).to_int64());
        s.think(fmt::format("{} + {} = {}.", before, sum.add, before + sum.add));
        s.set(sum.key, field, before + sum.add);
        now.push_back(s.read_again(sum.key, field).as_string());
      }
      s.finish(join(now));
    };
  }

  Draft& draft_;
  Rng& rng_;
  const World& w_;
  const Goal goal_;
  const Interface interface_;
  const int items_;
  Store store_, end_;
  Offer offer_;
  std::string wanted_;
  std::function<std::string()> question_;
  std::function<void(Solver&)> solve_;
};

}  // namespace

const char* goal_name(Goal goal) {
  static constexpr const char* kNames[] = {"lookup", "link", "count",       "extreme",
                                           "update", "move", "conditional", "verify"};
  return kNames[static_cast<size_t>(goal)];
}

const char* dropped_because(const World& world, Goal goal) {
  if (goal == Goal::kLink && !world.link) return "its records name no other record";
  if (goal == Goal::kMove && world.motion == Motion::kNone) return "nothing in it changes place";
  const bool writes = goal == Goal::kUpdate || goal == Goal::kConditional || goal == Goal::kVerify;
  if (writes && !world.set) return "it can only be read";
  return "";
}

bool tool_task_held_out(const World& world, Goal goal, Interface interface) {
  // A Latin-square-like choice: every world, goal and interface keeps most of its compositions for
  // training.
  const auto w = static_cast<size_t>(&world - worlds().data());
  return (w * 3 + static_cast<size_t>(goal) * 7 + static_cast<size_t>(interface) * 5) % 10 == 4;
}

void build_tool_task(Draft& draft, const World& world, Goal goal, Interface interface) {
  Builder(draft, world, goal, interface).build();
}

}  // namespace hadal::data
