#include "constrain/matcher.h"

#include <algorithm>
#include <unordered_map>

#include "base/check.h"
#include "text/templates.h"

namespace hadal::constrain {
namespace {

constexpr size_t kMostKnownBytes = size_t{8} << 20;  // of one automaton
constexpr size_t kMostPlaces = 4096;
constexpr size_t kFew = 2048;  // tokens, above which a mask is kept as bits

uint64_t mix(uint64_t h, uint64_t x) {
  h = (h ^ x) * 0x9E3779B97F4A7C15u;
  return h ^ (h >> 29);
}

bool same(const Stack& a, const Stack& b) {
  for (const Frame *x = a.get(), *y = b.get();; x = x->below.get(), y = y->below.get()) {
    if (x == y) return true;
    if (!x || !y || x->hash != y->hash || x->to != y->to || x->least != y->least || x->most != y->most) return false;
  }
}
bool same(const Place& a, const Place& b) {
  return a.state == b.state && a.least == b.least && a.most == b.most && same(a.stack, b.stack);
}
uint64_t hash_of(const Place& p) {
  return mix(mix(mix(static_cast<uint64_t>(p.state), static_cast<uint64_t>(p.least)), static_cast<uint64_t>(p.most)),
             p.stack ? p.stack->hash : 0);
}

int32_t depth_of(const Place& place) { return place.stack ? place.stack->depth + 1 : 0; }

Stack push(const Place& caller, State to, int32_t most) {
  uint64_t hash = mix(static_cast<uint64_t>(to), static_cast<uint64_t>(caller.least));
  hash = mix(mix(hash, static_cast<uint64_t>(most)), caller.stack ? caller.stack->hash : 1);
  return std::make_shared<const Frame>(Frame{to, caller.least, most, depth_of(caller), hash, caller.stack});
}

void set(std::span<uint64_t> bits, TokenId id) {
  const auto i = static_cast<size_t>(id);
  if (i / 64 < bits.size()) bits[i / 64] |= uint64_t{1} << (i % 64);
}

// What an edge leaves of the count; false: it cannot be taken.
bool take(const Edge& edge, const Place& place, int32_t& least, int32_t& most) {
  least = place.least;
  most = place.most;
  if (edge.needs_least && least > 0) return false;
  if (!edge.counts) return true;
  if (most == 0) return false;
  if (most != kNoLimit) --most;
  if (least > 0) --least;
  return true;
}

}  // namespace

Tree::Tree(std::vector<std::pair<std::string_view, TokenId>> texts) {
  std::sort(texts.begin(), texts.end());
  std::vector<size_t> open;  // nodes whose `next` is not known yet
  std::string_view before;
  for (const auto& [text, token] : texts) {
    size_t shared = 0;
    while (shared < text.size() && shared < before.size() && text[shared] == before[shared]) ++shared;
    for (; open.size() > shared; open.pop_back()) nodes_[open.back()].next = static_cast<int32_t>(nodes_.size());
    for (size_t i = shared; i < text.size(); ++i) {
      open.push_back(nodes_.size());
      nodes_.push_back(
          {0, static_cast<int32_t>(tokens_.size()), static_cast<uint16_t>(i), static_cast<uint8_t>(text[i])});
    }
    tokens_.push_back(token);
    longest_ = std::max(longest_, text.size());
    before = text;
  }
  for (const size_t node : open) nodes_[node].next = static_cast<int32_t>(nodes_.size());
  nodes_.push_back({static_cast<int32_t>(nodes_.size()), static_cast<int32_t>(tokens_.size()), 0, 0});
}

Vocabulary::Vocabulary(const text::Tokenizer& tokenizer, std::vector<TokenId> ends)
    : tokenizer_(tokenizer), ends_(std::move(ends)) {
  std::vector<std::pair<std::string_view, TokenId>> texts;
  for (TokenId id = 0; id < tokenizer.size(); ++id)
    if (is_text(id)) texts.emplace_back(tokenizer.piece(id), id);
  tree_ = Tree(std::move(texts));
  symbols_[static_cast<size_t>(Symbol::kDsml)] = tokenizer.id_of(text::kDsml).value_or(-1);
  symbols_[static_cast<size_t>(Symbol::kThinkClose)] = tokenizer.id_of(text::kThinkClose).value_or(-1);
}

// Follows empty edges, calls and ends; keeps places that read input. ended: set when the bottom of an analysis was
// reached (a frame that leads nowhere); null: there is none, and the end of the root rule is a place.
void Automaton::close(Places& places, bool* ended) const {
  std::vector<uint64_t> hashes;
  std::unordered_multimap<uint64_t, size_t> by_hash;  // once they are many
  const auto is_new = [&](const Place& place, size_t n) {
    const uint64_t hash = hash_of(place);
    if (n < 32) {
      for (size_t i = 0; i < n; ++i)
        if (hashes[i] == hash && same(places[i], place)) return false;
    } else {
      if (by_hash.empty())
        for (size_t i = 0; i < n; ++i) by_hash.emplace(hashes[i], i);
      const auto [begin, end] = by_hash.equal_range(hash);
      for (auto it = begin; it != end; ++it)
        if (same(places[it->second], place)) return false;
      by_hash.emplace(hash, n);
    }
    hashes.push_back(hash);
    return true;
  };
  Places given = std::move(places);
  places.clear();
  hashes.reserve(given.size() + 16);
  const auto add = [&](Place place) {
    if (depth_of(place) + grammar_.state(place.state).height > kMostDepth) return;
    if (places.size() < kMostPlaces && is_new(place, places.size())) places.push_back(std::move(place));
  };
  for (Place& place : given) add(std::move(place));
  for (size_t i = 0; i < places.size(); ++i) {
    const Place place = places[i];
    const Grammar::StateInfo& state = grammar_.state(place.state);
    if (place.state == grammar_.rule(state.rule).end && place.least == 0) {
      if (!place.stack) continue;
      if (place.stack->to < 0) {
        *ended = true;
        continue;
      }
      add({place.stack->to, place.stack->least, place.stack->most, place.stack->below});
      continue;
    }
    for (const Edge& edge : state.edges) {
      int32_t least = 0, most = 0;
      if (edge.kind == Edge::Kind::kEmpty) {
        if (take(edge, place, least, most)) add({edge.to, least, most, place.stack});
      } else if (edge.kind == Edge::Kind::kCall) {
        if (!take(edge, place, least, most)) continue;
        if (depth_of(place) + grammar_.state(edge.to).height > kMostDepth) continue;
        const Grammar::RuleInfo& rule = grammar_.rule(edge.what);
        const Place caller{place.state, least, most, place.stack};
        add({rule.start, rule.least, rule.most, push(caller, edge.to, most)});
      }
    }
  }
  std::erase_if(places, [&](const Place& place) {
    const Grammar::StateInfo& state = grammar_.state(place.state);
    if (!place.stack && place.least == 0 && place.state == grammar_.rule(state.rule).end) return false;
    return std::none_of(state.edges.begin(), state.edges.end(), [](const Edge& edge) {
      return edge.kind == Edge::Kind::kBytes || edge.kind == Edge::Kind::kSymbol;
    });
  });
}

Places Automaton::start() const {
  const Grammar::RuleInfo& rule = grammar_.rule(grammar_.root());
  Places places{{rule.start, rule.least, rule.most, nullptr}};
  close(places, nullptr);
  return places;
}

Places Automaton::after(const Places& places, uint8_t byte) const {
  Places next;
  int32_t least = 0, most = 0;
  for (const Place& place : places)
    for (const Edge& edge : grammar_.state(place.state).edges)
      if (edge.kind == Edge::Kind::kBytes && edge.low <= byte && byte <= edge.high && take(edge, place, least, most))
        next.push_back({edge.to, least, most, place.stack});
  if (!next.empty()) close(next, nullptr);
  return next;
}

Places Automaton::after(const Places& places, Symbol symbol) const {
  Places next;
  int32_t least = 0, most = 0;
  for (const Place& place : places)
    for (const Edge& edge : grammar_.state(place.state).edges)
      if (edge.kind == Edge::Kind::kSymbol && edge.what == static_cast<int32_t>(symbol) &&
          take(edge, place, least, most))
        next.push_back({edge.to, least, most, place.stack});
  close(next, nullptr);
  return next;
}

bool Automaton::may_end(const Places& places) const {
  const State end = grammar_.rule(grammar_.root()).end;
  return std::any_of(places.begin(), places.end(),
                     [&](const Place& place) { return !place.stack && place.state == end && place.least == 0; });
}

// One walk of the vocabulary from one place. Sets of places are numbered as they come, and their steps remembered: a
// walk meets few sets and many bytes.
class Automaton::Walk {
 public:
  explicit Walk(const Automaton& automaton) : automaton_(automaton) {}

