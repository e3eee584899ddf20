// The options of `vllm serve`, and what they mean here: one row for each.
#pragma once

#include <span>
#include <string_view>

namespace quern::serve {

enum class Kind {
  flag,  // --x, --no-x
  text,
  integer,
  size,  // an integer that may have a suffix: 1k is 1000, 1K is 1024
  number,
  json,  // an object; --x.key VALUE sets one key of it
  list,  // several words, and the option may be repeated
};

struct Flag {
  std::string_view name;  // in long form, without the dashes in front
  Kind kind;
  std::string_view otherwise;     // the value when it is not given, as JSON
  std::string_view help;          // of an ignored or refused one: why
  std::string_view choices = {};  // of a text, separated by |; empty: any
};

std::span<const Flag> used_flags();
// Accepted, so that command lines and files of vLLM work, each with its sentence.
std::span<const Flag> ignored_flags();
// What would change answers or safety if it were ignored.
std::span<const Flag> refused_flags();

struct Alias {
  std::string_view given, meant;
};
// Short forms, with their dash.
std::span<const Alias> aliases();

}  // namespace quern::serve
