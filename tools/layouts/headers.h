// A checkpoint of which only the headers take room on the disk: files of the real size that hold no
// data. For everything that asks what is in a model, not what it computes.
#pragma once

#include <filesystem>

#include "layouts/layout.h"

namespace quern::layouts {

// Shards, index and config.json into an empty folder.
void write_headers(const Layout& layout, const JsonValue& config,
                   const std::filesystem::path& folder, size_t max_shard_bytes = 5'000'000'000);

}  // namespace quern::layouts
