#include "constrain/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <optional>
#include <set>

#include "constrain/patterns.h"
#include "constrain/regex.h"
#include "text/templates.h"

namespace hadal::constrain {
namespace {

using json::Value;

constexpr int kBlanks = 32;       // spaces of an indentation
constexpr int kMostNesting = 64;  // of a schema
constexpr int64_t kMostItems = 1000, kMostLength = 10000, kMostFactor = 10000, kMostWork = 2000000;

// Texts that are structure.
constexpr char kMarkup[] = "｜DSML｜|<think>|</think>|<｜begin▁of▁sentence｜>|<｜end▁of▁sentence｜>";

// At most 40 digits, and no exponent that a double cannot hold: a number ends, and every reader can take it.
constexpr std::string_view kWholeNumbers = "^(0|-?[1-9][0-9]{0,39})$";
constexpr std::string_view kDecimals = "^(0|-?[1-9][0-9]{0,17}|-?(0|[1-9][0-9]{0,17})\\.[0-9]{1,15})$";
constexpr std::string_view kAllNumbers =
    "^-?((0|[1-9][0-9]{0,39})(\\.[0-9]{1,40})?|"
    "[0-9](\\.[0-9]{1,40})?[eE][+-]?([0-9]{1,2}|[12][0-9]{2}|30[0-7]))$";

enum Type : unsigned { kNull = 1, kBoolean = 2, kInteger = 4, kNumber = 8, kString = 16, kArray = 32, kObject = 64 };
constexpr unsigned kAnyType = kNull | kBoolean | kNumber | kString | kArray | kObject;
constexpr std::pair<std::string_view, unsigned> kTypes[] = {
    {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kNumber | kInteger},
    {"string", kString}, {"array", kArray},     {"object", kObject}};

constexpr std::string_view kAnnotations[] = {
    "title",    "description", "default",         "examples",         "$schema", "$id",  "id",
    "$comment", "deprecated",  "readOnly",        "writeOnly",        "$defs",   "$def", "definitions",
    "strict",   "$anchor",     "contentEncoding", "contentMediaType", "example"};
constexpr std::string_view kKnown[] = {"type",
                                       "enum",
                                       "const",
                                       "properties",
                                       "required",
                                       "additionalProperties",
                                       "items",
                                       "prefixItems",
                                       "additionalItems",
                                       "minItems",
                                       "maxItems",
                                       "minLength",
                                       "maxLength",
                                       "pattern",
                                       "format",
                                       "minimum",
                                       "maximum",
                                       "exclusiveMinimum",
                                       "exclusiveMaximum",
                                       "multipleOf",
                                       "anyOf",
                                       "oneOf",
                                       "allOf",
                                       "$ref"};
template <size_t N>
bool among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

class Compiler {
 public:
  Compiler(bool has_dsml, bool has_think_close) {
    out_.grammar.has_dsml = has_dsml;
    out_.grammar.has_think_close = has_think_close;
  }

  Result<Compiled> compile(const Shape& shape) {
    const Rule root = g().add_rule();
    State at = g().rule(root).start;
    const State end = g().rule(root).end;
    const bool has_text = shape.answer == Shape::Answer::kText;
    if (shape.thinking) {
      const State thought = g().add_state(root);
      g().call(at, thought, plain_text());
      at = g().think_close(thought);
      if (shape.may_stop_thinking) g().empty(thought, end);
    }
    if (has_text) {
      const State said = g().add_state(root);
      g().call(at, said, plain_text());
      g().empty(said, end);
      at = said;
    } else if (shape.answer == Shape::Answer::kObject) {
      g().call(at, end, any_object());
    } else if (shape.answer == Shape::Answer::kSchema) {
      strict_ = shape.strict;
      where_ = "";
      root_ = &shape.schema;
      value_into(root, at, end, shape.schema, kAnyType, false, "", 0);
    }
    if (!shape.tools.empty()) calls(root, at, end, shape);
    if (error_) return *error_;
    HADAL_TRY(g().finish(root));
    return std::move(out_);
  }

 private:
  struct Scope;
  Grammar& g() { return out_.grammar; }

  void fail(const std::string& path, const std::string& what, Code code = Code::kUnsupported) {
    if (!error_) error_ = Error{code, fmt::format("{}{}: {}", where_, path.empty() ? "/" : path, what)};
  }
  void unsupported(const std::string& path, std::string_view keyword, std::string_view why = "is not supported") {
    if (strict_) return fail(path, fmt::format("{} {}", keyword, why));
    const std::string name = fmt::format("{}{}/{}", where_, path, keyword);
    if (std::find(out_.ignored.begin(), out_.ignored.end(), name) == out_.ignored.end()) out_.ignored.push_back(name);
  }

  // --- JSON of any shape

  State blanks(Rule rule, State from) {
    const State to = g().add_state(rule);
    g().empty(from, to);
    g().bytes(from, to, ' ', ' ');
    State line = g().add_state(rule);
    g().bytes(from, line, '\n', '\n');
    g().empty(line, to);
    for (int i = 0; i < kBlanks; ++i) {
      const State next = g().add_state(rule);
      g().bytes(line, next, ' ', ' ');
      g().empty(next, to);
      line = next;
    }
    return to;
  }
  State colon(Rule rule, State from) {
    const State said = g().text(from, ":"), to = g().add_state(rule);
    g().empty(said, to);
    g().bytes(said, to, ' ', ' ');
    return to;
  }

  // The texts of the automaton, between `from` and `to`. escaped: as the inside of a JSON string; free: with every
  // escape (the automaton must be any_text's). With counts, a code point counts.
  void dfa_into(Rule rule, State from, State to, const Dfa& dfa, bool escaped, bool free, bool counts) {
    std::vector<State> states{from};
    for (size_t i = 1; i < dfa.states.size(); ++i) states.push_back(g().add_state(rule));
    // The start may be entered again: then it must not be the state of others.
    if (std::any_of(dfa.states.begin(), dfa.states.end(),
                    [](const Dfa::State& s) { return std::find(s.next.begin(), s.next.end(), 0) != s.next.end(); })) {
      states[0] = g().add_state(rule);
      g().empty(from, states[0]);
    }
    for (size_t i = 0; i < dfa.states.size(); ++i) {
      const Dfa::State& state = dfa.states[i];
      const State own = states[i];
      if (state.accepts) g().empty(own, to, counts);
      const auto plain = [&](size_t b) { return !escaped || (b >= 0x20 && b != '"' && b != '\\'); };
      const auto continues = [](size_t b) { return b >= 0x80 && b < 0xC0; };
      for (size_t b = 0; b < 256;) {
        const int32_t next = state.next[b];
        size_t last = b;
        if (next >= 0 && plain(b)) {
          while (last + 1 < 256 && state.next[last + 1] == next && plain(last + 1) &&
                 continues(last + 1) == continues(b))
            ++last;
          g().bytes(own, states[static_cast<size_t>(next)], static_cast<uint8_t>(b), static_cast<uint8_t>(last),
                    counts && !continues(b));
        }
        b = last + 1;
      }
      if (escaped) escapes(rule, own, state, states, free, counts);
      if (g().too_large()) return;
    }
  }

