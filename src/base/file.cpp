#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace hadal {
namespace {

Error system_error(const std::string& path, const char* what) {
  const int code = errno;
  return {code == ENOENT || code == ENOTDIR ? Code::kNotFound : Code::kIo,
          fmt::format("{}: {}: {}", path, what, std::strerror(code))};
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// What the SIGBUS handler may read: fixed memory, published by an atomic address.
struct GuardedMap {
  std::atomic<const std::byte*> begin{nullptr};
  std::atomic<uint64_t> size{0};
  char path[240] = {};
};
constexpr int kMaxGuarded = 512;
GuardedMap g_maps[kMaxGuarded];

void guard(const std::byte* begin, uint64_t size, const std::string& path) {
  for (GuardedMap& map : g_maps) {
    const std::byte* expected = nullptr;
    if (map.begin.load() != nullptr) continue;
    if (!map.begin.compare_exchange_strong(expected, begin)) continue;
    const size_t tail = std::min(path.size(), sizeof map.path - 1);
    std::memcpy(map.path, path.data() + (path.size() - tail), tail);
    map.path[tail] = 0;
    map.size.store(size);
    return;
  }
}

void unguard(const std::byte* begin) {
  for (GuardedMap& map : g_maps)
    if (map.begin.load() == begin) {
      map.size.store(0);
      map.begin.store(nullptr);
    }
}

void on_bus_error(int, siginfo_t* info, void*) {
  const std::byte* address = static_cast<const std::byte*>(info->si_addr);
  const char* path = "a mapped file";
  for (const GuardedMap& map : g_maps) {
    const std::byte* begin = map.begin.load();
    if (begin && address >= begin && address < begin + map.size.load()) path = map.path;
  }
  char line[400];  // one write, so that the line stays whole
  size_t n = 0;
  for (const char* part :
       {"hadal: ", path, ": the file was truncated or cannot be read any more while it was in use\n"})
    for (const char* c = part; *c && n < sizeof line; ++c) line[n++] = *c;
  [[maybe_unused]] const ssize_t written = ::write(2, line, n);
  ::_exit(1);
}

}  // namespace

Result<std::string> read_file(const std::string& path, uint64_t max_bytes) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return system_error(path, "cannot open");
  struct stat info;
  if (::fstat(file.fd, &info) != 0) return system_error(path, "cannot stat");
  if (S_ISDIR(info.st_mode)) return Error{Code::kInvalid, path + ": expected a file, found a directory"};
  std::string content;
  if (S_ISREG(info.st_mode)) {
    if (static_cast<uint64_t>(info.st_size) > max_bytes)
      return Error{Code::kInvalid,
                   fmt::format("{}: expected at most {} bytes, found {}", path, max_bytes, info.st_size)};
    content.reserve(static_cast<size_t>(info.st_size));
  }
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error(path, "cannot read");
    if (n == 0) return content;
    if (content.size() + static_cast<size_t>(n) > max_bytes)
      return Error{Code::kInvalid, fmt::format("{}: expected at most {} bytes", path, max_bytes)};
    content.append(buffer, static_cast<size_t>(n));
  }
}

bool file_exists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Result<FileMap> FileMap::open(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return system_error(path, "cannot open");
  struct stat info;
  if (::fstat(file.fd, &info) != 0) return system_error(path, "cannot stat");
  if (!S_ISREG(info.st_mode)) return Error{Code::kInvalid, path + ": expected a regular file"};
  FileMap map;
  map.path_ = path;
  map.size_ = static_cast<uint64_t>(info.st_size);
  map.device_ = info.st_dev;
  map.inode_ = info.st_ino;
  map.modified_ns_ = info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
  if (map.size_ == 0) return map;
  void* data = ::mmap(nullptr, map.size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return system_error(path, "cannot map");
  map.data_ = static_cast<const std::byte*>(data);
  guard(map.data_, map.size_, path);
  return map;
}

FileMap::FileMap(FileMap&& other) noexcept { *this = std::move(other); }

FileMap& FileMap::operator=(FileMap&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

FileMap::~FileMap() {
  if (!data_) return;
  unguard(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

Status FileMap::unchanged() const {
  struct stat info;
  if (::stat(path_.c_str(), &info) != 0) return system_error(path_, "the file is gone since it was opened");
  const int64_t modified_ns = info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
  if (static_cast<uint64_t>(info.st_size) != size_)
    return Error{Code::kCorrupt,
                 fmt::format("{}: expected {} bytes as when it was opened, found {}", path_, size_, info.st_size)};
  if (info.st_dev != device_ || info.st_ino != inode_ || modified_ns != modified_ns_)
    return Error{Code::kCorrupt, path_ + ": the file was replaced or rewritten since it was opened"};
  return {};
}

void FileMap::populate(uint64_t begin, uint64_t size) const {
  if (begin >= size_) return;
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t first = begin / page * page, end = std::min(size_, begin + size);
  std::byte* from = const_cast<std::byte*>(data_) + first;
#ifndef MADV_POPULATE_READ
  constexpr int MADV_POPULATE_READ = 22;  // Linux 5.14; the headers may be older than the kernel
#endif
  if (::madvise(from, end - first, MADV_POPULATE_READ) == 0) return;
  ::madvise(from, end - first, MADV_WILLNEED);
  volatile unsigned char sink = 0;
  for (uint64_t at = first; at < end; at += page) sink = static_cast<unsigned char>(data_[at]);
  (void)sink;
}

void FileMap::release(uint64_t begin, uint64_t size) const {
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t first = (begin + page - 1) / page * page, end = std::min(size_, begin + size) / page * page;
  if (first < end) ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_DONTNEED);
}

uint64_t FileMap::resident_bytes() const {
  if (!data_) return 0;
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((size_ + page - 1) / page);
  if (::mincore(const_cast<std::byte*>(data_), size_, pages.data()) != 0) return 0;
  uint64_t resident = 0;
  for (const unsigned char p : pages) resident += p & 1;
  return std::min(size_, resident * page);
}

void install_map_guard() {
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace hadal
