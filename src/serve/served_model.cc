#include "serve/served_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "prompt/generation_config.h"
#include "prompt/stop_ids.h"
#include "serve/errors.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;

// Bytes of a long text between two checks of its number of tokens.
constexpr size_t kPieceBytes = 64 << 10;
// A piece may have this many more tokens than the same bytes in the whole text.
constexpr int64_t kCutTokens = 16;
// Bytes per token of ordinary text, at most.
constexpr size_t kUsualTokenBytes = 4;
// Of a completion that states no max_tokens, as in OpenAI's API.
constexpr int64_t kCompletionTokens = 16;

JsonValue sampling_defaults(const ModelOptions& options) {
  JsonValue defaults = JsonValue::object();
  if (options.generation_config != "vllm") {
    const bool own = options.generation_config == "auto";
    const fs::path folder = own ? options.folder : fs::path(options.generation_config);
    if (!own && !fs::exists(folder / "generation_config.json"))
      fail(Exit::usage, "--generation-config: {} has no generation_config.json", folder.string());
    defaults = prompt::sampling_defaults(prompt::generation_config(folder));
  }
  if (options.override_generation_config.is_object())
    defaults.update(
        prompt::sampling_defaults(options.override_generation_config, prompt::Meant::all));
  return defaults;
}

// From a folder or the command line max_new_tokens is a limit; from the model's own file it is only
// a default, as in vLLM.
std::optional<int64_t> most_new_tokens(const ModelOptions& options, const JsonValue& defaults) {
  const bool by_operator = options.generation_config != "auto" ||
                           (options.override_generation_config.is_object() &&
                            options.override_generation_config.contains("max_new_tokens"));
  if (!by_operator || !defaults.contains("max_new_tokens")) return std::nullopt;
  return defaults["max_new_tokens"].get<int64_t>();
}

// The same rules as for a request, but the file or the command line is at fault.
void check_defaults(const JsonValue& defaults) {
  const JsonValue body = {{"prompt", ""}};
  try {
    read_api_request(Endpoint::completions, body, defaults, {});
  } catch (const ApiError& error) {
    fail(Exit::usage, "generation_config.json or --override-generation-config: {}", error.what());
  }
}

bool is_template_text(const std::string& given) {
  return given.find("{{") != std::string::npos || given.find("{%") != std::string::npos;
}

std::string template_text(const ModelOptions& options) {
  if (!options.chat_template.empty())
    return is_template_text(options.chat_template) ? options.chat_template
                                                   : read_file(options.chat_template, 16u << 20);
  const fs::path file = options.folder / "chat_template.jinja";
  if (fs::exists(file)) return read_file(file, 16u << 20);
  const fs::path config = options.folder / "tokenizer_config.json";
  return fs::exists(config) ? read_file(config) : std::string();
}

std::optional<prompt::ChatTemplate> chat_template(const ModelOptions& options,
                                                  const std::string& text) {
  if (!options.chat_template.empty()) return prompt::ChatTemplate(text, "--chat-template");
  // Only when a folder has no template is that no fault of it.
  if (text.find("chat_template") == std::string::npos &&
      !fs::exists(options.folder / "chat_template.jinja"))
    return std::nullopt;
  return prompt::ChatTemplate::of_folder(options.folder);
}

JsonValue tokenizer_config(const ModelOptions& options, const std::string& template_text) {
  const fs::path file = options.folder / "tokenizer_config.json";
  JsonValue config = fs::exists(file) ? read_json(file) : JsonValue::object();
  if (!config.is_object()) fail("{}: must hold an object", file.string());
  for (JsonValue& value : config)
    if (value.is_object() && value.contains("content") && value["content"].is_string())
      value = JsonValue(value["content"]);
  if (!config.contains("chat_template") && !template_text.empty())
    config["chat_template"] = template_text;
  return config;
}

