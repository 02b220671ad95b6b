#include "constrain/grammar.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/templates.h"

namespace hadal::constrain {

Rule Grammar::add_rule() {
  const Rule id = static_cast<Rule>(rules_.size());
  rules_.emplace_back();
  const State start = add_state(id), end = add_state(id);
  rules_.back().start = start;
  rules_.back().end = end;
  return id;
}

State Grammar::add_state(Rule rule) {
  states_.push_back({.edges = {}, .rule = rule});
  return static_cast<State>(states_.size() - 1);
}

void Grammar::empty(State from, State to, bool needs_least) {
  states_[static_cast<size_t>(from)].edges.push_back(
      {.kind = Edge::Kind::kEmpty, .needs_least = needs_least, .to = to});
}
void Grammar::bytes(State from, State to, uint8_t low, uint8_t high, bool counts, bool needs_least) {
  states_[static_cast<size_t>(from)].edges.push_back(
      {.kind = Edge::Kind::kBytes, .low = low, .high = high, .counts = counts, .needs_least = needs_least, .to = to});
}
void Grammar::call(State from, State to, Rule rule, bool counts) {
  states_[static_cast<size_t>(from)].edges.push_back(
      {.kind = Edge::Kind::kCall, .counts = counts, .what = rule, .to = to});
}

State Grammar::text(State from, std::string_view text) {
  for (const char c : text) {
    const State to = add_state(state(from).rule);
    bytes(from, to, static_cast<uint8_t>(c), static_cast<uint8_t>(c));
    from = to;
  }
  return from;
}

State Grammar::markup(State from, std::string_view whole) {
  constexpr std::string_view kMarker = text::kDsml;
  while (has_dsml) {
    const size_t at = whole.find(kMarker);
    if (at == std::string_view::npos) break;
    from = text(from, whole.substr(0, at));
    const State to = add_state(state(from).rule);
    states_[static_cast<size_t>(from)].edges.push_back(
        {.kind = Edge::Kind::kSymbol, .what = static_cast<int32_t>(Symbol::kDsml), .to = to});
    from = to;
    whole.remove_prefix(at + kMarker.size());
  }
  return text(from, whole);
}

State Grammar::think_close(State from) {
  if (!has_think_close) return text(from, text::kThinkClose);
  const State to = add_state(state(from).rule);
  states_[static_cast<size_t>(from)].edges.push_back(
      {.kind = Edge::Kind::kSymbol, .what = static_cast<int32_t>(Symbol::kThinkClose), .to = to});
  return to;
}

// The least fixed point, by rounds: a state's height is that of its cheapest edge.
void Grammar::find_heights() {
  for (StateInfo& one : states_) one.height = kNoLimit;
  for (const RuleInfo& one : rules_)
    if (one.least <= one.most) states_[static_cast<size_t>(one.end)].height = 0;
  std::vector<bool> can_count(rules_.size(), false);  // where nothing can be counted, `least` is out of reach
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = states_.size(); i-- > 0;) {
      StateInfo& one = states_[i];
      for (const Edge& edge : one.edges) {
        if (edge.counts && rule(one.rule).most == 0) continue;
        const bool runs = edge.kind != Edge::Kind::kCall || state(rule(edge.what).start).height != kNoLimit;
        if (edge.counts && runs && !can_count[static_cast<size_t>(one.rule)])
          can_count[static_cast<size_t>(one.rule)] = changed = true;
        if (edge.needs_least && rule(one.rule).least > 0 && !can_count[static_cast<size_t>(one.rule)]) continue;
        int32_t height = state(edge.to).height;
        if (edge.kind == Edge::Kind::kCall && height != kNoLimit) {
          const int32_t called = state(rule(edge.what).start).height;
          height = called == kNoLimit ? kNoLimit : std::max(height, called + 1);
        }
        if (height < one.height) {
          one.height = height;
          changed = true;
        }
      }
    }
  }
  for (const StateInfo& one : states_)
    if (one.height != kNoLimit) tallest_ = std::max(tallest_, one.height);
  for (StateInfo& one : states_)
    std::erase_if(one.edges, [&](const Edge& edge) {
      return state(edge.to).height == kNoLimit || (edge.counts && rule(one.rule).most == 0) ||
             (edge.kind == Edge::Kind::kCall && state(rule(edge.what).start).height == kNoLimit);
    });
}

