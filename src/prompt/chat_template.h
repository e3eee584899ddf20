// Renders a conversation to the text format of a model's training, with the Jinja template of its
// folder. Equal to transformers' apply_chat_template (version 5.23), with limits on time and
// memory, because templates of downloaded models are untrusted. docs/templates.md lists what
// differs.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

struct QtTemplate;

namespace quern::prompt {

// An error that a template raised with raise_exception, with the template's message verbatim.
class TemplateError : public Error {
 public:
  explicit TemplateError(const std::string& message) : Error(Exit::invalid_input, message) {}
};

// Whether messages are prepared as in transformers before the template sees them.
enum class Messages {
  // Drops null values, copies `reasoning` and `thinking` to `reasoning_content`, and refuses an
  // empty conversation.
  prepared,
  as_given,
};

struct ChatOptions {
  JsonValue tools = nullptr;  // a list of JSON schemas, or null
  bool add_generation_prompt = false;
  JsonValue variables = JsonValue::object();  // further variables, such as enable_thinking
  Messages messages = Messages::prepared;
  std::optional<std::tm> now = {};  // for strftime_now; default: the local time
};

struct TemplateLimits {
  uint64_t steps = 1'000'000;
  uint64_t output_bytes = 8u << 20;
  uint64_t work_bytes = 1u << 30;  // read and written by operators, filters and methods
  uint32_t parse_depth = 200;
  uint32_t recursion = 100;  // nested macro calls
};

// Thread-safe.
class ChatTemplate {
 public:
  // The template of a model folder: chat_template.jinja, otherwise `chat_template` in
  // tokenizer_config.json, which may be a list of named templates (transformers uses `tool_use` for
  // conversations with tools, otherwise `default`). Fails, naming the file, if there is none or it
  // does not parse.
  static ChatTemplate of_folder(const std::filesystem::path& folder);
  ChatTemplate(std::string_view source, const std::string& origin,
               const TemplateLimits& limits = {});

  // `messages`: a list of objects with `role`, `content`, ... Throws TemplateError for
  // raise_exception, and Error for any other error of the template.
  std::string render(const JsonValue& messages, const ChatOptions& options = {}) const;

 private:
  ChatTemplate() = default;
  void add(const std::string& name, std::string_view source, const std::string& origin,
           const TemplateLimits& limits);

  struct Source {
    std::string origin;
    std::shared_ptr<const QtTemplate> compiled;
  };
  const Source& choose(bool tools) const;

  std::map<std::string, Source> sources_;           // by name
  JsonValue special_tokens_ = JsonValue::object();  // bos_token, ...: variables for every rendering
};

}  // namespace quern::prompt
