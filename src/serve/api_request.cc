#include "serve/api_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "prompt/tool_calls.h"
#include "serve/errors.h"
#include "serve/fields.h"

namespace quern::serve {
namespace {

constexpr int kBodyDepth = 128;            // JSON schemas nest deeper than configuration files
constexpr size_t kBodyValues = 2'000'000;  // token ids of the longest prompts, many times
constexpr size_t kLongestStopString = 4096;
constexpr double kLeastTemperature = 0.01;  // but 0: smaller ones overflow, as in vLLM

template <class T>
void require(bool holds, const char* name, const char* rule, T value) {
  if (!holds) refuse(fmt::format("{} must be {}, got {}.", name, rule, value), name);
}

// The error of what the contract knows and this server cannot do.
[[noreturn]] void unsupported(const std::string& what, const std::string& param) {
  throw ApiError(501, "NotImplementedError", what + " is not supported by this server.", param);
}

void read_sampling(const Fields& fields, engine::Sampling& sampling) {
  auto number = [&](const char* key, double& to) { to = fields.number(key).value_or(to); };
  number("temperature", sampling.temperature);
  require(sampling.temperature >= 0 && sampling.temperature <= 2, "temperature", "in [0, 2]",
          sampling.temperature);
  if (sampling.temperature > 1e-5 && sampling.temperature < kLeastTemperature)
    sampling.temperature = kLeastTemperature;
  number("top_p", sampling.top_p);
  require(sampling.top_p > 0 && sampling.top_p <= 1, "top_p", "in (0, 1]", sampling.top_p);
  const int64_t top_k = fields.integer("top_k").value_or(0);
  require(top_k >= -1, "top_k", "0 (disable), or at least 1", top_k);
  sampling.top_k = std::max<int64_t>(top_k, 0);
  number("min_p", sampling.min_p);
  require(sampling.min_p >= 0 && sampling.min_p <= 1, "min_p", "in [0, 1]", sampling.min_p);
  number("repetition_penalty", sampling.repetition_penalty);
  require(sampling.repetition_penalty > 0, "repetition_penalty", "greater than zero",
          sampling.repetition_penalty);
  number("frequency_penalty", sampling.frequency_penalty);
  require(std::abs(sampling.frequency_penalty) <= 2, "frequency_penalty", "in [-2, 2]",
          sampling.frequency_penalty);
  number("presence_penalty", sampling.presence_penalty);
  require(std::abs(sampling.presence_penalty) <= 2, "presence_penalty", "in [-2, 2]",
          sampling.presence_penalty);
  const auto seed = fields.integer("seed");
  if (seed && *seed != -1) sampling.seed = static_cast<uint64_t>(*seed);  // -1: none, as in vLLM
  sampling.allowed_ids = fields.ids("allowed_token_ids").value_or(std::vector<int32_t>{});
  if (fields.has("allowed_token_ids") && sampling.allowed_ids.empty())
    refuse("allowed_token_ids is not None and empty!", "allowed_token_ids");
}

void read_logit_bias(const Fields& fields, engine::Sampling& sampling) {
  const JsonValue* bias = fields.object("logit_bias");
  if (!bias) return;
  for (const auto& [key, value] : bias->items()) {
    const std::string path = fields.path_of("logit_bias." + key);
    if (key.empty() || key.size() > 9 ||
        !std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; }))
      refuse_field(path, "Input should be a token id as a string");
    const double clamped = std::clamp(number_of(value, path), -100.0, 100.0);
    sampling.logit_bias.emplace_back(std::stoi(key), static_cast<float>(clamped));
  }
}

void read_lengths(const Fields& fields, ApiRequest& request) {
  request.max_tokens = fields.integer("max_completion_tokens");
  if (!request.max_tokens) request.max_tokens = fields.integer("max_tokens");
  const bool only_prompt = request.echo && request.endpoint == Endpoint::completions;
  if (request.max_tokens)
    require(*request.max_tokens >= (only_prompt ? 0 : 1), "max_tokens", "at least 1",
            *request.max_tokens);
  request.settings.min_tokens = fields.integer("min_tokens").value_or(0);
  require(request.settings.min_tokens >= 0, "min_tokens", "greater than or equal to 0",
          request.settings.min_tokens);
  if (request.max_tokens && request.settings.min_tokens > *request.max_tokens)
    refuse(fmt::format("min_tokens must be less than or equal to max_tokens={}, got {}.",
                       *request.max_tokens, request.settings.min_tokens),
           "min_tokens");
  request.truncate_prompt_tokens = fields.integer("truncate_prompt_tokens");
  if (request.truncate_prompt_tokens)
    require(*request.truncate_prompt_tokens >= -1, "truncate_prompt_tokens", "-1 or more",
            *request.truncate_prompt_tokens);
}

