// Any bytes as config.json: refused, or an architecture whose inventory can be listed.
#include <string_view>

#include "checkpoint/config.h"
#include "checkpoint/inventory.h"
#include "kv/sequence_state.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) {
  using namespace hadal;
  const auto config =
      checkpoint::parse_config(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!config.ok()) return 0;
  const auto& c = config.value();
  if (static_cast<int64_t>(c.n_layers) * c.n_routed_experts < 100000)
    (void)checkpoint::expected_tensors(c, checkpoint::Draft::kMtp, c.n_mtp_layers);
  (void)kv::Layout::from(c, checkpoint::Draft::kMtp, Numerics::kFaithful)
      .entry_bytes_at(c.max_position_embeddings);
  return 0;
}
