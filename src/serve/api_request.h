// The body of a request to /v1/chat/completions or /v1/completions, typed and range-checked: no
// raw JSON goes further, but what a chat template is meant to see.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "engine/request.h"

namespace quern::serve {

enum class Endpoint { chat, completions };

// Bounds that vLLM has as environment variables.
struct ApiLimits {
  int64_t n = 128;
  int64_t prompts = 1024;
  int64_t stop_strings = 64;
  int64_t bad_words = 128;
  int64_t max_logprobs = 20;
};

using Prompt = std::variant<std::string, std::vector<int32_t>>;

// What a chat template gets.
struct ChatInput {
  JsonValue messages, tools = nullptr, documents = nullptr;
  JsonValue variables;  // chat_template_kwargs
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

struct ApiRequest {
  Endpoint endpoint = Endpoint::chat;
  std::optional<std::string> model, request_id;
  ChatInput chat;
  std::vector<Prompt> prompts;  // of /v1/completions
  bool add_special_tokens = false;
  std::optional<int64_t> truncate_prompt_tokens;

  engine::Request settings;  // without prompt, max_tokens and stop ids
  int64_t n = 1;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stop, bad_words;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;

  bool stream = false;
  bool include_usage = false, continuous_usage = false;
  bool echo = false;
  bool include_stop_text = false;
  bool skip_special_tokens = true;
  bool tokens_as_ids = false;  // "token_id:5" instead of text, in logprobs
  bool return_token_ids = false;
  bool return_prompt_logprobs = false;
  bool include_reasoning = true;
  std::string role = "assistant";

  bool logprobs() const { return settings.logprobs.has_value(); }
};

// `defaults`: sampling settings for fields that the body lacks, as generation_config.json names
// them. Throws ApiError.
ApiRequest read_api_request(Endpoint endpoint, const JsonValue& body, const JsonValue& defaults,
                            const ApiLimits& limits);

// The part of a body that names a conversation; /tokenize has it too.
ChatInput read_chat_input(const JsonValue& body);
// A string, a list of ids, or a list of those.
std::vector<Prompt> read_prompts(const JsonValue& value, const std::string& path,
                                 const ApiLimits& limits);

// Bytes of a request -> JSON, bounded; throws ApiError.
JsonValue parse_body(std::string_view body);

}  // namespace quern::serve
