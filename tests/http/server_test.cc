// The server without OpenAI: who is refused by its head sends no body, and all bodies share memory.
#include "http/server.h"

#include <gtest/gtest.h>
#include <sys/un.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "tests/http/wire.h"

namespace quern::http {
namespace {

namespace fs = std::filesystem;

// Answers with the length of the body, as a stream for /stream; who has no key is refused.
class Counter : public Handler {
 public:
  std::optional<Response> admit(const Request& head) override {
    if (head.header("authorization") == "Bearer key") return std::nullopt;
    return Response{.status = 401, .body = "no key"};
  }
  void handle(std::shared_ptr<Exchange> exchange) override {
    ++handled;
    const std::string length = std::to_string(exchange->request().body.size());
    if (exchange->request().path != "/stream") return exchange->respond({.body = length});
    exchange->begin({.content_type = "text/plain"});
    exchange->write(length);
    exchange->write(" bytes");
    exchange->end();
  }
  Response fault(int status, const std::string& message) override {
    return {.status = status, .body = message};
  }

  std::atomic<int> handled{0};
};

Options any_port() {
  Options options;
  options.port = 0;
  return options;
}

const std::string kKey = "Authorization: Bearer key\r\n";

TEST(ServerTest, TheHeadDecidesBeforeTheBody) {
  Counter counter;
  const Server server(any_port(), counter);
  const std::string head =
      "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 60000000\r\n";
  Wire stranger(server.port());
  stranger.send(head + "\r\n");
  const std::string got = stranger.receive();
  EXPECT_TRUE(got.starts_with("HTTP/1.1 401")) << got;
  EXPECT_TRUE(stranger.ended());
  Wire friendly(server.port());
  friendly.send(head + kKey + "\r\n");
  EXPECT_EQ(friendly.receive(), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_EQ(counter.handled, 0);
}

TEST(ServerTest, WhoIsRefusedWithoutABodyMayAskAgain) {
  Counter counter;
  const Server server(any_port(), counter);
  Wire client(server.port());
  EXPECT_EQ(client.ask(get("/")).status, 401);
  EXPECT_EQ(client.ask(get("/", kKey)).body, "0");
  EXPECT_EQ(client.ask(post("/", "abc", kKey)).body, "3");
}

TEST(ServerTest, AllBodiesShareOneBudget) {
  Counter counter;
  Options options = any_port();
  options.bodies_bytes = 100'000;
  const Server server(options, counter);
  const std::string head =
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n" + kKey + "\r\n";
  auto first = std::make_unique<Wire>(server.port());
  first->send(head + std::string(80'000, 'x'));
  // Whoever comes second, also by chunks, finds no room, until the first one has gone.
  ASSERT_TRUE(
      soon([&] { return Wire(server.port()).ask(head + std::string(90'000, 'x')).status == 503; }));
  EXPECT_EQ(Wire(server.port())
                .ask("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + kKey +
                     "\r\nc350\r\n" + std::string(50'000, 'x') + "\r\n")
                .status,
            503);
  EXPECT_EQ(ask(server.port(), get("/", kKey)).status, 200);
  first.reset();
  EXPECT_TRUE(soon(
      [&] { return Wire(server.port()).ask(head + std::string(90'000, 'x')).body == "90000"; }));
}

TEST(ServerTest, AnAddressHasSoManyConnections) {
  Counter counter;
  Options options = any_port();
  options.connections_per_address = 2;
  const Server server(options, counter);
  const std::string request = "GET / HTTP/1.1\r\nHost: x\r\n" + kKey + "\r\n";
  Wire first(server.port());
  EXPECT_EQ(first.ask(request).status, 200);
  {
    Wire second(server.port());
    EXPECT_EQ(second.ask(request).status, 200);
    EXPECT_EQ(Wire(server.port()).ask(request).status, 503);
    EXPECT_EQ(first.ask(request).status, 200);
  }
  EXPECT_TRUE(soon([&] { return Wire(server.port()).ask(request).status == 200; }));
}

TEST(ServerTest, Http10GetsNoChunks) {
  Counter counter;
  const Server server(any_port(), counter);
  for (const char* connection : {"", "Connection: close\r\n", "Connection: keep-alive\r\n"}) {
    Wire client(server.port());
    client.send("GET /stream HTTP/1.0\r\n" + kKey + connection + "\r\n");
    std::string all;
    for (std::string piece; !(piece = client.receive()).empty();) all += piece;
    EXPECT_TRUE(all.ends_with("\r\n\r\n0 bytes")) << all;
    EXPECT_EQ(all.find("chunked"), std::string::npos);
  }
  EXPECT_EQ(ask(server.port(), get("/stream", kKey)).body, "0 bytes");
  EXPECT_EQ(ask(server.port(), get("/stream", kKey + "Connection: Close\r\n")).body, "0 bytes");
}

class UnixSocketTest : public testing::Test {
 protected:
  UnixSocketTest()
      : path_((fs::temp_directory_path() / ("quern-uds-" + std::to_string(::getpid()))).string()) {
    options_.uds = path_;
  }
  ~UnixSocketTest() override { fs::remove(path_); }

  bool answers() const {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, path_.size());
    const int failed = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
    const std::string request = get("/", kKey);
    char answer[12] = {};
    const bool answered = failed == 0 && ::write(fd, request.data(), request.size()) > 0 &&
                          ::recv(fd, answer, sizeof answer, MSG_WAITALL) == sizeof answer &&
                          std::string(answer, sizeof answer) == "HTTP/1.1 200";
    ::close(fd);
    return answered;
  }
  std::string refusal() {
    try {
      const Server server(options_, counter_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::usage);
      return error.what();
    }
    return "";
  }

  const std::string path_;
  Counter counter_;
  Options options_;
};

TEST_F(UnixSocketTest, ListensAndCleansUp) {
  {
    const Server server(options_, counter_);
    EXPECT_TRUE(answers());
  }
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(UnixSocketTest, AFileIsNeverReplaced) {
  std::ofstream(path_) << "letters";
  EXPECT_NE(refusal().find("--uds"), std::string::npos);
  std::string text;
  std::ifstream(path_) >> text;
  EXPECT_EQ(text, "letters");
}

TEST_F(UnixSocketTest, ALivingServerKeepsItsSocket) {
  const Server server(options_, counter_);
  EXPECT_NE(refusal().find("another server"), std::string::npos);
  EXPECT_TRUE(answers());
}

TEST_F(UnixSocketTest, TheSocketOfAKilledServerIsReplaced) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, path_.size());
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(fd);
  const Server server(options_, counter_);
  EXPECT_TRUE(answers());
}

TEST_F(UnixSocketTest, WhatHasTakenItsPlaceStays) {
  {
    const Server server(options_, counter_);
    fs::remove(path_);
    std::ofstream(path_) << "letters";
  }
  EXPECT_TRUE(fs::exists(path_));
}

}  // namespace
}  // namespace quern::http
