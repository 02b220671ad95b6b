// models/configs/*.json, compiled in (cmake/hadal.cmake, hadal_embed_configs).
#pragma once

namespace hadal::checkpoint {

struct EmbeddedConfig {
  const char* name;
  const char* text;
};
extern const EmbeddedConfig kEmbeddedConfigs[];
extern const int kEmbeddedConfigCount;

}  // namespace hadal::checkpoint
