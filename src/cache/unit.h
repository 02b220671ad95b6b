// A unit: the file of the context cache (docs/formats.md). The entries that tokens [begin, end) finished, a snapshot at
// `end`, and the ids; both ends at multiples of 128. Or an answer as it was sampled, which stands alone: begin and end
// are 0. Written once, never changed.
//
//   UnitHeader   512 bytes: names, range, where each section lies and its XXH3, and the header's own
//   sections     ids, entries, snapshot, and optional ones; or answer. Kinds that a reader does not know are skipped
//
// What is read is checked: sizes before memory is taken, the ids against those asked for, every section's sum.
//
// Errors: kCorrupt (torn, damaged, not what its name says), kUnsupported (of another version), kNotFound (gone),
// kIo (the system refused). Stateless;
// threads: any.
#pragma once

#include <array>
#include <initializer_list>
#include <memory>
#include <string>

#include "cache/disk.h"
#include "cache/prefix.h"
#include "kv/sequence_state.h"

namespace hadal::cache {

enum class Section : uint32_t { kNone = 0, kIds = 1, kEntries = 2, kSnapshot = 3, kDraft = 4, kAnswer = 5 };

struct UnitHeader {
  static constexpr char kMagic[] = "HADALKV1";
  static constexpr size_t kSections = 8, kModelBytes = 64;
  struct Place {
    Section kind = Section::kNone;
    uint32_t zero = 0;
    uint64_t offset = 0, bytes = 0, sum = 0;
  };

  char magic[8] = {};
  uint64_t zero = 0;
  Digest root = {}, parent = {}, name = {};  // of no block, of [0, begin), of [0, end); of an answer its own
  int64_t begin = 0, end = 0;
  char model[kModelBytes] = {};  // for people; ends with 0
  std::array<Place, kSections> sections;
  char rest[56] = {};
  uint64_t sum = 0;  // of all before it

  const Place* find(Section kind) const;
  bool is_answer() const { return end == 0; }
};
static_assert(sizeof(UnitHeader) == 512);

// The name depends on what the unit is, so two writers of the same one write the same file.
std::string unit_file_name(const Digest& name, int64_t begin);
bool is_unit_file_name(std::string_view file);

// A unit to be: of a state that stays as it is meanwhile.
class NewUnit {
 public:
  // names: of the sequence's blocks, as far as `state` goes. begin < state.length().
  NewUnit(const std::vector<Digest>& names, const std::string& model, int64_t begin, const kv::SequenceState& state,
          std::span<const TokenId> ids);
  // Of an answer, which is some text of the server's (serve/replay.h). root: of everybody's space.
  NewUnit(const Digest& root, const std::string& model, const std::string& answer);
  const UnitHeader& header() const { return header_; }
  std::string file_name() const { return unit_file_name(header_.name, header_.begin); }
  int64_t bytes() const;
  // Writes, syncs (answers not) and renames; `part` is the file's name until then.
  Status write(Disk& disk, const std::string& directory, const std::string& part);

 private:
  void begin_header(const Digest& root, const std::string& model);
  void place(std::initializer_list<Section> kinds);  // of sections_, in order

  UnitHeader header_;
  std::string snapshot_, draft_, answer_;
  std::vector<iovec> sections_[4];
};

// The header, checked against the file's name and size. size: of the file.
Result<UnitHeader> read_unit_header(Disk& disk, const std::string& directory, const std::string& file, int64_t& size);

// The ids of the unit; nothing else is read.
Result<std::vector<TokenId>> read_unit_ids(Disk& disk, const std::string& directory, const std::string& file);

// The text of an answer's unit.
Result<std::string> read_unit_answer(Disk& disk, const std::string& directory, const std::string& file);

// Appends the unit's entries to `state`, whose length is the unit's begin, and with `is_last` the snapshot too. `ids`:
// of the whole sequence, which the unit's must equal.
Status read_unit(Disk& disk, const std::string& directory, const std::string& file, std::span<const TokenId> ids,
                 bool is_last, kv::SequenceState& state);

// Reads and sums every section.
Status check_unit(Disk& disk, const std::string& directory, const std::string& file);

}  // namespace hadal::cache
