// Random checkpoints of any size in the release format, streamed to disk: for tests, benchmarks and a first
// look at the programs. Deterministic: every row of every tensor is a function of seed, tensor name and row,
// whatever the number of threads.
//
// Values are drawn so that activations stay sane: rows and groups of 32 columns have different strengths,
// neighbouring blocks different scales, hash tables hold distinct experts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "text/tokenizer_json.h"

namespace hadal::checkpoint {

struct SynthOptions {
  std::string directory;               // created; must not hold a checkpoint yet
  std::string config_name = "config";  // the config's, in errors
  uint64_t seed = 1;
  bool sparse = false;  // holes instead of values: every name, dtype and shape, no bytes
  int64_t shard_bytes = int64_t{4} << 30;
  std::function<void(int64_t done, int64_t total)> progress;  // bytes
};

// config: a config.json object. Writes shards (through temporary names, renamed when whole), the index, and
// last config.json, generation_config.json and, if the vocabulary has room, tokenizer.json.
Status synthesise(const json::Value& config, const SynthOptions& options, ThreadPool& pool);

// The config.json of a name known to `hadal synth --config` ("flash", "pro", ...; models/configs/), or of a file.
Result<json::Value> load_config_json(const std::string& name_or_path);

// The byte-level tokenizer.json of synthetic checkpoints: 256 bytes and the special tokens of the V4 prompt by
// name, ids from 0; its size in tokens.
inline constexpr int kSynthVocab = text::kSmallestVocab;
json::Value synth_tokenizer();

}  // namespace hadal::checkpoint
