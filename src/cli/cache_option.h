// --cache-dir and --cache-budget, the same for every command that keeps states on disk.
#pragma once

#include <memory>
#include <string>

#include "cache/store.h"
#include "engine/engine.h"

namespace CLI {
class App;
}

namespace hadal::cli {

struct CacheOptions {
  std::string directory;   // empty: default_cache_directory()
  double budget_gib = -1;  // below 0: a tenth of the disk's free space, at most 64
};

void add_cache_options(CLI::App& command, CacheOptions& options);
std::string default_cache_directory();  // $XDG_CACHE_HOME/hadal/kv or ~/.cache/hadal/kv; empty: there is no home

// Of everything that decides what the checkpoint computes, as far as it can be had without reading it all: samples of
// its files, their sizes and the times of their last change.
Result<std::string> cache_fingerprint(const std::string& model);

// Null where the budget is 0, and, with a warning on stderr, where the directory cannot be used.
Result<std::unique_ptr<cache::Store>> open_store(const CacheOptions& options, engine::Engine& engine,
                                                 const std::string& model);

}  // namespace hadal::cli
