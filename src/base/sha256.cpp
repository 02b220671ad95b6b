#include "base/sha256.h"

#include <openssl/evp.h>

#include "base/check.h"

namespace hadal {

Digest sha256(std::string_view bytes) {
  static const EVP_MD* const algorithm = EVP_sha256();
  Digest digest;
  unsigned size = 0;
  HADAL_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, algorithm, nullptr) == 1 &&
              size == digest.size());
  return digest;
}

std::string hex(std::span<const uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

}  // namespace hadal
