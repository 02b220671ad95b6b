#include "cache/unit.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <thread>

namespace hadal::cache {
namespace {

constexpr int kMostParts = 256;  // of one call; IOV_MAX is 1,024
constexpr size_t kLargeBytes = size_t{8} << 20;
constexpr size_t kFailed = SIZE_MAX;
constexpr int64_t kMostTokens = int64_t{1} << 24;  // no model has so many positions; sums stay far from overflow
constexpr uint64_t kMostAnswerBytes = uint64_t{64} << 20;
constexpr size_t kPieceBytes = size_t{1} << 20;  // read, then summed while it is in the processor's cache

// Parts of one section, in order, as they lie in memory.
using Parts = std::vector<iovec>;

void add(Parts& parts, const void* data, size_t bytes) {
  if (bytes > 0) parts.push_back({const_cast<void*>(data), bytes});
}

uint64_t bytes_of(const Parts& parts) {
  uint64_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

class Sum {
 public:
  Sum() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
  Sum(const Sum&) = delete;
  ~Sum() { XXH3_freeState(state_); }
  void add(const void* data, size_t bytes) { XXH3_64bits_update(state_, data, bytes); }
  uint64_t value() const { return XXH3_64bits_digest(state_); }

 private:
  XXH3_state_t* state_;
};

uint64_t sum_of(const Parts& parts) {
  Sum sum;
  for (const iovec& part : parts) sum.add(part.iov_base, part.iov_len);
  return sum.value();
}

uint64_t header_sum(const UnitHeader& header) { return XXH3_64bits(&header, offsetof(UnitHeader, sum)); }

// An open file of the store, closed with it.
class File {
 public:
  File(Disk& disk, std::string path, int flags) : disk_(disk), path_(std::move(path)) { fd_ = disk.open(path_, flags); }
  File(const File&) = delete;
  ~File() { (void)close(); }

  bool is_open() const { return fd_ >= 0; }
  Error failed(const char* what) const {
    return {errno == ENOENT ? Code::kNotFound : Code::kIo,
            fmt::format("{}: cannot {}: {}", path_, what, std::strerror(errno))};
  }
  Error corrupt(const std::string& why) const { return {Code::kCorrupt, path_ + ": " + why}; }

  Status write(Parts parts) {
    for (size_t at = 0; at < parts.size();) {
      int64_t n =
          disk_.writev(fd_, parts.data() + at, static_cast<int>(std::min<size_t>(parts.size() - at, kMostParts)));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return failed("write");
      at += advance(parts, at, n);
    }
    return {};
  }
  Status read(Parts parts, uint64_t offset) {
    for (size_t at = 0; at < parts.size();) {
      const int64_t n =
          disk_.preadv(fd_, parts.data() + at, static_cast<int>(std::min<size_t>(parts.size() - at, kMostParts)),
                       static_cast<int64_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return failed("read");
      if (n == 0) return corrupt("it ends too early");
      offset += static_cast<uint64_t>(n);
      at += advance(parts, at, n);
    }
    return {};
  }
  // The same, summed on the way: of what is large by a thread that follows the one that reads.
  Status read(const Parts& parts, const UnitHeader::Place& place) {
    Sum sum;
    std::atomic<size_t> n_read{0};  // parts
    const auto add_up = [&](size_t from, size_t to) {
      for (; from < to; ++from) sum.add(parts[from].iov_base, parts[from].iov_len);
    };
    std::thread adder;
    if (place.bytes > kLargeBytes)
      adder = std::thread([&] {
        for (size_t at = 0; at < parts.size();) {
          n_read.wait(at);
          if (n_read.load() == kFailed) return;
          const size_t to = std::min(n_read.load(), parts.size());
          add_up(at, to);
          at = to;
        }
      });
    uint64_t offset = place.offset;
    Status status;
    for (size_t at = 0; at < parts.size() && status.ok();) {
      Parts piece;
      size_t bytes = 0;
      for (; at < parts.size() && bytes < kPieceBytes; ++at) {
        piece.push_back(parts[at]);
        bytes += parts[at].iov_len;
      }
      status = read(piece, offset);
      if (!adder.joinable()) {
        if (status.ok()) add_up(at - piece.size(), at);
        offset += bytes;
        continue;
      }
      n_read.store(status.ok() ? at : kFailed);
      n_read.notify_one();
      offset += bytes;
    }
    if (adder.joinable()) adder.join();
    HADAL_TRY(status);
    if (sum.value() != place.sum)
      return corrupt(fmt::format("section {}: its sum is wrong", static_cast<uint32_t>(place.kind)));
    return {};
  }
  Status sync() {
    if (disk_.fsync(fd_) != 0) return failed("sync");
    return {};
  }
  Status close() {
    const int fd = std::exchange(fd_, -1);
    if (fd >= 0 && disk_.close(fd) != 0) return failed("close");
    return {};
  }

 private:
  // Of `n` bytes done from part `at` on: whole parts passed; a part that is half done keeps its rest.
  static size_t advance(Parts& parts, size_t at, int64_t n) {
    size_t passed = 0;
    for (auto left = static_cast<size_t>(n); at + passed < parts.size(); ++passed) {
      iovec& part = parts[at + passed];
      if (left < part.iov_len) {
        part.iov_base = static_cast<char*>(part.iov_base) + left;
        part.iov_len -= left;
        break;
      }
      left -= part.iov_len;
    }
    return passed;
  }

  Disk& disk_;
  const std::string path_;
  int fd_ = -1;
};

Result<UnitHeader> read_header(Disk& disk, File& file, const std::string& path, const std::string& name,
                               int64_t& size) {
  if (!file.is_open()) return file.failed("open");
  struct stat about {};
  if (disk.stat(path, about) != 0) return file.failed("read");
  size = about.st_size;
  if (!S_ISREG(about.st_mode)) return file.corrupt("expected a file");
  if (size < static_cast<int64_t>(sizeof(UnitHeader)))
    return file.corrupt(fmt::format("expected a header of {} bytes, found {}", sizeof(UnitHeader), size));
  UnitHeader header;
  HADAL_TRY(file.read(Parts{{&header, sizeof header}}, 0));
  if (std::memcmp(header.magic, UnitHeader::kMagic, sizeof header.magic - 1) == 0 &&
      header.magic[7] != UnitHeader::kMagic[7])
    return Error{Code::kUnsupported, path + ": a unit of another version"};
  if (std::memcmp(header.magic, UnitHeader::kMagic, sizeof header.magic) != 0 || header.sum != header_sum(header))
    return file.corrupt("no header of this format");
  const bool is_range = header.begin >= 0 && header.begin < header.end && header.end <= kMostTokens &&
                        header.begin % kBlock == 0 && header.end % kBlock == 0;
  if (!is_range && !(header.begin == 0 && header.is_answer()))
    return file.corrupt(fmt::format("tokens {}..{}", header.begin, header.end));
  if (header.model[UnitHeader::kModelBytes - 1] != 0) return file.corrupt("the model's name has no end");
  if (name != unit_file_name(header.name, header.begin)) return file.corrupt("it has another unit's name");
  uint64_t expected = sizeof header;
  for (const UnitHeader::Place& place : header.sections) {
    if (place.kind == Section::kNone) continue;
    if (place.offset != expected || place.bytes > static_cast<uint64_t>(size) - expected)
      return file.corrupt(fmt::format("expected a section at {}, found {} bytes at {} of {}", expected, place.bytes,
                                      place.offset, size));
    expected += place.bytes;
  }
  if (expected != static_cast<uint64_t>(size))
    return file.corrupt(fmt::format("expected {} bytes, found {}", expected, size));
  return header;
}

Result<std::vector<TokenId>> read_ids(File& file, const UnitHeader& header) {
  const UnitHeader::Place* place = header.find(Section::kIds);
  const auto n = static_cast<uint64_t>(header.end - header.begin);
  if (!place || place->bytes != n * sizeof(TokenId)) return file.corrupt("no ids of its tokens");
  std::vector<TokenId> ids(n);
  HADAL_TRY(file.read(Parts{{ids.data(), ids.size() * sizeof(TokenId)}}, *place));
  return ids;
}

}  // namespace

const UnitHeader::Place* UnitHeader::find(Section kind) const {
  for (const Place& place : sections)
    if (place.kind == kind) return &place;
  return nullptr;
}

std::string unit_file_name(const Digest& name, int64_t begin) {
  std::string all(reinterpret_cast<const char*>(name.data()), name.size());
  all.append(reinterpret_cast<const char*>(&begin), sizeof begin);
  return hex(sha256(all)).substr(0, 32) + ".kv";
}

bool is_unit_file_name(std::string_view file) {
  return file.size() == 35 && file.ends_with(".kv") &&
         file.substr(0, 32).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

NewUnit::NewUnit(const std::vector<Digest>& names, const std::string& model, int64_t begin,
                 const kv::SequenceState& state, std::span<const TokenId> ids) {
  const int64_t end = state.length();
  HADAL_CHECK(begin >= 0 && begin < end && begin % kBlock == 0 && end % kBlock == 0 &&
              ids.size() == static_cast<size_t>(end) && static_cast<int64_t>(names.size()) > end / kBlock);
  begin_header(names[0], model);
  header_.parent = names[static_cast<size_t>(begin / kBlock)];
  header_.name = names[static_cast<size_t>(end / kBlock)];
  header_.begin = begin;
  header_.end = end;

  state.save_snapshot(snapshot_);
  state.save_draft(draft_);
  add(sections_[0], ids.data() + begin, static_cast<size_t>(end - begin) * sizeof(TokenId));
  for (const auto piece : state.entries(begin, end)) add(sections_[1], piece.data(), piece.size());
  add(sections_[2], snapshot_.data(), snapshot_.size());
  add(sections_[3], draft_.data(), draft_.size());
  place({Section::kIds, Section::kEntries, Section::kSnapshot, Section::kDraft});
}

NewUnit::NewUnit(const Digest& root, const std::string& model, const std::string& answer) : answer_(answer) {
  begin_header(root, model);
  header_.parent = root;
  header_.name = sha256("hadal answer\n" + answer);
  add(sections_[0], answer_.data(), answer_.size());
  place({Section::kAnswer});
}

void NewUnit::begin_header(const Digest& root, const std::string& model) {
  std::memcpy(header_.magic, UnitHeader::kMagic, sizeof header_.magic);
  header_.root = root;
  model.copy(header_.model, UnitHeader::kModelBytes - 1);
}

void NewUnit::place(std::initializer_list<Section> kinds) {
  uint64_t offset = sizeof header_;
  size_t i = 0;
  for (const Section kind : kinds) {
    header_.sections[i] = {kind, 0, offset, bytes_of(sections_[i]), 0};
    offset += header_.sections[i++].bytes;
  }
}

int64_t NewUnit::bytes() const {
  uint64_t bytes = sizeof header_;
  for (const Parts& parts : sections_) bytes += bytes_of(parts);
  return static_cast<int64_t>(bytes);
}

Status NewUnit::write(Disk& disk, const std::string& directory, const std::string& part) {
  Parts all;
  add(all, &header_, sizeof header_);
  for (size_t i = 0; i < std::size(sections_) && header_.sections[i].kind != Section::kNone; ++i) {
    header_.sections[i].sum = sum_of(sections_[i]);
    all.insert(all.end(), sections_[i].begin(), sections_[i].end());
  }
  header_.sum = header_sum(header_);
  // The name comes last, and only what is on the disk gets it.
  const std::string path = directory + "/" + part;
  const std::string final = directory + "/" + file_name();
  const auto written = [&]() -> Status {
    File file(disk, path, O_WRONLY | O_CREAT | O_EXCL);
    if (!file.is_open()) return file.failed("create");
    HADAL_TRY(file.write(std::move(all)));
    // An answer that the power takes is a miss; states are what takes minutes to have again.
    if (!header_.is_answer()) HADAL_TRY(file.sync());
    HADAL_TRY(file.close());
    if (disk.rename(path, final) != 0) return file.failed("rename");
    return {};
  }();
  if (!written.ok()) {
    disk.unlink(path);
    return written;
  }
  if (header_.is_answer()) return {};
  File folder(disk, directory, O_RDONLY | O_DIRECTORY);
  if (!folder.is_open()) return folder.failed("open");
  return folder.sync();
}

Result<UnitHeader> read_unit_header(Disk& disk, const std::string& directory, const std::string& name, int64_t& size) {
  const std::string path = directory + "/" + name;
  File file(disk, path, O_RDONLY);
  return read_header(disk, file, path, name, size);
}

Result<std::vector<TokenId>> read_unit_ids(Disk& disk, const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  File file(disk, path, O_RDONLY);
  int64_t size = 0;
  const UnitHeader header = HADAL_TRY(read_header(disk, file, path, name, size));
  return read_ids(file, header);
}

Result<std::string> read_unit_answer(Disk& disk, const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  File file(disk, path, O_RDONLY);
  int64_t size = 0;
  const UnitHeader header = HADAL_TRY(read_header(disk, file, path, name, size));
  const UnitHeader::Place* place = header.find(Section::kAnswer);
  if (!place || place->bytes > kMostAnswerBytes) return file.corrupt("no answer");
  std::string answer(place->bytes, '\0');
  HADAL_TRY(file.read(Parts{{answer.data(), answer.size()}}, *place));
  return answer;
}

Status read_unit(Disk& disk, const std::string& directory, const std::string& name, std::span<const TokenId> ids,
                 bool is_last, kv::SequenceState& state) {
  const std::string path = directory + "/" + name;
  File file(disk, path, O_RDONLY);
  int64_t size = 0;
  const UnitHeader header = HADAL_TRY(read_header(disk, file, path, name, size));
  if (header.begin != state.length() || header.end > static_cast<int64_t>(ids.size()))
    return file.corrupt(fmt::format("expected tokens from {}, found {}..{}", state.length(), header.begin, header.end));
  const std::vector<TokenId> own = HADAL_TRY(read_ids(file, header));
  if (!std::equal(own.begin(), own.end(), ids.begin() + header.begin)) return file.corrupt("ids of another prefix");

  const kv::Layout& layout = state.layout();
  const UnitHeader::Place* entries = header.find(Section::kEntries);
  const int64_t entry_bytes = layout.entry_bytes_at(header.end) - layout.entry_bytes_at(header.begin);
  if (!entries || entries->bytes != static_cast<uint64_t>(entry_bytes))
    return file.corrupt(fmt::format("expected {} bytes of entries", entry_bytes));
  Parts parts;
  for (const auto piece : state.add_entries(header.end)) add(parts, piece.data(), piece.size());
  HADAL_TRY(file.read(parts, *entries));
  if (!is_last) return {};

  const auto load = [&](Section kind, Status (kv::SequenceState::*into)(std::string_view)) -> Status {
    const UnitHeader::Place* place = header.find(kind);
    if (!place) return kind == Section::kDraft ? Status{} : file.corrupt("no snapshot");
    const int64_t most = layout.constant_bytes() + 4 * layout.hidden_floats + 4096;
    if (place->bytes > static_cast<uint64_t>(most))
      return file.corrupt(fmt::format("section {}: expected at most {} bytes, found {}", static_cast<uint32_t>(kind),
                                      most, place->bytes));
    std::string bytes(place->bytes, '\0');
    HADAL_TRY(file.read(Parts{{bytes.data(), bytes.size()}}, *place));
    const Status loaded = (state.*into)(bytes);
    if (!loaded.ok()) return file.corrupt(loaded.error().message);
    return {};
  };
  HADAL_TRY(load(Section::kSnapshot, &kv::SequenceState::load_snapshot));
  return load(Section::kDraft, &kv::SequenceState::load_draft);
}

Status check_unit(Disk& disk, const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  File file(disk, path, O_RDONLY);
  int64_t size = 0;
  const UnitHeader header = HADAL_TRY(read_header(disk, file, path, name, size));
  std::string buffer(kPieceBytes, '\0');
  for (const UnitHeader::Place& place : header.sections) {
    if (place.kind == Section::kNone) continue;
    Sum sum;
    for (uint64_t done = 0; done < place.bytes;) {
      const size_t n = std::min<uint64_t>(place.bytes - done, buffer.size());
      HADAL_TRY(file.read(Parts{{buffer.data(), n}}, place.offset + done));
      sum.add(buffer.data(), n);
      done += n;
    }
    if (sum.value() != place.sum)
      return file.corrupt(fmt::format("section {}: its sum is wrong", static_cast<uint32_t>(place.kind)));
  }
  return {};
}

}  // namespace hadal::cache
