// Cross-origin resource sharing (the Fetch standard): which pages of other origins may ask this
// server from a browser.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "http/server.h"

namespace quern::serve {

struct CorsOptions {
  // "*": any. None: pages of other origins are not served.
  std::vector<std::string> origins = {};
  std::vector<std::string> methods = {"*"};
  std::vector<std::string> headers = {"*"};
  bool credentials = false;
};

// The headers that allow the page that asks to read the response; none for other requests.
std::vector<http::Header> cors_headers(const CorsOptions& options, const http::Request& request);

// The answer to a browser that asks whether it may send a request: OPTIONS with an origin. None for
// other requests.
std::optional<http::Response> preflight(const CorsOptions& options, const http::Request& request);

}  // namespace quern::serve
