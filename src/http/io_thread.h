// A thread that owns connections. It sleeps until one of them, or a thread that has something for
// them, wakes it.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "http/connection.h"

namespace quern::http {

struct IoThread {
  explicit IoThread(int index) : index(index) {}

  void start();
  void serve(Hosting& hosting, Socket socket, AddressCounts::Place place);
  // The reply's bytes leave at the end of the turn, so that what is written in one turn leaves in
  // one system call.
  void flush_soon(std::shared_ptr<Reply> reply);
  void drain();
  void stop();

  const int index;
  boost::asio::io_context context{1};
  std::unordered_set<Connection*> connections;
  std::array<char, 64 << 10> read_buffer;  // between two suspensions of a coroutine
  std::thread thread;

 private:
  void keep_sweeping();
  void flush();
  // `visit` may end connections.
  template <class Visit>
  void visit_all(Visit visit);

  // Deadlines lie seconds ahead, so one timer for all connections of a thread is enough.
  boost::asio::steady_timer sweeper_{context};
  bool sweeping_ = false;
  std::vector<std::shared_ptr<Reply>> unflushed_;
};

}  // namespace quern::http