namespace {

// States that a rule reaches before any input; `through(r)` says whether rule r can be run without any.
template <class Through>
std::vector<State> reached_empty(const Grammar& grammar, State from, const Through& through) {
  std::vector<State> reached{from};
  for (size_t i = 0; i < reached.size(); ++i)
    for (const Edge& edge : grammar.state(reached[i]).edges) {
      const bool free = edge.kind == Edge::Kind::kEmpty || (edge.kind == Edge::Kind::kCall && through(edge.what));
      if (free && std::find(reached.begin(), reached.end(), edge.to) == reached.end()) reached.push_back(edge.to);
    }
  return reached;
}

}  // namespace

bool Grammar::starts_with_itself() const {
  std::vector<bool> nullable(rules_.size(), false);
  const auto through = [&](Rule id) { return nullable[static_cast<size_t>(id)]; };
  std::vector<std::vector<State>> begins(rules_.size());
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t r = 0; r < rules_.size(); ++r) {
      begins[r] = reached_empty(*this, rules_[r].start, through);
      if (!nullable[r] && std::find(begins[r].begin(), begins[r].end(), rules_[r].end) != begins[r].end())
        nullable[r] = changed = true;
    }
  }
  // A cycle of "runs first": depth-first, grey rules are on the path.
  std::vector<char> colour(rules_.size(), 0);
  std::vector<std::pair<size_t, std::vector<Rule>>> path;
  const auto enter = [&](size_t r) {
    colour[r] = 1;
    std::vector<Rule> called;
    for (const State s : begins[r])
      for (const Edge& edge : state(s).edges)
        if (edge.kind == Edge::Kind::kCall) called.push_back(edge.what);
    path.emplace_back(r, std::move(called));
  };
  for (size_t r = 0; r < rules_.size(); ++r) {
    if (colour[r]) continue;
    enter(r);
    while (!path.empty()) {
      auto& [top, called] = path.back();
      if (called.empty()) {
        colour[top] = 2;
        path.pop_back();
        continue;
      }
      const auto next = static_cast<size_t>(called.back());
      called.pop_back();
      if (colour[next] == 1) return true;
      if (colour[next] == 0) enter(next);
    }
  }
  return false;
}

void Grammar::find_follow() {
  std::vector<bool> nullable(rules_.size(), false);
  std::vector<std::bitset<256>> first(rules_.size());
  const auto through = [&](Rule id) { return nullable[static_cast<size_t>(id)]; };
  // First bytes from a state; ends: whether its rule can end without any.
  const auto first_from = [&](State from, bool& ends) {
    std::bitset<256> set;
    ends = false;
    for (const State s : reached_empty(*this, from, through)) {
      ends = ends || s == rule(state(s).rule).end;
      for (const Edge& edge : state(s).edges) {
        if (edge.kind == Edge::Kind::kBytes)
          for (int b = edge.low; b <= edge.high; ++b) set.set(static_cast<size_t>(b));
        if (edge.kind == Edge::Kind::kCall) set |= first[static_cast<size_t>(edge.what)];
      }
    }
    return set;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t r = 0; r < rules_.size(); ++r) {
      bool ends = false;
      const auto set = first_from(rules_[r].start, ends);
      if (set != first[r] || ends != nullable[r]) changed = true;
      first[r] = set;
      nullable[r] = ends;
    }
  }
  struct Site {
    Rule called, caller;
    std::bitset<256> after;
    bool ends;
  };
  std::vector<Site> sites;
  for (const StateInfo& one : states_)
    for (const Edge& edge : one.edges)
      if (edge.kind == Edge::Kind::kCall) {
        Site site{edge.what, one.rule, {}, false};
        site.after = first_from(edge.to, site.ends);
        sites.push_back(site);
      }
  for (bool changed = true; changed;) {
    changed = false;
    for (const Site& site : sites) {
      auto& follow = rule(site.called).follow;
      const auto wider = follow | site.after | (site.ends ? rule(site.caller).follow : std::bitset<256>());
      changed = changed || wider != follow;
      follow = wider;
    }
  }
}

Status Grammar::finish(Rule root) {
  root_ = root;
  if (too_large()) return Error{Code::kUnsupported, fmt::format("too large: more than {} states", kMostStates)};
  find_heights();
  const int32_t height = state(rule(root).start).height;
  if (height == kNoLimit) return Error{Code::kInvalid, "no value fits"};
  if (height >= kMostDepth / 2) return Error{Code::kUnsupported, "nested too deep"};
  if (starts_with_itself()) return Error{Code::kInvalid, "a $ref refers to itself"};
  find_follow();
  return {};
}

}  // namespace hadal::constrain