// Whether the template writes a list of parts as it writes the text alone.
bool reads_parts(const prompt::ChatTemplate& chat) {
  constexpr const char* kText = "quern asks";
  const JsonValue text = {{{"role", "user"}, {"content", kText}}};
  const JsonValue part = {{"type", "text"}, {"text", kText}};
  const JsonValue parts = {{{"role", "user"}, {"content", JsonValue::array({part})}}};
  try {
    return chat.render(parts) == chat.render(text);
  } catch (const Error&) {
    return false;
  }
}

size_t longest_token(const prompt::Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int64_t id = 0; id < tokenizer.ids(); ++id)
    longest = std::max(longest, tokenizer.token(static_cast<int32_t>(id)).value_or("").size());
  return longest;
}

size_t common_prefix(std::string_view a, std::string_view b) {
  return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

// The text up to the end of the last message's content, which the model is to continue.
std::string cut_after(std::string text, const JsonValue& message) {
  std::string content = message.value("content", "");
  content.erase(content.find_last_not_of(" \t\r\n") + 1);
  const size_t at = text.rfind(content);
  if (content.empty() || at == std::string::npos)
    refuse(
        "continue_final_message is set but the final message does not appear in the chat after "
        "applying the chat template.",
        "continue_final_message");
  return text.substr(0, at + content.size());
}

std::vector<std::vector<int32_t>> bad_word_ids(const std::vector<std::string>& words,
                                               const ServedModel& model) {
  std::vector<std::vector<int32_t>> all;
  for (const std::string& word : words) {
    const size_t begin = std::min(word.find_first_not_of(' '), word.size());
    const std::string bare = word.substr(begin);
    const auto alone = model.encode(bare, false), inside = model.encode(" " + bare, false);
    if (!alone.empty()) all.push_back(alone);
    // In the middle of a text a word often has a token of its own.
    if (inside.size() == alone.size() && !inside.empty() && inside[0] != alone[0])
      all.push_back(inside);
  }
  return all;
}

[[noreturn]] void too_long(int64_t prompt, int64_t wanted, int64_t most) {
  refuse(fmt::format("This model's maximum context length is {} tokens. However, you requested {} "
                     "output tokens and your prompt contains at least {} input tokens, for a total "
                     "of at least {} tokens. Please reduce the length of the input prompt or the "
                     "number of requested output tokens.",
                     most, wanted, prompt, prompt + wanted),
         prompt + 1 > most ? "input_tokens" : "max_tokens");
}

std::vector<int32_t> prompt_ids(const ApiRequest& request, const Prompt& prompt,
                                const ServedModel& model, const engine::Limits& limits,
                                const TextBudget& budget) {
  std::vector<int32_t> ids;
  if (const auto* given = std::get_if<std::vector<int32_t>>(&prompt)) {
    ids = *given;
  } else {
    const std::string& text = std::get<std::string>(prompt);
    const int64_t least = model.least_tokens(text.size());
    if (least >= limits.max_model_len && !request.truncate_prompt_tokens)
      too_long(least, request.max_tokens.value_or(1), limits.max_model_len);
    ids = model.encode(text, request.add_special_tokens, budget);
  }
  if (request.truncate_prompt_tokens) {
    const int64_t keep = *request.truncate_prompt_tokens == -1 ? limits.max_model_len - 1
                                                               : *request.truncate_prompt_tokens;
    const auto size = static_cast<int64_t>(ids.size());
    if (size > keep) ids.erase(ids.begin(), ids.begin() + (size - keep));
  }
  if (ids.empty()) refuse("The decoder prompt cannot be empty", "prompt");
  return ids;
}

// Of a conversation, as in vLLM, only what the assistant said last, which the answer continues.
std::string echoed_text(const ApiRequest& request, const Prompt& prompt,
                        const engine::Request& made, const ServedModel& model) {
  if (request.endpoint == Endpoint::chat) {
    const JsonValue& last = request.chat.messages.back();
    const bool own = last["role"] == request.role && last.contains("content");
    return own && last["content"].is_string() ? last["content"].get<std::string>() : std::string();
  }
  const auto* text = std::get_if<std::string>(&prompt);
  return text ? *text : model.tokenizer().decode(made.tokens);
}

// As vLLM: more than there is room for is shortened, unless no context of this length has room.
int64_t max_tokens(const ApiRequest& request, int64_t prompt, const ServedModel& model,
                   const engine::Limits& limits) {
  const int64_t room = limits.max_model_len - prompt;
  const int64_t wanted = request.max_tokens.value_or(
      request.endpoint == Endpoint::completions
          ? kCompletionTokens
          : model.sampling_defaults().value("max_new_tokens", limits.max_model_len));
  if (room < 1 || (request.max_tokens && wanted > limits.max_model_len))
    too_long(prompt, wanted, limits.max_model_len);
  return std::clamp<int64_t>(wanted, 1, std::min(room, model.most_new_tokens().value_or(room)));
}

}  // namespace

