#include "serve/cors.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace quern::serve {
namespace {

constexpr const char* kAllMethods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
constexpr const char* kPreflightSeconds = "600";

bool any(const std::vector<std::string>& list) {
  return std::ranges::find(list, "*") != list.end();
}

bool allows(const CorsOptions& options, std::string_view origin) {
  return any(options.origins) ||
         std::ranges::find(options.origins, origin) != options.origins.end();
}

}  // namespace

std::vector<http::Header> cors_headers(const CorsOptions& options, const http::Request& request) {
  const std::string origin(request.header("origin"));
  if (origin.empty() || !allows(options, origin)) return {};
  std::vector<http::Header> headers;
  // With credentials a browser accepts no "*".
  if (any(options.origins) && !options.credentials) {
    headers.push_back({"Access-Control-Allow-Origin", "*"});
  } else {
    headers.push_back({"Access-Control-Allow-Origin", origin});
    headers.push_back({"Vary", "Origin"});
  }
  if (options.credentials) headers.push_back({"Access-Control-Allow-Credentials", "true"});
  return headers;
}

std::optional<http::Response> preflight(const CorsOptions& options, const http::Request& request) {
  if (request.method != "OPTIONS" || request.header("origin").empty() ||
      request.header("access-control-request-method").empty())
    return std::nullopt;
  http::Response response{.content_type = "", .headers = cors_headers(options, request)};
  if (response.headers.empty()) {
    response.status = 400;
    return response;
  }
  const std::string asked(request.header("access-control-request-headers"));
  response.headers.push_back(
      {"Access-Control-Allow-Methods",
       any(options.methods) ? kAllMethods : fmt::format("{}", fmt::join(options.methods, ", "))});
  if (any(options.headers) ? !asked.empty() : !options.headers.empty())
    response.headers.push_back(
        {"Access-Control-Allow-Headers",
         any(options.headers) ? asked : fmt::format("{}", fmt::join(options.headers, ", "))});
  response.headers.push_back({"Access-Control-Max-Age", kPreflightSeconds});
  return response;
}

}  // namespace quern::serve
