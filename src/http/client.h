// A client of servers like ours, for `quern chat` and `quern bench`: many calls at a time on one
// thread, their answers piece by piece.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace quern::http {

struct Url {
  bool tls = false;
  std::string host;  // an IPv6 address without its brackets
  uint16_t port = 80;
  std::string path;  // "" or "/..."

  // "http://host:port/path", or https. Fails with Exit::usage.
  static Url of(const std::string& text);
  std::string text() const;  // scheme, host and port
};

// Whether a server that speaks TLS must show a certificate for its name that somebody vouches for
// whom this machine trusts (or SSL_CERT_FILE names).
enum class Trust { check, anybody };

class Client {
 public:
  struct Call {
    std::string method = "POST";
    std::string path = {};
    std::string body = {};
    std::string key = {};  // API key; empty: none
    std::function<void(int status)> head = [](int) {};
    std::function<void(std::string_view piece)> piece = [](std::string_view) {};
    // Called once; with nothing when the answer was whole, else with what went wrong.
    std::function<void(const std::string& error)> end = [](const std::string&) {};
  };

  // Fails with Exit::usage when the host is not known.
  explicit Client(const Url& url, Trust trust = Trust::check);
  ~Client();

  void start(Call call);
  void after(double seconds, std::function<void()> work);
  // Until all calls and waits have ended, or stop().
  void run();
  // From any thread: open calls are given up.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One call and its whole answer. Fails with Exit::invalid_input when the server cannot be reached
// or does not answer 200.
std::string fetch(const Url& url, const std::string& method, const std::string& path,
                  const std::string& body, const std::string& key, Trust trust = Trust::check);

// A stream of server-sent events -> their data, with lines that end in LF or CR LF.
class EventReader {
 public:
  template <class Take>
  void push(std::string_view bytes, Take&& take) {
    held_ += bytes;
    size_t begin = 0;
    for (size_t end; (end = held_.find('\n', begin)) != std::string::npos; begin = end + 1)
      if (ends_event(std::string_view(held_).substr(begin, end - begin))) {
        take(std::string_view(data_));
        data_.clear();
        lines_ = 0;
      }
    held_.erase(0, begin);
  }

 private:
  bool ends_event(std::string_view line) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) return lines_ > 0;
    constexpr std::string_view kField = "data:";
    if (!line.starts_with(kField)) return false;
    line.remove_prefix(kField.size());
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (lines_++ > 0) data_ += '\n';
    data_ += line;
    return false;
  }

  std::string held_, data_;
  int lines_ = 0;  // of data, in the event at hand
};

}  // namespace quern::http
