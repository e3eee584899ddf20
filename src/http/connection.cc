#include "http/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/log.h"
#include "http/io_thread.h"

namespace quern::http {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr char kTlsHandshake = 0x16;  // the first byte of every TLS connection
// So much of a stream is sent without waiting for the end of the turn.
constexpr size_t kSendBytes = 64 << 10;
// Of a request that was refused: so much of it is read and dropped, so that the client gets to see
// the answer instead of a reset connection.
constexpr size_t kLingerBytes = 1 << 20;
constexpr int kLingerSeconds = 2;
// Data that the client sends ahead hides that it left; then its state is asked for this often.
constexpr auto kLookEvery = std::chrono::milliseconds(50);

std::string head_of(const Response& response, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nServer: quern\r\n", response.status,
                                 reason_phrase(response.status));
  if (!response.content_type.empty()) head += "Content-Type: " + response.content_type + "\r\n";
  for (const auto& [name, value] : response.headers) head += name + ": " + value + "\r\n";
  head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return head;
}

}  // namespace

std::string whole_response(const Response& response, bool keep_alive) {
  return head_of(response, keep_alive) +
         fmt::format("Content-Length: {}\r\n\r\n", response.body.size()) + response.body;
}

// --- Reply ---------------------------------------------------------------------------------------

Reply::Reply(IoThread& thread, Connection& connection, Request request)
    : thread_(thread),
      connection_(&connection),
      request_(std::move(request)),
      keep_alive_(request_.keep_alive) {}

int Reply::io_thread() const { return thread_.index; }

void Reply::post(std::function<void()> work) { asio::post(thread_.context, std::move(work)); }

void Reply::on_left(std::function<void()> work) {
  if (left_)
    post(std::move(work));
  else if (connection_)
    on_left_ = std::move(work);
}

size_t Reply::unsent() const { return connection_ ? out_.size() + connection_->in_flight() : 0; }

bool Reply::full() const { return connection_ && unsent() > connection_->unsent_limit(); }

void Reply::on_room(std::function<void()> work) {
  if (full())
    on_room_ = std::move(work);
  else if (connection_)
    post(std::move(work));
}

void Reply::sent() {
  const bool room = on_room_ && unsent() <= connection_->unsent_limit() / 2;
  if (room) post(std::exchange(on_room_, nullptr));
}

void Reply::at(Clock::time_point when, std::function<void()> work) {
  timer_.emplace(thread_.context, when);
  timer_->async_wait([weak = weak_from_this(), work = std::move(work)](const error_code& error) {
    const auto self = weak.lock();
    if (!error && self && self->connection_ && !self->complete_) work();
  });
}

void Reply::respond(Response response) {
  if (!connection_ || complete_ || begun_) return;
  response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
  out_ = whole_response(response, keep_alive_);
  if (request_.method == "HEAD") out_.resize(out_.size() - response.body.size());
  complete_ = true;
  thread_.flush_soon(shared_from_this());
}

void Reply::begin(Response head) {
  if (!connection_ || complete_ || begun_) return;
  head.headers.insert(head.headers.end(), headers_.begin(), headers_.end());
  begun_ = true;
  chunked_ = request_.version >= 11;
  keep_alive_ &= chunked_;  // else the end of the connection is the end of the answer
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
  thread_.flush_soon(shared_from_this());
}

void Reply::end() {
  if (!connection_ || complete_) return;
  if (chunked_) out_ += "0\r\n\r\n";
  complete_ = true;
  thread_.flush_soon(shared_from_this());
}

void Reply::detach() {
  connection_ = nullptr;
  out_ = {};
  timer_.reset();
  left_ = !complete_;
  // Who waits for room lives until it is told.
  if (left_ && on_left_) post([left = std::move(on_left_), room = on_room_] { left(); });
  on_left_ = on_room_ = nullptr;
}

// --- Connection ----------------------------------------------------------------------------------

