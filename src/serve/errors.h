// What goes wrong with a request, as OpenAI's clients read it.
#pragma once

#include <stdexcept>
#include <string>

#include "http/server.h"

namespace quern::serve {

// Thrown while a request is read or prepared; becomes an error object.
class ApiError : public std::runtime_error {
 public:
  ApiError(int status, std::string type, const std::string& message, std::string param = {})
      : std::runtime_error(message),
        status_(status),
        type_(std::move(type)),
        param_(std::move(param)) {}

  int status() const { return status_; }
  const std::string& type() const { return type_; }
  const std::string& param() const { return param_; }  // empty: none

 private:
  int status_;
  std::string type_, param_;
};

// Status 400 for a value that has the right type and makes no sense: "BadRequestError".
[[noreturn]] void refuse(const std::string& message, const std::string& param = {});
// Status 400 for a field of the wrong type or out of its range: "Bad Request".
[[noreturn]] void refuse_field(const std::string& path, const std::string& message);

// {"error": {"message", "type", "param", "code"}}, the message bounded and valid UTF-8.
http::Response error_response(const ApiError& error);
// With the type that goes with the status.
http::Response error_response(int status, const std::string& message);

}  // namespace quern::serve