  struct Step {
    int32_t set = -1;  // -1: none is left
    bool ended = false;
  };
  int32_t number(Places places) {
    uint64_t hash = 0;
    for (const Place& place : places) hash += hash_of(place);  // in any order
    const auto [begin, end] = by_hash_.equal_range(hash);
    for (auto it = begin; it != end; ++it)
      if (equal(sets_[static_cast<size_t>(it->second)].places, places)) return it->second;
    const auto id = static_cast<int32_t>(sets_.size());
    sets_.emplace_back();
    sets_.back().places = std::move(places);
    by_hash_.emplace(hash, id);
    return id;
  }
  Step step(int32_t from, uint8_t byte) {
    const Step known = sets_[static_cast<size_t>(from)].steps[byte];
    if (known.set != kUnknown) return known;
    Places next;
    int32_t least = 0, most = 0;
    for (const Place& place : sets_[static_cast<size_t>(from)].places)
      for (const Edge& edge : automaton_.grammar_.state(place.state).edges)
        if (edge.kind == Edge::Kind::kBytes && edge.low <= byte && byte <= edge.high && take(edge, place, least, most))
          next.push_back({edge.to, least, most, place.stack});
    Step result;
    if (!next.empty()) automaton_.close(next, &result.ended);
    if (!next.empty()) result.set = number(std::move(next));
    return sets_[static_cast<size_t>(from)].steps[byte] = result;
  }