void read_count(const Fields& fields, const ApiLimits& limits, ApiRequest& request) {
  request.n = fields.integer("n").value_or(1);
  require(request.n >= 1, "n", "at least 1", request.n);
  require(request.n <= limits.n, "n", fmt::format("at most {}", limits.n).c_str(), request.n);
  if (request.n > 1 && request.settings.sampling.temperature < 1e-5)
    refuse(fmt::format("n must be 1 when using greedy sampling, got {}.", request.n), "n");
  const int64_t best_of = fields.integer("best_of").value_or(request.n);
  if (best_of > request.n) refuse("best_of greater than n is not supported.", "best_of");
}

void read_stops(const Fields& fields, const ApiLimits& limits, ApiRequest& request) {
  request.stop = fields.texts("stop").value_or(std::vector<std::string>{});
  if (static_cast<int64_t>(request.stop.size()) > limits.stop_strings)
    refuse(fmt::format("stop must have at most {} strings, got {}.", limits.stop_strings,
                       request.stop.size()),
           "stop");
  for (const std::string& stop : request.stop) {
    if (stop.empty()) refuse("stop cannot contain an empty string.", "stop");
    if (stop.size() > kLongestStopString)
      refuse(fmt::format("a stop string must have at most {} bytes.", kLongestStopString), "stop");
  }
  request.stop_token_ids = fields.ids("stop_token_ids").value_or(std::vector<int32_t>{});
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  request.include_stop_text = fields.boolean("include_stop_str_in_output").value_or(false);
  request.bad_words = fields.texts("bad_words").value_or(std::vector<std::string>{});
  if (static_cast<int64_t>(request.bad_words.size()) > limits.bad_words)
    refuse(fmt::format("bad_words must have at most {} entries, got {}.", limits.bad_words,
                       request.bad_words.size()),
           "bad_words");
  for (const std::string& word : request.bad_words)
    if (word.empty() || word.size() > kLongestStopString)
      refuse("bad_words cannot contain an empty or very long string.", "bad_words");
}

void check_logprobs(int64_t count, const char* name, const ApiLimits& limits) {
  if (count < 0) refuse(fmt::format("{} must be a non-negative value, got {}.", name, count), name);
  if (count > limits.max_logprobs)
    refuse(fmt::format(
               "Requested {} of {}, which is greater than max allowed: {}",
               std::string_view(name) == "prompt_logprobs" ? "prompt logprobs" : "sample logprobs",
               count, limits.max_logprobs),
           name);
}

void read_logprobs(const Fields& fields, const ApiLimits& limits, ApiRequest& request) {
  if (request.endpoint == Endpoint::completions) {
    request.settings.logprobs = fields.integer("logprobs");
  } else {
    const bool wanted = fields.boolean("logprobs").value_or(false);
    const int64_t top = fields.integer("top_logprobs").value_or(0);
    if (top != 0 && !wanted)
      refuse("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs");
    if (wanted) request.settings.logprobs = top;
  }
  if (request.settings.logprobs)
    check_logprobs(*request.settings.logprobs,
                   request.endpoint == Endpoint::chat ? "top_logprobs" : "logprobs", limits);
  request.settings.prompt_logprobs = fields.integer("prompt_logprobs");
  request.return_prompt_logprobs = request.settings.prompt_logprobs.has_value();
  if (request.return_prompt_logprobs) {
    check_logprobs(*request.settings.prompt_logprobs, "prompt_logprobs", limits);
    if (request.stream)
      refuse("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs");
  }
  request.tokens_as_ids = fields.boolean("return_tokens_as_token_ids").value_or(false);
  request.return_token_ids = fields.boolean("return_token_ids").value_or(false);
}

void read_stream(const Fields& fields, ApiRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  const JsonValue* options = fields.object("stream_options");
  if (!options) return;
  if (!request.stream)
    refuse("Stream options can only be defined when `stream=True`.", "stream_options");
  const Fields stream(*options, fields.path_of("stream_options"));
  request.include_usage = stream.boolean("include_usage").value_or(false);
  request.continuous_usage =
      request.include_usage && stream.boolean("continuous_usage_stats").value_or(false);
}

