// HTTP itself: what could be read in two ways is refused, slow and rude clients harm nobody.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>

#include "http/server.h"
#include "tests/serve/running.h"

namespace quern::serve {
namespace {

engine::MockOptions slow() {
  engine::MockOptions mock;
  mock.tokens_per_s = 50;
  return mock;
}

// The chunk that echoes this prompt has some megabytes.
std::string large_echo() {
  const std::vector<int32_t> ids(4000, 7);
  return JsonValue{
      {"prompt", ids}, {"echo", true}, {"stream", true}, {"logprobs", 20}, {"max_tokens", 1}}
      .dump();
}

std::string repeatedly(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

void allow_files(rlim_t files) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_cur >= files) return;
  ASSERT_GE(limit.rlim_max, files) << "raise `ulimit -Hn`";
  limit.rlim_cur = files;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
}

// In turn: stopped in the head of a request, stopped in its body, silent from the start.
std::vector<std::unique_ptr<Wire>> idle_clients(uint16_t port, int count) {
  std::vector<std::unique_ptr<Wire>> idle;
  for (int i = 0; i < count; ++i) {
    idle.push_back(std::make_unique<Wire>(port));
    if (i % 3 == 0) idle.back()->send("GET /health HTTP/1.1\r\nX");
    if (i % 3 == 1)
      idle.back()->send(
          "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
          "99\r\n\r\n{");
  }
  return idle;
}

// 50 clients ask `times` times each; returns how many answers were missing, cut, or took seconds.
int ask_from_50(uint16_t port, int times) {
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 50; ++t)
    threads.emplace_back([&] {
      Wire client(port);
      for (int i = 0; i < times; ++i) {
        const auto start = std::chrono::steady_clock::now();
        const Received got = client.ask(post("/v1/completions", stream_body(5)));
        const auto took = std::chrono::steady_clock::now() - start;
        failures += !got.done() || took > std::chrono::seconds(5);
      }
    });
  for (std::thread& thread : threads) thread.join();
  return failures;
}

int connections(RunningServer& server) { return static_cast<int>(server->connections()); }

// Bytes, and the statuses of all answers that they may get; 0: the connection is closed without
// one.
struct Smuggled {
  std::string bytes;
  int status;
};

