#include "base/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace hadal {
namespace {

Error system_error(const std::string& path, const char* what) {
  return {Code::kIo, fmt::format("{}: {}: {}", path, what, std::strerror(errno))};
}

std::string part_of(const std::string& path) { return path + ".part"; }

}  // namespace

Result<OutputFile> OutputFile::create(const std::string& path, unsigned mode) {
  OutputFile file;
  file.path_ = path;
  ::unlink(part_of(path).c_str());  // it may have another mode
  file.fd_ = ::open(part_of(path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (file.fd_ < 0) return system_error(path, "cannot create");
  return file;
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(part_of(path_).c_str());
}

Status OutputFile::write(const void* data, size_t n) {
  const char* p = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t written = ::write(fd_, p, n);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(path_, "cannot write");
    p += written;
    n -= static_cast<size_t>(written);
  }
  return {};
}

Status OutputFile::extend(int64_t size) {
  if (::ftruncate(fd_, size) != 0) return system_error(path_, "cannot extend");
  return {};
}

Status OutputFile::set_access(unsigned mode, unsigned owner, unsigned group) {
  // The owner first: changing it takes bits off the mode.
  if (::fchown(fd_, owner, group) != 0) return system_error(path_, "cannot keep its owner");
  if (::fchmod(fd_, mode) != 0) return system_error(path_, "cannot keep its mode");
  return {};
}

Status OutputFile::finish() {
  // The bytes before the name: a rename that survives a crash must not name an empty file.
  if (::fsync(fd_) != 0) return system_error(path_, "cannot write");
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0 || ::rename(part_of(path_).c_str(), path_.c_str()) != 0) {
    const Error error = system_error(path_, "cannot finish");
    ::unlink(part_of(path_).c_str());
    return error;
  }
  return {};
}

Status write_file(const std::string& path, std::string_view content) {
  auto file = HADAL_TRY(OutputFile::create(path));
  HADAL_TRY(file.write(content.data(), content.size()));
  return file.finish();
}

}  // namespace hadal
