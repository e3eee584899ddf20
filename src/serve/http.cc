#include "serve/http.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <unordered_set>

#include "base/error.h"
#include "base/log.h"
#include "serve/errors.h"

namespace quern::serve {

namespace asio = boost::asio;

namespace {

using Clock = std::chrono::steady_clock;
using Protocol = asio::generic::stream_protocol;
using Socket = Protocol::socket;
using Tls = asio::ssl::stream<Socket&>;
using boost::system::error_code;

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBytes = 64 << 10;
// So much of a stream is sent without waiting for the end of the turn.
constexpr size_t kSendBytes = 64 << 10;
// Of a request that was refused: so much of it is read and dropped, so that the client gets to see
// the answer instead of a reset connection.
constexpr size_t kLingerBytes = 1 << 20;
constexpr int kLingerSeconds = 2;
constexpr auto kSweepEvery = std::chrono::seconds(1);
// Data that the client sends ahead hides that it left; then its state is asked for this often.
constexpr auto kLookEvery = std::chrono::milliseconds(50);

class Connection;
class Reply;

// Deadlines lie seconds ahead, so one timer for all connections of a thread is enough.
struct Shard {
  explicit Shard(int index) : index(index) {}

  void run();
  void stop();
  void sweep();
  void keep_sweeping();
  void flush_soon(std::shared_ptr<Reply> reply);
  void flush();

  const int index;
  asio::io_context context{1};
  std::unordered_set<Connection*> connections;
  asio::steady_timer sweeper{context};
  bool sweeping = false;
  std::vector<std::shared_ptr<Reply>> unflushed;
  std::array<char, kReadBytes> read_buffer;  // between two suspensions of a coroutine
  std::thread thread;
};

}  // namespace

struct HttpServer::State {
  State(const HttpOptions& options, Handler handler)
      : options(options), handler(std::move(handler)) {}

  void listen();
  asio::awaitable<void> accept();
  void adopt(Shard& shard, Socket socket);

  HttpOptions options;
  Handler handler;
  std::vector<std::unique_ptr<Shard>> shards;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards;
  std::optional<asio::basic_socket_acceptor<Protocol>> acceptor;
  std::optional<asio::ssl::context> tls;
  uint16_t port = 0;
  std::atomic<size_t> connections{0};
  std::atomic<uint64_t> slow_clients{0};
  std::atomic<bool> draining{false};
  bool stopped = false;
};

namespace {

bool tcp(const HttpOptions& options) { return options.uds.empty(); }

std::string head_of(const HttpResponse& response, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nServer: quern\r\n", response.status,
                                 reason_phrase(response.status));
  if (!response.content_type.empty()) head += "Content-Type: " + response.content_type + "\r\n";
  for (const auto& [name, value] : response.headers) head += name + ": " + value + "\r\n";
  head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return head;
}

std::string whole(const HttpResponse& response, bool keep_alive) {
  return head_of(response, keep_alive) +
         fmt::format("Content-Length: {}\r\n\r\n", response.body.size()) + response.body;
}

class Reply : public Exchange, public std::enable_shared_from_this<Reply> {
 public:
  Reply(Shard& shard, Connection& connection, HttpRequest request)
      : shard_(shard),
        connection_(&connection),
        request_(std::move(request)),
        keep_alive_(request_.keep_alive) {}

  HttpRequest& request() override { return request_; }
  void respond(HttpResponse response) override;
  void begin(const HttpResponse& head) override;
  void write(std::string_view piece) override;
  void end() override;
  void on_gone(std::function<void()> gone) override {
    if (connection_)
      gone_ = std::move(gone);
    else
      gone();
  }
  int io_thread() const override { return shard_.index; }
  void post(std::function<void()> work) override { asio::post(shard_.context, std::move(work)); }