Connection::Connection(Hosting& hosting, IoThread& thread, Socket socket,
                       AddressCounts::Place place)
    : hosting_(hosting),
      place_(std::move(place)),
      thread_(thread),
      socket_(std::move(socket)),
      wake_(thread.context) {
  if (const auto tls = hosting.tls.load()) tls_ = std::make_unique<Tls>(socket_, *tls);
  thread_.connections.insert(this);
  ++hosting_.connections;
}

Connection::~Connection() {
  thread_.connections.erase(this);
  --hosting_.connections;
}

asio::awaitable<void> Connection::run() {
  bool more = true;
  if (tls_) more = co_await shake_hands();
  while (more) more = co_await serve_one();
  if (tls_ && !closed_) {  // a client that reads to the end learns that nothing was cut off
    allow(kLingerSeconds);
    co_await tls_->async_shutdown(kAwait);
  }
  close();
}

// Who speaks plain HTTP here is told so, in plain HTTP.
asio::awaitable<bool> Connection::shake_hands() {
  allow(hosting_.options.header_seconds);
  const auto [silent] = co_await socket_.async_wait(Socket::wait_read, kAwait);
  char first = 0;
  const ssize_t size = ::recv(socket_.native_handle(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
  if (!silent && size == 1 && first == kTlsHandshake) {
    const auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kAwait);
    if (!error) co_return true;
  }
  tls_.reset();
  const bool plain = !silent && size == 1 && first >= 'A' && first <= 'Z';
  if (plain) co_await refuse(hosting_.handler.fault(400, "This port speaks HTTPS only."));
  co_return false;
}

asio::awaitable<bool> Connection::serve_one() {
  RequestParser parser(hosting_.options.limits);
  std::optional<Fault> fault;
  try {
    const bool complete = co_await read_request(parser);
    if (!complete) co_return false;
  } catch (const Fault& caught) {
    fault = caught;
  } catch (const std::bad_alloc&) {
    fault.emplace(503, "Out of memory.");
  }
  if (fault) refused_ = hosting_.handler.fault(fault->status(), fault->what());
  if (refused_ && (fault || !parser.done())) {
    co_await refuse(*refused_);
    co_return false;
  }
  allow_forever();
  Request request = parser.take();
  request.charge = std::move(request_charge_);
  dispatch(std::move(request));
  co_await send_reply();
  const bool more = reply_->complete() && reply_->keep_alive() && !closed_ && !hosting_.draining;
  reply_->detach();
  reply_.reset();
  error_code ignored;
  socket_.cancel(ignored);  // watch()
  co_return more;
}

// False when the client left, or did not begin a request in time.
asio::awaitable<bool> Connection::read_request(RequestParser& parser) {
  const Options& options = hosting_.options;
  allow(request_ ? options.keep_alive_seconds : options.header_seconds);
  Charge charge(hosting_.bodies);
  bool in_body = false;
  std::string bytes = std::move(ahead_);
  ahead_ = {};
  for (;;) {
    if (!bytes.empty()) {
      if (!parser.started()) allow(options.header_seconds);
      const size_t used = parser.feed(bytes);
      if (parser.head_done() && !in_body) {
        in_body = true;
        allow(options.body_seconds);
        const bool goes_on = co_await admit(parser);
        if (!goes_on) co_return !closed_;
      }
      if (in_body && !charge.add(bytes.size()))
        throw Fault(503, "Other requests hold all the memory that is there for them.");
      if (parser.done()) {
        ahead_ = bytes.substr(used);
        request_charge_ = std::move(charge);
        co_return true;
      }
      if (in_body) progress(bytes.size(), options.body_seconds);
    }
    const std::string_view read = co_await read_some();
    if (expired_ && parser.started()) throw Fault(408, "The request took too long to arrive.");
    if (read.empty()) co_return false;
    bytes = read;
  }
}

// False when the request goes no further.
asio::awaitable<bool> Connection::admit(RequestParser& parser) {
  refused_ = hosting_.handler.admit(parser.head());
  if (parser.done()) co_return true;
  if (refused_) co_return false;
  if (!parser.expects_continue()) co_return true;
  const bool sent = co_await send(kContinue);
  co_return sent;
}

// Empty when the client left or the deadline passed. Valid until the next suspension.
asio::awaitable<std::string_view> Connection::read_some() {
  if (tls_) {
    if (!tls_buffer_) tls_buffer_ = std::make_unique<std::array<char, 16 << 10>>();
    const auto [error, size] = co_await tls_->async_read_some(asio::buffer(*tls_buffer_), kAwait);
    co_return std::string_view(tls_buffer_->data(), error ? 0 : size);
  }
  for (;;) {
    auto& buffer = thread_.read_buffer;
    const ssize_t size =
        ::recv(socket_.native_handle(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (size >= 0) co_return std::string_view(buffer.data(), static_cast<size_t>(size));
    if (errno != EAGAIN && errno != EINTR) co_return std::string_view();
    const auto [error] = co_await socket_.async_wait(Socket::wait_read, kAwait);
    if (error || closed_) co_return std::string_view();
  }
}

void Connection::dispatch(Request request) {
  ++request_;
  if (hosting_.draining) request.keep_alive = false;
  reply_ = std::make_shared<Reply>(thread_, *this, std::move(request));
  watch();
  if (refused_) return reply_->respond(*std::exchange(refused_, std::nullopt));
  try {
    hosting_.handler.handle(reply_);
  } catch (const std::exception& error) {
    log_warning("a request failed: {}", error.what());
    reply_->respond(hosting_.handler.fault(500, "Internal error."));
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
  allow(hosting_.options.unread_seconds);
  auto sent = [this](size_t size) {
    in_flight_ -= size;
    progress(size, hosting_.options.unread_seconds);
    if (reply_) reply_->sent();
  };
  while (in_flight_ > 0 && !closed_) {
    const char* begin = bytes.data() + (bytes.size() - in_flight_);
    if (tls_) {
      const auto [error, size] =
          co_await tls_->async_write_some(asio::buffer(begin, in_flight_), kAwait);
      if (error) break;
      sent(size);
      continue;
    }
    const ssize_t size =
        ::send(socket_.native_handle(), begin, in_flight_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size >= 0) {
      sent(static_cast<size_t>(size));
    } else if (errno == EAGAIN || errno == EINTR) {
      const auto [error] = co_await socket_.async_wait(Socket::wait_write, kAwait);
      if (error) break;
    } else {
      break;
    }
  }
  const bool complete = in_flight_ == 0;
  in_flight_ = 0;
  sending_ = false;
  co_return complete && !closed_;
}

void Connection::send_now() {
  if (!reply_ || sending_ || closed_) return;
  std::string& out = reply_->out();
  if (!tls_ && !out.empty()) {
    const ssize_t size =
        ::send(socket_.native_handle(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size > 0) {
      out.erase(0, static_cast<size_t>(size));
      reply_->sent();
    }
  }
  if (!out.empty() || reply_->complete()) wake_.cancel();
}

asio::awaitable<void> Connection::refuse(const Response& response) {
  expired_ = false;
  const std::string answer = whole_response(response, false);
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
        auto timer = std::make_shared<asio::steady_timer>(self->thread_.context, kLookEvery);
        timer->async_wait([self, request, timer](const error_code&) {
          if (request == self->request_ && self->reply_ && !self->closed_) self->watch();
        });
      });
}

bool Connection::client_left() {
  pollfd poll{.fd = socket_.native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void Connection::lose() {
  close();
  if (reply_) reply_->detach();
}

void Connection::progress(size_t bytes, int most_seconds) {
  const auto now = Clock::now();
  deadline_ += std::chrono::nanoseconds(bytes * 1'000'000'000 / 1024);
  deadline_ = std::min(deadline_, now + std::chrono::seconds(most_seconds));
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
  if (sending_ && reply_) {
    ++hosting_.slow_clients;
    return lose();
  }
  if (expired_ || sending_) return close();
  expired_ = true;
  error_code ignored;
  socket_.cancel(ignored);
}

void Connection::drain() {
  if (reply_) return reply_->close_after();
  close();
}

}  // namespace quern::http
