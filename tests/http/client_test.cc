// The client against servers that write their answers in other ways than ours.
#include "http/client.h"

#include <gtest/gtest.h>

#include "tests/http/wire.h"

namespace quern::http {
namespace {

// Answers one connection with these pieces.
class Script {
 public:
  explicit Script(std::vector<std::string> pieces) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    ::bind(fd_, reinterpret_cast<sockaddr*>(&address), size);
    ::listen(fd_, 1);
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, pieces = std::move(pieces)] {
      const int client = ::accept(fd_, nullptr, nullptr);
      char bytes[4096];
      (void)!::recv(client, bytes, sizeof bytes, 0);
      for (const std::string& piece : pieces) {
        (void)!::send(client, piece.data(), piece.size(), MSG_NOSIGNAL);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      ::close(client);
    });
  }
  ~Script() {
    thread_.join();
    ::close(fd_);
  }
  // By a name that has several addresses, of which one only is listened on.
  Url url() const { return {.host = "localhost", .port = port_, .path = ""}; }

 private:
  int fd_;
  uint16_t port_ = 0;
  std::thread thread_;
};

TEST(ClientTest, ReadsHeadsInLowerCase) {
  const Script server({"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding:chu",
                       "nked\r\n\r\n5\r\n{\"a\":\r\n2;x=y\r\n1", "}\r\n0\r\n\r\n"});
  EXPECT_EQ(fetch(server.url(), "GET", "/", "", ""), "{\"a\":1}");
}

TEST(ClientTest, ReadsLengthsInLowerCase) {
  const Script server({"HTTP/1.1 200 OK\r\ncontent-length:  2\r\n\r\n", "{}"});
  EXPECT_EQ(fetch(server.url(), "GET", "/", "", ""), "{}");
}

TEST(ClientTest, SkipsWhatComesBeforeTheAnswer) {
  const Script server(
      {"HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"});
  EXPECT_EQ(fetch(server.url(), "GET", "/", "", ""), "{}");
}

TEST(ClientTest, ReadsToTheEndOfTheConnection) {
  const Script server({"HTTP/1.1 200 OK\r\n\r\nab", "cd"});
  EXPECT_EQ(fetch(server.url(), "GET", "/", "", ""), "abcd");
}

std::vector<std::string> events(const std::string& bytes, size_t piece) {
  std::vector<std::string> all;
  EventReader reader;
  for (size_t at = 0; at < bytes.size(); at += piece)
    reader.push(std::string_view(bytes).substr(at, piece),
                [&](std::string_view data) { all.emplace_back(data); });
  return all;
}

TEST(EventReaderTest, ReadsLinesHoweverTheyEnd) {
  const std::vector<std::string> wanted = {"{\"a\": 1}", "two\nlines", "[DONE]"};
  for (const std::string end : {"\n", "\r\n"}) {
    const std::string bytes = ": ping" + end + end + "event: message" + end + "data: {\"a\": 1}" +
                              end + end + "data:two" + end + "data:lines" + end + "id: 5" + end +
                              end + "data: [DONE]" + end + end;
    for (size_t piece : {bytes.size(), size_t{1}, size_t{7}})
      EXPECT_EQ(events(bytes, piece), wanted);
  }
}

}  // namespace
}  // namespace quern::http