 private:
  static constexpr int32_t kUnknown = -2;
  struct Set {
    Places places;
    std::vector<Step> steps = std::vector<Step>(256, Step{kUnknown, false});
  };
  static bool equal(const Places& a, const Places& b) {
    return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const Place& place) {
             return std::any_of(b.begin(), b.end(), [&](const Place& other) { return same(place, other); });
           });
  }
  const Automaton& automaton_;
  std::vector<Set> sets_;
  std::unordered_multimap<uint64_t, int32_t> by_hash_;
};

std::shared_ptr<const Automaton::Allowed> Automaton::allowed_at(const Place& place) const {
  const Tree& tree = vocabulary_->tree();
  // More than a token can use up is as good as any number, and so is no limit.
  const auto enough = static_cast<int32_t>(tree.longest() + 1);
  const int32_t least = std::min(place.least, enough), most = place.most > enough ? kNoLimit : place.most;
  const std::lock_guard lock(mutex_);
  auto& known = known_[{place.state, least, most}];
  if (known) return known;

  const auto found = std::make_shared<Allowed>();
  const auto bottom = std::make_shared<const Frame>(Frame{-1, 0, 0, 0, 0, nullptr});
  const auto& follow = grammar_.rule(grammar_.state(place.state).rule).follow;
  Walk walk(*this);
  std::vector<TokenId> inside;
  std::vector<std::string> remainders;
  std::vector<TokenId> remaining;
  std::vector<int32_t> sets{walk.number({{place.state, least, most, bottom}})};  // before the byte at each depth
  std::vector<bool> ends;       // after the byte at each depth the rule may be at its end,
  std::vector<size_t> reached;  // the depths where it is, and the byte behind may stand there
  std::string text;
  const auto nodes = tree.nodes();
  for (size_t i = 0; i < nodes.size();) {
    const Tree::Node& node = nodes[i];
    const size_t depth = node.depth;
    sets.resize(depth + 1);
    ends.resize(depth);
    text.resize(depth);
    while (!reached.empty() && reached.back() + 1 >= depth) reached.pop_back();
    if (depth > 0 && ends[depth - 1] && follow[node.byte]) reached.push_back(depth - 1);
    Walk::Step step;
    if (sets[depth] >= 0) step = walk.step(sets[depth], node.byte);
    if (step.set < 0 && !step.ended && reached.empty()) {
      i = static_cast<size_t>(node.next);
      continue;
    }
    sets.push_back(step.set);
    ends.push_back(step.ended);
    text.push_back(static_cast<char>(node.byte));
    for (const TokenId token : tree.tokens(i)) {
      if (step.set >= 0 || step.ended) {
        inside.push_back(token);
      } else {
        for (const size_t end : reached) {
          remainders.push_back(text.substr(end + 1));
          remaining.push_back(token);
        }
      }
    }
    ++i;
  }
  if (inside.size() > kFew) {
    found->bits.resize((static_cast<size_t>(*std::max_element(inside.begin(), inside.end())) + 64) / 64);
    for (const TokenId token : inside) set(found->bits, token);
  } else {
    found->few = std::move(inside);
  }
  std::vector<std::pair<std::string_view, TokenId>> past;
  for (size_t i = 0; i < remaining.size(); ++i) past.emplace_back(remainders[i], remaining[i]);
  found->past = Tree(std::move(past));
  if (known_bytes_ > kMostKnownBytes) {  // seldom: begin again
    known_.clear();
    known_bytes_ = 0;
    known_[{place.state, least, most}] = found;
  } else {
    known = found;
  }
  known_bytes_ += found->bytes() + 200;
  return found;
}

