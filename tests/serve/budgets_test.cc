// What a request may cost is decided before it costs that.
#include <gtest/gtest.h>

#include "tests/serve/running.h"

namespace quern::serve {
namespace {

std::string words(int count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += "w" + std::to_string(i * 7919) + " ";
  return text;
}

std::string message(const Received& got) { return got.json()["error"]["message"]; }

TEST(BudgetsTest, TheKeyIsAskedForBeforeTheBody) {
  ServerOptions options;
  options.admission.api_keys = {"secret"};
  RunningServer server({}, options);
  for (const char* key : {"", "Authorization: Bearer wrong\r\n"}) {
    Wire client(server.port());
    client.send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Expect: 100-continue\r\nContent-Length: 60000000\r\n" +
        std::string(key) + "\r\n");
    EXPECT_TRUE(client.receive().starts_with("HTTP/1.1 401"));
  }
}

TEST(BudgetsTest, RoutesThatReadNoBodyGetNone) {
  RunningServer server;
  Wire client(server.port());
  client.send("POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(client.response().status, 413);
  Wire chunks(server.port());
  chunks.send("POST /ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(chunks.response().status, 413);
}

TEST(BudgetsTest, ALongTextIsRefusedByItsBytes) {
  RunningServer server;  // 4096 tokens
  const std::string text(16 * 4096 + 1, 'x');
  const std::string body = JsonValue{{"prompt", text}}.dump();
  for (const char* path : {"/tokenize", "/v1/completions"}) {
    const Received got = ask(server.port(), post(path, body));
    EXPECT_EQ(got.status, 400);
    EXPECT_NE(message(got).find("--max-text-bytes"), std::string::npos) << got.body;
  }
}

ModelOptions tiny() {
  ModelOptions options;
  options.folder = tiny_model();
  options.names = {"tiny"};
  return options;
}

TEST(BudgetsTest, TokenizingStopsWhereThePromptIsTooLong) {
  const ServedModel model(tiny());
  const std::string text = words(400'000);
  int looks = 0;
  TextBudget budget;
  budget.tokens = 4096;
  budget.left = [&] { return ++looks > 1000; };
  try {
    model.encode(text, true, budget);
    FAIL() << "was tokenized";
  } catch (const ApiError& error) {
    const std::string said = error.what();
    EXPECT_TRUE(said.starts_with("This model's maximum context length is 4096 tokens.")) << said;
  }
  EXPECT_LE(looks, 3) << "pieces behind the limit were tokenized";
}

TEST(BudgetsTest, TokenizingStopsWhenTheClientLeaves) {
  const ServedModel model(tiny());
  int looks = 0;
  TextBudget budget;
  budget.tokens = 200'000;
  budget.left = [&] { return ++looks > 2; };
  try {
    model.encode(words(100'000), true, budget);
    FAIL() << "was tokenized";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 499);
  }
  EXPECT_EQ(looks, 3);
}

TEST(BudgetsTest, WhatIsCountedInPiecesIsTokenizedAsAWhole) {
  const ServedModel model(tiny());
  // Characters of four bytes, so that pieces would cut some.
  std::string text;
  while (text.size() < 300'000) text += "\U0001F600 the mill ";
  const auto whole = model.encode(text, true);
  TextBudget budget;
  budget.tokens = static_cast<int64_t>(whole.size());
  if (text.size() / 4 <= whole.size()) text += std::string(5 * whole.size(), ' ');
  const auto counted = model.encode(text, true);
  budget.tokens = static_cast<int64_t>(counted.size());
  EXPECT_EQ(model.encode(text, true, budget), counted);
}

TEST(BudgetsTest, JsonHasAMostNumberOfValues) {
  RunningServer server;
  std::string body = R"({"x": [)";
  for (int i = 0; i < 2'000'001; ++i) body += "0,";
  body += R"(0], "prompt": "x"})";
  const Received got = complete(server.port(), body);
  EXPECT_EQ(got.status, 400);
  EXPECT_NE(message(got).find("values"), std::string::npos);
}

TEST(BudgetsTest, BodiesThatArePreparedCountSeveralTimes) {
  ServerOptions options;
  options.http.bodies_bytes = 100'000;
  RunningServer server({}, options);
  const std::string body = JsonValue{{"prompt", "x"}, {"user", std::string(30'000, 'u')}}.dump();
  EXPECT_EQ(complete(server.port(), body).status, 503);
  EXPECT_EQ(complete(server.port(), R"({"prompt": "x"})").status, 200);
}

TEST(BudgetsTest, ManyPromptsOnAnIdleServerAreServed) {
  ServerOptions options;
  options.admission.max_queued_requests = 4;
  RunningServer server({}, options);
  const JsonValue body = {{"prompt", std::vector<std::string>(50, "x")}, {"max_tokens", 1}};
  EXPECT_EQ(complete(server.port(), body.dump()).status, 200);
}

TEST(BudgetsTest, HiddenThoughtsSendNothing) {
  RunningServer server;
  const Received got = chat(
      server.port(),
      user(R"(, "max_tokens": 30, "stream": true, "logprobs": true, "include_reasoning": false)"));
  ASSERT_TRUE(got.done());
  // The mock thinks to the end: the role, and why it ended.
  EXPECT_EQ(got.events().size(), 2U) << got.body;
}

// One key that fills every queue leaves the others their share.
TEST(AdmissionTest, AKeyBelowItsShareIsNeverRefusedForOthers) {
  Admission admission(
      {.api_keys = {"greedy", "modest"}, .max_queued_requests = 8, .max_queued_tokens = 1000});
  admission.fit(mock_limits());
  http::Request of_greedy, of_modest;
  of_greedy.headers = {{"authorization", "Bearer greedy"}};
  of_modest.headers = {{"authorization", "Bearer modest"}};
  const Admission::Key greedy = admission.key_of(of_greedy), modest = admission.key_of(of_modest);
  ASSERT_TRUE(greedy && modest);
  const Admission::Queued queued(admission, greedy, 1000);
  greedy->requests = 8;
  EXPECT_THROW(admission.check_load(greedy, 1, 10, 8), ApiError);
  EXPECT_THROW(admission.check_load(nullptr, 1, 10, 8), ApiError);
  admission.check_load(modest, 4, 500, 8);
  EXPECT_THROW(admission.check_load(modest, 5, 10, 8), ApiError);
  EXPECT_THROW(admission.check_load(modest, 1, 501, 8), ApiError);
  // A body counts no more tokens than a prompt may have.
  EXPECT_EQ(admission.likely_tokens(300), 100);
  EXPECT_EQ(admission.likely_tokens(60 << 20), 4096);
}

}  // namespace
}  // namespace quern::serve
