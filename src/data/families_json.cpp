// Structured text: reading tables and JSON, and writing JSON of a given shape.
//
// The shape is given as the response_format of the API or by the keys named in the question. Answers
// are judged as values, whatever the order of keys and the blanks.

#include <fmt/format.h>

#include <algorithm>

#include "data/family.h"

namespace hadal::data {
namespace {

using json::Value;

struct Field {
  std::string name;
  Value value;
  std::string type;  // of JSON schema
  std::string said;  // "is 34 years old"
};

// Facts about one person or thing: `n` fields in random order, the name first.
std::vector<Field> draw_fields(Draft& d, int n) {
  std::vector<Field> pool;
  const auto add = [&](const char* name, Value value, const char* type, const std::string& pattern) {
    std::string said = fill(pattern, {{"v", value.is_string() ? value.as_string() : json::dump(value)}});
    pool.push_back({name, std::move(value), type, std::move(said)});
  };
  add("age", d.rng.range(5, 89), "integer", "is {v} years old");
  add("city", d.rng.pick(words::kCities), "string", "lives in {v}");
  add("job", d.rng.pick(words::kJobs), "string", "works as a {v}");
  add("pet", d.rng.pick(words::kAnimals), "string", "has a pet {v}");
  add("colour", d.rng.pick(words::kColours), "string", "likes the colour {v}");
  add("fruit", d.rng.pick(words::kFruits), "string", "eats {v} every day");
  add("books", d.rng.range(2, 60), "integer", "owns {v} books");
  d.rng.shuffle(pool);
  const std::string name = d.rng.pick(words::kNames);
  pool.insert(pool.begin(), {"name", name, "string", name});
  pool.resize(static_cast<size_t>(n));
  return pool;
}

std::string tell(const std::vector<Field>& fields) {
  std::vector<std::string> said;
  for (size_t i = 1; i < fields.size(); ++i) said.push_back(fields[i].said);
  std::string out = fields[0].said + " ";
  for (size_t i = 0; i < said.size(); ++i) out += (i == 0 ? "" : i + 1 == said.size() ? " and " : ", ") + said[i];
  return out + ".";
}

Value schema(const std::vector<Field>& fields) {
  json::Object properties;
  json::Array required;
  for (const Field& field : fields) {
    properties.emplace_back(field.name, json::Object{{"type", field.type}});
    required.emplace_back(field.name);
  }
  return json::Object{{"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
}

std::string names(const std::vector<Field>& fields) {
  std::vector<std::string> out;
  for (const Field& field : fields) out.push_back(field.name);
  return join(out);
}

std::string found(const std::vector<Field>& fields) {
  std::vector<std::string> out;
  for (const Field& field : fields) out.push_back(fmt::format("{} {}", field.name, field.value.as_string()));
  return fmt::format("I find: {}.", join(out));
}

void say_json(Draft& d, const Value& value, const std::string& reasoning) {
  d.say(json::dump(value), reasoning, "", {.kind = Expectation::Kind::kJson, .values = {}, .json = value});
}

Value object_of(const std::vector<Field>& fields) {
  json::Object object;
  for (const Field& field : fields) object.emplace_back(field.name, field.value);
  return object;
}

void text_to_json(Draft& d) {
  std::vector<Field> fields = draw_fields(d, 2 + d.difficulty);
  const std::string told = tell(fields);
  d.rng.shuffle(fields);
  if (!d.admits(told + names(fields))) return;
  d.ask(d.phrase(
      {"Write as JSON with the keys {k}: {t}", "Make JSON ({k}) from this: {t}", "{t} Give a JSON object with {k}.",
       "Turn into JSON with {k}: {t}", "Extract {k} as JSON: {t}", "{t} As JSON, keys {k}."},
      {{"k", names(fields)}, {"t", told}}));
  say_json(d, object_of(fields), found(fields));
}

void json_format(Draft& d) {
  std::vector<Field> fields = draw_fields(d, 2 + d.difficulty);
  const std::string told = tell(fields);
  d.rng.shuffle(fields);
  if (!d.admits(told + names(fields))) return;
  d.task.response_format = schema(fields);
  d.ask(d.phrase({"{t}", "Read this: {t}", "Extract the facts: {t}", "Here is a text: {t}",
                  "Put this into the format: {t}", "The text: {t}"},
                 {{"t", told}}));
  say_json(d, object_of(fields), found(fields));
}

void json_list(Draft& d) {
  json::Array rows;
  std::string told;
  for (int i = 0; i < 2 + d.difficulty; ++i) {
    const int n = d.rng.range(2, 30);
    const std::string thing = d.rng.pick(words::kObjects);
    rows.push_back(json::Object{{"item", thing}, {"count", n}});
    told += fmt::format("{}{} {}", i ? ", " : "", n, plural(thing));
  }
  if (!d.admits(told)) return;
  d.ask(d.phrase({"I see {t}. Write a JSON list of objects with item and count, item in the singular.",
                  "Make a JSON list (item, count; item in the singular): {t}",
                  "As JSON, one object with item (singular) and count each: {t}",
                  "There are {t}. Give a JSON list with item (singular) and count.",
                  "List as JSON with item (singular) and count: {t}"},
                 {{"t", told}}));
  say_json(d, rows, fmt::format("There are {} kinds: {}.", rows.size(), told));
}

void json_read(Draft& d) {
  const std::vector<Field> fields = draw_fields(d, 3 + d.difficulty);
  const Field& asked = d.rng.pick(fields);
  const std::string object = json::dump(object_of(fields));
  if (!d.admits(object + asked.name)) return;
  d.ask(d.phrase({"What is the {f} here: {j}", "Give the value of {f}: {j}", "Read the {f} from {j}",
                  "{j} What is the {f}?", "Find {f} in {j}", "Which {f} does it say: {j}"},
                 {{"f", asked.name}, {"j", object}}));
  d.say(asked.value.as_string(), fmt::format("The key {} has the value {}.", asked.name, asked.value.as_string()));
}

void json_edit(Draft& d) {
  std::vector<Field> fields = draw_fields(d, 2 + d.difficulty);
  const std::string before = json::dump(object_of(fields));
  const size_t kind = d.rng.below(3);
  const size_t at = 1 + d.rng.below(fields.size() - 1);
  std::string what;
  if (kind == 0) {
    const Value value = fields[at].value.is_int() ? Value(d.rng.range(90, 199)) : Value(d.rng.pick(words::kShort));
    what = fmt::format("set {} to {}", fields[at].name, json::dump(value));
    fields[at].value = value;
  } else if (kind == 1) {
    what = "remove " + fields[at].name;
    fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(at));
  } else {
    const bool flag = d.rng.chance(50);
    what = fmt::format("add active with {}", flag ? "true" : "false");
    fields.push_back({"active", flag, "boolean", ""});
  }
  if (!d.admits(before + what)) return;
  d.ask(d.phrase({"In this JSON, {w}: {j}", "Please {w} in {j}", "Change the JSON, {w}: {j}", "Take {j} and {w}.",
                  "Edit: {w}. {j}", "With {j} do this: {w}"},
                 {{"w", what}, {"j", before}}));
  say_json(d, object_of(fields), fmt::format("I {}. The rest stays.", what));
}

struct Table {
  std::vector<std::string> names, columns;
  std::vector<std::vector<int>> cells;
  std::string written;
};
Table draw_table(Draft& d, int rows, int columns) {
  static constexpr const char* kColumns[] = {"red", "blue", "green", "gold", "grey"};
  Table t;
  for (const size_t i : d.rng.sample(words::kNames.size(), static_cast<size_t>(rows)))
    t.names.emplace_back(words::kNames[i]);
  for (int c = 0; c < columns; ++c) t.columns.emplace_back(kColumns[c]);
  t.written = "name," + join(t.columns, ",");
  for (const std::string& name : t.names) {
    t.written += "\n" + name;
    t.cells.emplace_back();
    for (int c = 0; c < columns; ++c) {
      t.cells.back().push_back(d.rng.range(1, 99));
      t.written += fmt::format(",{}", t.cells.back().back());
    }
  }
  return t;
}

void csv_lookup(Draft& d) {
  const Table t = draw_table(d, 2 + d.difficulty, 2 + d.difficulty / 2);
  const size_t r = d.rng.below(t.names.size()), c = d.rng.below(t.columns.size());
  if (!d.admits(fmt::format("{} {} {}", t.written, r, c))) return;
  d.ask(t.written + "\n" +
        d.phrase({"What is {c} for {n}?", "Give the {c} of {n}.", "Which number has {n} under {c}?",
                  "Look up {n}, {c}.", "The {c} value of {n}?", "Read {c} in the row of {n}."},
                 {{"c", t.columns[c]}, {"n", t.names[r]}}));
  std::string row;
  for (size_t i = 0; i < t.columns.size(); ++i)
    row += fmt::format("{}{} {}", i ? ", " : "", t.columns[i], t.cells[r][i]);
  d.say(text(t.cells[r][c]), fmt::format("The row of {}: {}.", t.names[r], row));
}

void csv_total(Draft& d) {
  const Table t = draw_table(d, 2 + d.difficulty, 2);
  const size_t c = d.rng.below(t.columns.size());
  if (!d.admits(fmt::format("{} {}", t.written, c))) return;
  d.ask(t.written + "\n" +
        d.phrase({"What is the sum of {c}?", "Add up the column {c}.", "The total of {c}?", "How much is {c} in all?",
                  "Sum the {c} column.", "Total up {c}."},
                 {{"c", t.columns[c]}}));
  int total = 0;
  std::string steps;
  for (const auto& row : t.cells) {
    if (total > 0) steps += fmt::format("{} + {} = {}. ", total, row[c], total + row[c]);
    total += row[c];
  }
  d.say(text(total), steps);
}

void csv_to_json(Draft& d) {
  const Table t = draw_table(d, 1 + d.difficulty, 2);
  json::Array rows;
  for (size_t r = 0; r < t.names.size(); ++r) {
    json::Object row{{"name", t.names[r]}};
    for (size_t c = 0; c < t.columns.size(); ++c) row.emplace_back(t.columns[c], t.cells[r][c]);
    rows.push_back(std::move(row));
  }
  if (!d.admits(t.written)) return;
  d.ask(d.phrase(
      {"Turn into a JSON list:\n{t}", "As a JSON list of objects:\n{t}", "{t}\nWrite this as a JSON list.",
       "Make JSON, one object per row:\n{t}", "Give the rows as a JSON list:\n{t}", "Convert to a JSON list:\n{t}"},
      {{"t", t.written}}));
  say_json(d, rows, fmt::format("There are {} rows with the keys name, {}.", rows.size(), join(t.columns)));
}

void json_answer(Draft& d) {
  const int a = d.rng.range(2, 20 + 20 * d.difficulty), b = d.rng.range(1, 20 + 20 * d.difficulty);
  if (!d.admits(fmt::format("{} {}", a, b))) return;
  d.task.response_format = json::Object{{"type", "object"},
                                        {"properties", json::Object{{"sum", json::Object{{"type", "integer"}}},
                                                                    {"larger", json::Object{{"type", "integer"}}},
                                                                    {"equal", json::Object{{"type", "boolean"}}}}},
                                        {"required", json::Array{"sum", "larger", "equal"}}};
  d.ask(d.phrase({"Take {a} and {b}.", "The numbers are {a} and {b}.", "Numbers: {a}, {b}", "Look at {a} and {b}.",
                  "Here are {a} and {b}.", "Given: {a} and {b}"},
                 {{"a", text(a)}, {"b", text(b)}}));
  say_json(d, json::Object{{"sum", a + b}, {"larger", std::max(a, b)}, {"equal", a == b}},
           fmt::format("{} + {} = {}. The larger is {}. They are {}.", a, b, a + b, std::max(a, b),
                       a == b ? "equal" : "not equal"));
}

}  // namespace

void add_json_families(std::vector<Family>& list) {
  const auto put = [&](const char* id, int trained, int chance, void (*build)(Draft&)) {
    list.push_back(
        {.id = id, .kind = "json", .trained = trained, .hardest = trained + 1, .chance = chance, .build = build});
  };
  put("text-to-json", 3, 2, text_to_json);
  put("json-format", 3, 2, json_format);
  put("json-list", 2, 2, json_list);
  put("json-read", 3, 30, json_read);
  put("json-edit", 3, 2, json_edit);
  put("csv-lookup", 3, 30, csv_lookup);
  put("csv-total", 3, 5, csv_total);
  put("csv-to-json", 2, 2, csv_to_json);
  put("json-answer", 3, 2, json_answer);
}

}  // namespace hadal::data
