// Any bytes give a typed error, or pixels of the checked size.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "prompt/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr int64_t kPixels = 1 << 16;
  quern::Tensor rgb;
  try {
    rgb = quern::prompt::decode_image({reinterpret_cast<const char*>(data), size}, "input",
                                      {.pixels = kPixels});
  } catch (const quern::Error&) {
    return 0;
  }
  if (rgb.dim() != 3 || rgb.size(0) != 3 || rgb.scalar_type() != at::kByte) std::abort();
  if (rgb.numel() < 3 || rgb.numel() > 3 * kPixels) std::abort();
  return 0;
}
