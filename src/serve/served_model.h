// What the server knows of the model it speaks for: its names, its words, its manners. The numbers
// are the engine's.
#pragma once

#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/request.h"
#include "prompt/chat_template.h"
#include "prompt/tokenizer.h"
#include "serve/api_request.h"
#include "serve/reasoning.h"

namespace quern::serve {

struct ModelOptions {
  std::filesystem::path folder;
  std::filesystem::path tokenizer;         // empty: the folder
  std::vector<std::string> names;          // the first one is told to clients; not empty
  std::string chat_template;               // a file or the template itself; empty: the folder's
  std::string content_format = "auto";     // or "string", "openai": what templates get for lists
  JsonValue template_variables;            // --default-chat-template-kwargs, or null
  std::string generation_config = "auto";  // or "vllm" (none), or a folder
  JsonValue override_generation_config;    // or null
  std::string reasoning_parser = "auto";
};

// What one text may cost before it is tokens.
struct TextBudget {
  size_t bytes = static_cast<size_t>(-1);                // more are refused
  int64_t tokens = std::numeric_limits<int64_t>::max();  // more are refused, early if it can be
  // Work for a client that has left ends.
  std::function<bool()> left = [] { return false; };
};

class ServedModel {
 public:
  // Fails, naming the file, where one is missing or damaged. A model without chat template can
  // complete texts only.
  explicit ServedModel(const ModelOptions& options);

  const std::string& name() const { return options_.names.front(); }
  const std::vector<std::string>& names() const { return options_.names; }
  const std::string& root() const { return root_; }
  bool has_name(const std::string& name) const;

  const prompt::Tokenizer& tokenizer() const { return tokenizer_; }
  const std::optional<ReasoningMarks>& reasoning() const { return reasoning_; }
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }
  // Sampling settings for fields that a request lacks, and max_new_tokens.
  const JsonValue& sampling_defaults() const { return defaults_; }
  // The limit that the operator sets with max_new_tokens; none: the room of the context.
  const std::optional<int64_t>& most_new_tokens() const { return most_new_tokens_; }

  // tokenizer_config.json with special tokens as plain texts, and the template.
  const JsonValue& tokenizer_config() const { return tokenizer_config_; }

  // Throw ApiError for what the template or the tokenizer refuses.
  struct Rendered {
    std::string text;
    size_t begun = 0;  // bytes before what the template wrote of the answer
  };
  Rendered render(const ChatInput& chat) const;
  std::vector<int32_t> encode(std::string_view text, bool special,
                              const TextBudget& budget = {}) const;
  // Any text of so many bytes has at least as many tokens.
  int64_t least_tokens(size_t bytes) const;

 private:
  // Refuses a text that has more tokens than it may have, without making all of them.
  void count_tokens(std::string_view text, const TextBudget& budget) const;
  JsonValue prepared(const JsonValue& messages) const;
  std::string apply_template(const JsonValue& messages, const prompt::ChatOptions& options) const;

  ModelOptions options_;
  std::string root_;
  prompt::Tokenizer tokenizer_;
  std::optional<prompt::ChatTemplate> template_;
  std::optional<ReasoningMarks> reasoning_;
  std::vector<int32_t> eos_ids_;
  JsonValue defaults_, tokenizer_config_;
  std::optional<int64_t> most_new_tokens_;
  size_t longest_token_ = 1;  // bytes
  bool joins_parts_ = false;  // lists of text parts become one text before the template sees them
};

// One engine request for each prompt and each of its n answers, in the order of the choices.
struct Prepared {
  std::vector<engine::Request> requests;
  std::vector<std::string> prompt_texts;  // by prompt, if they are echoed
  std::string begun;                      // what the template wrote of the answer to a conversation
  int64_t prompt_tokens = 0;              // each prompt counted once
};
Prepared prepare(const ApiRequest& request, const ServedModel& model, const engine::Limits& limits,
                 TextBudget budget = {});

}  // namespace quern::serve