  void escapes(Rule rule, State own, const Dfa::State& state, const std::vector<State>& states, bool free,
               bool counts) {
    const auto goes = [&](char c) { return state.next[static_cast<uint8_t>(c)]; };
    bool any = false;
    for (const char c : std::string_view("\"\\/\b\f\n\r\t")) any = any || goes(c) >= 0;
    for (char c = 0; c < 0x20; ++c) any = any || goes(c) >= 0;
    if (!any) return;
    const State escape = g().add_state(rule);
    g().bytes(own, escape, '\\', '\\', counts);
    static constexpr std::pair<char, char> kShort[] = {{'"', '"'},  {'\\', '\\'}, {'/', '/'},  {'b', '\b'},
                                                       {'f', '\f'}, {'n', '\n'},  {'r', '\r'}, {'t', '\t'}};
    for (const auto& [letter, meant] : kShort)
      if (goes(meant) >= 0)
        g().bytes(escape, states[static_cast<size_t>(goes(meant))], static_cast<uint8_t>(letter),
                  static_cast<uint8_t>(letter));
    const auto hex = [&](State from, State to, unsigned low, unsigned high) {
      for (unsigned d = low; d <= high; ++d) {
        const char digit = "0123456789abcdef"[d];
        g().bytes(from, to, static_cast<uint8_t>(digit), static_cast<uint8_t>(digit));
        if (d >= 10) g().bytes(from, to, static_cast<uint8_t>(digit - 32), static_cast<uint8_t>(digit - 32));
      }
    };
    const auto chain = [&](State from, State to, int n) {
      for (int i = 0; i < n; ++i) {
        const State next = i + 1 == n ? to : g().add_state(rule);
        hex(from, next, 0, 15);
        from = next;
      }
    };
    if (free) {
      const State u = g().text(escape, "u"), d = g().add_state(rule), low = g().add_state(rule);
      for (unsigned first = 0; first < 16; ++first) {
        if (first == 13) continue;
        const State second = g().add_state(rule);
        hex(u, second, first, first);
        chain(second, own, 3);
      }
      hex(u, d, 13, 13);
      const State plain = g().add_state(rule), high = g().add_state(rule);
      hex(d, plain, 0, 7);
      chain(plain, own, 2);
      hex(d, high, 8, 11);
      const State paired = g().add_state(rule);
      chain(high, paired, 2);
      const State second = g().text(paired, "\\u");
      hex(second, low, 13, 13);
      const State third = g().add_state(rule);
      hex(low, third, 12, 15);
      chain(third, own, 2);
      return;
    }
    const State zeros = g().text(escape, "u00");
    for (unsigned high = 0; high < 2; ++high) {
      const State digit = g().add_state(rule);
      hex(zeros, digit, high, high);
      for (unsigned low = 0; low < 16; ++low)
        if (const int32_t next = state.next[high * 16 + low]; next >= 0)
          hex(digit, states[static_cast<size_t>(next)], low, low);
    }
  }

  Rule string_rule(const Dfa& dfa, bool raw, bool free, int32_t least = 0, int32_t most = kNoLimit) {
    const Rule rule = g().add_rule();
    g().rule(rule).least = least;
    g().rule(rule).most = most;
    const bool counts = least > 0 || most != kNoLimit;
    State begin = g().rule(rule).start, end = g().rule(rule).end;
    if (!raw) {
      begin = g().text(begin, "\"");
      const State closed = g().add_state(rule);
      dfa_into(rule, begin, closed, dfa, true, free, counts);
      g().bytes(closed, end, '"', '"');
    } else {
      dfa_into(rule, begin, end, dfa, false, false, counts);
    }
    return rule;
  }

  template <class Make>
  Rule once(std::optional<Rule>& rule, const Make& make) {
    if (!rule) make(rule);
    return *rule;
  }
  const Dfa& text_dfa() {
    if (!text_) text_ = any_text();
    return *text_;
  }
  // Text between markup. Where the marker and </think> are tokens of their own, plain tokens may spell them: parsers
  // tell the two apart. Where they are not, text must not look like structure.
  const Dfa& plain_dfa() {
    if (!plain_) {
      const bool by_tokens = g().has_dsml && g().has_think_close;
      plain_ = by_tokens ? text_dfa() : both(text_dfa(), search(kMarkup).value(), true).value();
    }
    return *plain_;
  }
  bool holds_markup(std::string_view text) {
    if (!markup_) markup_ = search(kMarkup).value();
    return markup_->matches(text);
  }
  Rule plain_text() {
    return once(plain_rule_, [&](auto& rule) { rule = string_rule(plain_dfa(), true, false); });
  }
  Rule any_string() {
    return once(string_, [&](auto& rule) { rule = string_rule(text_dfa(), false, true); });
  }
  Rule number(bool integer) {
    return once(integer ? integer_ : number_,
                [&](auto& rule) { rule = number_rule(integer ? kWholeNumbers : kAllNumbers); });
  }
  Rule number_rule(std::string_view pattern) { return string_rule(search(pattern).value(), true, false); }

  Rule any_value() {
    return once(value_, [&](auto& rule) {
      rule = g().add_rule();
      const State start = g().rule(*rule).start, end = g().rule(*rule).end;
      for (const char* word : {"null", "true", "false"}) g().empty(g().text(start, word), end);
      g().call(start, end, any_string());
      g().call(start, end, number(false));
      g().call(start, end, any_object());
      g().call(start, end, any_array());
    });
  }
  Rule any_array() {
    return once(array_, [&](auto& rule) {
      rule = g().add_rule();
      list_into(*rule, {}, [&] { return std::optional(any_value()); });
    });
  }
  Rule any_object() {
    return once(object_, [&](auto& rule) {
      rule = g().add_rule();
      members_into(*rule, {}, [&] { return std::optional(std::pair(any_string(), any_value())); });
    });
  }