ServedModel::ServedModel(const ModelOptions& options)
    : options_(options),
      root_(options.folder.string()),
      tokenizer_(options.tokenizer.empty() ? options.folder : options.tokenizer),
      eos_ids_(prompt::stop_ids(options.folder, tokenizer_)),
      defaults_(serve::sampling_defaults(options)),
      most_new_tokens_(serve::most_new_tokens(options, defaults_)),
      longest_token_(longest_token(tokenizer_)) {
  check_defaults(defaults_);
  for (const int32_t id : eos_ids_)
    if (id >= tokenizer_.ids())
      log_warning("{}: the stop token {} is not in the vocabulary; it never ends an answer",
                  options.folder.string(), id);
  const std::string text = template_text(options);
  template_ = chat_template(options, text);
  tokenizer_config_ = serve::tokenizer_config(options, template_ ? text : "");
  reasoning_ = reasoning_marks(options.reasoning_parser, tokenizer_, text);
  if (options.content_format == "auto")
    joins_parts_ = template_ && !reads_parts(*template_);
  else
    joins_parts_ = options.content_format == "string";
}

bool ServedModel::has_name(const std::string& name) const {
  return std::find(options_.names.begin(), options_.names.end(), name) != options_.names.end();
}

int64_t ServedModel::least_tokens(size_t bytes) const {
  return static_cast<int64_t>((bytes + longest_token_ - 1) / longest_token_);
}

JsonValue ServedModel::prepared(const JsonValue& messages) const {
  if (!joins_parts_) return messages;
  JsonValue result = messages;
  for (JsonValue& message : result) {
    const auto content = message.find("content");
    if (content == message.end() || !content->is_array()) continue;
    std::string text;
    for (const JsonValue& part : *content) {
      if (!text.empty()) text += "\n";
      text += part.value("text", part.value("refusal", ""));
    }
    *content = text;
  }
  return result;
}

std::string ServedModel::apply_template(const JsonValue& messages,
                                        const prompt::ChatOptions& options) const {
  try {
    return template_->render(messages, options);
  } catch (const Error& error) {
    if (error.code() == Exit::internal) throw;
    refuse(error.what(), "messages");
  }
}

ServedModel::Rendered ServedModel::render(const ChatInput& chat) const {
  if (!template_)
    refuse(
        "As of transformers v4.44, default chat template is no longer allowed, so you must "
        "provide a chat template if the tokenizer does not define one.");
  prompt::ChatOptions options{.tools = chat.tools,
                              .add_generation_prompt = chat.add_generation_prompt};
  if (options_.template_variables.is_object()) options.variables = options_.template_variables;
  for (const auto& [key, value] : chat.variables.items()) options.variables[key] = value;
  if (!chat.documents.is_null()) options.variables["documents"] = chat.documents;
  JsonValue messages = prepared(chat.messages);
  Rendered rendered{apply_template(messages, options)};
  if (chat.continue_final_message)
    rendered.text = cut_after(std::move(rendered.text), messages.back());
  if (!reasoning_) return rendered;
  // What the template writes without the answer ends where the answer begins.
  options.add_generation_prompt = false;
  if (chat.continue_final_message) messages.erase(messages.size() - 1);
  try {
    rendered.begun = common_prefix(template_->render(messages, options), rendered.text);
  } catch (const Error&) {
    rendered.begun = rendered.text.size();  // such as a template that asks for a message
  }
  return rendered;
}

