#include "http/request_parser.h"

#include <algorithm>
#include <boost/beast/http/parser.hpp>
#include <boost/optional.hpp>

namespace quern::http {
namespace {

namespace beast = boost::beast::http;

// A body that grows with what arrives; Beast's own reserves what the client announces.
struct GrowingBody {
  using value_type = std::string;

  class reader {
   public:
    template <bool isRequest, class Fields>
    reader(beast::header<isRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>&, boost::beast::error_code& error) { error = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, boost::beast::error_code& error) {
      error = {};
      size_t size = 0;
      for (auto it = boost::asio::buffer_sequence_begin(buffers);
           it != boost::asio::buffer_sequence_end(buffers); ++it) {
        const boost::asio::const_buffer piece = *it;
        body_.append(static_cast<const char*>(piece.data()), piece.size());
        size += piece.size();
      }
      return size;
    }
    void finish(boost::beast::error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

// What waits for the end of a chunk's size line or of the trailer.
constexpr size_t kLongestChunkLine = 16 << 10;
constexpr size_t kMostEmptyBytes = 16;  // before a request

bool is_control(char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; }

// Line discipline that Beast is lenient about: CRLF only, no folded lines, no control characters.
void check_lines(std::string_view head, const RequestLimits& limits) {
  size_t lines = 0;
  for (size_t begin = 0; begin < head.size(); ++lines) {
    const size_t end = head.find("\r\n", begin);
    const std::string_view line = head.substr(begin, end - begin);
    if (std::any_of(line.begin(), line.end(), is_control))
      throw Fault(400, "The request head holds control characters or bare line ends.");
    if (line.starts_with(' ') || line.starts_with('\t'))
      throw Fault(400, "Folded header lines are not accepted.");
    if (lines == 0 && line.size() > limits.request_line_bytes)
      throw Fault(414, "The request line is too long.");
    begin = end + 2;
  }
  if (lines > limits.headers + 2)  // the request line and the empty one
    throw Fault(431, "The request has too many header fields.");
}

size_t count(const Request& request, std::string_view name) {
  return static_cast<size_t>(
      std::count_if(request.headers.begin(), request.headers.end(),
                    [&](const Header& header) { return header.first == name; }));
}

// Ways to say how long the body is that two servers could understand differently.
void check_framing(const Request& request, unsigned version) {
  const size_t lengths = count(request, "content-length");
  const size_t codings = count(request, "transfer-encoding");
  if (lengths > 1 || codings > 1 || (lengths && codings))
    throw Fault(400, "The length of the body is given twice.");
  if (codings && (version < 11 || lower(request.header("transfer-encoding")) != "chunked"))
    throw Fault(400, "The only transfer encoding is \"chunked\", in HTTP/1.1.");
  const std::string_view length = request.header("content-length");
  if (lengths && (length.empty() || !std::all_of(length.begin(), length.end(),
                                                 [](char c) { return c >= '0' && c <= '9'; })))
    throw Fault(400, "Content-Length is not a number.");
  if (count(request, "host") > 1 || (version >= 11 && count(request, "host") == 0))
    throw Fault(400, "HTTP/1.1 asks for exactly one Host header.");
  const std::string coding = lower(request.header("content-encoding"));
  if (!coding.empty() && coding != "identity")
    throw Fault(415, "Compressed request bodies are not accepted.");
}

[[noreturn]] void refuse(const boost::beast::error_code& error) {
  if (error == beast::error::body_limit)
    throw Fault(413, "The request body is larger than this server accepts.");
  if (error == beast::error::header_limit)
    throw Fault(431, "The request head is larger than this server accepts.");
  if (error == beast::error::bad_version) throw Fault(505, "Only HTTP/1.0 and HTTP/1.1.");
  throw Fault(400, "The request is not valid HTTP: " + error.message() + ".");
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  throw Fault(400, "The path holds a broken percent escape.");
}

std::string percent_decoded(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    if (i + 2 >= text.size()) throw Fault(400, "The path holds a broken percent escape.");
    const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    result += static_cast<char>(high * 16 + low);
    i += 2;
  }
  if (std::any_of(result.begin(), result.end(), is_control))
    throw Fault(400, "The path holds control characters.");
  return result;
}

}  // namespace

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return result;
}

std::string_view Request::header(std::string_view name) const {
  for (const Header& header : headers)
    if (header.first == name) return header.second;
  return {};
}

std::string normal_path(std::string_view target) {
  if (!target.starts_with('/')) throw Fault(400, "The request target is not a path.");
  const std::string decoded = percent_decoded(target);
  std::vector<std::string_view> segments;
  for (size_t begin = 1; begin <= decoded.size();) {
    const size_t end = std::min(decoded.find('/', begin), decoded.size());
    const std::string_view segment = std::string_view(decoded).substr(begin, end - begin);
    if (segment == "..") {
      if (segments.empty()) throw Fault(400, "The path leaves the root.");
      segments.pop_back();
    } else if (!segment.empty() && segment != ".") {
      segments.push_back(segment);
    }
    begin = end + 1;
  }
  std::string path;
  for (std::string_view segment : segments) path.append("/").append(segment);
  return path.empty() ? "/" : path;
}

struct RequestParser::Body {
  beast::request_parser<GrowingBody> parser;
  std::string tail;  // bytes that Beast needs more to understand
};

RequestParser::RequestParser(const RequestLimits& limits) : limits_(limits) {}
RequestParser::~RequestParser() = default;

size_t RequestParser::feed(std::string_view bytes) {
  size_t used = 0;
  if (!head_done_) used = feed_head(bytes);
  if (head_done_ && !done_ && used < bytes.size()) used += feed_body(bytes.substr(used));
  return used;
}

// Empty lines before a request are allowed (RFC 9112, 2.2), a few. Returns how many bytes of them
// there are.
size_t RequestParser::skip_empty_lines(std::string_view bytes) {
  size_t size = 0;
  while (head_.empty() && size < bytes.size() && bytes[size] == (empty_ % 2 ? '\n' : '\r')) {
    ++size;
    if (++empty_ > kMostEmptyBytes) throw Fault(400, "The request is not valid HTTP.");
  }
  return size;
}

size_t RequestParser::feed_head(std::string_view bytes) {
  started_ = true;
  const size_t empty = skip_empty_lines(bytes);
  if (empty == bytes.size()) return empty;
  const size_t old = head_.size();
  const size_t room = limits_.head_bytes + 4 - std::min(old, limits_.head_bytes + 4);
  head_.append(bytes.substr(empty, room));
  const bool begins = empty_ % 2 == 0 && head_[0] >= 'A' && head_[0] <= 'Z';
  if (!begins)  // TLS, most often
    throw Fault(400, "The request is not valid HTTP.");
  const size_t end = head_.find("\r\n\r\n", old < 3 ? 0 : old - 3);
  if (end == std::string::npos) {
    if (head_.size() >= limits_.head_bytes + 4)
      throw Fault(431, "The request head is larger than this server accepts.");
    // A client that ends lines otherwise would be waited for in vain.
    const size_t line = head_.find('\n');
    if (line != std::string::npos && (line == 0 || head_[line - 1] != '\r'))
      throw Fault(400, "Lines must end in CR LF.");
    return bytes.size();
  }
  head_.resize(end + 4);
  finish_head();
  return empty + end + 4 - old;
}

void RequestParser::finish_head() {
  check_lines(head_, limits_);
  body_ = std::make_unique<Body>();
  auto& parser = body_->parser;
  parser.header_limit(static_cast<uint32_t>(limits_.head_bytes + 4));
  parser.body_limit(limits_.body_bytes);
  boost::beast::error_code error;
  parser.put(boost::asio::buffer(head_), error);
  if (error && error != beast::error::need_more) refuse(error);
  if (!parser.is_header_done()) throw Fault(400, "The request is not valid HTTP.");

  const auto& message = parser.get();
  request_.method = std::string(message.method_string());
  for (const auto& field : message)
    request_.headers.emplace_back(lower(std::string_view(field.name_string())),
                                  std::string(field.value()));
  check_framing(request_, message.version());
  std::string_view target = message.target();
  target = target.substr(0, target.find('#'));
  const size_t question = target.find('?');
  if (question != std::string_view::npos) request_.query = target.substr(question + 1);
  request_.path = normal_path(target.substr(0, question));
  request_.keep_alive = parser.keep_alive();
  request_.version = static_cast<int>(message.version());
  const auto length = parser.content_length();
  if (length && *length > limits_.body_bytes)
    throw Fault(413, "The request body is larger than this server accepts.");
  head_ = {};
  head_done_ = true;
  done_ = parser.is_done() || (!parser.chunked() && length.value_or(0) == 0);
  expects_continue_ = !done_ && lower(request_.header("expect")) == "100-continue";
  parser.eager(true);
}

size_t RequestParser::feed_body(std::string_view bytes) {
  std::string& tail = body_->tail;
  const size_t before = tail.size();
  // Content that follows its length is taken as it comes; chunks may need bytes from both.
  if (before) tail.append(bytes);
  std::string_view all = before ? std::string_view(tail) : bytes;
  size_t used = 0;
  while (used < all.size() && !body_->parser.is_done()) {
    boost::beast::error_code error;
    const auto piece = all.substr(used);
    const size_t taken = body_->parser.put(boost::asio::buffer(piece.data(), piece.size()), error);
    used += taken;
    if (error && error != beast::error::need_more) refuse(error);
    if (taken == 0) break;
  }
  if (body_->parser.is_done()) {
    done_ = true;
    return used - before;  // what was kept was needed, so it never exceeds what was used
  }
  tail = std::string(all.substr(used));
  if (tail.size() > kLongestChunkLine) throw Fault(400, "The line of a chunk is too long.");
  return bytes.size();
}

Request RequestParser::take() {
  if (body_) request_.body = std::move(body_->parser.get().body());
  body_.reset();
  return std::move(request_);
}

}  // namespace quern::http
