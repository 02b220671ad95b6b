// Files written whole or not at all: bytes go to `path`.part, which finish() makes durable and
// renames. An OutputFile that is destroyed before removes its part, so a failed or cancelled write
// leaves nothing behind.
//
// Errors (kIo) name the file and the system's reason, a full disk among them. One thread per file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hadal {

class OutputFile {
 public:
  // An old part is replaced. mode: who may read it; of a file of that name nothing is kept.
  static Result<OutputFile> create(const std::string& path, unsigned mode = 0644);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile(const OutputFile&) = delete;
  ~OutputFile();

  Status write(const void* data, size_t n);
  Status extend(int64_t size);  // to `size` bytes, with a hole
  Status set_access(unsigned mode, unsigned owner, unsigned group);
  Status finish();  // under `path` now, replacing a file of that name

 private:
  OutputFile() = default;
  std::string path_;
  int fd_ = -1;
};

Status write_file(const std::string& path, std::string_view content);  // one OutputFile

}  // namespace hadal
