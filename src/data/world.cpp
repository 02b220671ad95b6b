#include "data/world.h"

#include <fmt/format.h>

namespace hadal::data {
namespace {

using json::Value;

Error refusal(std::string message) { return {Code::kInvalid, std::move(message)}; }

// The other spelling that a noisy call asks for.
std::string respelled(const std::string& key, int code) { return fmt::format("{}-{}", key, code % 90 + 10); }

// The text argument that a refusal is about.
Value* first_text(Value& arguments) {
  for (auto& [name, value] : arguments.as_object())
    if (value.is_string()) return &value;
  return nullptr;
}

Result<std::string> text_of(const Value& arguments, std::string_view name) {
  const Value* value = arguments.find(name);
  if (!value || !value->is_string()) return refusal(fmt::format("{} is missing", name));
  return value->as_string();
}

}  // namespace

const char* interface_name(Interface interface) {
  switch (interface) {
    case Interface::kDirect:
      return "direct";
    case Interface::kPaged:
      return "paged";
    case Interface::kNoisy:
      return "noisy";
  }
  return "";
}

Store Store::random(const World& world, int n, Rng& rng) {
  Store store{.world = &world, .records = {}};
  const auto keys = rng.sample(world.keys.size(), static_cast<size_t>(n));
  std::array<std::vector<size_t>, 2> numbers;
  for (size_t f = 0; f < 2; ++f)
    numbers[f] = rng.sample(static_cast<size_t>(world.high[f] - world.low[f] + 1), static_cast<size_t>(n));
  const auto ids = rng.sample(90, static_cast<size_t>(n));
  for (size_t i = 0; i < keys.size(); ++i) {
    Record record;
    record.key = world.keys[keys[i]];
    for (size_t f = 0; f < 2; ++f) record.numbers[f] = world.low[f] + static_cast<int>(numbers[f][i]);
    record.word = rng.pick(world.word_values);
    record.id = fmt::format("r{}", ids[i] + 10);
    store.records.push_back(std::move(record));
  }
  // Links lead from record to record in one ring: no chain ends or turns back early.
  if (world.link) {
    const auto ring = rng.sample(store.records.size(), store.records.size());
    for (size_t i = 0; i < ring.size(); ++i)
      store.records[ring[i]].link = store.records[ring[(i + 1) % ring.size()]].key;
  }
  return store;
}

const Record* Store::find(std::string_view key) const {
  for (const Record& record : records)
    if (record.key == key) return &record;
  return nullptr;
}
Record* Store::find(std::string_view key) { return const_cast<Record*>(std::as_const(*this).find(key)); }

Value Store::value(const Record& record, std::string_view field) const {
  for (size_t f = 0; f < 2; ++f)
    if (field == world->numbers[f]) return record.numbers[f];
  if (field == world->word) return record.word;
  if (world->link && field == world->link) return record.link;
  return {};
}

bool Store::set(Record& record, std::string_view field, const Value& value) const {
  for (size_t f = 0; f < 2; ++f) {
    if (field != world->numbers[f]) continue;
    const auto number = value.is_int() ? value.to_int64() : std::nullopt;
    if (!number || *number < 0 || *number > 99999) return false;
    record.numbers[f] = static_cast<int>(*number);
    return true;
  }
  if (field != world->word || !value.is_string()) return false;
  record.word = value.as_string();
  return true;
}

std::string Store::state() const {
  std::string out;
  for (const Record& record : records)
    out += fmt::format("{}: {} {} {} {}\n", record.key, record.numbers[0], record.numbers[1], record.word, record.link);
  return out;
}

StoreEnvironment::StoreEnvironment(Store store, Interface interface, Noise noise)
    : store_(std::move(store)), interface_(interface), noise_(noise) {}

std::string StoreEnvironment::call(std::string_view tool, const Value& arguments) {
  Result<Value> result =
      arguments.is_object() ? refuse_or_run(tool, arguments) : Result<Value>(refusal("arguments must be an object"));
  if (result.ok()) {
    ++successes_;
    return json::dump(result.value());
  }
  return json::dump(json::Object{{"error", result.error().message}});
}

Result<Value> StoreEnvironment::refuse_or_run(std::string_view tool, Value arguments) {
  const World& w = *store_.world;
  const bool known = tool == w.get || tool == w.list || (w.set && tool == w.set) || (w.move && tool == w.move);
  if (!known) return refusal(fmt::format("no tool {}", tool));
  const bool refuses = noise_.kind != Noise::Kind::kNone && calls_++ >= noise_.at;
  if (!refuses) return run(tool, arguments);
  if (noise_.kind == Noise::Kind::kCode) {
    const Value* code = arguments.find("code");
    if (!code || code->to_int64() != noise_.code) return refusal(fmt::format("locked, add code {}", noise_.code));
  } else if (Value* text = first_text(arguments)) {
    const std::string given = text->as_string(), suffix = respelled("", noise_.code);
    if (!given.ends_with(suffix)) return refusal(fmt::format("{} is now {}", given, respelled(given, noise_.code)));
    *text = given.substr(0, given.size() - suffix.size());
  }
  noise_.kind = Noise::Kind::kNone;
  return run(tool, arguments);
}

Result<Record*> StoreEnvironment::record_of(const Value& arguments, std::string_view parameter) {
  const std::string name = HADAL_TRY(text_of(arguments, parameter));
  for (Record& record : store_.records)
    if (name == (interface_ == Interface::kPaged ? record.id : record.key)) return &record;
  return refusal(fmt::format("no {} {}", parameter, name));
}

Result<Value> StoreEnvironment::run(std::string_view tool, const Value& arguments) {
  const World& w = *store_.world;
  const bool paged = interface_ == Interface::kPaged;
  const std::string by = paged ? "id" : w.key;
  const auto known_field = [&](const std::string& field) { return !store_.value(store_.records[0], field).is_null(); };
  if (tool == w.get) {
    const Record* record = HADAL_TRY(record_of(arguments, by));
    json::Object out{{w.key, record->key},
                     {w.numbers[0], record->numbers[0]},
                     {w.numbers[1], record->numbers[1]},
                     {w.word, record->word}};
    if (w.link) out.emplace_back(w.link, record->link);
    return Value(std::move(out));
  }
  if (tool == w.list) {
    const std::string field = HADAL_TRY(text_of(arguments, "field"));
    if (!known_field(field)) return refusal(fmt::format("no field {}", field));
    if (!paged) {
      json::Object out;
      for (const Record& record : store_.records) out.emplace_back(record.key, store_.value(record, field));
      return Value(std::move(out));
    }
    const Value* page = arguments.find("page");
    const auto number = page ? page->to_int64() : std::nullopt;
    const auto pages = static_cast<int64_t>((store_.records.size() + kPageSize - 1) / kPageSize);
    if (!number || *number < 1 || *number > pages) return refusal("no such page");
    json::Array rows;
    const size_t begin = static_cast<size_t>(*number - 1) * kPageSize;
    for (size_t i = begin; i < std::min(begin + kPageSize, store_.records.size()); ++i) {
      const Record& record = store_.records[i];
      rows.push_back(json::Object{{"id", record.id}, {w.key, record.key}, {field, store_.value(record, field)}});
    }
    return Value(json::Object{{"rows", std::move(rows)}, {"next", *number < pages ? Value(*number + 1) : Value()}});
  }
  if (w.set && tool == w.set) {
    Record* record = HADAL_TRY(record_of(arguments, by));
    const std::string field = HADAL_TRY(text_of(arguments, "field"));
    const Value* value = arguments.find("value");
    if (!value || !store_.set(*record, field, *value)) return refusal("bad field or value");
    return Value(json::Object{{"ok", true}});
  }
  if (w.motion == Motion::kPlace) {
    Record* record = HADAL_TRY(record_of(arguments, by));
    record->word = HADAL_TRY(text_of(arguments, "to"));
    return Value(json::Object{{"ok", true}});
  }
  Record* from = HADAL_TRY(record_of(arguments, "from"));
  Record* to = HADAL_TRY(record_of(arguments, "to"));
  const Value* amount = arguments.find("amount");
  const auto number = amount && amount->is_int() ? amount->to_int64() : std::nullopt;
  if (!number || *number < 1 || *number > from->numbers[0]) return refusal("bad amount");
  from->numbers[0] -= static_cast<int>(*number);
  to->numbers[0] += static_cast<int>(*number);
  return Value(json::Object{{"ok", true}});
}

Value tool_schemas(const World& w, Interface interface, const Offer& offer) {
  const bool paged = interface == Interface::kPaged;
  const char* by = paged ? "id" : w.key;
  using Parameter = std::pair<const char*, const char*>;
  json::Array tools;
  const auto add = [&](const char* name, const std::string& description, const std::vector<Parameter>& parameters) {
    json::Object properties;
    json::Array required;
    for (const auto& [parameter, type] : parameters) {
      properties.emplace_back(parameter, json::Object{{"type", type}});
      required.emplace_back(parameter);
    }
    json::Object schema{{"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
    tools.push_back(json::Object{
        {"type", "function"},
        {"function", json::Object{{"name", name}, {"description", description}, {"parameters", std::move(schema)}}}});
  };
  std::string fields = fmt::format("{}, {}, {}", w.numbers[0], w.numbers[1], w.word);
  if (w.link) fields += fmt::format(", {}", w.link);
  if (offer.get) add(w.get, fmt::format("Read one {}: {}.", w.key, fields), {{w.key, "string"}});
  if (offer.list && paged)
    add(w.list, fmt::format("One field of the {}, by page: {}.", w.plural, fields),
        {{"field", "string"}, {"page", "integer"}});
  else if (offer.list)
    add(w.list, fmt::format("One field of all {}: {}.", w.plural, fields), {{"field", "string"}});
  if (offer.set)
    add(w.set, fmt::format("Change one {}.", w.key),
        {{by, "string"}, {"field", "string"}, {"value", offer.sets_word ? "string" : "integer"}});
  if (offer.move && w.motion == Motion::kPlace)
    add(w.move, fmt::format("Give one {} a new {}.", w.key, w.word), {{by, "string"}, {"to", "string"}});
  else if (offer.move)
    add(w.move, fmt::format("Move {} from one {} to another.", w.numbers[0], w.key),
        {{"from", "string"}, {"to", "string"}, {"amount", "integer"}});
  return tools;
}

}  // namespace hadal::data
