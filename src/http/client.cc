#include "http/client.h"

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <chrono>
#include <optional>

#include "base/error.h"
#include "http/request_parser.h"

namespace quern::http {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr size_t kLongestHead = 64 << 10;

// Bytes of an answer -> its status and the bytes of its body.
class ResponseReader {
 public:
  explicit ResponseReader(Client::Call& call) : call_(call) {}

  // False when the bytes are no HTTP.
  bool push(std::string_view bytes) {
    held_ += bytes;
    if (!in_body_ && !read_head()) return held_.size() < kLongestHead && !broken_;
    if (chunked_) return read_chunks();
    left_ -= std::min(left_, held_.size());
    if (!held_.empty()) call_.piece(held_);
    held_.clear();
    return true;
  }
  bool done() const { return in_body_ && left_ == 0 && !chunked_; }
  bool ends_with_connection() const { return in_body_ && !chunked_ && unbounded_; }

 private:
  bool read_head() {
    size_t end;
    int status = 0;
    do {
      end = held_.find("\r\n\r\n");
      if (end == std::string::npos) return false;
      if (held_.size() > 12) std::from_chars(held_.data() + 9, held_.data() + 12, status);
      broken_ = !held_.starts_with("HTTP/1.") || status < 100;
      if (broken_) return false;
      if (status < 200) held_.erase(0, end + 4);  // the answer is still to come
    } while (status < 200);
    read_framing(std::string_view(held_).substr(0, end));
    held_.erase(0, end + 4);
    in_body_ = true;
    call_.head(status);
    return true;
  }

  void read_framing(std::string_view head) {
    left_ = static_cast<size_t>(-1);
    unbounded_ = true;
    for (size_t line = head.find("\r\n"); line != std::string_view::npos;) {
      const size_t begin = line + 2;
      line = head.find("\r\n", begin);
      const std::string field = lower(head.substr(begin, line - begin));
      const size_t colon = std::min(field.find(':'), field.size());
      const size_t value = std::min(field.find_first_not_of(" \t", colon + 1), field.size());
      if (field.starts_with("transfer-encoding:"))
        chunked_ = field.find("chunked", value) != std::string::npos;
      if (!field.starts_with("content-length:")) continue;
      unbounded_ = false;
      std::from_chars(field.data() + value, field.data() + field.size(), left_);
    }
  }

  bool read_chunks() {
    size_t begin = 0;
    for (;;) {
      const size_t line = held_.find("\r\n", begin);
      if (line == std::string::npos) break;
      size_t size = 0;
      const auto [end, error] =
          std::from_chars(held_.data() + begin, held_.data() + line, size, 16);
      if (error != std::errc()) return false;
      if (held_.size() < line + 2 + size + 2) break;
      if (size == 0) {
        chunked_ = false;
        left_ = 0;
        break;
      }
      call_.piece(std::string_view(held_).substr(line + 2, size));
      begin = line + 2 + size + 2;
    }
    held_.erase(0, begin);
    return true;
  }

  Client::Call& call_;
  std::string held_;
  size_t left_ = 0;
  bool in_body_ = false, chunked_ = false, unbounded_ = false, broken_ = false;
};

std::string authority(const Url& url) {
  return url.host.find(':') == std::string::npos ? url.host : "[" + url.host + "]";
}

class Conversation : public std::enable_shared_from_this<Conversation> {
 public:
  Conversation(asio::io_context& context, asio::ssl::context* tls, Client::Call call,
               const Url& url)
      : socket_(context), call_(std::move(call)), reader_(call_), host_(url.host) {
    if (tls) tls_.emplace(socket_, *tls);
    request_ = call_.method + " " + url.path + call_.path + " HTTP/1.1\r\nHost: " + authority(url) +
               "\r\nConnection: close\r\nContent-Type: application/json\r\n";
    if (!call_.key.empty()) request_ += "Authorization: Bearer " + call_.key + "\r\n";
    request_ += "Content-Length: " + std::to_string(call_.body.size()) + "\r\n\r\n" + call_.body;
  }

  // Tries them one after another.
  void start(const tcp::resolver::results_type& addresses) {
    asio::async_connect(socket_, addresses,
                        [self = shared_from_this()](const error_code& error, const tcp::endpoint&) {
                          if (error)
                            return self->call_.end(error.message() + "; is the server running?");
                          error_code ignored;
                          self->socket_.set_option(tcp::no_delay(true), ignored);
                          if (self->tls_)
                            self->shake_hands();
                          else
                            self->write();
                        });
  }

 private:
  void shake_hands() {
    error_code no_address;
    asio::ip::make_address(host_, no_address);
    if (no_address)  // a name: a server may have several certificates
      SSL_set_tlsext_host_name(tls_->native_handle(), host_.c_str());
    tls_->set_verify_callback(asio::ssl::host_name_verification(host_));
    tls_->async_handshake(asio::ssl::stream_base::client,
                          [self = shared_from_this()](const error_code& error) {
                            if (error) return self->call_.end(self->no_handshake(error));
                            self->write();
                          });
  }

