#include "cache/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace hadal::cache {

int Disk::open(const std::string& path, int flags) {
  return ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0600);
}
int Disk::close(int fd) { return ::close(fd); }
int64_t Disk::writev(int fd, const iovec* parts, int n) { return ::writev(fd, parts, n); }
int64_t Disk::preadv(int fd, const iovec* parts, int n, int64_t offset) { return ::preadv(fd, parts, n, offset); }
int Disk::fsync(int fd) { return ::fsync(fd); }
int Disk::rename(const std::string& from, const std::string& to) { return std::rename(from.c_str(), to.c_str()); }
int Disk::unlink(const std::string& path) { return ::unlink(path.c_str()); }
int Disk::stat(const std::string& path, struct stat& out) { return ::stat(path.c_str(), &out); }
int Disk::touch(const std::string& path, int64_t time_ns) {
  const timespec time{time_ns / 1'000'000'000, time_ns % 1'000'000'000};
  const timespec times[] = {time, time};
  return ::utimensat(AT_FDCWD, path.c_str(), times, 0);
}
int Disk::list(const std::string& directory, std::vector<std::string>& names) {
  DIR* open = ::opendir(directory.c_str());
  if (!open) return -1;
  errno = 0;
  while (const dirent* entry = ::readdir(open)) names.emplace_back(entry->d_name);
  const int error = errno;
  ::closedir(open);
  errno = error;
  return error == 0 ? 0 : -1;
}

}  // namespace hadal::cache
