#include "tests/hostile/attacks.h"

#include <sys/resource.h>

#include <functional>
#include <memory>
#include <thread>

#include "tests/http/wire.h"

namespace quern::hostile {
namespace {

using http::get;
using http::post;
using http::Wire;

constexpr int64_t kMb = 1 << 20;

std::string with_key(const std::string& key = kAttackersKey) {
  return "Authorization: Bearer " + key + "\r\n";
}
std::string completion(const std::string& body) {
  return post("/v1/completions", body, with_key());
}
std::string stream(int tokens, const std::string& more = "") {
  return completion(R"({"prompt": "x", "stream": true, "ignore_eos": true, "max_tokens": )" +
                    std::to_string(tokens) + more + "}");
}

// Goes on while there is time; what the server does to a connection is its right.
void repeat(const Target& target, const std::function<void()>& once) {
  while (!target.over()) {
    try {
      once();
    } catch (const std::exception&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
}

void wait_for_the_end(const Target& target) { std::this_thread::sleep_until(target.until); }

std::vector<std::unique_ptr<Wire>> connect_many(const Target& target, size_t count) {
  std::vector<std::unique_ptr<Wire>> wires;
  while (wires.size() < count && !target.over()) {
    try {
      wires.push_back(std::make_unique<Wire>(target.port, 4096));
    } catch (const std::exception&) {  // no more ports or descriptors
      break;
    }
  }
  return wires;
}

void reset(Wire& wire) {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(wire.descriptor(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  wire.close();
}

// ---- clients that leave

void leave_at_every_write(const Target& target) {
  int reads = 0;
  repeat(target, [&] {
    Wire wire(target.port);
    wire.send(stream(64));
    for (int i = 0; i < reads % 40; ++i) wire.receive(1);
    ++reads;
    reads % 2 ? wire.close() : reset(wire);
  });
}

void abort_storm(const Target& target) {
  repeat(target, [&] {
    for (auto& wire : connect_many(target, 50)) {
      wire->send(stream(4000));
      reset(*wire);
    }
  });
}

// ---- clients that are slow

void read_nothing(const Target& target) {
  const auto wires = connect_many(target, 60);
  for (const auto& wire : wires) wire->send(stream(3000, R"(, "logprobs": 5)"));
  wait_for_the_end(target);
}

void read_a_byte_at_a_time(const Target& target) {
  const auto wires = connect_many(target, 40);
  for (const auto& wire : wires) wire->send(stream(3000));
  while (!target.over()) {
    char byte;
    for (const auto& wire : wires) (void)!::recv(wire->descriptor(), &byte, 1, MSG_DONTWAIT);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

void send_heads_slowly(const Target& target) {
  const auto wires = connect_many(target, 1000);
  const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-A: ";
  for (size_t at = 0; !target.over(); ++at) {
    for (const auto& wire : wires) wire->send(std::string_view(&head[at % head.size()], 1));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

void send_bodies_slowly(const Target& target) {
  const auto wires = connect_many(target, 200);
  for (const auto& wire : wires)
    wire->send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
               with_key() + "Content-Length: 1000000\r\n\r\n{");
  while (!target.over()) {
    for (const auto& wire : wires) wire->send(" ");
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

void hold_connections(const Target& target) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const auto wires = connect_many(target, 10'000);
  wait_for_the_end(target);
}

// ---- large requests

void announce_without_a_key(const Target& target) {
  const std::string piece(64 << 10, 'x');
  repeat(target, [&] {
    Wire wire(target.port);
    wire.send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 60000000\r\n\r\n");
    for (int i = 0; i < 64; ++i) wire.send(piece);
  });
}

void send_chunks_without_a_key(const Target& target) {
  const std::string chunk = "10000\r\n" + std::string(64 << 10, 'x') + "\r\n";
  repeat(target, [&] {
    Wire wire(target.port);
    wire.send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 64; ++i) wire.send(chunk);
  });
}

void send_large_bodies(const Target& target) {
  const std::string body =
      R"({"prompt": "x", "max_tokens": 1, "user": ")" + std::string(48 << 20, 'x') + "\"}";
  const std::string request = completion(body);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] { repeat(target, [&] { Wire(target.port).ask(request); }); });
  for (std::thread& thread : threads) thread.join();
}

void nest_lists(const Target& target) {
  const std::string request = completion(R"({"prompt": )" + std::string(4 << 20, '[') + "}");
  repeat(target, [&] { Wire(target.port).ask(request); });
}

void send_many_values(const Target& target) {
  std::string list = "[1";
  for (int i = 0; i < 3'000'000; ++i) list += ",1";
  const std::string request = completion(R"({"prompt": )" + list + "]}");
  repeat(target, [&] { Wire(target.port).ask(request); });
}

void make_it_tokenize(const Target& target) {
  const std::string request =
      completion(R"({"prompt": ")" + std::string(30 << 20, 'a') + R"(", "max_tokens": 1})");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { repeat(target, [&] { Wire(target.port).ask(request); }); });
  for (std::thread& thread : threads) thread.join();
}

void ask_for_all_that_is_allowed(const Target& target) {
  std::string stops = "[", bias = "{";
  for (int i = 0; i < 64; ++i) stops += (i ? ",\"" : "\"") + std::string(4000, 'a' + i % 26) + "\"";
  for (int i = 0; i < 2000; ++i) bias += (i ? ",\"" : "\"") + std::to_string(i) + "\":1";
  const std::string request =
      stream(2000, R"(, "n": 8, "temperature": 1, "logprobs": 20, "stop": )" + stops +
                       R"(], "logit_bias": )" + bias + "}");
  repeat(target, [&] { Wire(target.port).ask(request); });
}

// ---- HTTP

void send_what_can_be_read_in_two_ways(const Target& target) {
  const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + with_key();
  const std::vector<std::string> requests = {
      head + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}  GET /health HTTP/1.1\r\n\r\n",
      head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      head + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
      head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
      head + " folded: x\r\n\r\n",
      "GET /health HTTP/1.1\nHost: x\n\n",
      "GET /health HTTP/9.9\r\n\r\n",
      std::string("\0\0\0\0", 4),
      head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
      "GET /" + std::string(60'000, 'a') + " HTTP/1.1\r\n\r\n",
  };
  repeat(target, [&] {
    for (const std::string& request : requests) Wire(target.port).ask(request);
  });
}

void pipeline(const Target& target) {
  std::string requests;
  for (int i = 0; i < 1000; ++i) requests += get("/health");
  repeat(target, [&] {
    Wire wire(target.port);
    wire.send(requests);
    for (int i = 0; i < 1000 && wire.response().status != 0; ++i) {
    }
  });
}

void send_large_heads(const Target& target) {
  std::string head = "GET /health HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 240; ++i)
    head += "X-" + std::to_string(i) + ": " + std::string(200, 'a') + "\r\n";
  repeat(target, [&] { Wire(target.port).ask(head + "\r\n"); });
}

// ---- other keys' turns, and the engine

void flood(const Target& target) {
  std::vector<std::thread> threads;
  const std::string request = stream(500);
  for (int i = 0; i < 16; ++i)
    threads.emplace_back([&] { repeat(target, [&] { Wire(target.port).ask(request); }); });
  for (std::thread& thread : threads) thread.join();
}

void make_a_step_hang(const Target& target) {
  std::string ids = "[1";
  for (int i = 0; i < 3000; ++i) ids += ",1";
  Wire wire(target.port);
  wire.send(completion(R"({"max_tokens": 1, "prompt": )" + ids + "]}"));
  wait_for_the_end(target);
}

const std::vector<std::string> kSlowPrompts = {"--mock-engine", "tokens_per_s=200,prefill_us=2000"};

}  // namespace

std::span<const Attack> attacks() {
  static const std::vector<Attack> kAttacks = {
      {"leave",
       "streams left after 0 to 39 reads, half of them by a reset",
       leave_at_every_write,
       {},
       Promise::answers,
       32 * kMb},
      {"aborts",
       "50 requests at a time, reset at once",
       abort_storm,
       {},
       Promise::answers,
       64 * kMb},
      {"unread", "60 long streams that nobody reads", read_nothing, {}, Promise::answers, 96 * kMb},
      {"slow-read",
       "40 long streams read at 5 bytes/s",
       read_a_byte_at_a_time,
       {},
       Promise::answers,
       64 * kMb},
      {"slow-heads", "1,000 heads at 5 bytes/s", send_heads_slowly, {}, Promise::answers, 64 * kMb},
      {"slow-bodies",
       "200 bodies at 5 bytes/s",
       send_bodies_slowly,
       {},
       Promise::answers,
       64 * kMb},
      {"connections", "10,000 connections", hold_connections, {}, Promise::answers, 192 * kMb},
      {"no-key",
       "60 MB announced without a key",
       announce_without_a_key,
       {},
       Promise::answers,
       32 * kMb},
      {"no-key-chunks",
       "endless chunks without a key",
       send_chunks_without_a_key,
       {},
       Promise::answers,
       32 * kMb},
      {"large", "8 bodies of 48 MB at a time", send_large_bodies, {}, Promise::answers, 640 * kMb},
      {"nested", "4 MB of brackets", nest_lists, {}, Promise::answers, 64 * kMb},
      {"values", "3 million numbers", send_many_values, {}, Promise::answers, 192 * kMb},
      {"tokenize",
       "4 prompts of 30 MB without a space",
       make_it_tokenize,
       {},
       Promise::answers,
       640 * kMb},
      {"options",
       "all stop strings, biases, logprobs and choices",
       ask_for_all_that_is_allowed,
       {},
       Promise::answers,
       128 * kMb},
      {"smuggle",
       "requests that can be read in two ways",
       send_what_can_be_read_in_two_ways,
       {},
       Promise::answers,
       32 * kMb},
      {"pipeline",
       "1,000 requests at a time in one connection",
       pipeline,
       {},
       Promise::answers,
       32 * kMb},
      {"heads", "heads of 50 KB", send_large_heads, {}, Promise::answers, 32 * kMb},
      {"flood", "16 streams at a time of another key", flood, {}, Promise::answers, 64 * kMb},
      {"hang", "a step of 6 seconds", make_a_step_hang, kSlowPrompts, Promise::routes, 32 * kMb},
  };
  return kAttacks;
}

}  // namespace quern::hostile