  std::string no_handshake(const error_code& error) {
    const long verified = SSL_get_verify_result(tls_->native_handle());
    if (verified == X509_V_OK) return error.message();
    return fmt::format(
        "its certificate is not to be trusted ({}); name who signed it in SSL_CERT_FILE, or say "
        "--insecure",
        X509_verify_cert_error_string(verified));
  }

  // `use` gets the stream that bytes go through.
  template <class Use>
  void through(Use use) {
    if (tls_)
      use(*tls_);
    else
      use(socket_);
  }

  void write() {
    through([this](auto& stream) {
      asio::async_write(stream, asio::buffer(request_),
                        [self = shared_from_this()](const error_code& error, size_t) {
                          if (error) return self->call_.end(error.message());
                          self->read();
                        });
    });
  }

  void read() {
    through([this](auto& stream) {
      stream.async_read_some(asio::buffer(buffer_),
                             [self = shared_from_this()](const error_code& error, size_t size) {
                               self->take(error, size);
                             });
    });
  }

  void take(const error_code& error, size_t size) {
    if (error == asio::error::eof && reader_.ends_with_connection()) return call_.end("");
    if (error) return call_.end("the connection ended early: " + error.message());
    if (!reader_.push({buffer_.data(), size})) return call_.end("the answer is not HTTP");
    if (reader_.done()) return call_.end("");
    read();
  }

  tcp::socket socket_;
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
  Client::Call call_;
  ResponseReader reader_;
  std::string host_, request_;
  std::array<char, 8192> buffer_;
};

}  // namespace

struct Client::State {
  Url url;
  asio::io_context context{1};
  std::optional<asio::ssl::context> tls;
  tcp::resolver::results_type addresses;
};

Url Url::of(const std::string& text) {
  Url url;
  url.tls = text.starts_with("https://");
  if (!url.tls && !text.starts_with("http://"))
    fail(Exit::usage, "{}: must be http://HOST:PORT or https://HOST", text);
  if (url.tls) url.port = 443;
  url.host = text.substr(url.tls ? 8 : 7);
  if (const size_t slash = url.host.find('/'); slash != std::string::npos) {
    url.path = url.host.substr(slash);
    url.host.resize(slash);
    while (url.path.ends_with('/')) url.path.pop_back();
    if (url.path == "/v1") url.path.clear();  // as OpenAI's clients are told; paths here have it
  }
  const size_t colon = url.host.rfind(':');
  if (colon != std::string::npos && !url.host.ends_with(']')) {
    const char* end = url.host.data() + url.host.size();
    const auto [stop, error] = std::from_chars(url.host.data() + colon + 1, end, url.port);
    if (error != std::errc() || stop != end || url.port == 0)
      fail(Exit::usage, "{}: \"{}\" is not a port", text, url.host.substr(colon + 1));
    url.host.resize(colon);
  }
  if (url.host.starts_with('[') && url.host.ends_with(']'))
    url.host = url.host.substr(1, url.host.size() - 2);
  if (url.host.empty()) fail(Exit::usage, "{}: names no host", text);
  return url;
}

std::string Url::text() const {
  return fmt::format("{}://{}:{}", tls ? "https" : "http", authority(*this), port);
}

Client::Client(const Url& url, Trust trust) : state_(std::make_unique<State>()) {
  state_->url = url;
  error_code error;
  tcp::resolver resolver(state_->context);
  const auto found = resolver.resolve(url.host, std::to_string(url.port), error);
  if (error) fail(Exit::usage, "{}: {}", url.host, error.message());
  state_->addresses = found;
  if (!url.tls) return;
  asio::ssl::context& tls = state_->tls.emplace(asio::ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_2_VERSION);
  if (trust == Trust::anybody) return;
  tls.set_default_verify_paths();
  tls.set_verify_mode(asio::ssl::verify_peer);
}

Client::~Client() = default;

void Client::start(Call call) {
  asio::ssl::context* tls = state_->tls ? &*state_->tls : nullptr;
  std::make_shared<Conversation>(state_->context, tls, std::move(call), state_->url)
      ->start(state_->addresses);
}

void Client::after(double seconds, std::function<void()> work) {
  using std::chrono::duration;
  const auto wait =
      std::chrono::duration_cast<asio::steady_timer::duration>(duration<double>(seconds));
  auto timer = std::make_shared<asio::steady_timer>(state_->context, wait);
  timer->async_wait([timer, work = std::move(work)](const error_code&) { work(); });
}

void Client::run() {
  state_->context.restart();
  state_->context.run();
}

void Client::stop() { state_->context.stop(); }

std::string fetch(const Url& url, const std::string& method, const std::string& path,
                  const std::string& body, const std::string& key, Trust trust) {
  Client client(url, trust);
  std::string answer, failure;
  int status = 0;
  client.start({.method = method,
                .path = path,
                .body = body,
                .key = key,
                .head = [&](int got) { status = got; },
                .piece = [&](std::string_view piece) { answer += piece; },
                .end = [&](const std::string& error) { failure = error; }});
  client.run();
  if (!failure.empty()) fail("{}: {}", url.text(), failure);
  if (status != 200) fail("{} {}: status {}: {}", method, path, status, answer.substr(0, 500));
  return answer;
}

}  // namespace quern::http