  bool complete() const { return complete_; }
  bool keep_alive() const { return keep_alive_; }
  void close_after() { keep_alive_ = false; }
  std::string& out() { return out_; }
  Connection* connection() const { return connection_; }
  // The client is served, or gone: the connection is no longer this reply's.
  void detach();

 private:
  Shard& shard_;
  Connection* connection_;
  HttpRequest request_;
  std::string out_;  // not yet handed to the socket
  std::function<void()> gone_;
  bool keep_alive_;
  bool begun_ = false, chunked_ = false, complete_ = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::State& server, Shard& shard, Socket socket)
      : server_(server), shard_(shard), socket_(std::move(socket)), wake_(shard.context) {
    if (server.tls) tls_ = std::make_unique<Tls>(socket_, *server.tls);
    shard_.connections.insert(this);
    ++server_.connections;
  }
  ~Connection() {
    shard_.connections.erase(this);
    --server_.connections;
  }

  asio::awaitable<void> run();

  void check_deadline(Clock::time_point now);
  // Closes at once if no request is being served, else after it.
  void drain();
  // The client left or does not read: who makes the reply is told.
  void lose();
  void too_slow() {
    ++server_.slow_clients;
    lose();
  }
  // Sends what the reply holds, if that goes without waiting.
  void send_now();
  size_t unsent_limit() const { return server_.options.unsent_bytes; }
  size_t in_flight() const { return in_flight_; }

 private:
  asio::awaitable<bool> serve_one();
  asio::awaitable<bool> read_request(RequestParser& parser);
  asio::awaitable<std::string_view> read_some();
  // `bytes` must live until it is done.
  asio::awaitable<bool> send(std::string_view bytes);
  asio::awaitable<void> send_reply();
  asio::awaitable<void> refuse(const HttpFault& fault);
  void dispatch(HttpRequest request);
  void watch();
  bool client_left() const;
  void close();

  void allow(int seconds) { deadline_ = Clock::now() + std::chrono::seconds(seconds); }
  void allow_forever() { deadline_ = Clock::time_point::max(); }

  HttpServer::State& server_;
  Shard& shard_;
  Socket socket_;
  std::unique_ptr<Tls> tls_;
  std::unique_ptr<std::array<char, 16 << 10>> tls_buffer_;
  std::string ahead_;  // bytes of the next request
  std::shared_ptr<Reply> reply_;
  uint64_t request_ = 0;
  asio::steady_timer wake_;  // cancelled when there is something to do for send_reply()
  Clock::time_point deadline_ = Clock::time_point::max();
  size_t in_flight_ = 0;  // bytes that send() holds
  bool sending_ = false, expired_ = false, closed_ = false;
};

// --- Reply ---------------------------------------------------------------------------------------

void Reply::respond(HttpResponse response) {
  if (!connection_ || complete_ || begun_) return;
  out_ = whole(response, keep_alive_);
  complete_ = true;
  shard_.flush_soon(shared_from_this());
}

void Reply::begin(const HttpResponse& head) {
  if (!connection_ || complete_ || begun_) return;
  begun_ = true;
  chunked_ = keep_alive_ || request_.header("connection") == "close";
  out_ = head_of(head, keep_alive_);
  if (chunked_) out_ += "Transfer-Encoding: chunked\r\n";
  out_ += "\r\n";
  write(head.body);
}

void Reply::write(std::string_view piece) {
  if (!connection_ || complete_ || piece.empty()) return;
  if (chunked_) fmt::format_to(std::back_inserter(out_), "{:x}\r\n", piece.size());
  out_ += piece;
  if (chunked_) out_ += "\r\n";
  if (out_.size() > kSendBytes) connection_->send_now();
  if (out_.size() + connection_->in_flight() > connection_->unsent_limit())
    return connection_->too_slow();
  shard_.flush_soon(shared_from_this());
}

void Reply::end() {
  if (!connection_ || complete_) return;
  if (chunked_) out_ += "0\r\n\r\n";
  complete_ = true;
  shard_.flush_soon(shared_from_this());
}

