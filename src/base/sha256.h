// SHA-256 of bytes (OpenSSL).
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace hadal {

using Digest = std::array<uint8_t, 32>;
Digest sha256(std::string_view bytes);
std::string hex(std::span<const uint8_t> bytes);  // two small digits a byte
std::optional<Digest> digest_of_hex(std::string_view text);

// For hash tables: a digest is as random as it gets.
struct DigestHash {
  size_t operator()(const Digest& digest) const {
    size_t value = 0;
    std::memcpy(&value, digest.data(), sizeof value);
    return value;
  }
};

}  // namespace hadal
