// The bytes that clients receive, against recorded ones: a change of them is a change of what
// clients of vLLM rely on.
#include <gtest/gtest.h>

#include <sstream>

#include "base/file.h"
#include "engine/mock_script.h"
#include "tests/serve/running.h"

namespace quern::serve {
namespace {

// Reasoning that the template began, characters in several tokens, marks in the wrong place.
constexpr const char* kScript = R"([
  {"when": "sum", "says": "Let me see: the sum.</think>\n\nIt is 30. And \u00e9\u4e2d too.",
   "tokens_per_step": 2},
  {"when": "twice", "steps": ["<think>", "One", "</think>", "two", "</think>", "three"]},
  {"when": "bytes", "says": "\u00e9 \ud83d\ude00!", "tokens_per_step": 1},
  {"when": "ends", "steps": ["Two", [101, 102, 103], " left.", [77]]}])";

std::unique_ptr<engine::Engine> scripted(engine::MockOptions options) {
  const prompt::Tokenizer tokenizer(tiny_model());
  const auto encode = [tokenizer](std::string_view text) { return tokenizer.encode(text); };
  const auto decode = [tokenizer](std::span<const int32_t> ids) { return tokenizer.decode(ids); };
  return std::make_unique<engine::MockEngine>(
      options, mock_limits(), tokenizer.encode(kMockText),
      engine::MockScript(JsonValue::parse(kScript), "script", {encode, decode}));
}

// Without the time of the answer.
std::string timeless(std::string body) {
  const std::string key = "\"created\":";
  for (size_t at = 0; (at = body.find(key, at)) != std::string::npos;) {
    at += key.size();
    body.erase(at, body.find_first_not_of("0123456789", at) - at);
    body.insert(at, 1, '0');
  }
  return body;
}

Received asked(const RunningServer& server, const std::string& path, const std::string& body) {
  return ask(server.port(), post(path, body, "X-Request-Id: w\r\n"));
}

TEST(Wire, AnswersAreRecordedOnes) {
  RunningServer server(scripted({}));
  std::istringstream cases(
      read_file(std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data/serve/wire.jsonl"));
  int64_t count = 0;
  for (std::string line; std::getline(cases, line); ++count) {
    JsonValue one = JsonValue::parse(line);
    const Received got = asked(server, one["path"], one["body"].dump());
    one["status"] = got.status;
    one["answer"] = timeless(got.body);
    EXPECT_EQ(one, JsonValue::parse(line)) << "a line that holds this answer:\n" << one.dump();
  }
  EXPECT_GT(count, 60);
}

TEST(Wire, AnErrorInsideAStreamIsAnEvent) {
  RunningServer server(scripted({.fail_step = 2}));
  const Received got =
      asked(server, "/v1/completions", R"({"prompt": "x", "max_tokens": 9, "stream": true})");
  EXPECT_EQ(got.status, 200);
  const std::string events = got.body.substr(got.body.find("\n\n") + 2);
  EXPECT_EQ(events,
            "data: {\"error\":{\"message\":\"The engine failed while it worked on this request.\","
            "\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n");
}

}  // namespace
}  // namespace quern::serve
