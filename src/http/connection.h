// One client: its socket, from which requests are read one after another, and the Reply that the
// request at hand gets. Both live on the I/O thread that owns them. Private to server.cc.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "http/address_counts.h"
#include "http/server.h"

namespace quern::http {

class Connection;
struct IoThread;
using Socket = boost::asio::generic::stream_protocol::socket;

// What all connections of a server share.
struct Hosting {
  Options options;
  Handler& handler;
  std::shared_ptr<Budget> bodies = std::make_shared<Budget>(options.bodies_bytes);
  // Null: no TLS. Connections that exist keep the certificates with which they began.
  std::atomic<std::shared_ptr<boost::asio::ssl::context>> tls = {};
  AddressCounts addresses = {};
  std::atomic<size_t> connections{0};
  std::atomic<uint64_t> slow_clients{0};
  std::atomic<bool> draining{false};
};

// The bytes of a response that is sent in one go.
std::string whole_response(const Response& response, bool keep_alive);

class Reply : public Exchange, public std::enable_shared_from_this<Reply> {
 public:
  Reply(IoThread& thread, Connection& connection, Request request);

  Request& request() override { return request_; }
  const Request& request() const override { return request_; }
  Clock::time_point arrived() const override { return arrived_; }
  void add_header(Header header) override { headers_.push_back(std::move(header)); }
  void respond(Response response) override;
  void begin(Response head) override;
  void write(std::string_view piece) override;
  void end() override;
  bool left() const override { return left_; }
  void on_left(std::function<void()> work) override;
  bool full() const override;
  void on_room(std::function<void()> work) override;
  void at(Clock::time_point when, std::function<void()> work) override;
  int io_thread() const override;
  void post(std::function<void()> work) override;

  bool complete() const { return complete_; }
  bool keep_alive() const { return keep_alive_; }
  void close_after() { keep_alive_ = false; }
  std::string& out() { return out_; }
  Connection* connection() const { return connection_; }
  size_t unsent() const;
  // The client is served, or gone: the connection is no longer this reply's.
  void detach();
  // Some bytes have left.
  void sent();

 private:
  IoThread& thread_;
  Connection* connection_;
  Request request_;
  const Clock::time_point arrived_ = Clock::now();
  std::vector<Header> headers_;
  std::string out_;  // not yet handed to the socket
  std::function<void()> on_left_, on_room_;
  std::atomic<bool> left_{false};
  std::optional<boost::asio::steady_timer> timer_;
  bool keep_alive_;
  bool begun_ = false, chunked_ = false, complete_ = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Hosting& hosting, IoThread& thread, Socket socket, AddressCounts::Place place);
  ~Connection();

  // Serves the client until one of both closes.
  boost::asio::awaitable<void> run();

  void check_deadline(std::chrono::steady_clock::time_point now);
  // Closes at once if no request is being served, else after it.
  void drain();
  // The client left or does not read: who makes the reply is told.
  void lose();
  // Sends what the reply holds, as far as that goes without waiting.
  void send_now();
  size_t unsent_limit() const { return hosting_.options.unsent_bytes; }
  size_t in_flight() const { return in_flight_; }

 private:
  using Clock = std::chrono::steady_clock;
  using Tls = boost::asio::ssl::stream<Socket&>;
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;

  Awaitable<bool> shake_hands();
  Awaitable<bool> serve_one();
  Awaitable<bool> read_request(RequestParser& parser);
  Awaitable<std::string_view> read_some();
  // `bytes` must live until it is done.
  Awaitable<bool> send(std::string_view bytes);
  Awaitable<void> send_reply();
  // Asks the handler, once the head is there; what it refuses has no body.
  Awaitable<bool> admit(RequestParser& parser);
  // Sends it and reads no further request.
  Awaitable<void> refuse(const Response& response);
  void dispatch(Request request);
  void watch();
  bool client_left();
  void close();

  // The deadline moves with what was sent or received, at 1 KiB/s.
  void progress(size_t bytes, int most_seconds);
  void allow(int seconds) { deadline_ = Clock::now() + std::chrono::seconds(seconds); }
  void allow_forever() { deadline_ = Clock::time_point::max(); }

  Hosting& hosting_;
  const AddressCounts::Place place_;
  IoThread& thread_;
  Socket socket_;
  std::unique_ptr<Tls> tls_;
  std::unique_ptr<std::array<char, 16 << 10>> tls_buffer_;
  std::string ahead_;  // bytes of the next request
  Charge request_charge_;
  std::optional<Response> refused_;  // what admit() made of the head
  std::shared_ptr<Reply> reply_;
  uint64_t request_ = 0;
  boost::asio::steady_timer wake_;  // cancelled when there is something to do for send_reply()
  Clock::time_point deadline_ = Clock::time_point::max();
  size_t in_flight_ = 0;  // bytes that send() holds
  bool sending_ = false, expired_ = false, closed_ = false;
};

}  // namespace quern::http
