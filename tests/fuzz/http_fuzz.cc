// Any bytes: a refusal, or a request that is the same however the bytes were cut.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "http/request_parser.h"

namespace {

using quern::http::Fault;
using quern::http::Request;
using quern::http::RequestParser;

struct Outcome {
  int refused = 0;  // status
  size_t used = 0;
  std::optional<Request> request = {};
};

Outcome parse(std::string_view bytes, size_t piece) {
  RequestParser parser(
      {.request_line_bytes = 200, .head_bytes = 1000, .headers = 20, .body_bytes = 500});
  Outcome outcome;
  try {
    while (!parser.done() && outcome.used < bytes.size())
      outcome.used += parser.feed(bytes.substr(outcome.used, piece));
  } catch (const Fault& fault) {
    outcome.refused = fault.status();
  }
  if (parser.done()) outcome.request = parser.take();
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Outcome whole = parse(bytes, size + 1), cut = parse(bytes, 7);
  if (whole.request.has_value() != cut.request.has_value()) std::abort();
  if (!whole.request) return 0;
  const Request &a = *whole.request, &b = *cut.request;
  if (whole.used != cut.used || a.path != b.path || a.body != b.body || a.headers != b.headers)
    std::abort();
  if (!a.path.starts_with('/') || a.path.find("/../") != std::string::npos || a.body.size() > 500)
    std::abort();
  return 0;
}