void Reply::detach() {
  connection_ = nullptr;
  out_ = {};
  const auto gone = std::move(gone_);
  gone_ = nullptr;
  if (!complete_ && gone) gone();
}

// --- Connection ----------------------------------------------------------------------------------

asio::awaitable<void> Connection::run() {
  if (tls_) {
    allow(server_.options.header_seconds);
    const auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kAwait);
    if (error) {
      close();
      co_return;
    }
  }
  for (bool more = true; more;) more = co_await serve_one();
  close();
}

asio::awaitable<bool> Connection::serve_one() {
  RequestParser parser(server_.options.limits);
  std::optional<HttpFault> fault;
  try {
    const bool complete = co_await read_request(parser);
    if (!complete) co_return false;
  } catch (const HttpFault& caught) {
    fault = caught;
  }
  if (fault) {
    co_await refuse(*fault);
    co_return false;
  }
  allow_forever();
  dispatch(parser.take());
  co_await send_reply();
  const bool more = reply_->complete() && reply_->keep_alive() && !closed_ && !server_.draining;
  reply_->detach();
  reply_.reset();
  error_code ignored;
  socket_.cancel(ignored);  // watch()
  co_return more;
}

// False when the client left, or did not begin a request in time.
asio::awaitable<bool> Connection::read_request(RequestParser& parser) {
  const HttpOptions& options = server_.options;
  allow(request_ ? options.keep_alive_seconds : options.header_seconds);
  bool in_body = false;
  size_t received = 0;
  std::string bytes = std::move(ahead_);
  ahead_ = {};
  for (;;) {
    if (!bytes.empty()) {
      if (!parser.started()) allow(options.header_seconds);
      const size_t used = parser.feed(bytes);
      if (parser.done()) {
        ahead_ = bytes.substr(used);
        co_return true;
      }
      received += bytes.size();
    }
    if (parser.head_done() && !in_body) {
      in_body = true;
      received = 0;
      allow(options.body_seconds);
      if (parser.expects_continue()) {
        const bool sent = co_await send(kContinue);
        if (!sent) co_return false;
      }
    }
    if (in_body && received >= 64 << 10) {  // 1 KiB/s at least
      deadline_ += std::chrono::seconds(received >> 10);
      const auto latest = Clock::now() + std::chrono::seconds(options.body_seconds);
      deadline_ = std::min(deadline_, latest);
      received = 0;
    }
    const std::string_view read = co_await read_some();
    if (expired_ && parser.started()) throw HttpFault(408, "The request took too long to arrive.");
    if (read.empty()) co_return false;
    bytes = read;
  }
}

