// A checkpoint with headers only: sparse files of the real size without data. For tests of a
// model's tensors that do not compute with them.
#pragma once

#include <filesystem>

#include "layouts/layout.h"

namespace quern::layouts {

// Writes shards, index and config.json to an empty folder.
void write_headers(const Layout& layout, const JsonValue& config,
                   const std::filesystem::path& folder, size_t max_shard_bytes = 5'000'000'000);

}  // namespace quern::layouts
