#include "data/solver.h"

#include <fmt/format.h>

#include <algorithm>

namespace hadal::data {
namespace {

using json::Value;

std::string parameter_names(const json::Object& arguments) {
  std::vector<std::string> names;
  for (const auto& [name, value] : arguments) names.push_back(name);
  return join(names);
}

}  // namespace

void Solver::think(std::string_view thought) {
  if (!thoughts_.empty()) thoughts_ += ' ';
  thoughts_ += thought;
}

std::string Solver::take_thoughts() { return std::exchange(thoughts_, {}); }

Value Solver::call(std::string_view tool, json::Object arguments) {
  for (;;) {
    const std::string check = fmt::format("The tool {} takes {}. I have them all.", tool, parameter_names(arguments));
    draft_.task.solution.push_back({take_thoughts(), check, "", {{std::string(tool), json::dump(arguments)}}});
    const Value result = json::parse(environment_.call(tool, arguments)).value();
    const Value* error = result.find("error");
    if (!error) return result;
    const std::string& message = error->as_string();
    constexpr std::string_view kLocked = "locked, add code ", kNow = " is now ";
    if (message.starts_with(kLocked)) {
      const std::string code = message.substr(kLocked.size());
      think(fmt::format("It is locked. I call again with code {}.", code));
      arguments.emplace_back("code", Value::number(code, true));
    } else {
      const size_t at = message.find(kNow);
      HADAL_CHECK(at != std::string::npos);  // the solver makes no other mistakes
      const std::string old = message.substr(0, at), now = message.substr(at + kNow.size());
      think(fmt::format("{} is now {}. I call again with {}.", old, now, now));
      for (auto& [name, value] : arguments)
        if (value == Value(old)) {
          value = now;
          break;
        }
    }
  }
}

int Solver::list_page(const std::string& field, int page) {
  const Value result = call(w_.list, {{"field", field}, {"page", page}});
  for (const Value& row : result.find("rows")->as_array()) {
    const std::string key = row.find(w_.key)->as_string();
    if (places_.emplace(key, Place{row.find("id")->as_string(), page}).second) order_.push_back(key);
    seen_[{field, key}] = *row.find(field);
  }
  const Value* next = result.find("next");
  return next_page_[field] = next->is_null() ? 0 : static_cast<int>(*next->to_int64());
}

std::string Solver::id_of(const std::string& key, const std::string& field) {
  if (const auto it = places_.find(key); it != places_.end()) return it->second.id;
  read(key, field);
  return places_.at(key).id;
}

Value Solver::read(const std::string& key, const std::string& field) {
  const std::pair<std::string, std::string> wanted{field, key};
  if (!paged()) {
    think(fmt::format("I need the {} of {}.", field, key));
    const Value record = call(w_.get, {{w_.key, key}});
    think(fmt::format("The {} of {} is {}.", field, key, record.find(field)->as_string()));
    return *record.find(field);
  }
  if (!seen_.count(wanted)) {
    think(fmt::format("I need the {} of {}.", field, key));
    const auto known = next_page_.find(field);
    for (int page = known == next_page_.end() ? 1 : known->second; !seen_.count(wanted);) {
      const int at = page;
      page = list_page(field, page);
      if (!seen_.count(wanted)) think(fmt::format("{} is not on page {}. I go on to page {}.", key, at, page));
    }
  }
  think(fmt::format("The {} of {} is {}.", field, key, seen_.at(wanted).as_string()));
  return seen_.at(wanted);
}

Value Solver::read_again(const std::string& key, const std::string& field) {
  think("I read it again.");
  if (!paged()) return read(key, field);
  const int page = places_.at(key).page;
  const int next = next_page_[field];
  list_page(field, page);
  next_page_[field] = next;
  return read(key, field);
}

std::vector<Value> Solver::read_all(const std::vector<std::string>& keys, const std::string& field) {
  std::vector<Value> values;
  if (interface_ != Interface::kDirect || keys.size() == 1) {
    for (const std::string& key : keys) values.push_back(read(key, field));
    return values;
  }
  // Nothing depends on anything: one message with all the calls.
  Step step;
  step.reasoning = fmt::format("I need the {} of {}. I ask for all at once.", field, join(keys));
  step.check = fmt::format("The tool {} takes {}. That makes {} calls.", w_.get, w_.key, keys.size());
  for (const std::string& key : keys) {
    const json::Object arguments{{w_.key, key}};
    step.calls.push_back({w_.get, json::dump(arguments)});
    values.push_back(*json::parse(environment_.call(w_.get, arguments)).value().find(field));
    think(fmt::format("The {} of {} is {}.", field, key, values.back().as_string()));
  }
  draft_.task.solution.push_back(std::move(step));
  return values;
}

std::vector<std::pair<std::string, Value>> Solver::list(const std::string& field) {
  think(fmt::format("I need the {} of all {}.", field, w_.plural));
  std::vector<std::pair<std::string, Value>> all;
  if (!paged()) {
    const Value result = call(w_.list, {{"field", field}});
    for (const auto& [key, value] : result.as_object()) all.emplace_back(key, value);
    return all;
  }
  for (int page = 1; page != 0;) {
    page = list_page(field, page);
    if (page != 0) think(fmt::format("There is more on page {}.", page));
  }
  for (const std::string& key : order_) all.emplace_back(key, seen_.at({field, key}));
  return all;
}

void Solver::set(const std::string& key, const std::string& field, const Value& value) {
  const std::string name = paged() ? id_of(key, field) : key;
  think(paged() ? fmt::format("{} has the id {}. I set its {} to {}.", key, name, field, value.as_string())
                : fmt::format("I set the {} of {} to {}.", field, key, value.as_string()));
  call(w_.set, {{paged() ? "id" : w_.key, name}, {"field", field}, {"value", value}});
}

void Solver::place(const std::string& key, const std::string& to) {
  const std::string name = paged() ? id_of(key, w_.word) : key;
  think(paged() ? fmt::format("{} has the id {}. I move it to {}.", key, name, to)
                : fmt::format("I move {} to {}.", key, to));
  call(w_.move, {{paged() ? "id" : w_.key, name}, {"to", to}});
}

void Solver::transfer(const std::string& from, const std::string& to, int amount) {
  const std::string a = paged() ? id_of(from, w_.numbers[0]) : from, b = paged() ? id_of(to, w_.numbers[0]) : to;
  think(fmt::format("I move {} from {} to {}.", amount, a, b));
  call(w_.move, {{"from", a}, {"to", b}, {"amount", amount}});
}

void Solver::finish(const std::string& answer) {
  draft_.say(answer, thoughts_.empty() || answer == "Done." ? "All is done." : take_thoughts());
}

}  // namespace hadal::data
