// YAML as JSON values, limited to what configuration files need: mappings, lists and scalars of
// YAML's core schema. Anchors, aliases, merge keys and a second document are refused, tags are
// ignored, size and depth are bounded.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/json.h"

namespace quern {

struct YamlLimits {
  size_t bytes = 1u << 20;
  int depth = 32;
  int nodes = 100'000;
};

JsonValue parse_yaml(std::string_view text, const std::string& origin,
                     const YamlLimits& limits = {});
JsonValue read_yaml(const std::filesystem::path& file, const YamlLimits& limits = {});

// Block style; strings are quoted if YAML would read them as another type.
std::string to_yaml(const JsonValue& value);

}  // namespace quern
