// What one sequence remembers after n tokens (architecture report A.8 and B). Per layer:
//
//   window         KV rows of the latest tokens, by position
//   entries        compressed rows: n / ratio of them (CSA, HCA)
//   index_entries  the indexer's rows: n / 4 (CSA)
//   tails          projections of the tokens that later entries still need: value and gate rows (float32) of
//                  the open block and, for CSA, of the last complete block (entries overlap)
//
// Rows in `faithful`: KV = E4M3 nope dims, E8M0 per 64, BF16 rope dims (584 bytes for V4); index = E2M1 with
// E8M0 per 32 (68 bytes). In `exact`: float32. Entries grow in pages; everything else is of constant size.
//
// The state cannot be cut back to any earlier length: compressed entries forget the tokens they came from.
// Instead: fork() (pages are shared), rewind() by at most kDraftRows tokens (for rejected drafts), and entries() +
// save_snapshot() with add_entries() + load_snapshot(), which continue bit for bit (tests/model).
//
// Threads: const methods any; the rest by the sequence's owner.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/types.h"
#include "checkpoint/config.h"
#include "checkpoint/inventory.h"
#include "kv/rows.h"
#include "tensor/tensor.h"

namespace hadal::kv {

inline constexpr int kDraftRows = 16;

struct Layout {
  static Layout from(const checkpoint::ModelConfig& config, checkpoint::Draft draft, Numerics numerics);

  Numerics numerics = Numerics::kFaithful;
  int n_nope = 0, n_rope = 0;  // dims of a KV row
  int index_dim = 0;
  int window = 0;
  int hidden_floats = 0;    // hc_mult * dim: the streams that the MTP block continues from; 0 without MTP
  std::vector<int> ratios;  // one per main layer
  int n_draft_layers = 0;   // MTP blocks: window only

  int n_layers() const { return static_cast<int>(ratios.size()) + n_draft_layers; }
  int ratio(int layer) const {
    return layer < static_cast<int>(ratios.size()) ? ratios[static_cast<size_t>(layer)] : 0;
  }
  int64_t kv_row_bytes() const;
  int64_t index_row_bytes() const;
  int value_width(int layer) const;                // floats per tail row: 2 head_dim for CSA, head_dim for HCA, else 0
  int index_value_width(int layer) const;          // 2 index_dim for CSA, else 0
  int64_t entry_bytes_at(int64_t n_tokens) const;  // compressed entries: n_csa * n/4 * 652 + n_hca * n/128 * 584
  int64_t constant_bytes() const;                  // windows and tails as held in memory
  std::string identity() const;                    // bytes that differ whenever rows or their sizes do
  bool operator==(const Layout&) const = default;
};

struct LayerState {
  RowRing window;
  PagedRows entries, index_entries;
  RowRing values, gates;              // tails of the main compressor
  RowRing index_values, index_gates;  // and of the indexer's
};

class SequenceState {
 public:
  explicit SequenceState(std::shared_ptr<const Layout> layout);
  SequenceState(SequenceState&&) = default;
  SequenceState& operator=(SequenceState&&) = default;

  const Layout& layout() const { return *layout_; }
  int64_t length() const { return length_; }              // tokens seen
  int64_t draft_length() const { return draft_length_; }  // rows the MTP block has seen
  LayerState& layer(int i) { return layers_[static_cast<size_t>(i)]; }
  const LayerState& layer(int i) const { return layers_[static_cast<size_t>(i)]; }
  // The streams after the last main layer at position length() - 1; empty before the first token.
  std::vector<float>& last_hidden() { return last_hidden_; }
  const std::vector<float>& last_hidden() const { return last_hidden_; }

  void advance(int64_t n_tokens);  // after a forward pass has written its rows
  void advance_draft(int64_t n_rows);

  SequenceState fork() const;
  // Back to `n_tokens` >= length() - kDraftRows and > draft_length() - kDraftRows, not before the point of
  // restore(); the MTP block goes back to row n_tokens - 1. last_hidden() is dropped. kInvalid otherwise.
  Status rewind(int64_t n_tokens);

  int64_t entry_bytes() const;     // == layout().entry_bytes_at(length())
  int64_t capacity_bytes() const;  // all memory held, shared pages included

  // What makes a copy elsewhere: the entries finished by consecutive ranges of tokens [begin, end) from 0 on, each in
  // pieces as they lie in memory; and a snapshot, everything else needed to go on from length().
  std::vector<std::span<const std::byte>> entries(int64_t begin, int64_t end) const;
  void save_snapshot(std::string& out) const;  // appends
  void save_draft(std::string& out) const;     // the MTP block's part of it; a copy without it only cannot draft
  // The inverse, on a new state: pieces of undefined content for the entries of tokens length() to `end`, then the
  // snapshot at their end. Bytes are checked, not trusted; after an error the state is of no use.
  std::vector<std::span<std::byte>> add_entries(int64_t end);
  Status load_snapshot(std::string_view bytes);
  Status load_draft(std::string_view bytes);
  // Memory that copies share: `visit(first byte, bytes)` of every page. The rest is own_bytes().
  template <class Visit>
  void visit_pages(Visit visit) const {
    for (const LayerState& state : layers_) {
      state.entries.visit_pages(visit);
      state.index_entries.visit_pages(visit);
    }
  }
  int64_t own_bytes() const;

 private:
  SequenceState(const SequenceState&) = default;  // fork()

  std::shared_ptr<const Layout> layout_;
  int64_t length_ = 0, draft_length_ = 0;
  int64_t rewind_floor_ = 0;
  std::vector<LayerState> layers_;
  std::vector<float> last_hidden_;
};

// A state and the ids it has seen.
struct Context {
  SequenceState state;
  std::vector<TokenId> ids;
};

}  // namespace hadal::kv
