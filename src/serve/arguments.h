// The command line and the YAML file of `vllm serve`, by the same grammar, as one JSON object.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace quern::serve {

struct Arguments {
  JsonValue given = JsonValue::object();  // by the flag's name; what the command line said wins
  std::vector<std::string> notes;         // sentences about what was accepted and means nothing
  std::optional<std::string> help;        // --help, or the word of --help=word

  // The value that was given, else the flag's own.
  JsonValue value(const std::string& name) const;
  bool has(const std::string& name) const { return given.contains(name); }
};

using Environment = std::function<std::optional<std::string>(const std::string& name)>;

// Fails with Exit::usage, naming the option (and the line of the file), the rule it broke, and for
// unknown ones the nearest name. QUERN_X wins over VLLM_X.
Arguments read_arguments(const std::vector<std::string>& words, const Environment& environment);

// Of all options, or of those whose name or meaning has the word in it.
std::string help_text(const std::string& word);

// All that is used, given or not: a file for --config.
std::string effective_yaml(const Arguments& arguments);

// "25.6k" -> 25600, "1K" -> 1024, "-1"; nothing if it is no such number.
std::optional<int64_t> parse_size(std::string_view text);

}  // namespace quern::serve
