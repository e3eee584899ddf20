// tokenizer.json: any file loads or gives an Error, and a loaded tokenizer encodes and decodes.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "prompt/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern;
  try {
    prompt::Tokenizer tokenizer({reinterpret_cast<const char*>(data), size}, "fuzz");
    const auto ids = tokenizer.encode("Hi, 12 é <eos>\n  x", prompt::Special::add);
    tokenizer.decode(ids, prompt::Show::text);
  } catch (const Error&) {
    // Asserts of the library on damaged files become internal errors; they are harmless.
  }
  return 0;
}