void read_cache_salt(const Fields& fields, ApiRequest& request) {
  const auto salt = fields.text("cache_salt");
  if (!salt) return;
  if (salt->empty() || salt->size() > 128 ||
      salt->find_first_of(std::string_view("@/\\\0", 4)) != std::string::npos)
    refuse("cache_salt must have 1 to 128 characters, none of them @, / or \\.", "cache_salt");
  request.settings.cache_salt = *salt;
}

// What clients of vLLM may send and this server has no answer to: refused, never ignored.
void refuse_unsupported(const Fields& fields) {
  for (const char* key : {"structured_outputs", "guided_json", "guided_regex", "guided_choice",
                          "guided_grammar", "guided_json_object"})
    if (fields.has(key)) unsupported("Structured output", key);
  if (const JsonValue* format = fields.object("response_format")) {
    const Fields response(*format, fields.path_of("response_format"));
    const auto type = response.text("type");
    if (!type) refuse_field(fields.path_of("response_format.type"), "Field required");
    if (*type != "text") unsupported("response_format \"" + *type + "\"", "response_format");
  }
  if (fields.boolean("use_beam_search").value_or(false))
    unsupported("Beam search", "use_beam_search");
  for (const char* key : {"prompt_embeds", "logprob_token_ids", "thinking_token_budget"})
    if (fields.has(key)) unsupported(key, key);
  if (!fields.text("suffix").value_or("").empty())
    refuse("suffix is not currently supported", "suffix");
}

void refuse_tools(const Fields& fields) {
  const JsonValue* tools = fields.list("tools");
  if (tools && tools->empty()) refuse("tools must not be an empty array.", "tools");
  const JsonValue* choice = fields.find("tool_choice");
  if (choice && !tools && *choice != "none")
    refuse("When using `tool_choice`, `tools` must be set.", "tool_choice");
  if (!tools || (choice && *choice == "none")) return;
  unsupported("Calling tools", choice ? "tool_choice" : "tools");
}

void check_content(const JsonValue& content, const std::string& path) {
  if (content.is_string() || content.is_null()) return;
  if (!content.is_array()) refuse_field(path, "Input should be a valid string or list");
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_path = path + "." + std::to_string(i);
    const Fields part(content[i], part_path);
    const auto type = part.text("type");
    if (!type) refuse_field(part_path + ".type", "Field required");
    if (type->find("image") != std::string::npos || type->find("video") != std::string::npos ||
        type->find("audio") != std::string::npos)
      refuse("At most 0 " + type->substr(0, type->find('_')) + "(s) may be provided in one prompt.",
             part_path);
    const std::string key = *type == "refusal" ? "refusal" : "text";
    if (*type != "text" && *type != "refusal")
      refuse("Unknown part type: " + type->substr(0, 100), part_path + ".type");
    if (!part.text(key.c_str())) refuse_field(part_path + "." + key, "Field required");
  }
}

void check_calls(const JsonValue& message, const std::string& path) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || calls->is_null()) return;
  if (!calls->is_array()) refuse_field(path + ".tool_calls", "Input should be a valid list");
  for (size_t i = 0; i < calls->size(); ++i) {
    const JsonValue& call = (*calls)[i];
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object())
      refuse_field(path + ".tool_calls." + std::to_string(i) + ".function", "Field required");
  }
}

JsonValue read_messages(const JsonValue& list) {
  JsonValue messages = JsonValue::array();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = "body.messages." + std::to_string(i);
    const Fields fields(list[i], path);
    const auto role = fields.text("role");
    if (!role) refuse_field(path + ".role", "Field required");
    constexpr std::array kRoles = {"system", "developer", "user", "assistant", "tool", "function"};
    if (std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end())
      refuse_field(path + ".role", "Unknown role: " + role->substr(0, 100));
    JsonValue message = list[i];
    if (message.contains("content")) check_content(message["content"], path + ".content");
    check_calls(message, path);
    prompt::open_arguments(message, path);
    messages.push_back(std::move(message));
  }
  if (messages.empty()) refuse_field("body.messages", "List should have at least 1 item");
  return messages;
}

// JSON of so many bytes has no more values; a list of nothing but lists takes 16 times its bytes.
size_t most_values(std::string_view body) {
  size_t values = 1;
  bool in_text = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_text && c == '\\')
      ++i;
    else if (c == '"')
      in_text = !in_text;
    else if (!in_text)
      values += c == ',' || c == '[' || c == '{';
  }
  return values;
}

}  // namespace