TEST(HttpTest, RefusesWhatTwoServersCouldReadDifferently) {
  RunningServer server;
  const std::string hidden = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
  auto request = [](const std::string& headers, const std::string& body = "") {
    return "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + headers +
           "\r\n" + body;
  };
  const std::string json = R"({"prompt": "x"})";  // 15 bytes
  const std::vector<Smuggled> all = {
      {request("Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + hidden), 400},
      {request("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n" + hidden), 400},
      {request("Content-Length: 15\r\nContent-Length: 15\r\n", json), 400},
      {request("Content-Length: 15\r\nContent-Length: 5\r\n", json), 400},
      {request("Content-Length: 15, 15\r\n", json), 400},
      {request("Content-Length: +15\r\n", json), 400},
      {request("Content-Length: -1\r\n", json), 400},
      {request("Content-Length: 0x0f\r\n", json), 400},
      {request("Content-Length: 15 \r\n", json), 200},
      {request("Content-Length: 1 5\r\n", json), 400},
      {request("Content-Length: \r\n", json), 400},
      {request("Content-Length: 99999999999999999999999\r\n", json), 400},
      {request("Content-Length : 15\r\n", json), 400},
      {request("Content-Length\r\n", json), 400},
      {request(" Content-Length: 15\r\n", json), 400},
      {request("X: y\r\n Content-Length: 15\r\n", json), 400},
      {request("X: y\r\n\tz\r\nContent-Length: 15\r\n", json), 400},
      {request("Content_Length: 15\r\nContent-Length: 15\r\n", json), 200},
      {request("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
      {request("Transfer-Encoding: identity\r\nContent-Length: 15\r\n", json), 400},
      {request("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 400},
      {request("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400},
      {request("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400},
      {request("Transfer-Encoding: \x0b"
               "chunked\r\n",
               "0\r\n\r\n"),
       400},
      {request("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400},
      {request("Transfer-Encoding: chunked\r\n", "f\r\n" + json + "\r\n0\r\n\r\n"), 200},
      {request("Transfer-Encoding: Chunked\r\n", "F\r\n" + json + "\r\n0\r\n\r\n"), 200},
      {request("Transfer-Encoding: chunked\r\n", "f;a=b\r\n" + json + "\r\n0\r\n\r\n"), 200},
      {request("Transfer-Encoding: chunked\r\n", "0xf\r\n" + json + "\r\n0\r\n\r\n"), 400},
      {request("Transfer-Encoding: chunked\r\n", "-f\r\n" + json + "\r\n0\r\n\r\n"), 400},
      {request("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n" + json), 400},
      {request("Transfer-Encoding: chunked\r\n",
               "f\n" + json + "\n0\n\n" + std::string(20000, 'a')),
       400},
      {request("Transfer-Encoding: chunked\r\n", "f\r\n" + json + "XX0\r\n\r\n"), 400},
      {request("Transfer-Encoding: chunked\r\n", "f;" + std::string(40000, 'a')), 400},
      {request("Content-Encoding: gzip\r\nContent-Length: 15\r\n", json), 415},
      {request(std::string("X: a\0b\r\nContent-Length: 15\r\n", 28), json), 400},
      {request("X: a\rb\r\nContent-Length: 15\r\n", json), 400},
      {request("X: a\nContent-Length: 15\r\n", json), 400},
      {request("X\x7f: a\r\nContent-Length: 15\r\n", json), 400},
      {request("Host: y\r\nContent-Length: 15\r\n", json), 400},
      {request(": empty\r\nContent-Length: 15\r\n", json), 400},
      {"GET /health HTTP/1.1\r\n\r\n", 400},
      {"GET /health HTTP/1.0\r\n\r\n", 200},
      {"POST /tokenize HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"GET /health HTTP/1.1\nHost: x\n\n", 400},
      {"GET /health HTTP/1.1\r\nHost: x\n\r\n\r\n", 400},
      {"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", 505},
      {"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", 505},
      {"GET /health\r\n\r\n", 400},
      {"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /health  HTTP/1.1\r\nHost: x\r\n\r\n", 505},
      {"GET\t/health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {" GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200},
      {repeatedly("\r\n", 100) + "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /%00health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /%0d%0ahealth HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /% HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /../health HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /a/../health HTTP/1.1\r\nHost: x\r\n\r\n", 200},
      {"GET /%68ealth HTTP/1.1\r\nHost: x\r\n\r\n", 200},
      {"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: y\r\n\r\n", 405},
      {std::string("\x16\x03\x01\x02\0\x01\0\x01", 8), 400},
      {std::string(70'000, 'A'), 431},
      {"GET /" + std::string(17'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
  };
  ASSERT_GE(all.size(), 60U);
  for (const Smuggled& one : all) {
    Wire client(server.port());
    const Received got = client.ask(one.bytes);
    EXPECT_EQ(got.status, one.status) << one.bytes.substr(0, 300) << "\n" << got.body;
    if (one.status >= 400 && one.status != 405) {
      EXPECT_TRUE(got.has_header("Connection: close")) << one.bytes.substr(0, 300);
      EXPECT_EQ(client.response().status, 0)
          << "answered what was hidden: " << one.bytes.substr(0, 300);
    }
  }
  EXPECT_EQ(ask(server.port(), get("/health")).status, 200);
}

TEST(HttpTest, KeepsConnectionsAndAnswersInOrder) {
  RunningServer server;
  Wire client(server.port());
  client.send(get("/version") + post("/tokenize", R"({"prompt": "x"})") + get("/health") +
              get("/no"));
  EXPECT_TRUE(client.response().json().contains("version"));
  EXPECT_TRUE(client.response().json().contains("count"));
  EXPECT_EQ(client.response().status, 200);
  EXPECT_EQ(client.response().status, 404);
  EXPECT_EQ(client.ask(get("/health", "Connection: close\r\n")).status, 200);
  EXPECT_TRUE(client.ended());
}

TEST(HttpTest, BytesMayComeOneByOne) {
  RunningServer server;
  Wire client(server.port());
  const std::string bytes =
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: "
      "chunked\r\n\r\n5\r\n{\"pro\r\na\r\nmpt\": \"x\"}\r\n0\r\n\r\n";
  for (char byte : bytes) client.send({&byte, 1});
  EXPECT_EQ(client.response().status, 200);
}

TEST(HttpTest, ContinuesOnlyAfterTheHead) {
  RunningServer server;
  Wire client(server.port());
  client.send(
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: "
      "100-continue\r\nContent-Length: 15\r\n\r\n");
  EXPECT_EQ(client.receive(), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_EQ(client.ask(R"({"prompt": "x"})").status, 200);
}

TEST(HttpTest, SlowRequestsEndAndNobodyWaitsForThem) {
  ServerOptions options;
  options.http.header_seconds = 1;
  options.http.body_seconds = 1;
  options.http.keep_alive_seconds = 1;
  RunningServer server({}, options);
  const auto idle = idle_clients(server.port(), 3);
  EXPECT_EQ(idle[0]->response().status, 408);
  EXPECT_EQ(idle[1]->response().status, 408);
  EXPECT_TRUE(idle[2]->ended());
}

TEST(HttpTest, TwoThousandIdleSocketsAreInNobodysWay) {
  constexpr int kIdle = 2000;
  allow_files(2 * kIdle + 500);
  RunningServer server;
  EXPECT_EQ(ask_from_50(server.port(), 2), 0);
  const size_t before = resident_bytes();
  const auto idle = idle_clients(server.port(), kIdle);
  ASSERT_TRUE(soon([&] { return connections(server) >= kIdle; }));
  if (!kSanitized) {
    EXPECT_LT(resident_bytes(), before + kIdle * 16'384);
  }
  EXPECT_EQ(ask_from_50(server.port(), 20), 0);
  EXPECT_GE(connections(server), kIdle) << "some were dropped, so this has shown nothing";
  EXPECT_EQ(idle[2]->ask(get("/health")).status, 200);
}

TEST(HttpTest, TooManyConnectionsAreToldSo) {
  ServerOptions options;
  options.http.connections = 3;
  RunningServer server({}, options);
  std::vector<std::unique_ptr<Wire>> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(std::make_unique<Wire>(server.port()));
    EXPECT_EQ(held.back()->ask(get("/health")).status, 200);
  }
  EXPECT_EQ(Wire(server.port()).response().status, 503);
  held.pop_back();
  EXPECT_TRUE(soon([&] { return ask(server.port(), get("/health")).status == 200; }));
}

TEST(HttpTest, AClientThatLeavesEndsItsRequest) {
  RunningServer server(slow());
  for (const char* body : {R"({"prompt": "x", "max_tokens": 4000, "stream": true})",
                           R"({"prompt": "x", "max_tokens": 4000, "n": 3})"}) {
    Wire client(server.port());
    client.send(post("/v1/completions", body));
    ASSERT_TRUE(soon([&] { return server->state().running > 0; }));
    client.close();
    EXPECT_TRUE(soon([&] { return server->state().running == 0; }, 2));
  }
  EXPECT_EQ(server->state().kv_tokens_used, 0);
  const std::string page = ask(server.port(), get("/metrics")).body;
  EXPECT_NE(page.find("finished_reason=\"abort\"} 4\n"), std::string::npos) << page;
}

TEST(HttpTest, AClientThatLeavesWithBytesAheadIsSeenToo) {
  RunningServer server(slow());
  Wire client(server.port());
  client.send(post("/v1/completions", stream_body(4000)) + get("/health"));
  ASSERT_TRUE(soon([&] { return server->state().running > 0; }));
  client.close();
  EXPECT_TRUE(soon([&] { return server->state().running == 0; }, 2));
}

TEST(HttpTest, AnAbortStormLeavesNothingBehind) {
  RunningServer server(slow());
  std::vector<std::thread> storm;
  for (int t = 0; t < 4; ++t)
    storm.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        Wire client(server.port());
        client.send(post("/v1/completions", stream_body(1000)));
        if ((i + t) % 3 == 0) client.receive(0.05);
      }
    });
  for (std::thread& thread : storm) thread.join();
  EXPECT_TRUE(soon([&] {
    const auto state = server->state();
    return state.running == 0 && state.waiting == 0 && state.kv_tokens_used == 0;
  }));
  EXPECT_EQ(complete(server.port(), R"({"prompt": "x", "max_tokens": 2})").status, 200);
}

TEST(HttpTest, AClientThatNeverReadsIsDropped) {
  ServerOptions options;
  options.http.unsent_bytes = 64 << 10;
  options.http.unread_seconds = 1;
  engine::Limits limits = mock_limits();
  limits.max_model_len = 1 << 20;
  RunningServer server({}, options, limits);
  Wire client(server.port(), 4096);
  client.send(post("/v1/completions", stream_body(900'000)));
  EXPECT_TRUE(soon([&] {
    return ask(server.port(), get("/metrics"))
               .body.find("slow_client_aborts_total{model_name=\"tiny\",engine=\"0\"} 1\n") !=
           std::string::npos;
  }));
  EXPECT_TRUE(soon([&] { return server->state().running == 0; }));
}

// A piece of megabytes, and a client that takes a second for it, are nobody's fault.
TEST(HttpTest, ALargePieceIsNotASlowClient) {
  ServerOptions options;
  options.http.unsent_bytes = 4096;
  RunningServer server({}, options);
  Wire client(server.port(), 4096);
  client.send(post("/v1/completions", large_echo()));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const Received got = client.response();
  EXPECT_TRUE(got.done());
  EXPECT_GT(got.body.size(), size_t{1} << 20);
  EXPECT_EQ(got.events().back()["choices"][0]["finish_reason"], "length");
}

// What was made while it did not read comes in fewer, larger chunks, and is whole.
TEST(HttpTest, ASlowReaderGetsAllOfItsText) {
  ServerOptions options;
  options.http.unsent_bytes = 4096;
  engine::Limits limits = mock_limits();
  limits.max_model_len = 1 << 20;
  RunningServer server({}, options, limits);
  for (const char* more : {R"("n": 1)", R"("n": 3, "echo": true, "logprobs": 1)"}) {
    const std::string body =
        R"({"prompt": "x", "max_tokens": 20000, "ignore_eos": true, "temperature": 1, )" +
        std::string(more);
    Wire slow(server.port(), 4096);
    slow.send(post("/v1/completions", body + R"(, "stream": true})"));
    ASSERT_TRUE(soon([&] { return server->state().new_tokens > 0; }));
    ASSERT_TRUE(soon([&] { return server->state().running == 0; }));
    const Received got = slow.response();
    ASSERT_TRUE(got.done());
    const JsonValue whole = complete(server.port(), body + "}").json();
    std::vector<std::string> texts(whole["choices"].size());
    const auto events = got.events();
    for (const JsonValue& event : events)
      texts[event["choices"][0]["index"].get<size_t>()] +=
          event["choices"][0]["text"].get<std::string>();
    for (size_t i = 0; i < texts.size(); ++i)
      EXPECT_EQ(texts[i], whole["choices"][i]["text"].get<std::string>());
    EXPECT_LT(events.size(), 20'000U * texts.size()) << "nothing was put together";
  }
}

TEST(HttpTest, AClientThatReadsIsKeptHoweverFastTheEngineIs) {
  engine::Limits limits = mock_limits();
  limits.max_model_len = 1 << 20;
  RunningServer server({}, {}, limits);
  const Received got = ask(server.port(), post("/v1/completions", stream_body(20'000)));
  EXPECT_TRUE(got.done());
  EXPECT_GT(got.body.size(), size_t{4} << 20) << "no more than what may be unsent";
}

TEST(HttpTest, OverloadIsRefusedAtOnce) {
  ServerOptions options;
  options.admission.max_queued_requests = 4;
  options.admission.overload_status = 529;
  RunningServer server(slow(), options);
  std::vector<std::unique_ptr<Wire>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<Wire>(server.port()));
    busy.back()->send(post("/v1/completions", stream_body(4000)));
  }
  ASSERT_TRUE(soon([&] { return server->state().running == 4; }));
  const Received got = complete(server.port(), R"({"prompt": "x"})");
  EXPECT_EQ(got.status, 529);
  EXPECT_TRUE(got.has_header("X-Quern-Queue-Depth: 4\r\n"));
  EXPECT_TRUE(got.has_header("Retry-After: "));
  EXPECT_EQ(got.json()["error"]["type"], "Overloaded");
  busy.clear();
  EXPECT_TRUE(soon([&] {
    return complete(server.port(), R"({"prompt": "x", "max_tokens": 1})").status == 200;
  }));
}

TEST(HttpTest, WhatIsAskedBeforeTheEndIsAnswered) {
  ServerOptions options;
  options.shutdown_seconds = 10;
  RunningServer server(slow(), options);
  std::vector<std::unique_ptr<Wire>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<Wire>(server.port()));
    clients.back()->send(post("/v1/completions", stream_body(25)));
  }
  Wire idle(server.port());
  EXPECT_EQ(idle.ask(get("/health")).status, 200);
  ASSERT_TRUE(soon([&] { return server->state().running == 20; }));
  server->stop();
  EXPECT_TRUE(idle.ended());
  for (auto& client : clients) {
    const Received got = client->response();
    EXPECT_TRUE(got.done());
    EXPECT_EQ(got.events().back()["choices"][0]["finish_reason"], "length");
  }
  EXPECT_EQ(server.stop(), "");
}

TEST(HttpTest, WhatTakesTooLongIsCutAtTheEnd) {
  ServerOptions options;
  options.shutdown_seconds = 0.2;
  RunningServer server(slow(), options);
  Wire client(server.port());
  client.send(post("/v1/completions", stream_body(4000)));
  ASSERT_TRUE(soon([&] { return server->state().running == 1; }));
  server->stop();
  const Received got = client.response();
  EXPECT_TRUE(got.done());
  EXPECT_EQ(got.events().back()["choices"][0]["finish_reason"], "abort");
}

TEST(HttpTest, AStepThatFailsEndsItsRequestsOnly) {
  engine::MockOptions mock = slow();
  mock.fail_step = 5;
  RunningServer server(mock);
  Wire stream(server.port());
  stream.send(post("/v1/completions", stream_body(100)));
  const Received whole = complete(server.port(), R"({"prompt": "x", "max_tokens": 100})");
  EXPECT_EQ(whole.status, 500);
  EXPECT_EQ(whole.json()["error"]["type"], "InternalServerError");
  const Received streamed = stream.response();
  EXPECT_TRUE(streamed.done());
  EXPECT_EQ(streamed.events().back()["error"]["code"], 500);
  EXPECT_EQ(complete(server.port(), R"({"prompt": "x", "max_tokens": 3})").status, 200);
}

TEST(HttpTest, AnEngineThatDiesEndsTheServerInOrder) {
  engine::MockOptions mock = slow();
  mock.throw_step = 5;
  RunningServer server(mock);
  EXPECT_EQ(complete(server.port(), R"({"prompt": "x", "max_tokens": 100})").status, 500);
  EXPECT_NE(server.stop().find("engine died"), std::string::npos);
}

TEST(HttpTest, MemoryStaysFlatOverFiftyThousandRequests) {
  constexpr int kRequests = kSanitized ? 3000 : 50'000;
  RunningServer server;
  int failures = 0;
  auto ask_many = [&](int count) {
    Wire client(server.port());
    const std::string text =
        post("/v1/completions", R"({"prompt": "x y z", "max_tokens": 3, "stop": "never"})");
    const std::string stream = post("/v1/completions", stream_body(3));
    for (int i = 0; i < count; ++i) failures += client.ask(i % 2 ? text : stream).status != 200;
  };
  ask_many(2000);
  const size_t before = resident_bytes();
  ask_many(kRequests);
  EXPECT_EQ(failures, 0);
  if (!kSanitized) {
    EXPECT_LT(resident_bytes(), before + (4u << 20));
  }
  const engine::EngineState state = server->state();
  EXPECT_EQ(state.running + state.waiting + state.kv_tokens_used, 0);
}

}  // namespace
}  // namespace quern::serve
