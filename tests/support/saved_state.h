// A sequence state as bytes, and back.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kv/sequence_state.h"

namespace hadal::testing {

struct SavedState {
  std::vector<std::pair<int64_t, std::string>> ranges;  // end and entries, from token 0 on
  std::string snapshot, draft;
};

inline SavedState save(const kv::SequenceState& state, std::vector<int64_t> cuts = {}) {
  SavedState saved;
  cuts.push_back(state.length());
  int64_t begin = 0;
  for (const int64_t end : cuts) {
    std::string bytes;
    for (const auto piece : state.entries(begin, end))
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    saved.ranges.emplace_back(end, std::move(bytes));
    begin = end;
  }
  state.save_snapshot(saved.snapshot);
  state.save_draft(saved.draft);
  return saved;
}

inline Result<kv::SequenceState> restore(const std::shared_ptr<const kv::Layout>& layout, const SavedState& saved) {
  kv::SequenceState state(layout);
  for (const auto& [end, bytes] : saved.ranges) {
    size_t at = 0;
    for (const auto piece : state.add_entries(end)) {
      std::memcpy(piece.data(), bytes.data() + at, piece.size());
      at += piece.size();
    }
    HADAL_CHECK(at == bytes.size());
  }
  HADAL_TRY(state.load_snapshot(saved.snapshot));
  HADAL_TRY(state.load_draft(saved.draft));
  return state;
}

}  // namespace hadal::testing