  // [ items ]: those of a tuple first; `more` gives the rule of the others, if there may be any. Counts with the
  // rule's.
  template <class More>
  void list_into(Rule rule, const std::vector<Rule>& tuple, const More& more) {
    const State open = g().text(g().rule(rule).start, "["), close = g().add_state(rule);
    g().empty(g().text(blanks(rule, close), "]"), g().rule(rule).end);
    g().empty(open, close, true);
    const std::optional<Rule> others = more();
    State at = blanks(rule, open);
    for (const Rule item : tuple) {
      const State after = g().add_state(rule);
      g().call(at, after, item, true);
      g().empty(after, close, true);
      at = blanks(rule, g().text(after, ","));
    }
    if (!others) return;
    const State loop = g().add_state(rule), after = g().add_state(rule);
    g().empty(at, loop);
    g().call(loop, after, *others, true);
    g().empty(after, close, true);
    g().empty(blanks(rule, g().text(after, ",")), loop);
  }

  struct Property {
    std::string name;
    Rule value = 0;
    bool required = false;
  };
  // { members }: the properties in order, then others: the rule of their keys and of their values.
  template <class More>
  void members_into(Rule rule, const std::vector<Property>& properties, const More& more) {
    const State end = g().rule(rule).end, open = g().text(g().rule(rule).start, "{"), close = g().add_state(rule);
    g().empty(g().text(blanks(rule, close), "}"), end);
    const std::optional<std::pair<Rule, Rule>> others = more();
    const size_t n = properties.size();
    size_t last_required = 0;  // one past
    for (size_t i = 0; i < n; ++i)
      if (properties[i].required) last_required = i + 1;
    // keys[i]: a key comes, of property i or later ones.
    std::vector<State> keys;
    for (size_t i = 0; i <= n; ++i) keys.push_back(g().add_state(rule));
    g().empty(blanks(rule, open), keys[0]);
    if (last_required == 0) g().empty(open, close);
    const auto after_member = [&](State after, size_t next) {
      if (next >= last_required) g().empty(after, close);
      if (next < n || others) g().empty(blanks(rule, g().text(after, ",")), keys[next]);
    };
    for (size_t i = 0; i < n; ++i) {
      const State after = g().add_state(rule);
      g().call(colon(rule, g().text(keys[i], json::quote(properties[i].name))), after, properties[i].value);
      after_member(after, i + 1);
      if (!properties[i].required) g().empty(keys[i], keys[i + 1]);
    }
    if (!others) return;
    const State key = g().add_state(rule), after = g().add_state(rule);
    g().call(keys[n], key, others->first);
    g().call(colon(rule, key), after, others->second);
    after_member(after, n);
  }

  // --- JSON Schema

  // A schema of its own rule, made once; recursion comes back to it.
  Rule rule_of(const Value& schema, const std::string& path, int depth) {
    if (schema.is_bool() && schema.as_bool()) return any_value();
    if (schema.is_object() && schema.as_object().empty()) return any_value();
    const auto [place, is_new] = rules_.try_emplace({root_, &schema}, 0);
    if (!is_new) return place->second;
    const Rule rule = place->second = g().add_rule();
    value_into(rule, g().rule(rule).start, g().rule(rule).end, schema, kAnyType, false, path, depth);
    return rule;
  }

