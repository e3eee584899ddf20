#include "http/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/error.h"
#include "http/connection.h"
#include "http/io_thread.h"
#include "http/tls.h"

namespace quern::http {

namespace asio = boost::asio;
using Protocol = asio::generic::stream_protocol;
using boost::system::error_code;

struct Server::State {
  void listen();
  asio::awaitable<void> accept();
  void turn_away(Socket& socket) const;

  Hosting hosting;
  std::vector<std::unique_ptr<IoThread>> threads = {};
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards = {};
  std::optional<asio::basic_socket_acceptor<Protocol>> acceptor = {};
  uint16_t port = 0;
  ino_t inode = 0;  // of the Unix socket
  bool stopped = false;
};

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::pair<int, const char*> kReasons[] = {
    {200, "OK"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {408, "Request Timeout"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {422, "Unprocessable Content"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {529, "Overloaded"},
};

bool tcp(const Options& options) { return options.uds.empty(); }

Protocol::endpoint tcp_endpoint(const Options& options) {
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
  return {&address, sizeof address};
}

// bind() replaces nothing, so a socket that a killed server left goes first: never a file, nor the
// socket of a server that lives.
void remove_dead_socket(const std::string& path, const Protocol::endpoint& endpoint) {
  struct stat found{};
  if (::lstat(path.c_str(), &found) != 0) return;
  if (!S_ISSOCK(found.st_mode))
    fail(Exit::usage, "--uds {}: there is a file of this name; name another path", path);
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int answered = ::connect(probe, endpoint.data(), static_cast<socklen_t>(endpoint.size()));
  ::close(probe);
  if (answered == 0)
    fail(Exit::usage, "--uds {}: another server listens there; stop it or name another path", path);
  ::unlink(path.c_str());
}

ino_t inode_of(const std::string& path) {
  struct stat found{};
  return ::lstat(path.c_str(), &found) == 0 ? found.st_ino : 0;
}

// Of a client, without its port; empty on a Unix socket.
std::string address_of(const Socket& socket) {
  error_code error;
  const Protocol::endpoint client = socket.remote_endpoint(error);
  if (error) return {};
  if (client.data()->sa_family == AF_INET) {
    const auto& address = reinterpret_cast<const sockaddr_in*>(client.data())->sin_addr;
    return {reinterpret_cast<const char*>(&address), sizeof address};
  }
  if (client.data()->sa_family == AF_INET6) {
    constexpr size_t kNetworkBytes = 8;  // what a provider gives to one customer
    const auto& address = reinterpret_cast<const sockaddr_in6*>(client.data())->sin6_addr;
    return {reinterpret_cast<const char*>(&address), kNetworkBytes};
  }
  return {};
}

uint16_t port_of(const Protocol::endpoint& endpoint) {
  if (endpoint.data()->sa_family == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6*>(endpoint.data())->sin6_port);
  if (endpoint.data()->sa_family == AF_INET)
    return ntohs(reinterpret_cast<const sockaddr_in*>(endpoint.data())->sin_port);
  return 0;
}

}  // namespace

void Server::State::listen() {
  const Options& options = hosting.options;
  if (!options.certificate_file.empty() || !options.key_file.empty())
    hosting.tls = std::make_shared<asio::ssl::context>(server_tls(options));
  for (int i = 0; i < std::max(options.io_threads, 1); ++i) {
    threads.push_back(std::make_unique<IoThread>(i));
    guards.push_back(asio::make_work_guard(threads.back()->context));
  }
  const auto endpoint = tcp(options) ? tcp_endpoint(options) : unix_endpoint(options.uds);
  if (!tcp(options)) remove_dead_socket(options.uds, endpoint);
  acceptor.emplace(threads[0]->context);
  try {
    acceptor->open(endpoint.protocol());
    if (tcp(options)) acceptor->set_option(asio::socket_base::reuse_address(true));
    acceptor->bind(endpoint);
    acceptor->listen(SOMAXCONN);
  } catch (const boost::system::system_error& error) {
    fail(Exit::usage,
         "cannot listen on {}: {}; choose another --port, or stop the process that uses it",
         tcp(options) ? fmt::format("{}:{}", options.host, options.port) : options.uds,
         error.code().message());
  }
  port = port_of(acceptor->local_endpoint());
  if (!tcp(options)) inode = inode_of(options.uds);
}

asio::awaitable<void> Server::State::accept() {
  asio::steady_timer pause(threads[0]->context);
  for (size_t next = 0; acceptor->is_open(); ++next) {
    IoThread& thread = *threads[next % threads.size()];
    Socket socket(thread.context);
    const auto [error] = co_await acceptor->async_accept(socket, kAwait);
    if (error == asio::error::operation_aborted) co_return;
    if (error) {  // no descriptors or memory left: those who are served will give some back
      pause.expires_after(std::chrono::milliseconds(100));
      co_await pause.async_wait(kAwait);
      continue;
    }
    auto place =
        hosting.addresses.take(address_of(socket), hosting.options.connections_per_address);
    if (!place || hosting.connections >= hosting.options.connections) {
      turn_away(socket);
      continue;
    }
    asio::post(thread.context,
               [this, &thread, socket = std::move(socket), place = std::move(*place)]() mutable {
                 thread.serve(hosting, std::move(socket), std::move(place));
               });
  }
}

void Server::State::turn_away(Socket& socket) const {
  if (hosting.tls.load()) return;  // to shake hands first would cost what there is too little of
  const std::string answer = whole_response(
      hosting.handler.fault(503, "This server has as many connections as it may have."), false);
  (void)!::send(socket.native_handle(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

Server::Server(const Options& options, Handler& handler)
    : state_(new State{.hosting = {.options = options, .handler = handler}}) {
  state_->listen();
  asio::co_spawn(state_->threads[0]->context, state_->accept(), asio::detached);
  for (auto& thread : state_->threads) thread->start();
}

Server::~Server() { stop(); }

int Server::io_threads() const { return static_cast<int>(state_->threads.size()); }

uint16_t Server::port() const { return state_->port; }

std::string Server::url() const {
  const Options& options = state_->hosting.options;
  if (!tcp(options)) return "unix:" + options.uds;
  const bool v6 = options.host.find(':') != std::string::npos;
  return fmt::format("{}://{}:{}", state_->hosting.tls.load() ? "https" : "http",
                     v6 ? "[" + options.host + "]" : options.host, state_->port);
}

Counts Server::counts() const {
  return {state_->hosting.connections, state_->hosting.slow_clients};
}

void Server::post(int io_thread, std::function<void()> work) {
  asio::post(state_->threads[static_cast<size_t>(io_thread)]->context, std::move(work));
}

void Server::reload_certificates() {
  if (!state_->hosting.tls.load()) return;
  state_->hosting.tls = std::make_shared<asio::ssl::context>(server_tls(state_->hosting.options));
}

void Server::drain() {
  state_->hosting.draining = true;
  asio::post(state_->threads[0]->context, [state = state_.get()] {
    error_code ignored;
    state->acceptor->close(ignored);
  });
  for (auto& thread : state_->threads)
    asio::post(thread->context, [raw = thread.get()] { raw->drain(); });
}

void Server::stop() {
  if (std::exchange(state_->stopped, true)) return;
  drain();
  for (auto& thread : state_->threads)
    asio::post(thread->context, [raw = thread.get()] { raw->stop(); });
  state_->guards.clear();
  for (auto& thread : state_->threads) thread->thread.join();
  const std::string& uds = state_->hosting.options.uds;  // somebody else may have its place now
  if (!uds.empty() && inode_of(uds) == state_->inode) ::unlink(uds.c_str());
}

const char* reason_phrase(int status) {
  for (const auto& [known, phrase] : kReasons)
    if (known == status) return phrase;
  return "Error";
}

}  // namespace quern::http
