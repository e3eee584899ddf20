// What the mock engine says to which prompt, and which tokens come in one step: so that whatever
// stands behind an engine can be tried with marks of reasoning, calls of tools, characters cut
// between tokens, and several tokens at once.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"

namespace quern::engine {

class MockScript {
 public:
  // Text <-> ids of the model that lends its tokenizer; special tokens are written as their texts.
  struct Words {
    std::function<std::vector<int32_t>(std::string_view text)> encode;
    std::function<std::string(std::span<const int32_t> ids)> decode;
  };
  struct Answer {
    std::vector<std::vector<int32_t>> steps;  // none of them empty
    bool ends = true;                         // with a stop id; else the mock's own text follows
  };

  // A JSON list of answers, described in docs/serve.md. Fails with the place in the file.
  MockScript(const JsonValue& document, const std::string& origin, Words words);
  static MockScript read(const std::filesystem::path& file, Words words);

  // The first answer whose text occurs in the prompt; null if there is none.
  const Answer* answer_to(std::span<const int32_t> prompt) const;

 private:
  struct Rule {
    std::string when;
    Answer answer;
  };

  std::vector<Rule> rules_;
  Words words_;
};

}  // namespace quern::engine
