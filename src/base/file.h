// Files: whole reads, and read-only maps of checkpoint shards.
//
// A map outlives changes of the file only as far as the kernel lets it: when another process truncates a
// mapped file, touching the lost pages raises SIGBUS. install_map_guard() turns that into one line that
// names the file and exit status 1. FileMap::unchanged() tells whether the path still holds the same bytes
// (device, inode, size, modification time).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hadal {

Result<std::string> read_file(const std::string& path, uint64_t max_bytes = uint64_t{1} << 31);
bool file_exists(const std::string& path);
bool is_directory(const std::string& path);

class FileMap {
 public:
  static Result<FileMap> open(const std::string& path);
  FileMap() = default;
  FileMap(FileMap&& other) noexcept;
  FileMap& operator=(FileMap&& other) noexcept;
  ~FileMap();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  Status unchanged() const;                            // kCorrupt: replaced or truncated since open
  void populate(uint64_t begin, uint64_t size) const;  // fault in [begin, begin + size) in one large step
  void release(uint64_t begin,
               uint64_t size) const;  // the whole pages in it leave our memory; reading brings them back
  uint64_t resident_bytes() const;    // by mincore

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  uint64_t device_ = 0, inode_ = 0;
  int64_t modified_ns_ = 0;
};

void install_map_guard();  // once, in main

}  // namespace hadal