void Automaton::walk_past(const Tree& tree, Places start, std::span<uint64_t> allowed) const {
  std::vector<Places> sets{std::move(start)};
  const auto nodes = tree.nodes();
  for (size_t i = 0; i < nodes.size();) {
    sets.resize(nodes[i].depth + 1u);
    Places next = after(sets.back(), nodes[i].byte);
    if (next.empty()) {
      i = static_cast<size_t>(nodes[i].next);
      continue;
    }
    for (const TokenId token : tree.tokens(i)) set(allowed, token);
    sets.push_back(std::move(next));
    ++i;
  }
}

void Automaton::mask(const Places& places, std::span<uint64_t> allowed) const {
  std::fill(allowed.begin(), allowed.end(), 0);
  for (const Place& place : places) {
    const auto& edges = grammar_.state(place.state).edges;
    for (const Edge& edge : edges)
      if (edge.kind == Edge::Kind::kSymbol) set(allowed, vocabulary_->symbol(static_cast<Symbol>(edge.what)));
    if (std::none_of(edges.begin(), edges.end(), [](const Edge& e) { return e.kind == Edge::Kind::kBytes; })) continue;
    // So deep that the limit may be near, for what a token enters or for what it must still lead to: each for itself.
    if (depth_of(place) + grammar_.tallest() > kMostDepth / 2) {
      walk_past(vocabulary_->tree(), {place}, allowed);
      continue;
    }
    const auto inside = allowed_at(place);
    for (size_t i = 0; i < std::min(inside->bits.size(), allowed.size()); ++i) allowed[i] |= inside->bits[i];
    for (const TokenId token : inside->few) set(allowed, token);
    if (!place.stack || inside->past.nodes().empty()) continue;
    Places caller{{place.stack->to, place.stack->least, place.stack->most, place.stack->below}};
    close(caller, nullptr);
    walk_past(inside->past, std::move(caller), allowed);
  }
  if (may_end(places))
    for (const TokenId end : vocabulary_->ends()) set(allowed, end);
}

void Matcher::mask(std::span<uint64_t> allowed) { automaton_->mask(places_, allowed); }

void Matcher::accept(TokenId token) {
  const Vocabulary& vocabulary = automaton_->vocabulary();
  for (const Symbol symbol : {Symbol::kDsml, Symbol::kThinkClose})
    if (token == vocabulary.symbol(symbol)) {
      places_ = automaton_->after(places_, symbol);
      return;
    }
  const auto& ends = vocabulary.ends();
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) return;
  accept_text(vocabulary.is_text(token) ? vocabulary.piece(token) : std::string_view("\xFF"));
}

bool Matcher::accept_text(std::string_view text) {
  for (const char c : text) places_ = automaton_->after(places_, static_cast<uint8_t>(c));
  return !places_.empty();
}

}  // namespace hadal::constrain
