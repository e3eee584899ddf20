#include "prompt/chat_template.h"

#include <vector>

#include "base/file.h"
#include "prompt/ffi.h"

namespace quern::prompt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefault = "default";
constexpr const char* kToolUse = "tool_use";

// tokenizer_config.json states a token as its text or as an object with `content`.
std::optional<std::string> token_text(const JsonValue& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string())
    return token["content"].get<std::string>();
  return std::nullopt;
}

JsonValue special_tokens(const JsonValue& config) {
  JsonValue tokens = JsonValue::object();
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    if (!config.contains(name)) continue;
    if (auto text = token_text(config[name])) tokens[name] = *text;
  }
  if (!config.contains("extra_special_tokens")) return tokens;
  const JsonValue& extra = config["extra_special_tokens"];
  if (!extra.is_object()) return tokens;
  for (auto it = extra.begin(); it != extra.end(); ++it) {
    if (auto text = token_text(it.value())) tokens[it.key()] = *text;
  }
  return tokens;
}

JsonValue prepared(const JsonValue& messages) {
  if (messages.empty()) {
    fail("Cannot apply chat template to an empty conversation. Provide at least one message.");
  }
  JsonValue result = JsonValue::array();
  for (const JsonValue& message : messages) {
    JsonValue kept = JsonValue::object();
    for (auto it = message.begin(); it != message.end(); ++it) {
      if (!it.value().is_null()) kept[it.key()] = it.value();
    }
    for (const char* name : {"reasoning_content", "reasoning", "thinking"}) {
      if (!kept.contains(name)) continue;
      JsonValue thought = kept[name];
      if (!kept.contains("reasoning_content")) kept["reasoning_content"] = thought;
      if (!kept.contains("thinking")) kept["thinking"] = thought;
      break;
    }
    result.push_back(std::move(kept));
  }
  return result;
}

void check_messages(const JsonValue& messages) {
  if (!messages.is_array()) fail("messages must be a list, found {}", messages.type_name());
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object())
      fail("messages[{}] must be an object, found {}", i, messages[i].type_name());
  }
}

QtTime time_of(const std::optional<std::tm>& given) {
  std::tm local{};
  if (given) {
    local = *given;
  } else {
    std::time_t now = std::time(nullptr);
    localtime_r(&now, &local);
  }
  return {local.tm_year + 1900, local.tm_mon + 1, local.tm_mday, local.tm_hour,
          local.tm_min,         local.tm_sec,     local.tm_wday, local.tm_yday + 1};
}

std::string to_json(const JsonValue& value) {
  try {
    return value.dump();
  } catch (const nlohmann::json::type_error&) {
    fail("the conversation contains text that is not valid UTF-8");
  }
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, const std::string& origin,
                           const TemplateLimits& limits) {
  add(kDefault, source, origin, limits);
}

ChatTemplate ChatTemplate::of_folder(const fs::path& folder) {
  ChatTemplate result;
  fs::path config_file = folder / "tokenizer_config.json";
  JsonValue config = JsonValue::object();
  if (fs::exists(config_file)) config = read_json(config_file);
  if (config.is_object()) result.special_tokens_ = special_tokens(config);

  fs::path file = folder / "chat_template.jinja";
  const TemplateLimits limits;
  if (fs::exists(file)) {
    result.add(kDefault, read_file(file, 16u << 20), file.string(), limits);
    fs::path tool_use = folder / "additional_chat_templates" / "tool_use.jinja";
    if (fs::exists(tool_use)) {
      result.add(kToolUse, read_file(tool_use, 16u << 20), tool_use.string(), limits);
    }
    return result;
  }
  Json document(config, config_file.string());
  if (!document.is_object() || !document.has("chat_template")) {
    fail(
        "{}: no chat template: neither chat_template.jinja nor chat_template in "
        "tokenizer_config.json; use plain text for a model that was not trained for chat",
        folder.string());
  }
  Json given = document.at("chat_template");
  if (given.is_string()) {
    result.add(kDefault, given.as<std::string>(), given.path(), limits);
    return result;
  }
  for (size_t i = 0; i < given.size(); ++i) {
    Json named = given.at(i);
    result.add(named.get<std::string>("name"), named.get<std::string>("template"),
               named.at("template").path(), limits);
  }
  return result;
}

void ChatTemplate::add(const std::string& name, std::string_view source, const std::string& origin,
                       const TemplateLimits& limits) {
  QtTemplateLimits ffi{limits.steps, limits.output_bytes, limits.work_bytes, limits.parse_depth,
                       limits.recursion};
  QtTemplate* compiled = nullptr;
  FfiBytes message;
  int32_t status = qt_template_new(source.data(), source.size(), &ffi, &compiled, message.out());
  require(status, message, origin);
  std::shared_ptr<const QtTemplate> owner(
      compiled, [](const QtTemplate* t) { qt_template_free(const_cast<QtTemplate*>(t)); });
  sources_[name] = {origin, std::move(owner)};
}

const ChatTemplate::Source& ChatTemplate::choose(bool tools) const {
  auto found = sources_.find(kToolUse);
  if (!tools || found == sources_.end()) found = sources_.find(kDefault);
  if (found != sources_.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [name, source] : sources_) names.push_back(name);
  fail("this model has several chat templates, but none is named default: {}",
       fmt::join(names, ", "));
}

std::string ChatTemplate::render(const JsonValue& messages, const ChatOptions& options) const {
  check_messages(messages);
  const Source& source = choose(!options.tools.is_null());
  JsonValue context = special_tokens_;
  context["messages"] = options.messages == Messages::prepared ? prepared(messages) : messages;
  context["tools"] = options.tools;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  for (auto it = options.variables.begin(); it != options.variables.end(); ++it) {
    context[it.key()] = it.value();
  }
  std::string json = to_json(context);
  QtTime now = time_of(options.now);
  FfiBytes out;
  int32_t status =
      qt_template_render(source.compiled.get(), json.data(), json.size(), &now, out.out());
  if (status == QT_RAISED) throw TemplateError(out.text());
  require(status, out, source.origin);
  return out.text();
}

}  // namespace quern::prompt
