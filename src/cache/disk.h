// The system calls of the store, so that a test can let the n-th of them fail. All return -1 with errno, or what the
// call of the same name returns.
#pragma once

#include <sys/stat.h>
#include <sys/uio.h>

#include <string>
#include <vector>

namespace hadal::cache {

class Disk {
 public:
  virtual ~Disk() = default;
  virtual int open(const std::string& path, int flags);  // new files have mode 0600; never waits for a writer
  virtual int close(int fd);
  virtual int64_t writev(int fd, const iovec* parts, int n);
  virtual int64_t preadv(int fd, const iovec* parts, int n, int64_t offset);
  virtual int fsync(int fd);
  virtual int rename(const std::string& from, const std::string& to);
  virtual int unlink(const std::string& path);
  virtual int stat(const std::string& path, struct stat& out);
  virtual int touch(const std::string& path, int64_t time_ns);  // modification time
  virtual int list(const std::string& directory, std::vector<std::string>& names);
};

}  // namespace hadal::cache