JsonValue parse_body(std::string_view body) {
  if (most_values(body) > kBodyValues)
    throw ApiError(400, "Bad Request", fmt::format("body: has more than {} values", kBodyValues));
  try {
    return parse_json(body, "body", {.bytes = body.size(), .depth = kBodyDepth});
  } catch (const Error& error) {
    throw ApiError(400, "Bad Request", error.what());
  }
}

ChatInput read_chat_input(const JsonValue& body) {
  const Fields fields(body, "body");
  ChatInput chat;
  const JsonValue* messages = fields.list("messages");
  if (!messages) refuse_field("body.messages", "Field required");
  chat.messages = read_messages(*messages);
  if (const JsonValue* tools = fields.list("tools")) chat.tools = *tools;
  if (const JsonValue* documents = fields.list("documents")) chat.documents = *documents;
  chat.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  chat.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  if (chat.continue_final_message) {
    // Said by who did not say the other: only both set on purpose is a contradiction.
    if (fields.boolean("add_generation_prompt").value_or(false))
      refuse("Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
             "continue_final_message");
    chat.add_generation_prompt = false;
  }
  if (fields.has("chat_template"))
    refuse(
        "Chat template is passed with request, but --trust-request-chat-template is not set. "
        "Refused request with untrusted chat template.",
        "chat_template");
  chat.variables = JsonValue::object();
  if (const JsonValue* variables = fields.object("chat_template_kwargs"))
    chat.variables = *variables;
  for (const char* name : {"messages", "tools", "documents", "tokenize", "chat_template",
                           "add_generation_prompt", "continue_final_message", "conversation"})
    if (chat.variables.contains(name))
      refuse(fmt::format("chat_template_kwargs cannot set \"{}\".", name), "chat_template_kwargs");
  if (const auto effort = fields.text("reasoning_effort")) {
    chat.variables["reasoning_effort"] = *effort;
    if (!chat.variables.contains("enable_thinking"))
      chat.variables["enable_thinking"] = *effort != "none";
  }
  return chat;
}

std::vector<Prompt> read_prompts(const JsonValue& value, const std::string& path,
                                 const ApiLimits& limits) {
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array()) refuse_field(path, "Input should be a valid string or list");
  if (value.empty()) refuse("prompt should not be empty", "prompt");
  if (value[0].is_number()) return {ids_of(value, path)};
  if (static_cast<int64_t>(value.size()) > limits.prompts)
    refuse(
        fmt::format("prompt must have at most {} entries, got {}.", limits.prompts, value.size()),
        "prompt");
  std::vector<Prompt> prompts;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string entry = path + "." + std::to_string(i);
    if (value[0].is_string())
      prompts.emplace_back(text_of(value[i], entry));
    else if (value[i].is_array())
      prompts.emplace_back(ids_of(value[i], entry));
    else
      refuse_field(entry, "Input should be a valid string or list of token ids");
  }
  return prompts;
}

ApiRequest read_api_request(Endpoint endpoint, const JsonValue& body, const JsonValue& defaults,
                            const ApiLimits& limits) {
  const Fields fields(body, "body");
  const Fields sampled(body, "body", &defaults);
  ApiRequest request;
  request.endpoint = endpoint;
  request.model = fields.text("model");
  request.request_id = fields.text("request_id");
  refuse_unsupported(fields);
  read_stream(fields, request);
  request.echo = fields.boolean("echo").value_or(false);
  request.add_special_tokens =
      fields.boolean("add_special_tokens").value_or(endpoint == Endpoint::completions);
  read_sampling(sampled, request.settings.sampling);
  read_logit_bias(fields, request.settings.sampling);
  read_lengths(fields, request);
  read_count(fields, limits, request);
  read_stops(fields, limits, request);
  read_logprobs(fields, limits, request);
  read_cache_salt(fields, request);
  request.settings.priority = fields.integer("priority").value_or(0);
  request.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  if (endpoint == Endpoint::chat) {
    refuse_tools(fields);
    request.include_reasoning = fields.boolean("include_reasoning").value_or(true);
    request.chat = read_chat_input(body);
    return request;
  }
  const JsonValue* prompt = fields.find("prompt");
  if (!prompt) refuse("Either prompt or prompt_embeds must be provided and non-empty.", "prompt");
  request.prompts = read_prompts(*prompt, "body.prompt", limits);
  if (request.echo && request.logprobs()) {
    if (!request.settings.prompt_logprobs)
      request.settings.prompt_logprobs = request.settings.logprobs;
  }
  return request;
}

}  // namespace quern::serve
