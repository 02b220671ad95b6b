#include "cache/trail.h"

#include <algorithm>

namespace hadal::cache {

const std::vector<Digest>& Trail::names(std::span<const TokenId> ids) {
  extend_names(names_, ids);
  return names_;
}

std::vector<int64_t> Trail::plan(int64_t n_prompt, int64_t found, int64_t header_at, std::vector<int64_t> shared) {
  n_prompt_ = n_prompt;
  proven_ = found > 0;
  const auto order = [&](std::vector<int64_t>& all) {
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    std::erase_if(all, [&](int64_t at) { return at <= found || at > n_prompt; });
  };
  keeps_ = {header_at};
  for (const int64_t at : shared) keeps_.push_back(floor_block(at));
  order(keeps_);
  std::vector<int64_t> pauses = keeps_;
  saves_.clear();
  if (store_) {
    for (const int64_t at : keeps_) saves_.push_back(floor_block(at));
    for (int64_t at = save_every_; at <= n_prompt; at += save_every_) saves_.push_back(at);
    order(saves_);
    pauses.insert(pauses.end(), saves_.begin(), saves_.end());
    pauses.push_back(floor_block(n_prompt));
    order(pauses);
  }
  return pauses;
}

void Trail::save(kv::Context context) {
  extend_names(names_, context.ids);
  store_->save_later(names_, std::move(context));
}

void Trail::reached(const kv::Context& context) {
  const int64_t at = context.state.length();
  const auto fork = [&] { return kv::Context{context.state.fork(), context.ids}; };
  if (std::binary_search(keeps_.begin(), keeps_.end(), at)) resident_->keep(names(context.ids), fork(), proven_);
  if (!store_ || at % kBlock != 0) return;
  const bool is_due = at <= n_prompt_ ? std::binary_search(saves_.begin(), saves_.end(), at) : at % save_every_ == 0;
  last_block_.reset();
  if (is_due) {
    save(fork());
  } else {
    last_block_ = fork();
  }
}

void Trail::ended(kv::Context context) {
  if (last_block_) save(std::move(*last_block_));
  last_block_.reset();
  extend_names(names_, context.ids);
  resident_->keep(names_, std::move(context), proven_);
}

}  // namespace hadal::cache
