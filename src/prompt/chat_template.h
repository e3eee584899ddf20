// Conversations -> the text that a model was trained on, by the Jinja template of its folder.
// Rendered as transformers' apply_chat_template renders it (version 5.23), with limits on time and
// memory, because templates come with downloaded models. docs/templates.md lists what differs.
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

// What a template said through raise_exception: the message is the template's own, verbatim.
class TemplateError : public Error {
 public:
  explicit TemplateError(const std::string& message) : Error(Exit::invalid_input, message) {}
};

// How transformers treats messages before the template sees them, or not at all.
enum class Messages {
  // Keys whose value is null are dropped, `reasoning` and `thinking` also become
  // `reasoning_content`, an empty conversation is refused.
  prepared,
  as_given,
};

struct ChatOptions {
  JsonValue tools = nullptr;  // a list of JSON schemas, or null
  bool add_generation_prompt = false;
  JsonValue variables = JsonValue::object();  // more variables, such as enable_thinking
  Messages messages = Messages::prepared;
  std::optional<std::tm> now = {};  // for strftime_now; the local time when absent
};

struct TemplateLimits {
  uint64_t steps = 1'000'000;
  uint64_t output_bytes = 8u << 20;
  uint64_t work_bytes = 1u << 30;  // what operators, filters and methods read and make
  uint32_t parse_depth = 200;
  uint32_t recursion = 100;  // nested macro calls
};

// May be used by several threads at once.
class ChatTemplate {
 public:
  // Of a model folder: chat_template.jinja, else `chat_template` in tokenizer_config.json, which
  // may be a list of named ones (transformers takes `tool_use` for conversations with tools, else
  // `default`). Fails when there is none, or it does not parse, naming the file.
  static ChatTemplate of_folder(const std::filesystem::path& folder);
  ChatTemplate(std::string_view source, const std::string& origin,
               const TemplateLimits& limits = {});

  // `messages`: a list of objects with `role`, `content`, ... Throws TemplateError for
  // raise_exception, Error for every other fault of the template.
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
  JsonValue special_tokens_ = JsonValue::object();  // bos_token, ...: variables of every rendering
};

}  // namespace quern::prompt
