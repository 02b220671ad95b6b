// Bytes as tokenizer.json, and as text for our own tokenizer: what is encoded decodes to itself.
#include <cstdlib>
#include <string>

#include "base/json.h"
#include "checkpoint/synth.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  static const text::Tokenizer kOwn = text::Tokenizer::parse(json::dump(checkpoint::synth_tokenizer()), "own").value();
  (void)text::Tokenizer::parse(bytes, "fuzz");
  std::string back;
  for (const TokenId id : kOwn.encode(bytes)) back += kOwn.piece(id);
  if (back != bytes) std::abort();
  return 0;
}
