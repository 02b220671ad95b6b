#include "kv/rows.h"

namespace hadal::kv {

// Never destroyed: states may outlive whatever order static objects go in.
PagePool::Free& PagePool::free_pages() {
  static Free* const pages = new Free;
  return *pages;
}

std::shared_ptr<std::byte[]> PagePool::take(size_t bytes) {
  std::byte* page = nullptr;
  {
    Free& free = free_pages();
    const std::lock_guard lock(free.mutex);
    for (auto& [size, list] : free.pages) {
      if (size != bytes || list.empty()) continue;
      page = list.back();
      list.pop_back();
      free.bytes -= bytes;
      break;
    }
  }
  if (!page) page = new std::byte[bytes];
  return {page, [bytes](std::byte* back) { give(back, bytes); }};
}

void PagePool::give(std::byte* page, size_t bytes) {
  {
    Free& free = free_pages();
    const std::lock_guard lock(free.mutex);
    if (free.bytes + bytes <= kKept) {
      free.bytes += bytes;
      for (auto& [size, list] : free.pages)
        if (size == bytes) return list.push_back(page);
      free.pages.push_back({bytes, {page}});
      return;
    }
  }
  delete[] page;
}

}  // namespace hadal::kv
