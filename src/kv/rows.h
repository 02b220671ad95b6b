// The two containers of a sequence's state.
//
//   RowRing    rows addressed by absolute position, the latest `capacity` of them kept
//   PagedRows  rows addressed by index, growing in pages; copies share full pages and copy a shared page
//              before writing into it
//
// Rows are plain bytes of one size. Not thread-safe for writing; reads may run in parallel.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/check.h"

namespace hadal::kv {

class RowRing {
 public:
  RowRing() = default;
  RowRing(int64_t capacity, int64_t row_bytes)
      : capacity_(capacity), row_bytes_(row_bytes), bytes_(static_cast<size_t>(capacity * row_bytes)) {}

  int64_t capacity() const { return capacity_; }
  int64_t row_bytes() const { return row_bytes_; }
  int64_t size_bytes() const { return static_cast<int64_t>(bytes_.size()); }
  std::byte* row(int64_t position) { return bytes_.data() + position % capacity_ * row_bytes_; }
  const std::byte* row(int64_t position) const { return bytes_.data() + position % capacity_ * row_bytes_; }
  // Takes rows [0, n) of `rows` as positions first, first + 1, ...; only the latest that fit are kept.
  void write(int64_t first, int64_t n, const std::byte* rows) {
    for (int64_t i = n > capacity_ ? n - capacity_ : 0; i < n; ++i)
      std::memcpy(row(first + i), rows + i * row_bytes_, static_cast<size_t>(row_bytes_));
  }

 private:
  int64_t capacity_ = 0, row_bytes_ = 0;
  std::vector<std::byte> bytes_;
};

// Memory of pages. What is let go is kept for the next, up to kKept bytes: memory that was touched costs the system
// nothing to give again, which is most of the time of reading a state from disk. Threads: any.
class PagePool {
 public:
  static constexpr size_t kKept = size_t{512} << 20;
  static std::shared_ptr<std::byte[]> take(size_t bytes);  // content undefined

 private:
  struct Free {
    std::mutex mutex;
    std::vector<std::pair<size_t, std::vector<std::byte*>>> pages;  // by size, of which there are few
    size_t bytes = 0;
  };
  static Free& free_pages();
  static void give(std::byte* page, size_t bytes);
};

class PagedRows {
 public:
  static constexpr int64_t kPageRows = 64;

  PagedRows() = default;
  explicit PagedRows(int64_t row_bytes) : row_bytes_(row_bytes) {}

  int64_t size() const { return size_; }
  int64_t row_bytes() const { return row_bytes_; }
  int64_t size_bytes() const { return size_ * row_bytes_; }
  int64_t capacity_bytes() const { return static_cast<int64_t>(pages_.size()) * kPageRows * row_bytes_; }
  const std::byte* row(int64_t i) const {
    HADAL_DCHECK(i >= 0 && i < size_);
    return pages_[static_cast<size_t>(i / kPageRows)].get() + i % kPageRows * row_bytes_;
  }
  std::byte* append() {  // a new last row, content undefined
    const size_t page = static_cast<size_t>(size_ / kPageRows);
    const size_t page_bytes = static_cast<size_t>(kPageRows * row_bytes_);
    if (page == pages_.size()) {
      pages_.push_back(PagePool::take(page_bytes));
    } else if (pages_[page].use_count() > 1) {  // a fork still reads it
      auto own = PagePool::take(page_bytes);
      std::memcpy(own.get(), pages_[page].get(), static_cast<size_t>(size_ % kPageRows * row_bytes_));
      pages_[page] = std::move(own);
    }
    return pages_[page].get() + size_++ % kPageRows * row_bytes_;
  }
  // Appends up to `n` > 0 rows, as many as lie in one piece, content undefined.
  std::span<std::byte> append(int64_t n) {
    const int64_t piece = std::min(n, kPageRows - size_ % kPageRows);
    std::byte* first = append();
    size_ += piece - 1;
    return {first, static_cast<size_t>(piece * row_bytes_)};
  }
  // Of rows [begin, end), not empty, those that lie in one piece from `begin`.
  std::span<const std::byte> piece(int64_t begin, int64_t end) const {
    const int64_t n = std::min(end - begin, kPageRows - begin % kPageRows);
    return {row(begin), static_cast<size_t>(n * row_bytes_)};
  }
  // Memory, for those who count what is shared: `visit(first byte, bytes)` of each page.
  template <class Visit>
  void visit_pages(Visit visit) const {
    for (const auto& page : pages_) visit(page.get(), kPageRows * row_bytes_);
  }
  void truncate(int64_t n) {
    HADAL_CHECK(n >= 0 && n <= size_);
    size_ = n;
    pages_.resize(static_cast<size_t>((n + kPageRows - 1) / kPageRows));
  }

 private:
  int64_t row_bytes_ = 0, size_ = 0;
  std::vector<std::shared_ptr<std::byte[]>> pages_;
};

}  // namespace hadal::kv
