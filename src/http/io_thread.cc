#include "http/io_thread.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <chrono>

namespace quern::http {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr auto kSweepEvery = std::chrono::seconds(1);

}  // namespace

// What nobody has caught ends the process: who waits for this thread would wait for ever.
void IoThread::start() {
  thread = std::thread([this] { context.run(); });
}

void IoThread::serve(Hosting& hosting, Socket socket, AddressCounts::Place place) {
  if (hosting.draining) return;
  const int on = 1;
  if (hosting.options.uds.empty())
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const auto connection =
      std::make_shared<Connection>(hosting, *this, std::move(socket), std::move(place));
  asio::co_spawn(
      context, [connection]() -> asio::awaitable<void> { return connection->run(); },
      asio::detached);
  keep_sweeping();
}

template <class Visit>
void IoThread::visit_all(Visit visit) {
  for (Connection* connection : std::vector<Connection*>(connections.begin(), connections.end()))
    if (connections.contains(connection)) visit(*connection);
}

void IoThread::keep_sweeping() {
  if (sweeping_ || connections.empty()) return;
  sweeping_ = true;
  sweeper_.expires_after(kSweepEvery);
  sweeper_.async_wait([this](const error_code& error) {
    sweeping_ = false;
    if (error) return;
    const auto now = std::chrono::steady_clock::now();
    visit_all([now](Connection& connection) { connection.check_deadline(now); });
    keep_sweeping();
  });
}

void IoThread::flush_soon(std::shared_ptr<Reply> reply) {
  if (unflushed_.empty()) asio::post(context, [this] { flush(); });
  if (unflushed_.empty() || unflushed_.back() != reply) unflushed_.push_back(std::move(reply));
}

void IoThread::flush() {
  const auto replies = std::move(unflushed_);
  unflushed_.clear();
  for (const auto& reply : replies)
    if (reply->connection()) reply->connection()->send_now();
}

void IoThread::drain() {
  visit_all([](Connection& connection) { connection.drain(); });
}

void IoThread::stop() {
  visit_all([](Connection& connection) { connection.lose(); });
  sweeper_.cancel();
}

}  // namespace quern::http
