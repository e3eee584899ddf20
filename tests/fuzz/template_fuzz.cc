// Chat templates: any source, rendered with a small conversation, gives text or an Error.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "prompt/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern;
  static const JsonValue messages = parse_json(R"([{"role": "system", "content": "S"},
                     {"role": "user", "content": [{"type": "text", "text": "é"}]},
                     {"role": "assistant", "content": null, "tool_calls": [{"x": [1, 2.5]}]}])",
                                               "messages");
  // Small limits, which make a slow rendering a finding.
  const prompt::TemplateLimits limits{
      .steps = 20'000, .output_bytes = 1 << 16, .work_bytes = 1 << 22, .recursion = 50};
  try {
    prompt::ChatTemplate chat({reinterpret_cast<const char*>(data), size}, "fuzz", limits);
    chat.render(messages);
  } catch (const Error& error) {
    if (error.code() == Exit::internal) __builtin_trap();
  }
  return 0;
}