void ServedModel::count_tokens(std::string_view text, const TextBudget& budget) const {
  for (int64_t tokens = 0; !text.empty();) {
    size_t size = std::min(text.size(), kPieceBytes);
    // Between characters.
    while (size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
    tokens += static_cast<int64_t>(encode(text.substr(0, size), false).size()) - kCutTokens;
    if (tokens > budget.tokens) too_long(tokens, 1, budget.tokens);
    if (budget.left()) throw ApiError(499, "ClientLeft", "The client has left.");
    text.remove_prefix(size);
  }
}

std::vector<int32_t> ServedModel::encode(std::string_view text, bool special,
                                         const TextBudget& budget) const {
  if (text.size() > budget.bytes)
    refuse(fmt::format("The text of the prompt has {} bytes, and this server reads {} at most "
                       "(--max-text-bytes).",
                       text.size(), budget.bytes),
           "prompt");
  if (budget.left()) throw ApiError(499, "ClientLeft", "The client has left.");
  if (text.size() / kUsualTokenBytes > static_cast<uint64_t>(budget.tokens))
    count_tokens(text, budget);
  try {
    return tokenizer_.encode(text, special ? prompt::Special::add : prompt::Special::none);
  } catch (const Error& error) {
    if (error.code() == Exit::internal) throw;
    refuse("the text cannot be tokenized", "prompt");
  }
}

Prepared prepare(const ApiRequest& request, const ServedModel& model, const engine::Limits& limits,
                 TextBudget budget) {
  // What is cut at its begin may be longer.
  if (!request.truncate_prompt_tokens) budget.tokens = limits.max_model_len;
  if (request.settings.priority != 0 && !limits.priorities)
    refuse("Got priority " + std::to_string(request.settings.priority) +
               " but priority scheduling is not enabled.",
           "priority");
  Prepared prepared;
  std::vector<Prompt> prompts = request.prompts;
  if (request.endpoint == Endpoint::chat) {
    ServedModel::Rendered rendered = model.render(request.chat);
    prepared.begun = rendered.text.substr(rendered.begun);
    prompts = {std::move(rendered.text)};
  }
  engine::Request settings = request.settings;
  settings.sampling.bad_words = bad_word_ids(request.bad_words, model);
  settings.stop_ids = request.stop_token_ids;
  if (!request.ignore_eos)
    std::ranges::copy_if(model.eos_ids(), std::back_inserter(settings.stop_ids),
                         [&](int32_t id) { return id < limits.vocabulary; });
  for (const Prompt& prompt : prompts) {
    engine::Request made = settings;
    made.tokens = prompt_ids(request, prompt, model, limits, budget);
    const auto length = static_cast<int64_t>(made.tokens.size());
    made.max_tokens = max_tokens(request, length, model, limits);
    made.min_tokens = std::min(made.min_tokens, made.max_tokens);
    prepared.prompt_tokens += length;
    if (request.echo) prepared.prompt_texts.push_back(echoed_text(request, prompt, made, model));
    try {
      engine::check(made, limits);
    } catch (const Error& error) {
      refuse(error.what());
    }
    for (int64_t i = 0; i < request.n; ++i) {
      made.sampling.lane = static_cast<uint32_t>(i);
      prepared.requests.push_back(made);
      made.prompt_logprobs.reset();  // they are the same for all
    }
  }
  return prepared;
}

}  // namespace quern::serve