// Empty when the client left or the deadline passed. Valid until the next suspension.
asio::awaitable<std::string_view> Connection::read_some() {
  if (tls_) {
    if (!tls_buffer_) tls_buffer_ = std::make_unique<std::array<char, 16 << 10>>();
    const auto [error, size] = co_await tls_->async_read_some(asio::buffer(*tls_buffer_), kAwait);
    co_return std::string_view(tls_buffer_->data(), error ? 0 : size);
  }
  for (;;) {
    auto& buffer = shard_.read_buffer;
    const ssize_t size =
        ::recv(socket_.native_handle(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (size >= 0) co_return std::string_view(buffer.data(), static_cast<size_t>(size));
    if (errno != EAGAIN && errno != EINTR) co_return std::string_view();
    const auto [error] = co_await socket_.async_wait(Socket::wait_read, kAwait);
    if (error || closed_) co_return std::string_view();
  }
}

void Connection::dispatch(HttpRequest request) {
  ++request_;
  if (server_.draining) request.keep_alive = false;
  reply_ = std::make_shared<Reply>(shard_, *this, std::move(request));
  watch();
  try {
    server_.handler(reply_);
  } catch (const std::exception& error) {
    log_warning("a request failed: {}", error.what());
    reply_->respond(error_response(500, "Internal error."));
  }
}

// Until the reply is complete and sent, or the client is lost.
asio::awaitable<void> Connection::send_reply() {
  const auto reply = reply_;
  while (!closed_) {
    if (!reply->out().empty()) {
      const std::string bytes = std::exchange(reply->out(), {});
      const bool sent = co_await send(bytes);
      if (!sent) lose();
    } else if (reply->complete()) {
      co_return;
    } else {
      allow_forever();
      wake_.expires_at(Clock::time_point::max());
      co_await wake_.async_wait(kAwait);
    }
  }
}

// False when the client is gone or reads nothing for too long.
asio::awaitable<bool> Connection::send(std::string_view bytes) {
  sending_ = true;
  in_flight_ = bytes.size();
  while (in_flight_ > 0 && !closed_) {
    const char* begin = bytes.data() + (bytes.size() - in_flight_);
    allow(server_.options.unread_seconds);
    if (tls_) {
      const auto [error, size] =
          co_await tls_->async_write_some(asio::buffer(begin, in_flight_), kAwait);
      if (error) break;
      in_flight_ -= size;
      continue;
    }
    const ssize_t size =
        ::send(socket_.native_handle(), begin, in_flight_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size >= 0) {
      in_flight_ -= static_cast<size_t>(size);
    } else if (errno == EAGAIN || errno == EINTR) {
      const auto [error] = co_await socket_.async_wait(Socket::wait_write, kAwait);
      if (error) break;
    } else {
      break;
    }
  }
  const bool sent = in_flight_ == 0;
  in_flight_ = 0;
  sending_ = false;
  co_return sent && !closed_;
}

void Connection::send_now() {
  if (!reply_ || sending_ || closed_) return;
  std::string& out = reply_->out();
  if (!tls_ && !out.empty()) {
    const ssize_t size =
        ::send(socket_.native_handle(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size > 0) out.erase(0, static_cast<size_t>(size));
  }
  if (!out.empty() || reply_->complete()) wake_.cancel();
}

asio::awaitable<void> Connection::refuse(const HttpFault& fault) {
  expired_ = false;
  const std::string answer = whole(error_response(fault.status(), fault.what()), false);
  const bool sent = co_await send(answer);
  if (!sent || tls_) co_return;
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  allow(kLingerSeconds);
  for (size_t dropped = 0; dropped < kLingerBytes;) {
    const std::string_view read = co_await read_some();
    if (read.empty()) break;
    dropped += read.size();
  }
}

// Sees, while a request is served, that its client goes away.
void Connection::watch() {
  socket_.async_wait(
      Socket::wait_read, [self = shared_from_this(), request = request_](const error_code& error) {
        if (error || request != self->request_ || !self->reply_) return;
        if (self->client_left()) return self->lose();
        auto timer = std::make_shared<asio::steady_timer>(self->shard_.context, kLookEvery);
        timer->async_wait([self, request, timer](const error_code&) {
          if (request == self->request_ && self->reply_ && !self->closed_) self->watch();
        });
      });
}

bool Connection::client_left() const {
  pollfd poll{
      .fd = const_cast<Socket&>(socket_).native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void Connection::lose() {
  close();
  if (reply_) reply_->detach();
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  error_code ignored;
  socket_.close(ignored);
  wake_.cancel();
}

void Connection::check_deadline(Clock::time_point now) {
  if (now < deadline_) return;
  allow_forever();
  if (sending_ && reply_) return too_slow();
  if (expired_ || sending_) return close();
  expired_ = true;
  error_code ignored;
  socket_.cancel(ignored);
}

void Connection::drain() {
  if (reply_) return reply_->close_after();
  close();
}

// --- Shard ---------------------------------------------------------------------------------------

void Shard::run() {
  for (;;) {
    try {
      context.run();
      return;
    } catch (const std::exception& error) {
      log_warning("an I/O thread goes on after: {}", error.what());
    }
  }
}

void Shard::stop() {
  // lose() may end a connection, which removes it from the set.
  for (Connection* connection : std::vector<Connection*>(connections.begin(), connections.end()))
    if (connections.contains(connection)) connection->lose();
  sweeper.cancel();
}

void Shard::keep_sweeping() {
  if (sweeping || connections.empty()) return;
  sweeping = true;
  sweeper.expires_after(kSweepEvery);
  sweeper.async_wait([this](const error_code& error) {
    sweeping = false;
    if (error) return;
    sweep();
    keep_sweeping();
  });
}

void Shard::sweep() {
  const auto now = Clock::now();
  for (Connection* connection : std::vector<Connection*>(connections.begin(), connections.end()))
    if (connections.contains(connection)) connection->check_deadline(now);
}

void Shard::flush_soon(std::shared_ptr<Reply> reply) {
  if (unflushed.empty()) asio::post(context, [this] { flush(); });
  if (unflushed.empty() || unflushed.back() != reply) unflushed.push_back(std::move(reply));
}

void Shard::flush() {
  const auto replies = std::move(unflushed);
  unflushed.clear();
  for (const auto& reply : replies)
    if (reply->connection()) reply->connection()->send_now();
}

// --- Listening -----------------------------------------------------------------------------------

Protocol::endpoint tcp_endpoint(const HttpOptions& options) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* host = options.host.empty() ? nullptr : options.host.c_str();
  const int failed = ::getaddrinfo(host, std::to_string(options.port).c_str(), &hints, &found);
  if (failed)
    fail(Exit::usage, "--host {}: {}; give a name or an address of this machine", options.host,
         ::gai_strerror(failed));
  const Protocol::endpoint endpoint(found->ai_addr, found->ai_addrlen, IPPROTO_TCP);
  ::freeaddrinfo(found);
  return endpoint;
}

Protocol::endpoint unix_endpoint(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    fail(Exit::usage, "--uds {}: the path is longer than a Unix socket may have", path);
  path.copy(address.sun_path, path.size());
  ::unlink(path.c_str());  // left by a server that was killed; bind() never replaces one
  return {&address, sizeof address};
}

uint16_t port_of(const Protocol::endpoint& endpoint) {
  if (endpoint.data()->sa_family == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6*>(endpoint.data())->sin6_port);
  if (endpoint.data()->sa_family == AF_INET)
    return ntohs(reinterpret_cast<const sockaddr_in*>(endpoint.data())->sin_port);
  return 0;
}

asio::ssl::context tls_context(const HttpOptions& options) {
  asio::ssl::context context(asio::ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  context.set_password_callback([](size_t, asio::ssl::context::password_purpose) { return ""; });
  try {
    context.use_certificate_chain_file(options.certificate_file);
    context.use_private_key_file(options.key_file, asio::ssl::context::pem);
    if (!options.ca_file.empty()) context.load_verify_file(options.ca_file);
  } catch (const boost::system::system_error& error) {
    fail(Exit::usage,
         "TLS needs --ssl-certfile and --ssl-keyfile, PEM files without a password: {}",
         error.code().message());
  }
  auto mode = asio::ssl::verify_none;
  if (options.client_certificate > 0) mode = asio::ssl::verify_peer;
  if (options.client_certificate > 1) mode |= asio::ssl::verify_fail_if_no_peer_cert;
  context.set_verify_mode(mode);
  return context;
}

}  // namespace

void HttpServer::State::listen() {
  if (!options.certificate_file.empty() || !options.key_file.empty())
    tls.emplace(tls_context(options));
  for (int i = 0; i < std::max(options.io_threads, 1); ++i) {
    shards.push_back(std::make_unique<Shard>(i));
    guards.push_back(asio::make_work_guard(shards.back()->context));
  }
  const auto endpoint = tcp(options) ? tcp_endpoint(options) : unix_endpoint(options.uds);
  acceptor.emplace(shards[0]->context);
  try {
    acceptor->open(endpoint.protocol());
    if (tcp(options)) acceptor->set_option(asio::socket_base::reuse_address(true));
    acceptor->bind(endpoint);
    acceptor->listen(SOMAXCONN);
  } catch (const boost::system::system_error& error) {
    fail(Exit::usage, "cannot listen on {}: {}; choose another --port, or end who has it",
         tcp(options) ? fmt::format("{}:{}", options.host, options.port) : options.uds,
         error.code().message());
  }
  port = port_of(acceptor->local_endpoint());
}

asio::awaitable<void> HttpServer::State::accept() {
  asio::steady_timer pause(shards[0]->context);
  for (size_t next = 0; acceptor->is_open(); ++next) {
    Shard& shard = *shards[next % shards.size()];
    Socket socket(shard.context);
    const auto [error] = co_await acceptor->async_accept(socket, kAwait);
    if (error == asio::error::operation_aborted) co_return;
    if (error) {  // no descriptors or memory left: those who are served will give some back
      pause.expires_after(std::chrono::milliseconds(100));
      co_await pause.async_wait(kAwait);
      continue;
    }
    if (connections >= options.connections) {
      const std::string answer =
          whole(error_response(503, "This server has as many connections as it may have."), false);
      (void)!::send(socket.native_handle(), answer.data(), answer.size(),
                    MSG_DONTWAIT | MSG_NOSIGNAL);
      continue;
    }
    asio::post(shard.context, [this, &shard, socket = std::move(socket)]() mutable {
      adopt(shard, std::move(socket));
    });
  }
}

void HttpServer::State::adopt(Shard& shard, Socket socket) {
  if (draining) return;
  const int on = 1;
  if (tcp(options)) ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const auto connection = std::make_shared<Connection>(*this, shard, std::move(socket));
  asio::co_spawn(
      shard.context, [connection]() -> asio::awaitable<void> { return connection->run(); },
      asio::detached);
  shard.keep_sweeping();
}

HttpServer::HttpServer(const HttpOptions& options, Handler handler)
    : state_(std::make_unique<State>(options, std::move(handler))) {
  state_->listen();
  asio::co_spawn(state_->shards[0]->context, state_->accept(), asio::detached);
  for (auto& shard : state_->shards)
    shard->thread = std::thread([raw = shard.get()] { raw->run(); });
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::io_threads() const { return static_cast<int>(state_->shards.size()); }

uint16_t HttpServer::port() const { return state_->port; }

std::string HttpServer::url() const {
  if (!tcp(state_->options)) return "unix:" + state_->options.uds;
  const std::string& host = state_->options.host;
  return fmt::format("{}://{}:{}", state_->tls ? "https" : "http",
                     host.find(':') == std::string::npos ? host : "[" + host + "]", state_->port);
}

HttpCounts HttpServer::counts() const { return {state_->connections, state_->slow_clients}; }

void HttpServer::post(int io_thread, std::function<void()> work) {
  asio::post(state_->shards[static_cast<size_t>(io_thread)]->context, std::move(work));
}

void HttpServer::drain() {
  state_->draining = true;
  asio::post(state_->shards[0]->context, [state = state_.get()] {
    error_code ignored;
    state->acceptor->close(ignored);
  });
  for (auto& shard : state_->shards)
    asio::post(shard->context, [raw = shard.get()] {
      for (Connection* connection :
           std::vector<Connection*>(raw->connections.begin(), raw->connections.end()))
        if (raw->connections.contains(connection)) connection->drain();
    });
}

void HttpServer::stop() {
  if (state_->stopped) return;
  state_->stopped = true;
  drain();
  for (auto& shard : state_->shards)
    asio::post(shard->context, [raw = shard.get()] { raw->stop(); });
  state_->guards.clear();
  for (auto& shard : state_->shards) shard->thread.join();
  if (!tcp(state_->options)) ::unlink(state_->options.uds.c_str());
}

const char* reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Error";
  }
}

}  // namespace quern::serve
