// Bytes -> HTTP/1 requests, strictly: what two servers could read in two ways is refused, because
// a proxy in front of this one might read it in the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/budget.h"

namespace quern::http {

using Header = std::pair<std::string, std::string>;

// ASCII letters in lower case.
std::string lower(std::string_view text);

struct Request {
  std::string method;
  std::string path;  // decoded, without dot segments and query: what routes and keys go by
  std::string query;
  std::vector<Header> headers;  // names in lower case
  std::string body;
  Charge charge;     // for the body
  int version = 11;  // of HTTP, times ten
  bool keep_alive = true;

  // The value of the first header of this name, or nothing.
  std::string_view header(std::string_view name) const;
};

// A request that is answered with an error and the end of the connection.
class Fault : public std::runtime_error {
 public:
  Fault(int status, const std::string& message) : std::runtime_error(message), status_(status) {}
  int status() const { return status_; }

 private:
  int status_;
};

struct RequestLimits {
  size_t request_line_bytes = 16 << 10;
  size_t head_bytes = 64 << 10;
  size_t headers = 256;
  size_t body_bytes = 64 << 20;
};

// Of one request. Throws Fault for what it refuses.
class RequestParser {
 public:
  explicit RequestParser(const RequestLimits& limits);
  ~RequestParser();

  // Returns how many of the bytes belong to this request; the rest is the next one's.
  size_t feed(std::string_view bytes);

  bool started() const { return started_; }
  bool head_done() const { return head_done_; }
  bool done() const { return done_; }
  // The client waits for "100 Continue" before it sends the body.
  bool expects_continue() const { return expects_continue_; }
  // Once the head is done.
  const Request& head() const { return request_; }
  Request take();

 private:
  size_t skip_empty_lines(std::string_view bytes);
  size_t feed_head(std::string_view bytes);
  size_t feed_body(std::string_view bytes);
  void finish_head();

  struct Body;
  RequestLimits limits_;
  std::string head_;
  size_t empty_ = 0;  // bytes of empty lines before it, a half one included
  Request request_;
  std::unique_ptr<Body> body_;
  bool started_ = false, head_done_ = false, done_ = false, expects_continue_ = false;
};

// Percent-decoded, without dot segments and empty segments. Throws Fault for broken escapes,
// control characters, and paths that leave the root.
std::string normal_path(std::string_view target);

}  // namespace quern::http
