// A client that sends what no library would, and reads what comes.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"

namespace quern::http {

struct Received {
  int status = 0;  // 0: the connection ended without an answer
  std::string head, body;

  JsonValue json() const { return JsonValue::parse(body); }
  bool has_header(const std::string& line) const { return head.find(line) != std::string::npos; }
  // The documents of a stream, without "[DONE]".
  std::vector<JsonValue> events() const {
    std::vector<JsonValue> events;
    for (size_t at = 0; (at = body.find("data: ", at)) != std::string::npos;) {
      at += 6;
      const std::string text = body.substr(at, body.find("\n\n", at) - at);
      if (text != "[DONE]") events.push_back(JsonValue::parse(text));
    }
    return events;
  }
  bool done() const { return body.ends_with("data: [DONE]\n\n"); }
};

// One connection.
class Wire {
 public:
  // from: the address of the client, such as "127.0.0.2".
  explicit Wire(uint16_t port, int receive_buffer = 0, const char* from = nullptr)
      : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (from) {
      sockaddr_in own{};
      own.sin_family = AF_INET;
      ::inet_pton(AF_INET, from, &own.sin_addr);
      if (::bind(fd_, reinterpret_cast<sockaddr*>(&own), sizeof own) != 0)
        throw std::runtime_error("cannot bind");
    }
    if (receive_buffer)
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("cannot connect");
  }
  ~Wire() { close(); }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  int descriptor() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;  // the answer says why
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // Some bytes; nothing at the end of the connection or after `seconds`.
  std::string receive(double seconds = 20) const {
    pollfd poll{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&poll, 1, static_cast<int>(seconds * 1000)) != 1) return {};
    std::string bytes(64 << 10, '\0');
    const ssize_t size = ::recv(fd_, bytes.data(), bytes.size(), 0);
    bytes.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return bytes;
  }
  // One response, its chunks joined.
  Received response() {
    Received received;
    size_t end;
    while ((end = ahead_.find("\r\n\r\n")) == std::string::npos)
      if (!more()) return received;
    received.head = ahead_.substr(0, end + 2);
    received.status = std::stoi(received.head.substr(9, 3));
    ahead_.erase(0, end + 4);
    if (received.status == 100) return response();
    if (received.has_header("Transfer-Encoding: chunked"))
      read_chunks(received.body);
    else
      read_length(received);
    return received;
  }
  Received ask(std::string_view bytes) {
    send(bytes);
    return response();
  }
  // The connection is closed by the server.
  bool ended(double seconds = 20) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    char byte;
    while (std::chrono::steady_clock::now() < until) {
      pollfd poll{.fd = fd_, .events = POLLIN, .revents = 0};
      if (::poll(&poll, 1, 100) == 1 && ::recv(fd_, &byte, 1, 0) <= 0) return true;
    }
    return false;
  }

 private:
  bool more() {
    const std::string bytes = receive();
    ahead_ += bytes;
    return !bytes.empty();
  }
  void read_length(Received& received) {
    const size_t at = received.head.find("Content-Length: ");
    const size_t length = at == std::string::npos ? 0 : std::stoul(received.head.substr(at + 16));
    while (ahead_.size() < length && more()) {
    }
    received.body = ahead_.substr(0, length);
    ahead_.erase(0, length);
  }
  void read_chunks(std::string& body) {
    for (;;) {
      size_t line;
      while ((line = ahead_.find("\r\n")) == std::string::npos)
        if (!more()) return;
      const size_t size = std::stoul(ahead_.substr(0, line), nullptr, 16);
      while (ahead_.size() < line + 2 + size + 2)
        if (!more()) return;
      body += ahead_.substr(line + 2, size);
      ahead_.erase(0, line + 2 + size + 2);
      if (size == 0) return;
    }
  }

  int fd_;
  std::string ahead_;
};

inline std::string get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n";
}
inline std::string post(const std::string& path, const std::string& body,
                        const std::string& headers = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n" +
         headers + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
inline Received ask(uint16_t port, const std::string& bytes) { return Wire(port).ask(bytes); }

template <class Condition>
bool soon(Condition condition, double seconds = 20) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return condition();
}

}  // namespace quern::http
