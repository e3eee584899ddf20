// Starts and stops quern serve from the command line.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/cli/run.h"

namespace quern::cli {
namespace {

std::vector<std::string> serve(const std::vector<std::string>& more) {
  std::vector<std::string> words = {"serve", model(), "--port", "0"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// The response to these bytes of the server whose address is in `said`.
std::string ask(const std::string& said, const std::string& bytes) {
  const size_t at = said.find("READY url=http://127.0.0.1:") + 27;
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(said.substr(at))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return "no server";
  (void)!::write(fd, bytes.data(), bytes.size());
  std::string answer;
  char piece[4096];
  for (ssize_t size; (size = ::read(fd, piece, sizeof piece)) > 0;)
    answer.append(piece, static_cast<size_t>(size));
  ::close(fd);
  return answer;
}

TEST(ServeTest, AnswersFromTheModelAndEndsInOrder) {
  Running server(serve({"--enable-log-requests"}), "", {});
  ASSERT_TRUE(server.says("READY url="));
  const std::string body =
      R"({"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0,)"
      R"( "chat_template_kwargs": {"enable_thinking": false}})";
  const std::string answer =
      ask(server.err_so_far(),
          "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: "
          "application/json\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_NE(answer.find("17 + 25 = 42"), std::string::npos) << answer;
  // Lines that scripts look for.
  for (const char* line : {"GPU KV cache size: ", "Maximum concurrency for ",
                           " load_s=", " max_concurrency=", "Received request chatcmpl-",
                           "Finished request chatcmpl-"})
    EXPECT_NE(server.err_so_far().find(line), std::string::npos) << line;
  server.send(SIGTERM);
  EXPECT_EQ(server.wait().code, 0);
}

// systemd is told when requests are answered and when they are not any more.
TEST(ServeTest, TellsTheServiceManager) {
  const Scratch folder;
  const std::string path = (folder.path() / "notify").string();
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const timeval patience{.tv_sec = 60, .tv_usec = 0};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const auto told = [&] {
    char text[64];
    const ssize_t size = ::recv(socket, text, sizeof text, 0);
    return std::string(text, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  };
  Running server(serve({"--mock-engine", "tokens_per_s=200"}), "", {"NOTIFY_SOCKET=" + path});
  EXPECT_EQ(told(), "READY=1");
  server.send(SIGTERM);
  EXPECT_EQ(told(), "STOPPING=1");
  EXPECT_EQ(server.wait().code, 0);
  ::close(socket);
}

TEST(ServeTest, HangupReadsTheKeysAgainAndStopsNothing) {
  const Scratch folder;
  const std::string keys = folder.write("keys.yaml", "[{key: old}]");
  Running server(serve({"--mock-engine", "tokens_per_s=200", "--api-key-file", keys}), "", {});
  ASSERT_TRUE(server.says("READY url="));
  const auto models = [&](const std::string& key) {
    return ask(server.err_so_far(),
               "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: " + key +
                   "\r\n\r\n");
  };
  EXPECT_TRUE(models("old").starts_with("HTTP/1.1 200"));
  folder.write("keys.yaml", "[{key: new}]");
  server.send(SIGHUP);
  ASSERT_TRUE(server.says("read the API keys again"));
  EXPECT_TRUE(models("old").starts_with("HTTP/1.1 401"));
  EXPECT_TRUE(models("new").starts_with("HTTP/1.1 200"));
  server.send(SIGTERM);
  EXPECT_EQ(server.wait().code, 0);
}

// A step that hangs cannot be ended; the process is, so that somebody starts another one.
TEST(ServeTest, AStepThatHangsEndsTheProcess) {
  Running server(serve({"--mock-engine", "prefill_us=60000000", "--watchdog-s", "1",
                        "--watchdog-abort-s", "2"}),
                 "", {});
  ASSERT_TRUE(server.says("READY url="));
  const std::string body = R"({"prompt": "x", "max_tokens": 1})";
  ask(server.err_so_far(),
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: "
      "application/json\r\nContent-Length: " +
          std::to_string(body.size()) + "\r\n\r\n" + body);
  const Ran ran = server.wait();
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("a step has run for"), std::string::npos) << ran.err;
}

TEST(ServeTest, RefusesWithTheCodeOfTheCause) {
  const Ran spelt = quern(serve({"--max-modle-len", "5"}));
  EXPECT_EQ(spelt.code, 2);
  EXPECT_NE(spelt.err.find("did you mean --max-model-len?"), std::string::npos) << spelt.err;
  EXPECT_EQ(quern(serve({"--quantization", "gptq"})).code, 2);
  EXPECT_EQ(quern(serve({"--max-model-len", "999999999"})).code, 2);
  EXPECT_EQ(quern({"serve", "no/such-model"}, "", {"HF_HOME=/nowhere"}).code, 4);
  EXPECT_EQ(quern({"serve"}).code, 2);
}

TEST(ServeTest, PrintsTheEffectiveConfiguration) {
  const Ran ran = quern(serve({"--max-num-seqs", "5", "--trust-remote-code", "--check-config"}));
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(ran.out.find("max-num-seqs: 5\n"), std::string::npos) << ran.out;
  EXPECT_NE(ran.err.find("--trust-remote-code means nothing here"), std::string::npos) << ran.err;
  EXPECT_NE(quern({"serve", "--help"}).out.find("--kv-cache-dtype"), std::string::npos);
}

TEST(ChatTest, TalksToAModelThatIsServedForIt) {
  const Ran ran =
      quern({"chat", model(), "--no-thinking", "--temperature", "0"}, "What is 17 + 25?\n");
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("42"), std::string::npos) << ran.out;
}

TEST(BenchTest, CountsTokensOfAServer) {
  Running server(serve({"--mock-engine", "tokens_per_s=200"}), "", {});
  ASSERT_TRUE(server.says("READY url="));
  const std::string said = server.err_so_far();
  const size_t at = said.find("http://");
  const Ran ran =
      quern({"bench", "serve", "--json", "--base-url", said.substr(at, said.find(' ', at) - at),
             "--num-prompts", "5", "--random-input-len", "7", "--random-output-len", "11"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  for (const char* line : {"\"completed\": 5", "\"total_input_tokens\": 35",
                           "\"total_output_tokens\": 55", "\"p99_itl_ms\": "})
    EXPECT_NE(ran.out.find(line), std::string::npos) << line << ran.out;
}

}  // namespace
}  // namespace quern::cli
