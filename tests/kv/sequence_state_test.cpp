// Sequence states without a model: sizes by the formula, pages shared by forks, and restore() against bytes that
// something damaged.

#include "kv/sequence_state.h"
#include "tests/support/saved_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "checkpoint/synth.h"

namespace hadal::kv {
namespace {

std::shared_ptr<const Layout> small_layout(std::vector<int> ratios, Numerics numerics = Numerics::kFaithful) {
  return std::make_shared<const Layout>(Layout{.numerics = numerics,
                                               .n_nope = 48,
                                               .n_rope = 16,
                                               .index_dim = 32,
                                               .window = 8,
                                               .hidden_floats = 6,
                                               .ratios = std::move(ratios),
                                               .n_draft_layers = 1});
}

// What a forward pass of n tokens leaves, with random bytes for rows.
void grow(SequenceState& state, int64_t n, std::mt19937_64& random) {
  const Layout& layout = state.layout();
  const auto fill = [&](std::byte* row, int64_t size) {
    for (int64_t i = 0; i < size; ++i) row[i] = static_cast<std::byte>(random());
  };
  for (int64_t k = 0; k < n; ++k) {
    const int64_t position = state.length();
    for (int i = 0; i < layout.n_layers(); ++i) {
      LayerState& layer = state.layer(i);
      fill(layer.window.row(position), layer.window.row_bytes());
      const int ratio = layout.ratio(i);
      if (ratio == 0) continue;
      for (RowRing* ring : {&layer.values, &layer.gates, &layer.index_values, &layer.index_gates})
        if (ring->capacity() > 0) fill(ring->row(position), ring->row_bytes());
      if ((position + 1) % ratio != 0) continue;
      fill(layer.entries.append(), layer.entries.row_bytes());
      if (ratio == 4) fill(layer.index_entries.append(), layer.index_entries.row_bytes());
    }
    state.advance(1);
  }
  state.advance_draft(std::max<int64_t>(0, state.length() - 1 - state.draft_length()));
  state.last_hidden().assign(static_cast<size_t>(layout.hidden_floats), 0.5f);
}

using testing::restore;
using testing::save;
using Saved = testing::SavedState;

TEST(SequenceState, EntriesOfFlashAndProHaveTheSizesOfTheReport) {
  const struct {
    const char* config;
    int64_t n, bytes;
  } cases[] = {{"flash", 4096, 14'394'368}, {"flash", 131'072, 460'619'776}, {"flash", 1'048'576, 3'684'958'208},
               {"pro", 4096, 20'608'768},   {"pro", 131'072, 659'480'576},   {"pro", 1'048'576, 5'275'844'608}};
  for (const auto& c : cases) {
    const auto json = checkpoint::load_config_json(c.config);
    const auto config = checkpoint::parse_config(json::dump(json.value()), c.config).value();
    const Layout layout = Layout::from(config, checkpoint::Draft::kMtp, Numerics::kFaithful);
    EXPECT_EQ(layout.kv_row_bytes(), 584);
    EXPECT_EQ(layout.index_row_bytes(), 68);
    EXPECT_EQ(layout.entry_bytes_at(c.n), c.bytes) << c.config << " " << c.n;
  }
}

TEST(SequenceState, ForksShareFullPagesAndCopyTheOneTheyWriteInto) {
  std::mt19937_64 random(1);
  const auto layout = small_layout({4, 2, 0});
  SequenceState state(layout);
  grow(state, 4 * 100, random);  // 100 entries: one full page and a part of the second
  SequenceState fork = state.fork();
  const PagedRows &a = state.layer(0).entries, &b = fork.layer(0).entries;
  EXPECT_EQ(a.row(0), b.row(0));
  EXPECT_EQ(a.row(99), b.row(99));
  const std::vector<std::byte> before(a.row(99), a.row(99) + a.row_bytes());
  grow(fork, 4, random);
  EXPECT_EQ(a.row(0), b.row(0));
  EXPECT_NE(a.row(99), b.row(99)) << "the fork wrote into a page that it shares";
  EXPECT_EQ(std::memcmp(a.row(99), b.row(99), before.size()), 0);
  EXPECT_EQ(std::memcmp(a.row(99), before.data(), before.size()), 0);
  EXPECT_EQ(a.size(), 100);
  EXPECT_EQ(b.size(), 101);
  // The page belongs to one state again: it writes in place.
  const std::byte* at = a.row(99);
  grow(state, 4, random);
  EXPECT_EQ(a.row(99), at);
}

TEST(SequenceState, RestoresWhatWasSavedAtEveryLengthAndInAnyRanges) {
  std::mt19937_64 random(2);
  for (const Numerics numerics : {Numerics::kFaithful, Numerics::kExact}) {
    const auto layout = small_layout({4, 6, 0}, numerics);
    SequenceState state(layout);
    for (int64_t n = 0; n < 60; ++n) {
      if (n > 0) grow(state, 1, random);
      std::vector<int64_t> cuts;
      for (int64_t cut = 0; cut < n; cut += 1 + static_cast<int64_t>(random() % 20)) cuts.push_back(cut);
      const Saved saved = save(state, cuts);
      auto restored = restore(layout, saved);
      ASSERT_TRUE(restored.ok()) << n << ": " << restored.error().message;
      const Saved again = save(restored.value(), cuts);
      EXPECT_EQ(again.ranges, saved.ranges) << n;
      EXPECT_EQ(again.snapshot, saved.snapshot) << n;
      EXPECT_EQ(again.draft, saved.draft) << n;
      EXPECT_EQ(restored.value().draft_length(), state.draft_length());
    }
  }
}

TEST(SequenceState, DamagedBytesAreRefusedOrHarmless) {
  std::mt19937_64 random(3);
  for (const auto& layout : {small_layout({4, 6, 0}), small_layout({0}), small_layout({})}) {
    SequenceState state(layout);
    grow(state, 37, random);
    const Saved good = save(state);
    for (int i = 0; i < 20000; ++i) {
      Saved bad = good;
      std::string& bytes = random() % 2 ? bad.draft : bad.snapshot;
      switch (random() % 4) {
        case 0:
          bytes.resize(random() % (bytes.size() + 1));
          break;
        case 1:
          bytes.append(1 + random() % 9, '\xFF');
          break;
        case 2:  // numbers live at the front
          for (uint64_t k = random() % 12; k < 12; ++k)
            bytes[random() % std::min<size_t>(bytes.size(), 90)] = static_cast<char>(random());
          break;
        default: {  // an extreme number in their place
          const int64_t extremes[] = {-1, INT64_MAX, INT64_MIN, int64_t{1} << 62, 38, 36, 0};
          std::memcpy(bytes.data() + random() % (std::min<size_t>(bytes.size(), 90) - 8), &extremes[random() % 7], 8);
        }
      }
      auto restored = restore(layout, bad);
      if (!restored.ok()) {
        EXPECT_EQ(restored.error().code, Code::kCorrupt);
        continue;
      }
      EXPECT_LE(restored.value().length(), int64_t{1} << 40);
      EXPECT_EQ(restored.value().entry_bytes(), layout->entry_bytes_at(restored.value().length()));
      grow(restored.value(), 9, random);
    }
  }
  // A length that no sequence can have, in a layout without entries.
  const auto layout = small_layout({0});
  SequenceState state(layout);
  grow(state, 37, random);
  Saved bad = save(state);
  const int64_t length = INT64_MAX;
  const size_t layout_bytes = 8 * 4 + 4;
  std::memcpy(bad.snapshot.data() + 8 + layout_bytes, &length, 8);
  EXPECT_FALSE(restore(layout, bad).ok());
}

TEST(SequenceState, ARewindThatTheMtpRingCannotFollowIsRefused) {
  std::mt19937_64 random(4);
  SequenceState state(small_layout({4, 0}));
  grow(state, 50, random);
  EXPECT_TRUE(state.fork().rewind(50 - kDraftRows).ok());
  state.advance_draft(8);  // drafts beyond the last token: rows 49..56
  EXPECT_TRUE(state.fork().rewind(50).ok());
  EXPECT_TRUE(state.fork().rewind(57 - kDraftRows + 1).ok());
  EXPECT_FALSE(state.fork().rewind(57 - kDraftRows).ok()) << "the window of its last MTP row is overwritten";
  SequenceState back = state.fork();
  ASSERT_TRUE(back.rewind(48).ok());
  EXPECT_EQ(back.draft_length(), 47);
  EXPECT_EQ(back.length(), 48);
}

}  // namespace
}  // namespace hadal::kv
