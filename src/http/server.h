// An HTTP server: requests come in, answers or streams go out. A few I/O threads own the sockets
// and do nothing that takes long. Nothing above this header sees sockets or TLS, and nothing here
// knows what is asked.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http/request_parser.h"

namespace quern::http {

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<Header> headers = {};
  std::string body = {};
};

// One request that waits for its answer, which is a whole response or a stream. Except for `post`
// and `left`, its functions are called on the I/O thread that owns the connection. After the client
// has gone they do nothing. None of them calls back: what was given to `on_left`, `on_room` and
// `at` is called in a turn of its own.
class Exchange {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~Exchange() = default;

  virtual Request& request() = 0;
  virtual const Request& request() const = 0;
  virtual Clock::time_point arrived() const = 0;
  // Of the response, whichever it will be.
  virtual void add_header(Header header) = 0;
  virtual void respond(Response response) = 0;

  // A stream: the head, then pieces, then the end. Pieces that are written in one go of the I/O
  // thread leave in one system call.
  virtual void begin(Response head) = 0;
  virtual void write(std::string_view piece) = 0;
  virtual void end() = 0;

  // The client left, or stopped reading, before the end.
  virtual bool left() const = 0;
  // `work` is done at most once, if that happens or has happened.
  virtual void on_left(std::function<void()> work) = 0;

  // As much is unsent as a client may leave unread. What is written all the same is kept: who makes
  // a stream waits, and `work` is done when there is room again.
  virtual bool full() const = 0;
  virtual void on_room(std::function<void()> work) = 0;

  // `work` is done at that time if the exchange has not ended by then. There is one such time.
  virtual void at(Clock::time_point when, std::function<void()> work) = 0;

  virtual int io_thread() const = 0;
  // Runs `work` on the I/O thread of this connection; callable from any thread.
  virtual void post(std::function<void()> work) = 0;
};

struct Options {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any that is free
  std::string uds;       // path of a Unix socket, instead of host and port
  std::string certificate_file, key_file, ca_file;
  // What asking for the client's certificate means, as Python's ssl.CERT_*: 0 no, 1 may, 2 must.
  int client_certificate = 0;
  int io_threads = 1;
  RequestLimits limits = {};
  size_t connections = 8192;  // further ones are answered 503
  // Of one client's address (of IPv6: of its network of 64 bits); 0: no limit.
  size_t connections_per_address = 0;
  // Of all requests together, while they are read and prepared; what exceeds it is answered 503.
  size_t bodies_bytes = 512 << 20;
  // Unsent bytes of one stream, beyond the kernel's buffers, from which on it is full.
  size_t unsent_bytes = 256 << 10;
  int keep_alive_seconds = 5;
  int header_seconds = 10;  // from the first byte of a request to the end of its head
  // Ahead of a body that comes, and an answer that is read, at 1 KiB/s at least.
  int body_seconds = 30;
  int unread_seconds = 30;
};

struct Counts {
  size_t connections = 0;
  uint64_t slow_clients = 0;  // dropped because they did not read
};

// Who answers. All is called on I/O threads.
class Handler {
 public:
  virtual ~Handler() = default;

  // For every head, before its body is read or asked for; a response refuses the request.
  virtual std::optional<Response> admit(const Request& head) = 0;
  // For every complete request that was admitted.
  virtual void handle(std::shared_ptr<Exchange> exchange) = 0;
  // What a client is told that broke the rules of HTTP, or that there is no room for.
  virtual Response fault(int status, const std::string& message) = 0;
};

class Server {
 public:
  // `handler` must outlive it. Listens from here on; fails with Exit::usage when it cannot.
  Server(const Options& options, Handler& handler);
  ~Server();

  int io_threads() const;
  uint16_t port() const;
  std::string url() const;
  Counts counts() const;

  // Runs `work` on an I/O thread.
  void post(int io_thread, std::function<void()> work);
  // Reads the certificate files again, for connections to come; callable from any thread. Fails as
  // the constructor does, and then the old ones stay.
  void reload_certificates();
  // No new connections; those that exist close after the answer that they wait for.
  void drain();
  // Closes everything and joins the threads.
  void stop();

  struct State;  // seen by http.cc alone

 private:
  std::unique_ptr<State> state_;
};

const char* reason_phrase(int status);

}  // namespace quern::http
