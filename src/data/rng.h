// Our own random numbers: a task must be the same bytes on every machine and library, so nothing of
// std's distributions and no floating point is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace hadal::data {

constexpr uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
constexpr uint64_t hash(std::string_view text, uint64_t salt = 0) {  // FNV-1a, mixed
  uint64_t h = 0xCBF29CE484222325u ^ mix(salt + 0x9E3779B97F4A7C15u);
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix(h);
}
constexpr uint64_t combine(uint64_t a, uint64_t b) {
  return mix(a + 0x9E3779B97F4A7C15u + mix(b + 0x632BE59BD9B4E019u));
}

class Rng {  // splitmix64
 public:
  explicit constexpr Rng(uint64_t seed) : state_(seed) {}

  constexpr uint64_t next() { return mix(state_ += 0x9E3779B97F4A7C15u); }
  constexpr size_t below(size_t n) {  // n < 2^32: the bias is under 2^-32
    return static_cast<size_t>(((next() >> 32) * n) >> 32);
  }
  constexpr int range(int low, int high) { return low + static_cast<int>(below(static_cast<size_t>(high - low + 1))); }
  constexpr bool chance(int percent) { return below(100) < static_cast<size_t>(percent); }
  template <class List>
  auto& pick(List&& list) {
    return list[below(std::size(list))];
  }
  template <class T>
  void shuffle(std::vector<T>& list) {
    for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[below(i)]);
  }
  // `count` different indices below n, in random order.
  std::vector<size_t> sample(size_t n, size_t count) {
    std::vector<size_t> all(n);
    for (size_t i = 0; i < n; ++i) all[i] = i;
    for (size_t i = 0; i < count; ++i) std::swap(all[i], all[i + below(n - i)]);
    all.resize(count);
    return all;
  }

 private:
  uint64_t state_;
};

// A permutation of [0, n): a Feistel network that is walked until it lands inside.
constexpr size_t permute(size_t index, size_t n, uint64_t salt) {
  int half = 1;
  while ((uint64_t{1} << (2 * half)) < n) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t x = index;
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (combine(salt + round, right) & mask);
      left = right;
      right = next;
    }
    x = (left << half) | right;
  } while (x >= n);
  return static_cast<size_t>(x);
}

}  // namespace hadal::data
