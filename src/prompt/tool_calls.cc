#include "prompt/tool_calls.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"

namespace quern::prompt {
namespace {

constexpr int kDepth = 128;  // equal to the limit for the body of a request

bool is_blank(const JsonValue& value) {
  return value.is_null() ||
         (value.is_string() &&
          value.get_ref<const std::string&>().find_first_not_of(" \t\r\n") == std::string::npos);
}

JsonValue opened(const JsonValue& arguments, const std::string& place) {
  if (is_blank(arguments)) return JsonValue::object();
  try {
    JsonValue value = arguments.is_string()
                          ? parse_json(arguments.get<std::string>(), place, {.depth = kDepth})
                          : arguments;
    if (value.is_object()) return value;
    log_warning("{}: expected an object, found {}; replaced by {{}}", place, value.type_name());
  } catch (const Error& error) {
    log_warning("{}; replaced by {{}}", error.what());
  }
  return JsonValue::object();
}

}  // namespace

void open_arguments(JsonValue& message, const std::string& place) {
  if (!message.is_object() || !message.contains("tool_calls")) return;
  JsonValue& calls = message["tool_calls"];
  if (!calls.is_array()) return;
  if (calls.empty()) {
    message.erase("tool_calls");
    return;
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    if (!calls[i].is_object()) continue;
    const bool nested = calls[i].contains("function") && calls[i]["function"].is_object();
    JsonValue& call = nested ? calls[i]["function"] : calls[i];
    const std::string path = fmt::format("{}.tool_calls[{}].arguments", place, i);
    call["arguments"] = opened(call.contains("arguments") ? call["arguments"] : JsonValue(), path);
  }
}

}  // namespace quern::prompt
