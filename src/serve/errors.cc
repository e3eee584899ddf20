#include "serve/errors.h"

#include "serve/json_text.h"

namespace quern::serve {
namespace {

// Longer messages would echo a large request several times over.
constexpr size_t kLongestMessage = 2000;

// Where it is not the phrase of the status.
constexpr std::pair<int, const char*> kTypes[] = {
    {401, "AuthenticationError"},
    {500, "InternalServerError"},
    {501, "NotImplementedError"},
    {503, "ServiceUnavailable"},
};

const char* type_of(int status) {
  for (const auto& [known, type] : kTypes)
    if (known == status) return type;
  return http::reason_phrase(status);
}

std::string bounded(const std::string& message) {
  if (message.size() <= kLongestMessage) return message;
  size_t end = kLongestMessage;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  return message.substr(0, end) + "...";
}

std::string error_body(int status, const std::string& type, const std::string& message,
                       const std::string& param) {
  std::string body = "{\"error\":{\"message\":";
  append_json(body, bounded(message));
  body += ",\"type\":";
  append_json(body, type);
  body += ",\"param\":";
  if (param.empty())
    body += "null";
  else
    append_json(body, bounded(param));
  body += ",\"code\":" + std::to_string(status) + "}}";
  return body;
}

}  // namespace

void refuse(const std::string& message, const std::string& param) {
  throw ApiError(400, "BadRequestError", message, param);
}

void refuse_field(const std::string& path, const std::string& message) {
  throw ApiError(400, "Bad Request", path + ": " + message, path);
}

http::Response error_response(const ApiError& error) {
  http::Response response{
      .status = error.status(),
      .body = error_body(error.status(), error.type(), error.what(), error.param())};
  if (error.status() == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

http::Response error_response(int status, const std::string& message) {
  return error_response(ApiError(status, type_of(status), message));
}

}  // namespace quern::serve