  const Value* resolve(const Value& schema, const std::string& path) {
    const Value* target = schema.find("$ref");
    if (!target->is_string() || target->as_string().empty() || target->as_string()[0] != '#') {
      fail(path, "$ref: expected a reference inside the schema, #/...");
      return nullptr;
    }
    std::string_view rest = std::string_view(target->as_string()).substr(1);
    const Value* at = root_;
    while (at && !rest.empty()) {
      if (rest[0] != '/') at = nullptr;
      if (!at) break;
      rest.remove_prefix(1);
      const size_t n = std::min(rest.find('/'), rest.size());
      const std::string part = unescaped(rest.substr(0, n));
      rest.remove_prefix(n);
      if (at->is_array()) {
        size_t index = 0;
        const bool digits =
            !part.empty() && part.size() < 6 && part.find_first_not_of("0123456789") == std::string::npos;
        if (digits) index = std::stoul(part);
        at = digits && index < at->as_array().size() ? &at->as_array()[index] : nullptr;
      } else {
        at = at->find(part);
      }
    }
    if (!at || !(at->is_object() || at->is_bool())) {
      fail(path, fmt::format("$ref: {} is not there", target->as_string()), Code::kInvalid);
      return nullptr;
    }
    return at;
  }
  static std::string unescaped(std::string_view part) {  // of a JSON pointer in a URI
    std::string out;
    for (size_t i = 0; i < part.size(); ++i) {
      const auto hex = [](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
      if (part[i] == '%' && i + 2 < part.size() && std::isxdigit(static_cast<unsigned char>(part[i + 1])) &&
          std::isxdigit(static_cast<unsigned char>(part[i + 2]))) {
        out += static_cast<char>(hex(part[i + 1]) * 16 + hex(part[i + 2]));
        i += 2;
      } else {
        out += part[i];
      }
    }
    for (const auto& [from, to] : {std::pair("~1", "/"), std::pair("~0", "~")})
      for (size_t at = out.find(from); at != std::string::npos; at = out.find(from, at + 1)) out.replace(at, 2, to);
    return out;
  }

  // Schemas that are copied and looked at again and again: what a few kilobytes of them could cost has no end else.
  static int64_t nodes_of(const Value& value) {
    int64_t n = 1;
    if (value.is_array())
      for (const Value& item : value.as_array()) n += nodes_of(item);
    if (value.is_object())
      for (const auto& [key, item] : value.as_object()) n += nodes_of(item);
    return n;
  }
  bool spend(int64_t work, const std::string& path) {
    work_ += work;
    if (work_ > kMostWork) fail(path, "too large: its parts are joined too often");
    return work_ <= kMostWork;
  }

  const Value& keep(Value value) { return made_.emplace_back(std::move(value)); }

  // What both schemas allow, as one; null when it cannot be said so.
  std::optional<Value> merged(const Value& a, const Value& b, const std::string& path, int depth) {
    if (depth > kMostNesting || !spend(nodes_of(a) + nodes_of(b), path)) return std::nullopt;
    if (a.is_bool()) return a.as_bool() ? b : a;
    if (b.is_bool()) return b.as_bool() ? a : b;
    if (!a.is_object() || !b.is_object()) return std::nullopt;
    for (const Value* one : {&a, &b})
      if (one->find("$ref")) {
        const Value* target = resolve(*one, path);
        if (!target) return std::nullopt;
        Value rest{json::Object{}};
        for (const auto& [key, value] : one->as_object())
          if (key != "$ref" && !among(kAnnotations, key)) rest.set(key, value);
        const auto whole = rest.as_object().empty() ? std::optional(*target) : merged(*target, rest, path, depth + 1);
        if (!whole) return std::nullopt;
        return one == &a ? merged(*whole, b, path, depth + 1) : merged(a, *whole, path, depth + 1);
      }
    Value out = a;
    for (const auto& [key, theirs] : b.as_object()) {
      const Value* own = out.find(key);
      if (!own || *own == theirs || among(kAnnotations, key)) {
        if (!own) out.set(key, theirs);
        continue;
      }
      const bool numbers = own->is_number() && theirs.is_number();
      const bool greater = numbers && theirs.to_double().value_or(0) > own->to_double().value_or(0);
      if (key == "required" && own->is_array() && theirs.is_array()) {
        json::Array all = own->as_array();
        for (const Value& name : theirs.as_array())
          if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
        out.set(key, all);
      } else if (key == "properties" && own->is_object() && theirs.is_object()) {
        Value all = *own;
        for (const auto& [name, schema] : theirs.as_object()) {
          const Value* there = all.find(name);
          const auto one = there ? merged(*there, schema, path, depth + 1) : std::optional(schema);
          if (!one) return std::nullopt;
          all.set(name, *one);
        }
        out.set(key, all);
      } else if (key == "type") {
        json::Array both_types;
        for (const auto& [name, type] : kTypes)
          if (types_of(*own) & types_of(theirs) & (type == (kNumber | kInteger) ? kNumber : type))
            both_types.emplace_back(name);
        out.set(key, both_types);
      } else if (numbers &&
                 (key == "minimum" || key == "exclusiveMinimum" || key == "minLength" || key == "minItems")) {
        if (greater) out.set(key, theirs);
      } else if (numbers &&
                 (key == "maximum" || key == "exclusiveMaximum" || key == "maxLength" || key == "maxItems")) {
        if (!greater) out.set(key, theirs);
      } else if (key == "enum" && own->is_array() && theirs.is_array()) {
        json::Array shared;
        for (const Value& value : own->as_array())
          if (std::find(theirs.as_array().begin(), theirs.as_array().end(), value) != theirs.as_array().end())
            shared.push_back(value);
        out.set(key, shared);
      } else if (key == "items" || key == "additionalProperties") {
        const auto one = merged(*own, theirs, path, depth + 1);
        if (!one) return std::nullopt;
        out.set(key, *one);
      } else if (key == "const") {
        return Value(false);
      } else {
        return std::nullopt;
      }
    }
    // A schema that closes its objects closes them to what the other one declares.
    for (const auto& [closed, open] : {std::pair(&a, &b), std::pair(&b, &a)}) {
      const Value* rest = closed->find("additionalProperties");
      const Value* theirs = open->find("properties");
      if (!rest || (rest->is_bool() && rest->as_bool()) || !theirs) continue;
      const Value* own = closed->find("properties");
      for (const auto& [name, schema] : theirs->as_object()) {
        if (own && own->find(name)) continue;
        const auto one = merged(schema, *rest, path, depth + 1);
        if (!one) return std::nullopt;
        out.find("properties")->set(name, *one);
      }
    }
    return out;
  }

  static unsigned types_of(const Value& type) {
    unsigned all = 0;
    for (const Value& one : type.is_array() ? type.as_array() : json::Array{type})
      for (const auto& [name, bits] : kTypes)
        if (one.is_string() && one.as_string() == name) all |= bits;
    return all;
  }
  static unsigned type_of(const Value& value) {
    switch (value.kind()) {
      case Value::Kind::kNull:
        return kNull;
      case Value::Kind::kBool:
        return kBoolean;
      case Value::Kind::kInt:
        return kInteger | kNumber;
      case Value::Kind::kFloat:
        return value.to_int64() ? kInteger | kNumber : kNumber;
      case Value::Kind::kString:
        return kString;
      case Value::Kind::kArray:
        return kArray;
      case Value::Kind::kObject:
        return kObject;
    }
    return 0;
  }

  // Adds what the schema allows, of these types, between two states. raw: only strings, as tool calls write them.
  void value_into(Rule rule, State from, State to, const Value& schema, unsigned types, bool raw,
                  const std::string& path, int depth) {
    if (error_ || types == 0 || !spend(1, path)) return;
    if (depth > kMostNesting) return fail(path, "nested too deep");
    if (g().too_large()) return fail(path, fmt::format("too large: more than {} states", kMostStates));
    if (schema.is_bool()) {
      if (schema.as_bool()) plain_types(rule, from, to, schema, types, raw, path, depth);
      return;
    }
    if (!schema.is_object()) return fail(path, "expected a schema, an object or a boolean", Code::kInvalid);
    if (schema.find("$ref")) {
      const Value* target = resolve(schema, path);
      if (!target) return;
      json::Object rest;
      for (const auto& [key, value] : schema.as_object())
        if (key != "$ref" && !among(kAnnotations, key)) rest.emplace_back(key, value);
      if (!rest.empty()) {
        const auto all = merged(*target, keep(rest), path, depth + 1);
        if (!all) return fail(path, "$ref: cannot be joined with what stands beside it");
        return value_into(rule, from, to, keep(*all), types, raw, path, depth + 1);
      }
      if (types == kAnyType && !raw) return g().call(from, to, rule_of(*target, path + "/$ref", depth + 1));
      return value_into(rule, from, to, *target, types, raw, path, depth + 1);
    }
    for (const auto& [key, value] : schema.as_object())
      if (!among(kKnown, key) && !among(kAnnotations, key)) unsupported(path, key);
    if (const Value* type = schema.find("type")) {
      const unsigned known = types_of(*type);
      const bool empty = type->is_array() && type->as_array().empty();
      if (known == 0 && !empty) return fail(path, "type: expected names of JSON types", Code::kInvalid);
      // kNumber: numbers are allowed; kInteger beside it: whole ones only.
      const unsigned whole = (types & kInteger) | (known & kNumber ? 0u : known & kInteger);
      const unsigned numbers = (types & kNumber) && (known & (kNumber | kInteger)) ? kNumber | whole : 0u;
      types = (types & known & ~(kNumber | kInteger)) | numbers;
    }
    for (const char* key : {"anyOf", "oneOf", "allOf"}) {
      const Value* branches = schema.find(key);
      if (!branches) continue;
      if (!branches->is_array() || branches->as_array().empty())
        return fail(path, fmt::format("{}: expected schemas", key), Code::kInvalid);
      if (!spend(nodes_of(schema), path)) return;
      Value base{json::Object{}};
      for (const auto& [other, value] : schema.as_object())
        if (other != key) base.set(other, value);
      const bool is_all = std::string_view(key) == "allOf";
      if (std::string_view(key) == "oneOf" && !exclusive(branches->as_array(), path)) {
        unsupported(path, key, "is supported only where its branches exclude each other");
        return value_into(rule, from, to, keep(base), types, raw, path, depth + 1);
      }
      std::optional<Value> all = base;
      for (size_t i = 0; i < branches->as_array().size(); ++i) {
        const Value& branch = branches->as_array()[i];
        const std::string own = fmt::format("{}/{}/{}", path, key, i);
        if (is_all) {
          const auto more = all ? merged(*all, branch, own, depth + 1) : std::nullopt;
          if (error_) return;
          if (!more) {
            unsupported(path, key, "cannot be merged");
            return value_into(rule, from, to, keep(base), types, raw, path, depth + 1);
          }
          all = more;
          continue;
        }
        const bool bare = std::all_of(base.as_object().begin(), base.as_object().end(),
                                      [](const auto& member) { return among(kAnnotations, member.first); });
        if (bare) {
          value_into(rule, from, to, branch, types, raw, own, depth + 1);
          continue;
        }
        const auto one = merged(base, branch, own, depth + 1);
        if (error_) return;
        if (!one) return fail(path, fmt::format("{}: cannot be joined with what stands beside it", key));
        value_into(rule, from, to, keep(*one), types, raw, own, depth + 1);
      }
      if (is_all) value_into(rule, from, to, keep(*all), types, raw, path, depth + 1);
      return;
    }
    const Value* one = schema.find("const");
    const Value* some = schema.find("enum");
    if (!one && !some) return plain_types(rule, from, to, schema, types, raw, path, depth);
    if (some && !some->is_array()) return fail(path, "enum: expected values", Code::kInvalid);
    std::vector<const Value*> values;
    if (one) values.push_back(one);
    if (!one)
      for (const Value& value : some->as_array()) values.push_back(&value);
    else if (some && std::find(some->as_array().begin(), some->as_array().end(), *one) == some->as_array().end())
      return;
    if (values.size() > 1000) return fail(path, "enum: expected at most 1000 values");
    constants(rule, from, to, schema, values, types, raw, path, depth);
  }

  void constants(Rule rule, State from, State to, const Value& schema, const std::vector<const Value*>& values,
                 unsigned types, bool raw, const std::string& path, int depth) {
    std::vector<std::string> texts;
    std::optional<Dfa> strings, numbers;
    for (const Value* value : values) {
      const unsigned type = type_of(*value);
      const bool fits =
          type & kNumber ? (types & kNumber) && (!(types & kInteger) || (type & kInteger)) : (types & type) != 0;
      if (!fits || (raw && type != kString)) continue;
      if (type == kString) {
        if (!strings) strings = strings_of(schema, false, path, true);
        if (!strings) return;
        const std::string& text = value->as_string();
        if (!strings->matches(text)) continue;
        if (raw && holds_markup(text)) return fail(path, "enum: a tool call cannot write a value that holds markup");
        texts.push_back(raw ? text : json::quote(text));
      } else if (type & kNumber) {
        if (!numbers) numbers = numbers_of(schema, (types & kInteger) != 0, path);
        if (!numbers) return;
        const std::string text =
            (type & kInteger) && value->to_int64() ? std::to_string(*value->to_int64()) : json::dump(*value);
        const bool bounded = std::any_of(schema.as_object().begin(), schema.as_object().end(), [](const auto& m) {
          return m.first.find("inimum") != std::string::npos || m.first.find("aximum") != std::string::npos ||
                 m.first == "multipleOf";
        });
        if (bounded && !numbers->matches(text)) continue;
        texts.push_back(text);
      } else if (type == kArray || type == kObject) {
        // Their other keywords would have to be checked here.
        const char* beside[] = {"properties", "required", "additionalProperties", "items", "prefixItems",
                                "minItems",   "maxItems"};
        for (const char* key : beside)
          if (schema.find(key)) unsupported(path, key, "is not supported beside enum or const");
        exact(rule, from, to, *value, path, depth);
      } else {
        texts.push_back(json::dump(*value));
      }
    }
    if (!texts.empty()) dfa_into(rule, from, to, one_of(texts), false, false, false);
  }

  // One value as it stands, blanks free.
  void exact(Rule rule, State from, State to, const Value& value, const std::string& path, int depth) {
    if (depth > kMostNesting) return fail(path, "nested too deep");
    if (!value.is_array() && !value.is_object()) return g().empty(g().text(from, json::dump(value)), to);
    const bool is_list = value.is_array();
    State at = g().text(from, is_list ? "[" : "{");
    bool first = true;
    const auto next = [&] {
      if (!first) at = g().text(at, ",");
      first = false;
      at = blanks(rule, at);
    };
    const auto item = [&](const Value& inner) {
      const State after = g().add_state(rule);
      exact(rule, at, after, inner, path, depth + 1);
      at = after;
    };
    if (is_list) {
      for (const Value& inner : value.as_array()) {
        next();
        item(inner);
      }
    } else {
      for (const auto& [key, inner] : value.as_object()) {
        next();
        at = colon(rule, g().text(at, json::quote(key)));
        item(inner);
      }
    }
    g().empty(g().text(blanks(rule, at), is_list ? "]" : "}"), to);
  }

  // No value fits two of the branches: their types differ, or their constants, or those of a required property.
  bool exclusive(const json::Array& branches, const std::string& path) {
    std::vector<const Value*> all;
    for (const Value& branch : branches) {
      const Value* one = &branch;
      for (int i = 0; i < 16 && one && one->find("$ref"); ++i) one = resolve(*one, path);
      if (!one) return false;
      all.push_back(one);
    }
    for (size_t i = 0; i < all.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        if (!exclude(*all[i], *all[j], path, 0)) return false;
    return true;
  }
  bool exclude(const Value& a, const Value& b, const std::string& path, int depth) {
    if ((a.is_bool() && !a.as_bool()) || (b.is_bool() && !b.as_bool())) return true;
    if (!a.is_object() || !b.is_object() || depth > 4) return false;
    const auto types = [](const Value& schema) {
      const Value* type = schema.find("type");
      return type ? types_of(*type) : kAnyType | kInteger;
    };
    if (!(types(a) & types(b))) return true;
    const auto constants = [](const Value& schema) -> std::optional<json::Array> {
      if (const Value* one = schema.find("const")) return json::Array{*one};
      if (const Value* some = schema.find("enum"); some && some->is_array()) return some->as_array();
      return std::nullopt;
    };
    const auto of_a = constants(a), of_b = constants(b);
    const int64_t work = of_a && of_b ? static_cast<int64_t>(of_a->size() * of_b->size()) : 1;
    if (!spend(work, path)) return false;
    if (of_a && of_b) {
      const auto differs = [&](const Value& x) {
        return (x.is_string() || x.is_bool() || x.is_int() || x.is_null()) &&
               std::none_of(of_b->begin(), of_b->end(),
                            [&](const Value& y) { return x == y || (x.is_number() && y.is_number()); });
      };
      if (std::all_of(of_a->begin(), of_a->end(), differs)) return true;
      const auto equal = [&](const Value& x) {
        return !x.is_int() ||
               std::any_of(of_b->begin(), of_b->end(), [&](const Value& y) { return !y.is_int() || x == y; });
      };
      if (std::none_of(of_a->begin(), of_a->end(), equal)) return true;
    }
    const bool objects = types(a) == kObject && types(b) == kObject;
    const Value *in_a = a.find("properties"), *in_b = b.find("properties");
    if (!objects || !in_a || !in_b || !in_a->is_object()) return false;
    const auto requires_it = [](const Value& schema, const std::string& name) {
      const Value* list = schema.find("required");
      return list && list->is_array() &&
             std::find(list->as_array().begin(), list->as_array().end(), Value(name)) != list->as_array().end();
    };
    for (const auto& [name, schema] : in_a->as_object())
      if (const Value* other = in_b->find(name); other && requires_it(a, name) && requires_it(b, name))
        if (exclude(schema, *other, path, depth + 1)) return true;
    return false;
  }

  void plain_types(Rule rule, State from, State to, const Value& schema, unsigned types, bool raw,
                   const std::string& path, int depth) {
    if (types & kString) strings(rule, from, to, schema, raw, path);
    if (raw) return;
    if (types & kNull) g().empty(g().text(from, "null"), to);
    if (types & kBoolean)
      for (const char* word : {"true", "false"}) g().empty(g().text(from, word), to);
    if (types & kNumber) numbers(rule, from, to, schema, (types & kInteger) != 0, path);
    if (types & kArray) arrays(from, to, schema, path, depth);
    if (types & kObject) objects(from, to, schema, path, depth);
  }

  // A whole number from 0 on; nullopt: absent. Others are refused.
  std::optional<int64_t> size_keyword(const Value& schema, const char* key, int64_t most, const std::string& path) {
    const Value* value = schema.find(key);
    if (!value) return std::nullopt;
    const auto number = value->is_number() ? value->to_int64() : std::nullopt;
    if (!number || *number < 0) {
      fail(path, fmt::format("{}: expected a whole number from 0 on", key), Code::kInvalid);
      return std::nullopt;
    }
    if (*number > most) {
      const bool is_least = std::string_view(key).starts_with("min");
      if (is_least) fail(path, fmt::format("{}: expected at most {}", key, most));
      if (!is_least) unsupported(path, key, fmt::format("is supported up to {}", most));
      return std::nullopt;
    }
    return number;
  }

  // pattern and format as one automaton; lengths too when with_length. nullopt: an error is told.
  std::optional<Dfa> strings_of(const Value& schema, bool raw, const std::string& path, bool with_length) {
    std::optional<Dfa> dfa = raw ? plain_dfa() : text_dfa();
    const auto also = [&](const Result<Dfa>& more, std::string_view key) {
      if (!more.ok()) return unsupported(path, key, fmt::format("is not supported ({})", more.error().message));
      const auto joined = both(*dfa, more.value());
      if (!joined.ok()) return unsupported(path, key, "is too large");
      dfa = joined.value();
    };
    if (const Value* pattern = schema.find("pattern")) {
      if (pattern->is_string()) also(search(pattern->as_string()), "pattern");
      if (!pattern->is_string()) fail(path, "pattern: expected a string", Code::kInvalid);
    }
    if (const Value* format = schema.find("format"); format && format->is_string()) {
      const auto pattern = format_pattern(format->as_string());
      if (pattern) also(search(*pattern), "format");
      if (!pattern) unsupported(path, "format", fmt::format("\"{}\" is not supported", format->as_string()));
    }
    if (with_length) {
      const auto least = size_keyword(schema, "minLength", kMostLength, path);
      const auto most = size_keyword(schema, "maxLength", kMostLength, path);
      if (least || most) {
        const auto length = search(most ? fmt::format("^[^]{{{},{}}}$", least.value_or(0), *most)
                                        : fmt::format("^[^]{{{},}}$", least.value_or(0)));
        also(length, most ? "maxLength" : "minLength");
      }
    }
    if (error_) return std::nullopt;
    return dfa;
  }

  void strings(Rule, State from, State to, const Value& schema, bool raw, const std::string& path) {
    const bool limited = schema.find("minLength") || schema.find("maxLength");
    if (schema.find("pattern") || schema.find("format")) {
      const auto dfa = strings_of(schema, raw, path, true);
      if (dfa) g().call(from, to, string_rule(*dfa, raw, false));
    } else if (limited) {
      const auto least = size_keyword(schema, "minLength", kMostLength, path);
      const auto most = size_keyword(schema, "maxLength", kMostLength, path);
      g().call(from, to,
               string_rule(raw ? plain_dfa() : text_dfa(), raw, !raw, static_cast<int32_t>(least.value_or(0)),
                           static_cast<int32_t>(most.value_or(kNoLimit))));
    } else {
      g().call(from, to, raw ? plain_text() : any_string());
    }
  }

  std::optional<Dfa> numbers_of(const Value& schema, bool integer, const std::string& path) {
    const Value* factor = schema.find("multipleOf");
    const int64_t n = factor && factor->is_number() ? factor->to_int64().value_or(0) : 0;  // 0: none that is known
    // Digits times remainders are the states: with a large factor their number is left open.
    const bool any_length = n > 1000;
    Dfa dfa = search(!integer ? kDecimals : any_length ? "^(0|-?[1-9][0-9]*)$" : "^(0|-?[1-9][0-9]{0,17})$").value();
    const auto also = [&](const Result<Dfa>& more, std::string_view key) {
      const auto joined = more.ok() ? both(dfa, more.value()) : more;
      if (!joined.ok()) return unsupported(path, key, "is too large");
      dfa = joined.value();
    };
    for (const auto& [key, is_minimum, open] :
         {std::tuple("minimum", true, false), std::tuple("exclusiveMinimum", true, true),
          std::tuple("maximum", false, false), std::tuple("exclusiveMaximum", false, true)}) {
      const Value* value = schema.find(key);
      if (!value) continue;
      if (!value->is_number()) {
        fail(path, fmt::format("{}: expected a number", key), Code::kInvalid);
        return std::nullopt;
      }
      const auto pattern = bound_pattern(*value, is_minimum, open);
      if (!pattern) {
        unsupported(path, key, "is supported up to 1e18");
        continue;
      }
      also(search(*pattern), key);
    }
    if (factor) {
      if (!integer || n < 1 || n > kMostFactor) {
        unsupported(path, "multipleOf", fmt::format("is supported for integers, up to {}", kMostFactor));
      } else {
        also(multiples_of(static_cast<int>(n)), "multipleOf");
      }
    }
    if (error_) return std::nullopt;
    return dfa;
  }

  void numbers(Rule, State from, State to, const Value& schema, bool integer, const std::string& path) {
    bool bounded = false;
    for (const char* key : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
      bounded = bounded || schema.find(key);
    if (!bounded) return g().call(from, to, number(integer));
    const auto dfa = numbers_of(schema, integer, path);
    if (!dfa) return;
    g().call(from, to, string_rule(*dfa, true, false));
  }

  void arrays(State from, State to, const Value& schema, const std::string& path, int depth) {
    const Value* items = schema.find("items");
    const Value* tuple = schema.find("prefixItems");
    const Value* rest = items;
    if (!tuple && items && items->is_array()) {  // as before 2020
      tuple = items;
      rest = schema.find("additionalItems");
    }
    const auto least = size_keyword(schema, "minItems", kMostItems, path);
    const auto most = size_keyword(schema, "maxItems", kMostItems, path);
    if (!rest && !tuple && !least && !most) return g().call(from, to, any_array());
    if (tuple && !tuple->is_array()) return fail(path, "prefixItems: expected schemas", Code::kInvalid);
    const Rule rule = g().add_rule();
    g().call(from, to, rule);
    const bool closed = rest && rest->is_bool() && !rest->as_bool();
    std::vector<Rule> first;
    for (size_t i = 0; tuple && i < tuple->as_array().size(); ++i)
      first.push_back(rule_of(tuple->as_array()[i], fmt::format("{}/prefixItems/{}", path, i), depth + 1));
    g().rule(rule).least = static_cast<int32_t>(least.value_or(0));
    g().rule(rule).most = static_cast<int32_t>(most.value_or(kNoLimit));
    // Out of reach: no array fits.
    if (closed && g().rule(rule).least > static_cast<int32_t>(first.size())) g().rule(rule).most = 0;
    list_into(rule, first, [&]() -> std::optional<Rule> {
      if (closed) return std::nullopt;
      return rest ? rule_of(*rest, path + "/items", depth + 1) : any_value();
    });
  }

  void objects(State from, State to, const Value& schema, const std::string& path, int depth) {
    const Value* given = schema.find("properties");
    const Value* needed = schema.find("required");
    const Value* more = schema.find("additionalProperties");
    if (!given && !needed && !more) {
      if (strict_ && schema.is_object() && schema.find("type")) fail(path, "additionalProperties: expected false");
      return g().call(from, to, any_object());
    }
    if (given && !given->is_object()) return fail(path, "properties: expected schemas by name", Code::kInvalid);
    if (needed && !needed->is_array()) return fail(path, "required: expected names", Code::kInvalid);
    if (strict_ && !(more && more->is_bool() && !more->as_bool()))
      return fail(path, "additionalProperties: expected false");
    std::vector<std::string> required;
    if (needed)
      for (const Value& name : needed->as_array()) {
        if (!name.is_string()) return fail(path, "required: expected names", Code::kInvalid);
        required.push_back(name.as_string());
      }
    const auto is_required = [&](const std::string& name) {
      return std::find(required.begin(), required.end(), name) != required.end();
    };
    const bool closed = more && more->is_bool() && !more->as_bool();
    const auto rest_rule = [&] {
      return more ? rule_of(*more, path + "/additionalProperties", depth + 1) : any_value();
    };
    std::vector<Property> properties;
    std::vector<std::string> names;
    if (given)
      for (const auto& [name, inner] : given->as_object()) {
        if (strict_ && !is_required(name)) return fail(path, fmt::format("required: expected \"{}\" too", name));
        properties.push_back(
            {name, rule_of(inner, fmt::format("{}/properties/{}", path, name), depth + 1), is_required(name)});
        names.push_back(json::quote(name));
        if (error_) return;
      }
    for (const std::string& name : required) {
      if (given && given->find(name)) continue;
      if (closed) return;  // what is required is forbidden: no object fits
      if (std::any_of(properties.begin(), properties.end(), [&](const Property& p) { return p.name == name; }))
        continue;
      properties.push_back({name, rest_rule(), true});
      names.push_back(json::quote(name));
    }
    const Rule rule = g().add_rule();
    g().call(from, to, rule);
    members_into(rule, properties, [&]() -> std::optional<std::pair<Rule, Rule>> {
      if (closed) return std::nullopt;
      if (names.empty()) return std::pair(any_string(), rest_rule());
      // Other keys than the declared ones.
      std::vector<std::string> plain;
      for (const Property& property : properties) plain.push_back(property.name);
      const auto others = both(text_dfa(), one_of(plain), true);
      if (!others.ok()) {
        fail(path, "properties: too many");
        return std::nullopt;
      }
      return std::pair(string_rule(others.value(), false, false), rest_rule());
    });
  }

  // --- Tool calls

  void calls(Rule root, State from, State to, const Shape& shape) {
    State at = g().markup(from, "\n\n<｜DSML｜tool_calls>\n");
    const State loop = g().add_state(root), after = g().add_state(root);
    g().empty(at, loop);
    for (const Tool& tool : shape.tools) {
      const Rule rule = g().add_rule();
      g().call(loop, after, rule);
      strict_ = tool.strict;
      where_ = tool.name + ": ";
      root_ = &tool.parameters;
      const State head = g().markup(g().rule(rule).start, "<｜DSML｜invoke name=\"" + tool.name + "\">\n");
      const State body = g().add_state(rule);
      if (tool.strict) {
        strict_parameters(rule, head, body, tool.parameters);
      } else {
        free_parameters(rule, head, body);
      }
      g().empty(g().markup(body, "\n</｜DSML｜invoke>"), g().rule(rule).end);
      if (error_) return;
    }
    if (shape.many_calls) g().empty(g().text(after, "\n"), loop);
    g().empty(g().markup(after, "\n</｜DSML｜tool_calls>"), to);
  }

  void free_parameters(Rule rule, State from, State to) {
    g().empty(from, to);
    if (!free_parameter_) {
      free_parameter_ = g().add_rule();
      const State start = g().rule(*free_parameter_).start, end = g().rule(*free_parameter_).end;
      const State key = g().markup(start, "<｜DSML｜parameter name=\""), named = g().add_state(*free_parameter_);
      const Dfa keys = both(plain_dfa(), search("^[^\"\\n<>]+$").value()).value();
      g().call(key, named, string_rule(keys, true, false));
      parameter_value(*free_parameter_, named, end, Value(true), "");
    }
    const State after = g().add_state(rule), again = g().add_state(rule);
    g().call(from, after, *free_parameter_);
    g().empty(after, to);
    g().empty(g().text(after, "\n"), again);
    g().call(again, after, *free_parameter_);
  }

  // From behind the key: both forms of a value, as the schema allows.
  void parameter_value(Rule rule, State from, State to, const Value& schema, const std::string& path) {
    const State close = g().add_state(rule);
    value_into(rule, g().text(from, "\" string=\"true\">"), close, schema, kString, true, path, 0);
    value_into(rule, g().text(from, "\" string=\"false\">"), close, schema, kAnyType & ~kString, false, path, 0);
    g().empty(g().markup(close, "</｜DSML｜parameter>"), to);
  }

  void strict_parameters(Rule rule, State from, State to, const Value& given) {
    const Value* schema = &given;
    for (int i = 0; i < 16 && schema && schema->find("$ref"); ++i) schema = resolve(*schema, "");
    if (!schema) return;
    if (schema->is_null() || (schema->is_object() && schema->as_object().empty())) return g().empty(from, to);
    const Value* type = schema->find("type");
    if (!schema->is_object() || (type && types_of(*type) != kObject)) return fail("", "expected type object");
    for (const auto& [key, value] : schema->as_object())
      if (!among(kAnnotations, key) && key != "type" && key != "properties" && key != "required" &&
          key != "additionalProperties")
        return fail("", key + " is not supported");
    const Value* more = schema->find("additionalProperties");
    const Value* properties = schema->find("properties");
    const Value* needed = schema->find("required");
    const bool closed = more && more->is_bool() && !more->as_bool();
    if (!closed && properties && !properties->as_object().empty())
      return fail("", "additionalProperties: expected false");
    if (properties && !properties->is_object()) return fail("", "properties: expected schemas by name");
    State at = from;
    bool first = true;
    if (properties)
      for (const auto& [name, inner] : properties->as_object()) {
        const bool required =
            needed && needed->is_array() &&
            std::find(needed->as_array().begin(), needed->as_array().end(), Value(name)) != needed->as_array().end();
        if (!required) return fail("", fmt::format("required: expected \"{}\" too", name));
        if (name.empty() || name.find_first_of("\"\n<>") != std::string::npos || holds_markup(name))
          return fail("/properties/" + name, "a tool call cannot write this name");
        if (!first) at = g().text(at, "\n");
        first = false;
        const State after = g().add_state(rule);
        parameter_value(rule, g().markup(at, "<｜DSML｜parameter name=\"" + name), after, inner, "/properties/" + name);
        at = after;
      }
    g().empty(at, to);
  }

  Compiled out_;
  std::optional<Error> error_;
  int64_t work_ = 0;
  bool strict_ = false;
  std::string where_;            // of messages: which tool
  const Value* root_ = nullptr;  // of references
  std::deque<Value> made_;       // schemas by merging, which rules_ knows by address
  std::map<std::pair<const Value*, const Value*>, Rule> rules_;
  std::optional<Dfa> text_, plain_, markup_;
  std::optional<Rule> plain_rule_, string_, integer_, number_, value_, array_, object_, free_parameter_;
};

}  // namespace

Result<Compiled> compile(const Shape& shape) {
  size_t bytes = json::dump(shape.schema).size();
  for (const Tool& tool : shape.tools)
    if (tool.strict) bytes += json::dump(tool.parameters).size();
  if (bytes > kMostSchemaBytes)
    return Error{Code::kUnsupported, fmt::format("/: expected at most {} bytes, found {}", kMostSchemaBytes, bytes)};
  return Compiler(shape.has_dsml, shape.has_think_close).compile(shape);
}

std::string key_of(const Shape& shape) {
  std::string key =
      fmt::format("{}{}{}{}{}{}{}", shape.has_dsml, shape.has_think_close, shape.thinking,
                  static_cast<int>(shape.answer), shape.strict, shape.many_calls, shape.may_stop_thinking);
  if (shape.answer == Shape::Answer::kSchema) key += json::dump(shape.schema);
  for (const Tool& tool : shape.tools)
    key += fmt::format("\n{}\n{}", tool.name, tool.strict ? json::dump(tool.parameters) : "free");
  return key;
}

}  // namespace hadal::constrain
