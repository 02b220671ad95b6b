#include "constrain/regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "text/unicode.h"

namespace hadal::constrain {
namespace {

constexpr uint32_t kMostCodePoint = 0x10FFFF;
constexpr int kMostRepeat = 1000, kMostNesting = 100;
constexpr size_t kMostNfaStates = 200000;

using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;

Ranges sorted(Ranges ranges) {
  std::sort(ranges.begin(), ranges.end());
  Ranges merged;
  for (const auto& [low, high] : ranges) {
    if (!merged.empty() && low <= merged.back().second + 1) {
      merged.back().second = std::max(merged.back().second, high);
    } else {
      merged.emplace_back(low, high);
    }
  }
  return merged;
}
Ranges complement(const Ranges& ranges) {
  Ranges rest;
  uint32_t next = 0;
  for (const auto& [low, high] : sorted(ranges)) {
    if (low > next) rest.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= kMostCodePoint) rest.emplace_back(next, kMostCodePoint);
  return rest;
}

std::string utf8(uint32_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xC0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xE0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0)};
}

const Ranges kDigits{{'0', '9'}};
const Ranges kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const Ranges kBlank{{9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                    {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Ranges kLineEnds{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
const Ranges kEverything{{0, kMostCodePoint}};

struct Nfa {
  struct Edge {
    enum class Kind : uint8_t { kEmpty, kBytes, kBegin, kEnd } kind;
    uint8_t low, high;
    int to;
  };
  std::vector<std::vector<Edge>> states;

  int add() {
    states.emplace_back();
    return static_cast<int>(states.size() - 1);
  }
  void edge(int from, int to, Edge::Kind kind = Edge::Kind::kEmpty, uint8_t low = 0, uint8_t high = 0) {
    states[static_cast<size_t>(from)].push_back({kind, low, high, to});
  }
  // UTF-8 of one code point of the ranges; surrogates have none.
  void characters(int from, int to, const Ranges& ranges) {
    for (const auto& [low, high] : ranges) {
      static constexpr std::pair<uint32_t, uint32_t> kSizes[] = {
          {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, kMostCodePoint}};
      for (const auto& [least, most] : kSizes)
        if (low <= most && high >= least) sequences(from, to, std::max(low, least), std::min(high, most));
    }
  }

 private:
  // low and high have as many bytes as each other: split until all bytes but a prefix run over their whole range.
  void sequences(int from, int to, uint32_t low, uint32_t high) {
    for (int n = 1; n <= 3; ++n) {
      const uint32_t tail = (uint32_t{1} << (6 * n)) - 1;
      if (low < 0x80 || (low & ~tail) == (high & ~tail)) continue;
      if ((low & tail) != 0) {
        sequences(from, to, low, low | tail);
        return sequences(from, to, (low | tail) + 1, high);
      }
      if ((high & tail) != tail) {
        sequences(from, to, low, (high & ~tail) - 1);
        return sequences(from, to, high & ~tail, high);
      }
    }
    const std::string first = utf8(low), last = utf8(high);
    for (size_t i = 0; i < first.size(); ++i) {
      const int next = i + 1 == first.size() ? to : add();
      edge(from, next, Edge::Kind::kBytes, static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i]));
      from = next;
    }
  }
};

class Parser {
 public:
  Parser(std::string_view pattern, Nfa& nfa) : rest_(pattern), nfa_(nfa) {}

  Result<void> parse(int from, int to) {
    HADAL_TRY(alternatives(from, to, 0));
    if (!rest_.empty()) return refuse("an unmatched )");
    return {};
  }

 private:
  Error refuse(std::string what) { return {Code::kUnsupported, "pattern: " + std::move(what)}; }
  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  Status alternatives(int from, int to, int depth) {
    if (depth > kMostNesting) return refuse("groups nested too deep");
    do {
      int at = nfa_.add();
      nfa_.edge(from, at);
      while (!rest_.empty() && rest_[0] != '|' && rest_[0] != ')') HADAL_TRY(repeated(at, depth));
      nfa_.edge(at, to);
    } while (take("|"));
    return {};
  }

  // An atom and its quantifier. Copies are made by reading the atom's text again.
  Status repeated(int& at, int depth) {
    const std::string_view begin = rest_;
    int end = nfa_.add();
    HADAL_TRY(atom(at, end, depth));
    const std::string_view own = begin.substr(0, begin.size() - rest_.size());
    int least = 1, most = 1;
    if (take("*")) {
      least = 0, most = -1;
    } else if (take("+")) {
      most = -1;
    } else if (take("?")) {
      least = 0;
    } else if (!counted(least, most)) {
      at = end;
      return {};
    }
    if (least > kMostRepeat || most > kMostRepeat) return refuse(fmt::format("more than {} repetitions", kMostRepeat));
    if (most >= 0 && most < least) return refuse("a repetition whose limits are reversed");
    take("?");
    if (!rest_.empty() && (rest_[0] == '*' || rest_[0] == '+' || rest_[0] == '?')) return refuse("nothing to repeat");
    const std::string_view after = rest_;
    int from = at;
    const auto copy = [&](int to) {
      rest_ = own;
      return atom(from, to, depth);
    };
    if (most == 0) {  // the first copy stands aside
      at = nfa_.add();
      nfa_.edge(from, at);
      return {};
    }
    // The copy that is there counts as the first one.
    const int past = nfa_.add();
    if (least == 0) nfa_.edge(from, past);
    from = end;
    for (int i = 2; i <= least; ++i) {
      const int to = nfa_.add();
      HADAL_TRY(copy(to));
      from = to;
      if (nfa_.states.size() > kMostNfaStates) return refuse("too large");
    }
    nfa_.edge(from, past);
    if (most < 0) {
      const int loop = nfa_.add(), to = nfa_.add();
      nfa_.edge(from, loop);
      from = loop;
      HADAL_TRY(copy(to));
      nfa_.edge(to, loop);
      nfa_.edge(to, past);
    } else {
      for (int i = std::max(least, 1) + 1; i <= most; ++i) {
        const int to = nfa_.add();
        HADAL_TRY(copy(to));
        from = to;
        nfa_.edge(from, past);
        if (nfa_.states.size() > kMostNfaStates) return refuse("too large");
      }
    }
    rest_ = after;
    at = past;
    return {};
  }

  bool counted(int& least, int& most) {
    if (rest_.size() < 3 || rest_[0] != '{' || rest_[1] < '0' || rest_[1] > '9') return false;
    std::string_view text = rest_.substr(1);
    const auto number = [&] {
      int value = 0;
      for (; !text.empty() && text[0] >= '0' && text[0] <= '9'; text.remove_prefix(1))
        value = std::min(value * 10 + text[0] - '0', kMostRepeat + 1);
      return value;
    };
    const int first = number();
    int second = first;
    if (!text.empty() && text[0] == ',') {
      text.remove_prefix(1);
      second = !text.empty() && text[0] == '}' ? -1 : number();
    }
    if (text.empty() || text[0] != '}') return false;
    rest_ = text.substr(1);
    least = first;
    most = second;
    return true;
  }

  Status atom(int from, int to, int depth) {
    if (take("(")) {
      if (take("?")) {
        if (!take(":")) return refuse("look-around and named groups, (?...");
      }
      HADAL_TRY(alternatives(from, to, depth + 1));
      if (!take(")")) return refuse("an unmatched (");
      return {};
    }
    if (take("^")) return nfa_.edge(from, to, Nfa::Edge::Kind::kBegin), Status();
    if (take("$")) return nfa_.edge(from, to, Nfa::Edge::Kind::kEnd), Status();
    if (take(".")) return nfa_.characters(from, to, complement(kLineEnds)), Status();
    if (take("[")) return bracket(from, to);
    if (rest_[0] == '*' || rest_[0] == '+' || rest_[0] == '?') return refuse("nothing to repeat");
    Ranges ranges;
    HADAL_TRY(one(ranges, false));
    nfa_.characters(from, to, ranges);
    return {};
  }

  Status bracket(int from, int to) {
    const bool negated = take("^");
    Ranges all;
    while (!take("]")) {
      if (rest_.empty()) return refuse("an unmatched [");
      Ranges low;
      HADAL_TRY(one(low, true));
      if (rest_.size() >= 2 && rest_[0] == '-' && rest_[1] != ']') {
        rest_.remove_prefix(1);
        Ranges high;
        HADAL_TRY(one(high, true));
        const bool single = low.size() == 1 && high.size() == 1 && low[0].first == low[0].second &&
                            high[0].first == high[0].second && low[0].first <= high[0].first;
        if (!single) return refuse("a range of characters that is none");
        low[0].second = high[0].first;
      }
      all.insert(all.end(), low.begin(), low.end());
    }
    nfa_.characters(from, to, negated ? complement(all) : sorted(all));
    return {};
  }

  // A character or a class by escape.
  Status one(Ranges& out, bool in_bracket) {
    if (rest_[0] != '\\') {
      const auto c = text::decode_utf8(rest_.data(), rest_.data() + rest_.size());
      if (c.code_point == text::kInvalidByte) return refuse("invalid UTF-8");
      rest_.remove_prefix(static_cast<size_t>(c.size));
      out = {{c.code_point, c.code_point}};
      return {};
    }
    if (rest_.size() < 2) return refuse("a \\ at the end");
    const char c = rest_[1];
    rest_.remove_prefix(2);
    const auto single = [&](uint32_t code) { out = {{code, code}}; };
    switch (c) {
      case 'd':
        out = kDigits;
        return {};
      case 'D':
        out = complement(kDigits);
        return {};
      case 'w':
        out = kWord;
        return {};
      case 'W':
        out = complement(kWord);
        return {};
      case 's':
        out = kBlank;
        return {};
      case 'S':
        out = complement(kBlank);
        return {};
      case 't':
        single('\t');
        return {};
      case 'n':
        single('\n');
        return {};
      case 'r':
        single('\r');
        return {};
      case 'f':
        single('\f');
        return {};
      case 'v':
        single('\v');
        return {};
      case '0':
        single(0);
        return {};
      case 'x':
        return hexadecimal(out, 2);
      case 'u':
        return hexadecimal(out, 4);
      case 'b':
        if (in_bracket) return single('\b'), Status();
        break;
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) return refuse(fmt::format("\\{}", c));
    rest_ = std::string_view(rest_.data() - 1, rest_.size() + 1);  // the character itself
    const auto own = text::decode_utf8(rest_.data(), rest_.data() + rest_.size());
    if (own.code_point == text::kInvalidByte) return refuse("invalid UTF-8");
    rest_.remove_prefix(static_cast<size_t>(own.size));
    single(own.code_point);
    return {};
  }

  Status hexadecimal(Ranges& out, size_t digits) {
    const bool braces = digits == 4 && take("{");
    if (braces) digits = std::min(rest_.find('}'), rest_.size());
    uint32_t code = 0;
    if (rest_.size() < digits || digits == 0 || digits > 6) return refuse("an escape without its digits");
    for (size_t i = 0; i < digits; ++i) {
      const char c = rest_[i];
      const bool is_digit = c >= '0' && c <= '9';
      const char lower = static_cast<char>(c | 0x20);
      if (!is_digit && !(lower >= 'a' && lower <= 'f')) return refuse("an escape without its digits");
      code = code * 16 + static_cast<uint32_t>(is_digit ? c - '0' : lower - 'a' + 10);
    }
    rest_.remove_prefix(digits + (braces ? 1 : 0));
    if (code > kMostCodePoint || (code >= 0xD800 && code < 0xE000)) return refuse("a surrogate");
    out = {{code, code}};
    return {};
  }

  std::string_view rest_;
  Nfa& nfa_;
};

using Set = std::vector<int>;  // sorted

Set closure(const Nfa& nfa, Set set, bool at_begin, bool at_end) {
  std::vector<bool> in(nfa.states.size(), false);
  for (const int s : set) in[static_cast<size_t>(s)] = true;
  for (size_t i = 0; i < set.size(); ++i)
    for (const auto& edge : nfa.states[static_cast<size_t>(set[i])]) {
      using Kind = Nfa::Edge::Kind;
      const bool goes =
          edge.kind == Kind::kEmpty || (edge.kind == Kind::kBegin && at_begin) || (edge.kind == Kind::kEnd && at_end);
      if (!goes || in[static_cast<size_t>(edge.to)]) continue;
      in[static_cast<size_t>(edge.to)] = true;
      set.push_back(edge.to);
    }
  std::sort(set.begin(), set.end());
  return set;
}

Dfa::State dead_state() {
  Dfa::State state;
  state.next.fill(-1);
  return state;
}

// Without the states from which nothing is accepted any more; the start stays.
Dfa trimmed(const Dfa& dfa) {
  std::vector<std::vector<int32_t>> before(dfa.states.size());
  std::vector<int32_t> reached;
  std::vector<int32_t> number(dfa.states.size(), -1);  // first: 0 where something is accepted
  for (size_t i = 0; i < dfa.states.size(); ++i) {
    for (const int32_t next : dfa.states[i].next)
      if (next >= 0 && (before[static_cast<size_t>(next)].empty() ||
                        before[static_cast<size_t>(next)].back() != static_cast<int32_t>(i)))
        before[static_cast<size_t>(next)].push_back(static_cast<int32_t>(i));
    if (!dfa.states[i].accepts) continue;
    number[i] = 0;
    reached.push_back(static_cast<int32_t>(i));
  }
  for (size_t i = 0; i < reached.size(); ++i)
    for (const int32_t from : before[static_cast<size_t>(reached[i])])
      if (number[static_cast<size_t>(from)] < 0) {
        number[static_cast<size_t>(from)] = 0;
        reached.push_back(from);
      }
  number[0] = 0;
  int32_t n = 0;
  for (int32_t& one : number)
    if (one == 0) one = n++;
  Dfa out;
  for (size_t i = 0; i < dfa.states.size(); ++i) {
    if (number[i] < 0) continue;
    out.states.push_back(dfa.states[i]);
    for (int32_t& next : out.states.back().next)
      if (next >= 0) next = number[static_cast<size_t>(next)];
  }
  return out;
}

}  // namespace

bool Dfa::matches(std::string_view text) const {
  int32_t at = 0;
  for (const char c : text) {
    at = states[static_cast<size_t>(at)].next[static_cast<uint8_t>(c)];
    if (at < 0) return false;
  }
  return states[static_cast<size_t>(at)].accepts;
}

Dfa any_text() { return search("").value(); }

Result<Dfa> search(std::string_view pattern) {
  Nfa nfa;
  // before: any text, at a character's border; matched: the same behind a match.
  const int before = nfa.add(), begin = nfa.add(), end = nfa.add(), matched = nfa.add();
  nfa.edge(before, begin);
  nfa.edge(end, matched);
  nfa.characters(before, before, kEverything);
  nfa.characters(matched, matched, kEverything);
  if (auto parsed = Parser(pattern, nfa).parse(begin, end); !parsed.ok()) return parsed.error();
  if (nfa.states.size() > kMostNfaStates) return Error{Code::kUnsupported, "pattern: too large"};

  Dfa dfa;
  std::map<Set, int32_t> ids;
  std::vector<Set> sets;
  const auto id_of = [&](Set set) {
    // Once there is a match any text may follow: forget how the search went on.
    if (std::binary_search(set.begin(), set.end(), matched)) set = {matched};
    const auto [place, is_new] = ids.try_emplace(set, static_cast<int32_t>(sets.size()));
    if (is_new) sets.push_back(std::move(set));
    return place->second;
  };
  id_of(closure(nfa, {before}, true, false));
  for (size_t i = 0; i < sets.size(); ++i) {
    if (sets.size() > kMostDfaStates / 4) return Error{Code::kUnsupported, "pattern: too large"};
    Dfa::State state = dead_state();
    const Set set = sets[i];
    const Set at_end = closure(nfa, set, i == 0, true);
    state.accepts = std::binary_search(at_end.begin(), at_end.end(), matched);
    // Bytes between two borders of ranges all go the same way.
    std::array<bool, 257> border{};
    for (const int s : set)
      for (const auto& edge : nfa.states[static_cast<size_t>(s)])
        if (edge.kind == Nfa::Edge::Kind::kBytes) border[edge.low] = border[edge.high + 1u] = true;
    int32_t to = -1;
    for (size_t b = 0; b < 256; ++b) {
      if (b == 0 || border[b]) {
        Set next;
        for (const int s : set)
          for (const auto& edge : nfa.states[static_cast<size_t>(s)])
            if (edge.kind == Nfa::Edge::Kind::kBytes && edge.low <= b && b <= edge.high) next.push_back(edge.to);
        std::sort(next.begin(), next.end());
        next.erase(std::unique(next.begin(), next.end()), next.end());
        to = next.empty() ? -1 : id_of(closure(nfa, std::move(next), false, false));
      }
      state.next[b] = to;
    }
    dfa.states.push_back(state);
  }
  return trimmed(dfa);
}

Result<Dfa> both(const Dfa& a, const Dfa& b, bool minus) {
  Dfa dfa;
  std::map<std::pair<int32_t, int32_t>, int32_t> ids;
  std::vector<std::pair<int32_t, int32_t>> pairs;
  const auto id_of = [&](int32_t x, int32_t y) {
    const auto [place, is_new] = ids.try_emplace({x, y}, static_cast<int32_t>(pairs.size()));
    if (is_new) pairs.emplace_back(x, y);
    return place->second;
  };
  id_of(0, 0);
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs.size() > kMostDfaStates) return Error{Code::kUnsupported, "pattern: too large"};
    const auto [x, y] = pairs[i];
    const Dfa::State& of_a = a.states[static_cast<size_t>(x)];
    const Dfa::State* of_b = y < 0 ? nullptr : &b.states[static_cast<size_t>(y)];
    Dfa::State state = dead_state();
    state.accepts = of_a.accepts && ((of_b && of_b->accepts) != minus);
    for (size_t c = 0; c < 256; ++c) {
      const int32_t to_a = of_a.next[c], to_b = of_b ? of_b->next[c] : -1;
      if (to_a >= 0 && (to_b >= 0 || minus)) state.next[c] = id_of(to_a, to_b);
    }
    dfa.states.push_back(state);
  }
  return trimmed(dfa);
}

Dfa one_of(const std::vector<std::string>& texts) {
  Dfa dfa;
  dfa.states.push_back(dead_state());
  for (const std::string& text : texts) {
    size_t at = 0;
    for (const char c : text) {
      const auto b = static_cast<uint8_t>(c);
      if (dfa.states[at].next[b] < 0) {
        dfa.states[at].next[b] = static_cast<int32_t>(dfa.states.size());
        dfa.states.push_back(dead_state());
      }
      at = static_cast<size_t>(dfa.states[at].next[b]);
    }
    dfa.states[at].accepts = true;
  }
  return dfa;
}

Dfa multiples_of(int n) {
  Dfa dfa;  // state r: the digits so far leave r
  for (int r = 0; r < n; ++r) {
    Dfa::State state = dead_state();
    for (int digit = 0; digit < 10; ++digit)
      state.next[static_cast<size_t>('0' + digit)] = static_cast<int32_t>((r * 10 + digit) % n);
    if (r == 0) state.next['-'] = 0;
    state.accepts = r == 0;
    dfa.states.push_back(state);
  }
  return dfa;
}

}  // namespace hadal::constrain
