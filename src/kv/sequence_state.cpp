#include "kv/sequence_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace hadal::kv {
namespace {

constexpr std::string_view kSnapshotMagic = "HADALKS2", kDraftMagic = "HADALKD2";

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_bytes(std::string& out, const std::byte* bytes, int64_t n) {
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

class Reader {
 public:
  Reader(std::string_view bytes, const char* what) : rest_(bytes), what_(what) {}

  Status take(void* into, int64_t n) {
    if (n < 0 || static_cast<uint64_t>(n) > rest_.size())
      return Error{Code::kCorrupt, fmt::format("{}: expected {} more bytes, found {}", what_, n, rest_.size())};
    if (n > 0) std::memcpy(into, rest_.data(), static_cast<size_t>(n));  // no entries: there may be no place for them
    rest_.remove_prefix(static_cast<size_t>(n));
    return {};
  }
  Result<int64_t> take_int64() {
    int64_t value = 0;
    HADAL_TRY(take(&value, sizeof value));
    return value;
  }
  Status expect(std::string_view bytes, const char* meaning) {
    if (rest_.substr(0, bytes.size()) != bytes)
      return Error{Code::kCorrupt, fmt::format("{}: another {}", what_, meaning)};
    rest_.remove_prefix(bytes.size());
    return {};
  }
  Status end() const {
    if (rest_.empty()) return {};
    return Error{Code::kCorrupt, fmt::format("{}: {} bytes too many", what_, rest_.size())};
  }

 private:
  std::string_view rest_;
  const char* what_;
};

// The tail rows that entries after token n still need: positions [first, n); of positions before `open` only
// the low half (CSA's previous block).
struct TailRange {
  int64_t first, open;
};
TailRange tail_range(int ratio, int64_t n) {
  const int64_t open = n / ratio * ratio;
  return {ratio == 4 ? std::max<int64_t>(0, open - 4) : open, open};
}

int64_t ring_capacity(int ratio) { return (ratio == 4 ? 2 * ratio : ratio) + kDraftRows; }

}  // namespace

Layout Layout::from(const checkpoint::ModelConfig& config, checkpoint::Draft draft, Numerics numerics) {
  Layout layout;
  layout.numerics = numerics;
  layout.n_nope = config.nope_head_dim();
  layout.n_rope = config.rope_head_dim;
  layout.index_dim = config.index_head_dim;
  layout.window = config.window_size;
  layout.ratios.assign(config.compress_ratios.begin(), config.compress_ratios.begin() + config.n_layers);
  if (draft == checkpoint::Draft::kMtp) {
    layout.n_draft_layers = config.n_mtp_layers;
    layout.hidden_floats = config.hc_mult * config.dim;
  }
  return layout;
}

int64_t Layout::kv_row_bytes() const {
  if (numerics == Numerics::kExact) return 4 * (n_nope + n_rope);
  return (n_nope + (n_nope + 63) / 64 + 1) / 2 * 2 + 2 * n_rope;
}

int64_t Layout::index_row_bytes() const {
  if (numerics == Numerics::kExact) return 4 * index_dim;
  return (index_dim + 1) / 2 + (index_dim + 31) / 32;
}

std::string Layout::identity() const {
  std::string out;
  put<int32_t>(out, numerics == Numerics::kFaithful ? 0 : 1);
  for (const int value :
       {n_nope, n_rope, index_dim, window, hidden_floats, n_draft_layers, static_cast<int>(ratios.size())})
    put<int32_t>(out, value);
  for (const int ratio : ratios) put<int32_t>(out, ratio);
  return out;
}

int Layout::value_width(int layer) const {
  const int r = ratio(layer);
  return r == 0 ? 0 : (r == 4 ? 2 : 1) * (n_nope + n_rope);
}

int Layout::index_value_width(int layer) const { return ratio(layer) == 4 ? 2 * index_dim : 0; }

int64_t Layout::entry_bytes_at(int64_t n_tokens) const {
  int64_t bytes = 0;
  for (const int r : ratios)
    if (r != 0) bytes += n_tokens / r * (kv_row_bytes() + (r == 4 ? index_row_bytes() : 0));
  return bytes;
}

int64_t Layout::constant_bytes() const {
  int64_t bytes = 0;
  for (int i = 0; i < n_layers(); ++i) {
    bytes += (window + kDraftRows) * kv_row_bytes();
    if (ratio(i) != 0)
      bytes +=
          ring_capacity(ratio(i)) * 2 * static_cast<int64_t>(sizeof(float)) * (value_width(i) + index_value_width(i));
  }
  return bytes;
}

SequenceState::SequenceState(std::shared_ptr<const Layout> layout)
    : layout_(std::move(layout)), layers_(static_cast<size_t>(layout_->n_layers())) {
  for (int i = 0; i < layout_->n_layers(); ++i) {
    LayerState& state = layer(i);
    state.window = RowRing(layout_->window + kDraftRows, layout_->kv_row_bytes());
    const int ratio = layout_->ratio(i);
    if (ratio == 0) continue;
    const int64_t floats = sizeof(float);
    state.entries = PagedRows(layout_->kv_row_bytes());
    state.values = state.gates = RowRing(ring_capacity(ratio), floats * layout_->value_width(i));
    if (ratio != 4) continue;
    state.index_entries = PagedRows(layout_->index_row_bytes());
    state.index_values = state.index_gates = RowRing(ring_capacity(ratio), floats * layout_->index_value_width(i));
  }
}

void SequenceState::advance(int64_t n_tokens) {
  length_ += n_tokens;
  rewind_floor_ = std::max(rewind_floor_, length_ - kDraftRows);
}

void SequenceState::advance_draft(int64_t n_rows) {
  draft_length_ += n_rows;
  // rewind(n) takes the MTP block back to row n - 1, whose window must still be in its ring.
  rewind_floor_ = std::max(rewind_floor_, draft_length_ - kDraftRows + 1);
}

SequenceState SequenceState::fork() const { return SequenceState(*this); }

Status SequenceState::rewind(int64_t n_tokens) {
  if (n_tokens > length_ || n_tokens < rewind_floor_)
    return Error{Code::kInvalid,
                 fmt::format("rewind: expected a length from {} to {}, found {}", rewind_floor_, length_, n_tokens)};
  length_ = n_tokens;
  // Row i of the MTP block needs token i + 1.
  draft_length_ = std::min(draft_length_, std::max<int64_t>(0, n_tokens - 1));
  last_hidden_.clear();
  for (int i = 0; i < layout_->n_layers(); ++i) {
    const int ratio = layout_->ratio(i);
    if (ratio == 0) continue;
    layer(i).entries.truncate(n_tokens / ratio);
    if (ratio == 4) layer(i).index_entries.truncate(n_tokens / ratio);
  }
  return {};
}

int64_t SequenceState::entry_bytes() const {
  int64_t bytes = 0;
  for (const LayerState& state : layers_) bytes += state.entries.size_bytes() + state.index_entries.size_bytes();
  return bytes;
}

int64_t SequenceState::capacity_bytes() const {
  int64_t bytes = static_cast<int64_t>(last_hidden_.capacity() * sizeof(float));
  for (const LayerState& s : layers_)
    bytes += s.window.size_bytes() + s.entries.capacity_bytes() + s.index_entries.capacity_bytes() +
             s.values.size_bytes() + s.gates.size_bytes() + s.index_values.size_bytes() + s.index_gates.size_bytes();
  return bytes;
}

int64_t SequenceState::own_bytes() const {
  int64_t bytes = capacity_bytes();
  visit_pages([&](const std::byte*, int64_t page) { bytes -= page; });
  return bytes;
}

std::vector<std::span<const std::byte>> SequenceState::entries(int64_t begin, int64_t end) const {
  HADAL_CHECK(begin >= 0 && begin <= end && end <= length_);
  std::vector<std::span<const std::byte>> pieces;
  for (int i = 0; i < layout_->n_layers(); ++i) {
    const int ratio = layout_->ratio(i);
    if (ratio == 0) continue;
    for (const PagedRows* rows : {&layer(i).entries, &layer(i).index_entries}) {
      if (rows->row_bytes() == 0) continue;
      for (int64_t e = begin / ratio; e < end / ratio; e += PagedRows::kPageRows - e % PagedRows::kPageRows)
        pieces.push_back(rows->piece(e, end / ratio));
    }
  }
  return pieces;
}

std::vector<std::span<std::byte>> SequenceState::add_entries(int64_t end) {
  HADAL_CHECK(end >= length_);
  std::vector<std::span<std::byte>> pieces;
  for (int i = 0; i < layout_->n_layers(); ++i) {
    const int ratio = layout_->ratio(i);
    if (ratio == 0) continue;
    for (PagedRows* rows : {&layer(i).entries, &layer(i).index_entries})
      if (rows->row_bytes() != 0)
        while (rows->size() < end / ratio) pieces.push_back(rows->append(end / ratio - rows->size()));
  }
  length_ = rewind_floor_ = end;
  return pieces;
}

void SequenceState::save_snapshot(std::string& out) const {
  out += kSnapshotMagic;
  out += layout_->identity();
  put<int64_t>(out, length_);
  for (int i = 0; i < static_cast<int>(layout_->ratios.size()); ++i) {
    const LayerState& state = layer(i);
    for (int64_t pos = std::max<int64_t>(0, length_ - layout_->window); pos < length_; ++pos)
      put_bytes(out, state.window.row(pos), state.window.row_bytes());
    const int ratio = layout_->ratio(i);
    if (ratio == 0) continue;
    const TailRange tail = tail_range(ratio, length_);
    for (const RowRing* ring : {&state.values, &state.gates, &state.index_values, &state.index_gates}) {
      if (ring->capacity() == 0) continue;
      for (int64_t pos = tail.first; pos < length_; ++pos)
        put_bytes(out, ring->row(pos), pos < tail.open ? ring->row_bytes() / 2 : ring->row_bytes());
    }
  }
}

void SequenceState::save_draft(std::string& out) const {
  out += kDraftMagic;
  out += layout_->identity();
  put<int64_t>(out, draft_length_);
  for (int i = static_cast<int>(layout_->ratios.size()); i < layout_->n_layers(); ++i)
    for (int64_t pos = std::max<int64_t>(0, draft_length_ - layout_->window); pos < draft_length_; ++pos)
      put_bytes(out, layer(i).window.row(pos), layer(i).window.row_bytes());
  put<int64_t>(out, static_cast<int64_t>(last_hidden_.size()));
  put_bytes(out, reinterpret_cast<const std::byte*>(last_hidden_.data()),
            static_cast<int64_t>(last_hidden_.size() * sizeof(float)));
}

Status SequenceState::load_snapshot(std::string_view bytes) {
  Reader in(bytes, "saved snapshot");
  HADAL_TRY(in.expect(kSnapshotMagic, "format"));
  HADAL_TRY(in.expect(layout_->identity(), "KV layout"));
  const int64_t length = HADAL_TRY(in.take_int64());
  if (length != length_)
    return Error{Code::kCorrupt, fmt::format("saved snapshot: expected {} tokens, found {}", length_, length)};
  for (int i = 0; i < static_cast<int>(layout_->ratios.size()); ++i) {
    LayerState& into = layer(i);
    for (int64_t pos = std::max<int64_t>(0, length_ - layout_->window); pos < length_; ++pos)
      HADAL_TRY(in.take(into.window.row(pos), into.window.row_bytes()));
    const int ratio = layout_->ratio(i);
    if (ratio == 0) continue;
    const TailRange tail = tail_range(ratio, length_);
    for (RowRing* ring : {&into.values, &into.gates, &into.index_values, &into.index_gates}) {
      if (ring->capacity() == 0) continue;
      for (int64_t pos = tail.first; pos < length_; ++pos)
        HADAL_TRY(in.take(ring->row(pos), pos < tail.open ? ring->row_bytes() / 2 : ring->row_bytes()));
    }
  }
  return in.end();
}

Status SequenceState::load_draft(std::string_view bytes) {
  Reader in(bytes, "saved draft state");
  HADAL_TRY(in.expect(kDraftMagic, "format"));
  HADAL_TRY(in.expect(layout_->identity(), "KV layout"));
  const int64_t length = HADAL_TRY(in.take_int64());
  if (length < 0 || length > length_)
    return Error{Code::kCorrupt, fmt::format("saved draft state: expected at most {} rows, found {}", length_, length)};
  for (int i = static_cast<int>(layout_->ratios.size()); i < layout_->n_layers(); ++i)
    for (int64_t pos = std::max<int64_t>(0, length - layout_->window); pos < length; ++pos)
      HADAL_TRY(in.take(layer(i).window.row(pos), layer(i).window.row_bytes()));
  const int64_t n_hidden = HADAL_TRY(in.take_int64());
  if (n_hidden != 0 && n_hidden != layout_->hidden_floats)
    return Error{Code::kCorrupt, fmt::format("saved draft state: expected {} hidden values, found {}",
                                             layout_->hidden_floats, n_hidden)};
  std::vector<float> hidden(static_cast<size_t>(n_hidden));
  HADAL_TRY(in.take(hidden.data(), n_hidden * static_cast<int64_t>(sizeof(float))));
  HADAL_TRY(in.end());
  last_hidden_ = std::move(hidden);
  draft_length_ = length;
  return {};
}

}  // namespace hadal::kv
