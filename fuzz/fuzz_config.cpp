// Any bytes as config.json: refused in one line, or an architecture whose inventory can be listed and added up.
#include <cstdlib>
#include <string_view>

#include "checkpoint/config.h"
#include "checkpoint/summary.h"
#include "kv/sequence_state.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal;
  const auto config = checkpoint::parse_config(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!config.ok()) {
    for (const char byte : config.error().message)
      if (byte < ' ') std::abort();  // one line, of ASCII
    return 0;
  }
  const auto& c = config.value();
  if (static_cast<int64_t>(c.n_layers) * c.n_routed_experts < 20000) {  // larger ones only take longer
    const auto summary = checkpoint::summarise(c);
    if (summary.parameters <= 0 || summary.total_bytes <= 0 || summary.active_parameters > summary.parameters)
      std::abort();
  }
  (void)kv::Layout::from(c, checkpoint::Draft::kMtp, Numerics::kFaithful).entry_bytes_at(c.max_position_embeddings);
  return 0;
}
