// Any body: a refusal with a sentence, or a request within all its limits.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serve/api_request.h"
#include "serve/errors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern::serve;
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const quern::JsonValue defaults = {{"temperature", 0.6}, {"top_k", 20}};
  for (const Endpoint endpoint : {Endpoint::chat, Endpoint::completions}) {
    try {
      const ApiRequest request = read_api_request(endpoint, parse_body(body), defaults, {});
      const auto& sampling = request.settings.sampling;
      if (!(sampling.temperature >= 0 && sampling.temperature <= 2) || request.n < 1 ||
          request.n > 128 || request.stop.size() > 64 || sampling.top_k < 0)
        std::abort();
      if (endpoint == Endpoint::completions && request.prompts.empty()) std::abort();
    } catch (const ApiError& error) {
      const quern::http::Response response = error_response(error);
      if (response.status < 400 || response.body.size() > 20'000) std::abort();
      quern::parse_json(response.body, "error");
    }
  }
  return 0;
}
