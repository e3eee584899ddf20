// What clients of vLLM see: keys of JSON, chunks of streams, routes, keys, logprobs.
#include "serve/server.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/serve/running.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> keys(const JsonValue& object) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.items()) names.push_back(key);
  return names;
}
using Keys = std::vector<std::string>;

TEST(ServerTest, AnswersAChatKeyByKey) {
  RunningServer server;
  const Received got = chat(server.port(), user(R"(, "max_tokens": 5)"));
  ASSERT_EQ(got.status, 200) << got.body;
  const JsonValue json = got.json();
  EXPECT_EQ(keys(json), (Keys{"id", "object", "created", "model", "choices", "service_tier",
                              "system_fingerprint", "usage", "prompt_logprobs", "prompt_token_ids",
                              "kv_transfer_params"}));
  EXPECT_TRUE(json["id"].get<std::string>().starts_with("chatcmpl-"));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "tiny");
  const JsonValue& choice = json["choices"][0];
  EXPECT_EQ(keys(choice),
            (Keys{"index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids"}));
  EXPECT_EQ(keys(choice["message"]), (Keys{"role", "content", "refusal", "annotations", "audio",
                                           "function_call", "reasoning", "reasoning_content"}));
  // The template opens a thought, which the mock never ends.
  EXPECT_TRUE(
      std::string(kMockText).starts_with(choice["message"]["reasoning"].get<std::string>()));
  EXPECT_EQ(choice["message"]["content"], nullptr);
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 5);
  EXPECT_EQ(json["usage"]["completion_tokens_details"]["reasoning_tokens"], 5);
}

TEST(ServerTest, StreamsAChatChunkByChunk) {
  RunningServer server;
  const std::string asked =
      R"(, "max_tokens": 40, "stream": true, "stream_options": {"include_usage": true},
          "chat_template_kwargs": {"enable_thinking": false})";
  const Received got = chat(server.port(), user(asked));
  ASSERT_EQ(got.status, 200) << got.body;
  EXPECT_TRUE(got.has_header("Content-Type: text/event-stream; charset=utf-8"));
  EXPECT_TRUE(got.done());
  const auto events = got.events();
  ASSERT_GT(events.size(), 10U);
  EXPECT_EQ(keys(events[0]),
            (Keys{"id", "object", "created", "model", "choices", "prompt_token_ids"}));
  EXPECT_EQ(events[0]["choices"][0].dump(),
            R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
            R"("finish_reason":null})");
  std::string text;
  for (size_t i = 1; i + 1 < events.size(); ++i) {
    const JsonValue& choice = events[i]["choices"][0];
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_EQ(keys(choice["delta"]), Keys{"content"});
    text += choice["delta"]["content"].get<std::string>();
    const bool last = i + 2 == events.size();
    EXPECT_EQ(choice["finish_reason"], last ? JsonValue("length") : JsonValue(nullptr));
    EXPECT_EQ(choice.contains("stop_reason"), last);
  }
  const Received whole = chat(server.port(), user(R"(, "max_tokens": 40,
      "chat_template_kwargs": {"enable_thinking": false})"));
  EXPECT_EQ(text, whole.json()["choices"][0]["message"]["content"].get<std::string>());
  EXPECT_EQ(events.back()["choices"].size(), 0U);
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 40);
}

TEST(ServerTest, TellsUsageWithEveryChunkIfAsked) {
  RunningServer server;
  for (const bool is_chat : {true, false}) {
    const std::string more =
        R"(, "max_tokens": 3, "stream": true, "echo": true,
            "stream_options": {"include_usage": true, "continuous_usage_stats": true}})";
    std::string body = is_chat ? user() : R"({"prompt": "x"})";
    body.replace(body.size() - 1, 1, more);
    const auto events =
        ask(server.port(), post(is_chat ? "/v1/chat/completions" : "/v1/completions", body))
            .events();
    ASSERT_GE(events.size(), 4U);
    EXPECT_EQ(events[0]["usage"]["completion_tokens"], 0);
    int64_t before = 0;
    for (const JsonValue& event : events) {
      const int64_t now = event["usage"]["completion_tokens"];
      EXPECT_GE(now, before);
      EXPECT_EQ(event["usage"]["total_tokens"],
                event["usage"]["prompt_tokens"].get<int64_t>() + now);
      before = now;
    }
    EXPECT_EQ(before, 3);
  }
}

TEST(ServerTest, NoCharacterIsCutInAStream) {
  RunningServer server;
  const Received got =
      complete(server.port(), R"({"prompt": "x", "max_tokens": 300, "stream": true})");
  std::string text;
  for (const JsonValue& event : got.events()) text += event["choices"][0]["text"];
  EXPECT_NE(text.find("\u00e9\u4e2d\U0001F600"), std::string::npos) << text;
  EXPECT_EQ(text.find("\uFFFD"), std::string::npos);
}

TEST(ServerTest, SplitsThoughtFromSpeech) {
  ModelOptions model;
  model.folder = tiny_model();
  model.names = {"tiny"};
  const ServedModel served(model);
  const int32_t open = served.reasoning()->open, close = served.reasoning()->close;
  ReasoningState begun(served.reasoning(), "<|im_start|>assistant\n<think>\n");
  EXPECT_EQ(begun.see(7), Voice::thought);
  EXPECT_EQ(begun.see(open), std::nullopt);  // once more: no text either
  EXPECT_EQ(begun.see(7), Voice::thought);
  EXPECT_EQ(begun.see(close), std::nullopt);
  EXPECT_EQ(begun.see(7), Voice::said);
  ReasoningState over(served.reasoning(), "<think>\n\n</think>\n\n");
  EXPECT_EQ(over.see(7), Voice::said);

  const std::optional<ReasoningMarks> titled = ReasoningMarks{1, 2, "<c>", "</c>", "thought\n"};
  ReasoningState in_title(titled, "turn<c>tho");
  EXPECT_EQ(in_title.thought("ught\nWell"), "Well");
  ReasoningState gemma(titled, "");
  EXPECT_EQ(gemma.see(1), std::nullopt);
  EXPECT_EQ(gemma.thought("thou"), "");
  EXPECT_EQ(gemma.thought("ght\nWell"), "Well");
  EXPECT_EQ(gemma.thought(" then"), " then");
}

TEST(ServerTest, FindsStopStringsAcrossTokens) {
  RunningServer server;
  const Received got = complete(
      server.port(), R"({"prompt": "x", "max_tokens": 100, "stop": ["slowly, but", "never"]})");
  const JsonValue choice = got.json()["choices"][0];
  EXPECT_EQ(choice["text"], "The mill grinds ");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], "slowly, but");
  const Received kept =
      complete(server.port(), R"({"prompt": "x", "max_tokens": 100, "stop": "slowly",
      "include_stop_str_in_output": true, "stream": true})");
  std::string text;
  for (const JsonValue& event : kept.events()) text += event["choices"][0]["text"];
  EXPECT_EQ(text, "The mill grinds slowly");
  EXPECT_TRUE(soon([&] { return server->state().running == 0; }));
}

TEST(StopStringsTest, HoldsBackOnlyWhatMayBeAStop) {
  StopStrings stops({"abc", "\u00e9\u00e9"}, StopStrings::Keep::none);
  EXPECT_EQ(stops.push("xyzab"), "xyz");
  EXPECT_EQ(stops.push("d"), "abd");
  EXPECT_EQ(stops.push("e\u00e9"), "e");
  EXPECT_EQ(stops.push("abc"), "\u00e9");
  EXPECT_EQ(stops.found(), "abc");
  EXPECT_EQ(stops.push("more"), "");
}

TEST(ServerTest, EchoesLogprobsAsEvaluationHarnessesReadThem) {
  RunningServer server;
  const Received got = complete(
      server.port(),
      R"({"prompt": [[5, 6, 7, 8], [9, 10]], "max_tokens": 1, "logprobs": 1, "echo": true, "seed": 1})");
  ASSERT_EQ(got.status, 200) << got.body;
  const JsonValue json = got.json();
  ASSERT_EQ(json["choices"].size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    const JsonValue& logprobs = json["choices"][i]["logprobs"];
    const size_t tokens = (i == 0 ? 4 : 2) + 1;
    EXPECT_EQ(json["choices"][i]["index"], i);
    for (const char* key : {"text_offset", "token_logprobs", "tokens", "top_logprobs"})
      EXPECT_EQ(logprobs[key].size(), tokens) << key;
    EXPECT_EQ(logprobs["token_logprobs"][0], nullptr);
    EXPECT_EQ(logprobs["top_logprobs"][0], nullptr);
    for (size_t k = 1; k < tokens; ++k) {
      const double own = logprobs["token_logprobs"][k];
      EXPECT_LT(own, 0);
      double most = -1e9;
      for (const auto& [token, value] : logprobs["top_logprobs"][k].items())
        most = std::max(most, value.get<double>());
      EXPECT_EQ(own, most);
    }
    std::string joined;
    for (const auto& token : logprobs["tokens"]) joined += token.get<std::string>();
    EXPECT_EQ(json["choices"][i]["text"], joined);
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 6);
}

TEST(ServerTest, EchoWithoutNewTokensIsThePromptAlone) {
  RunningServer server;
  const JsonValue json =
      complete(server.port(),
               R"({"prompt": "Hello there", "max_tokens": 0, "echo": true, "logprobs": 0})")
          .json();
  EXPECT_EQ(json["choices"][0]["text"], "Hello there");
  EXPECT_EQ(json["choices"][0]["logprobs"]["tokens"].size(), json["usage"]["prompt_tokens"]);
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
}

TEST(ServerTest, ChatLogprobsHaveTokensBytesAndTops) {
  RunningServer server;
  const JsonValue json =
      chat(server.port(), user(R"(, "max_tokens": 2, "logprobs": true, "top_logprobs": 3)")).json();
  const JsonValue& content = json["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2U);
  EXPECT_EQ(keys(content[0]), (Keys{"token", "logprob", "bytes", "top_logprobs"}));
  EXPECT_EQ(content[0]["top_logprobs"].size(), 3U);
  EXPECT_EQ(content[0]["token"], content[0]["top_logprobs"][0]["token"]);
}

TEST(ServerTest, SeveralPromptsAndAnswersKeepTheirOrder) {
  RunningServer server;
  const JsonValue json =
      complete(server.port(),
               R"({"prompt": ["a", "b b", "c c c"], "n": 2, "max_tokens": 3, "echo": true})")
          .json();
  ASSERT_EQ(json["choices"].size(), 6U);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    const std::string prompt = i < 2 ? "a" : i < 4 ? "b b" : "c c c";
    EXPECT_TRUE(json["choices"][i]["text"].get<std::string>().starts_with(prompt));
  }
  EXPECT_EQ(json["usage"]["completion_tokens"], 18);
}

TEST(ServerTest, EndsWithAStopToken) {
  RunningServer server({.answer_tokens = 4});
  const JsonValue eos = complete(server.port(), R"({"prompt": "x", "max_tokens": 50})").json();
  EXPECT_EQ(eos["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(eos["choices"][0]["stop_reason"], nullptr);
  EXPECT_EQ(eos["usage"]["completion_tokens"], 4);
  const JsonValue own =
      complete(server.port(), R"({"prompt": "x", "max_tokens": 50, "stop_token_ids": [77]})")
          .json();
  EXPECT_EQ(own["choices"][0]["stop_reason"], 77);
}

TEST(ServerTest, ListsItsModelsUnderAllNames) {
  ModelOptions model;
  model.names = {"first", "org/second"};
  RunningServer server({}, {}, mock_limits(), model);
  const JsonValue list = ask(server.port(), get("/v1/models")).json();
  ASSERT_EQ(list["data"].size(), 2U);
  EXPECT_EQ(keys(list["data"][0]), (Keys{"id", "object", "created", "owned_by", "root", "parent",
                                         "max_model_len", "permission"}));
  EXPECT_EQ(ask(server.port(), get("/v1/models/org/second")).json()["id"], "org/second");
  EXPECT_EQ(ask(server.port(), get("/v1/models/third")).status, 404);
  const JsonValue answer =
      chat(server.port(), user(R"(, "model": "org/second", "max_tokens": 1)")).json();
  EXPECT_EQ(answer["model"], "first");
  const Received unknown = chat(server.port(), user(R"(, "model": "third")"));
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(
      unknown.body,
      R"({"error":{"message":"The model `third` does not exist.","type":"NotFoundError","param":"model","code":404}})");
}

TEST(ServerTest, TokenizesAndBack) {
  RunningServer server;
  const JsonValue tokens =
      ask(server.port(),
          post("/tokenize", R"({"prompt": "Hello there", "return_token_strs": true})"))
          .json();
  EXPECT_EQ(keys(tokens), (Keys{"count", "max_model_len", "tokens", "token_strs"}));
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(tokens["token_strs"].size(), tokens["tokens"].size());
  const JsonValue back =
      ask(server.port(), post("/detokenize", JsonValue{{"tokens", tokens["tokens"]}}.dump()))
          .json();
  EXPECT_EQ(back["prompt"], "Hello there");
  EXPECT_GT(ask(server.port(), post("/tokenize", user())).json()["count"], 5);
  EXPECT_EQ(ask(server.port(), get("/tokenizer_info")).status, 404);
}

TEST(ServerTest, TellsTheTokenizersSettingsIfAllowed) {
  ServerOptions options;
  options.tokenizer_info = true;
  RunningServer server({}, options);
  const JsonValue told = ask(server.port(), get("/tokenizer_info")).json();
  EXPECT_TRUE(told["eos_token"].is_string()) << told;
  EXPECT_NE(told["chat_template"].get<std::string>().find("add_generation_prompt"),
            std::string::npos);
}

TEST(ServerTest, KeysGuardEverythingButHealth) {
  ServerOptions options;
  options.admission.api_keys = {"one", "two"};
  RunningServer server({}, options);
  for (const char* path : {"/health", "/ping", "/version"})
    EXPECT_EQ(ask(server.port(), get(path)).status, 200) << path;
  for (const char* path : {"/load", "/metrics", "/v1/models", "/v1/models/tiny", "/tokenizer_info",
                           "/nowhere", "//v1/models", "/v1/../metrics", "/%6detrics", "/health/"})
    EXPECT_EQ(ask(server.port(), get(path)).status, std::string(path) == "/health/" ? 200 : 401)
        << path;
  for (const char* path : {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"})
    EXPECT_EQ(ask(server.port(), post(path, "{}")).status, 401) << path;
  EXPECT_EQ(ask(server.port(), get("/v1/models", "Authorization: Bearer on\r\n")).status, 401);
  EXPECT_EQ(ask(server.port(), get("/v1/models", "Authorization: Bearer two\r\n")).status, 200);
  EXPECT_EQ(ask(server.port(), get("/v1/models", "x-api-key: one\r\n")).status, 200);
  EXPECT_EQ(ask(server.port(), get("/v1/models", "Authorization: bearer two\r\n")).status, 200);
  const Received refused = ask(server.port(), get("/v1/models"));
  EXPECT_TRUE(refused.has_header("WWW-Authenticate: Bearer"));
  EXPECT_EQ(refused.json()["error"]["code"], 401);
}

TEST(ServerTest, MetricsMayBeReadWithoutAKeyIfAllowed) {
  ServerOptions options;
  options.admission.api_keys = {"one"};
  options.metrics_without_key = true;
  RunningServer server({}, options);
  const Received page = ask(server.port(), get("/metrics"));
  EXPECT_EQ(page.status, 200);
  EXPECT_NE(page.body.find("vllm:corrupted_requests_total"), std::string::npos);
  EXPECT_EQ(ask(server.port(), get("/v1/models")).status, 401);
}

TEST(ServerTest, PagesOfAllowedOriginsMayAsk) {
  ServerOptions options;
  options.admission.api_keys = {"one"};
  options.cors.origins = {"https://a.example"};
  RunningServer server({}, options);
  const std::string page = "Origin: https://a.example\r\n", other = "Origin: https://b.example\r\n",
                    asks =
                        "Access-Control-Request-Method: POST\r\n"
                        "Access-Control-Request-Headers: authorization\r\n";
  const auto preflight = [&](const std::string& headers) {
    return ask(server.port(),
               "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n");
  };
  // A browser asks without the key.
  const Received allowed = preflight(page + asks);
  EXPECT_EQ(allowed.status, 200);
  EXPECT_TRUE(allowed.has_header("Access-Control-Allow-Origin: https://a.example\r\n"));
  EXPECT_TRUE(allowed.has_header("Access-Control-Allow-Headers: authorization\r\n"));
  EXPECT_TRUE(allowed.has_header("Vary: Origin\r\n"));
  EXPECT_EQ(preflight(other + asks).status, 400);
  EXPECT_EQ(preflight(asks).status, 401);
  // Answers, streams and errors carry the header too.
  const std::string key = "Authorization: Bearer one\r\n";
  const std::string wanted = "Access-Control-Allow-Origin: https://a.example\r\n";
  EXPECT_TRUE(chat(server.port(), user(), page + key).has_header(wanted));
  EXPECT_TRUE(chat(server.port(), user(R"(, "stream": true)"), page + key).has_header(wanted));
  EXPECT_TRUE(chat(server.port(), user(), page).has_header(wanted));
  EXPECT_FALSE(chat(server.port(), user(), other + key).has_header("Access-Control"));
  EXPECT_FALSE(chat(server.port(), user(), key).has_header("Access-Control"));
}

TEST(ServerTest, KeysAreReadAgain) {
  const fs::path file = fs::temp_directory_path() / ("quern-keys-" + std::to_string(::getpid()));
  write_file(file, "[{key: old}]");
  ServerOptions options;
  options.admission.api_key_file = file;
  RunningServer server({}, options);
  const auto status = [&](const std::string& key) {
    return ask(server.port(), get("/v1/models", "x-api-key: " + key + "\r\n")).status;
  };
  EXPECT_EQ(status("old"), 200);
  write_file(file, "[{key: new}]");
  server->reload();
  EXPECT_EQ(status("old"), 401);
  EXPECT_EQ(status("new"), 200);
  write_file(file, "nonsense");
  server->reload();
  EXPECT_EQ(status("new"), 200);
  fs::remove(file);
}

// More than there is room for is shortened; editors ask for 65,535 tokens.
TEST(ServerTest, MaxTokensAreShortenedToTheRoom) {
  engine::Limits limits = mock_limits();
  limits.max_model_len = 64;
  RunningServer server({}, {}, limits);
  const std::vector<int32_t> ids(20, 7);
  const auto body = [&](int64_t max_tokens) {
    return JsonValue{{"prompt", ids}, {"max_tokens", max_tokens}}.dump();
  };
  const Received got = complete(server.port(), body(60));
  EXPECT_EQ(got.json()["usage"]["completion_tokens"], 44);
  EXPECT_EQ(got.json()["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(complete(server.port(), body(65)).status, 400);
  const std::vector<int32_t> full(64, 7);
  EXPECT_EQ(complete(server.port(), JsonValue{{"prompt", full}}.dump()).status, 400);
}

TEST(ServerTest, TheOperatorsMaxNewTokensIsALimit) {
  ModelOptions model;
  model.override_generation_config = {{"max_new_tokens", 6}};
  RunningServer server({}, {}, mock_limits(), model);
  for (const char* body : {R"({"prompt": "x", "max_tokens": 20})", R"({"prompt": "x"})"})
    EXPECT_EQ(complete(server.port(), body).json()["usage"]["completion_tokens"], 6) << body;
  EXPECT_EQ(chat(server.port(), user()).json()["usage"]["completion_tokens"], 6);
}

// Marks of reasoning in a message say nothing about the answer.
TEST(ServerTest, AMessageThatNamesAMarkChangesNothing) {
  RunningServer server;
  const auto message = [&](const std::string& question) {
    const JsonValue body = {{"messages", {{{"role", "user"}, {"content", question}}}},
                            {"max_tokens", 8},
                            {"chat_template_kwargs", {{"enable_thinking", false}}}};
    return chat(server.port(), body.dump()).json()["choices"][0]["message"];
  };
  const JsonValue plain = message("What is 5 * 6?");
  ASSERT_TRUE(plain["content"].is_string());
  for (const char* question : {"What does <think> mean?", "</think> <think>", "<think>"}) {
    const JsonValue asked = message(question);
    EXPECT_EQ(asked["content"], plain["content"]) << question;
    EXPECT_EQ(asked["reasoning"], plain["reasoning"]) << question;
  }
}

// The bytes of all tokens together are those of the text, also where a character has several
// tokens.
TEST(ServerTest, LogprobsTellTheBytesOfTheText) {
  RunningServer server;
  const JsonValue whole =
      chat(server.port(), user(R"(, "max_tokens": 40, "logprobs": true, "top_logprobs": 2,
                                  "chat_template_kwargs": {"enable_thinking": false})"))
          .json()["choices"][0];
  std::string bytes;
  for (const JsonValue& token : whole["logprobs"]["content"]) {
    std::string of_token;
    for (const JsonValue& byte : token["bytes"]) of_token += static_cast<char>(byte.get<int>());
    EXPECT_EQ(of_token, token["token"].get<std::string>());
    bytes += of_token;
  }
  EXPECT_EQ(bytes, whole["message"]["content"].get<std::string>());
  EXPECT_NE(bytes.find("\u00e9\u4e2d\U0001F600"), std::string::npos) << bytes;

  const JsonValue echo =
      complete(
          server.port(),
          R"({"prompt": "caf\u00e9 na\u00efve", "max_tokens": 4, "echo": true, "logprobs": 1})")
          .json()["choices"][0];
  std::string text;
  for (const JsonValue& token : echo["logprobs"]["tokens"]) text += token;
  EXPECT_EQ(text, echo["text"].get<std::string>());
}

TEST(ServerTest, CallsOfToolsAreNotImplemented) {
  RunningServer server;
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f"}}])";
  const Received got = chat(server.port(), user(tools));
  EXPECT_EQ(got.status, 501);
  EXPECT_NE(got.body.find("Calling tools is not supported"), std::string::npos) << got.body;
  EXPECT_EQ(chat(server.port(), user(tools + R"(, "tool_choice": "none")")).status, 200);
}

TEST(ServerTest, HeadIsGetWithoutTheBody) {
  RunningServer server;
  Wire client(server.port());
  for (const char* path : {"/v1/models", "/nowhere", "/v1/completions"}) {
    client.send("HEAD " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n\r\n");
    std::string head = client.receive();
    EXPECT_NE(head.find("Content-Length: "), std::string::npos);
    EXPECT_TRUE(head.ends_with("\r\n\r\n")) << head;
  }
  EXPECT_EQ(client.ask(get("/version")).status, 200);
}

TEST(ServerTest, UnknownRoutesAndMethods) {
  RunningServer server;
  EXPECT_TRUE(ask(server.port(), get("/v1/completions")).has_header("\r\nAllow: POST\r\n"));
  EXPECT_EQ(ask(server.port(), get("/nowhere")).status, 404);
  EXPECT_EQ(ask(server.port(), get("/v1/chat/completions")).status, 405);
  EXPECT_EQ(ask(server.port(), post("/v1/models", "{}")).status, 405);
  const Received plain = ask(server.port(),
                             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                             "text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(plain.status, 400);
  EXPECT_NE(plain.body.find("Unsupported Media Type: Only 'application/json' is allowed"),
            std::string::npos);
}

TEST(ServerTest, RequestIdsOfTheClientAreKept) {
  RunningServer server;
  const Received got = chat(server.port(), user(R"(, "max_tokens": 1)"), "X-Request-Id: abc-1\r\n");
  EXPECT_EQ(got.json()["id"], "chatcmpl-abc-1");
  const Received odd = chat(server.port(), user(R"(, "max_tokens": 1)"), "X-Request-Id: a<b>\r\n");
  EXPECT_EQ(odd.json()["id"].get<std::string>().size(), std::string("chatcmpl-").size() + 32);
}

TEST(ServerTest, CountsUnderTheNamesOfVllm) {
  RunningServer server;
  chat(server.port(), user(R"(, "max_tokens": 7)"));
  const Received got = ask(server.port(), get("/metrics"));
  EXPECT_TRUE(got.has_header("text/plain; version=0.0.4"));
  for (const char* line :
       {"vllm:request_success_total{model_name=\"tiny\",engine=\"0\",finished_reason=\"length\"} "
        "1\n",
        "vllm:generation_tokens_total{model_name=\"tiny\",engine=\"0\"} 7\n",
        "vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\",engine=\"0\",le=\"2560.0\"} "
        "1\n",
        "vllm:inter_token_latency_seconds_count{model_name=\"tiny\",engine=\"0\"} 6\n",
        "vllm:num_requests_running{model_name=\"tiny\",engine=\"0\"} 0\n",
        "# TYPE vllm:e2e_request_latency_seconds histogram\n"})
    EXPECT_NE(got.body.find(line), std::string::npos) << line << got.body;
}

TEST(ServerTest, HasTheHistogramsOfVllm) {
  RunningServer server({.tokens_per_s = 100});
  chat(server.port(), user(R"(, "max_tokens": 3, "n": 2, "temperature": 1)"));
  const std::string page = ask(server.port(), get("/metrics")).body;
  const std::string labels = "{model_name=\"tiny\",engine=\"0\"} ";
  // Times that each was observed: once a choice, once a prompt, or once a step.
  for (const auto& [name, times] :
       std::map<std::string, int>{{"request_prompt_tokens", 2},
                                  {"request_prefill_kv_computed_tokens", 2},
                                  {"request_generation_tokens", 2},
                                  {"request_max_num_generation_tokens", 1},
                                  {"request_params_max_tokens", 2},
                                  {"request_params_n", 1},
                                  {"iteration_tokens_total", 3},
                                  {"time_to_first_token_seconds", 2},
                                  {"inter_token_latency_seconds", 4},
                                  {"time_per_output_token_seconds", 4},
                                  {"request_time_per_output_token_seconds", 2},
                                  {"e2e_request_latency_seconds", 2},
                                  {"request_queue_time_seconds", 2},
                                  {"request_inference_time_seconds", 2},
                                  {"request_prefill_time_seconds", 2},
                                  {"request_decode_time_seconds", 2}})
    EXPECT_NE(page.find("vllm:" + name + "_count" + labels + std::to_string(times) + "\n"),
              std::string::npos)
        << name << page;
  EXPECT_NE(page.find("http_request_duration_seconds_bucket{model_name=\"tiny\",engine=\"0\","
                      "handler=\"/v1/chat/completions\",method=\"POST\",le=\"0.5\"} 1\n"),
            std::string::npos)
      << page;
  auto sum = [&](const std::string& name) {
    const std::string line = "vllm:" + name + "_sum" + labels;
    return std::stod(page.substr(page.find(line) + line.size()));
  };
  EXPECT_EQ(sum("request_max_num_generation_tokens"), 3);
  // Two choices, three steps of 10 ms: the first reads the prompt and makes the first token.
  EXPECT_GT(sum("request_prefill_time_seconds"), 0.015);
  EXPECT_GT(sum("request_decode_time_seconds"), 0.035);
  EXPECT_NEAR(sum("request_inference_time_seconds"),
              sum("request_prefill_time_seconds") + sum("request_decode_time_seconds"), 1e-6);
  EXPECT_GE(sum("e2e_request_latency_seconds"),
            sum("request_queue_time_seconds") + sum("request_inference_time_seconds"));
}

TEST(ServerTest, CountsTokensWhileTheyAreMade) {
  RunningServer server({.tokens_per_s = 100});
  Wire client(server.port());
  client.send(post("/v1/completions", R"({"prompt": "x", "max_tokens": 4000, "stream": true})"));
  const std::string line = "vllm:generation_tokens_total{model_name=\"tiny\",engine=\"0\"} ";
  EXPECT_TRUE(soon([&] {
    const std::string page = ask(server.port(), get("/metrics")).body;
    return std::stoi(page.substr(page.find(line) + line.size())) > 3;
  }));
  EXPECT_EQ(server->state().running, 1);
}

TEST(ServerTest, WhatCannotBeginInItsTimeIsTold) {
  engine::Limits limits = mock_limits();
  limits.max_num_seqs = 1;
  RunningServer server({.tokens_per_s = 100}, {}, limits);
  Wire busy(server.port());
  busy.send(post("/v1/completions", R"({"prompt": "x", "max_tokens": 4000, "stream": true})"));
  ASSERT_TRUE(soon([&] { return server->state().running == 1; }));
  const Received late =
      chat(server.port(), user(R"(, "max_tokens": 5)"), "X-Request-Timeout-Ms: 100\r\n");
  EXPECT_EQ(late.status, 504);
  EXPECT_EQ(late.json()["error"]["code"], 504);
  EXPECT_TRUE(soon([&] { return server->state().waiting == 0; }));
  busy.close();
  ASSERT_TRUE(soon([&] { return server->state().running == 0; }));
  EXPECT_EQ(chat(server.port(), user(R"(, "max_tokens": 5)"), "X-Request-Timeout-Ms: 20000\r\n")
                .json()["choices"][0]["finish_reason"],
            "length");
  EXPECT_EQ(chat(server.port(), user(), "X-Request-Timeout-Ms: soon\r\n").status, 400);
}

TEST(ServerTest, WhatHasBegunEndsInItsTimeWithWhatThereIs) {
  ServerOptions options;
  options.admission.request_seconds = 0.3;
  RunningServer server({.tokens_per_s = 100}, options);
  const JsonValue whole =
      complete(server.port(), R"({"prompt": "x", "max_tokens": 4000})").json()["choices"][0];
  EXPECT_EQ(whole["finish_reason"], "abort");
  EXPECT_TRUE(whole["text"].get<std::string>().starts_with("The mill grinds"));
  const Received stream =
      complete(server.port(), R"({"prompt": "x", "max_tokens": 4000, "stream": true})");
  EXPECT_TRUE(stream.done());
  EXPECT_EQ(stream.events().back()["choices"][0]["finish_reason"], "abort");
  EXPECT_TRUE(soon([&] { return server->state().running == 0; }));
}

TEST(ServerTest, OneKeyCannotTakeEverything) {
  ServerOptions options;
  options.admission.api_keys = {"greedy", "modest"};
  options.admission.max_queued_requests_per_key = 3;
  RunningServer server({.tokens_per_s = 100}, options);
  const std::string body = R"({"prompt": "x", "max_tokens": 4000, "stream": true})";
  auto as = [&](const std::string& key, const std::string& text) {
    return post("/v1/completions", text, "Authorization: Bearer " + key + "\r\n");
  };
  std::vector<std::unique_ptr<Wire>> busy;
  for (int i = 0; i < 3; ++i) {
    busy.push_back(std::make_unique<Wire>(server.port()));
    busy.back()->send(as("greedy", body));
  }
  ASSERT_TRUE(soon([&] { return server->state().running == 3; }));
  const Received refused = ask(server.port(), as("greedy", body));
  EXPECT_EQ(refused.status, 429);
  EXPECT_TRUE(refused.has_header("Retry-After: "));
  const std::string two = R"({"prompt": "x", "max_tokens": 2, "n": 3})";
  EXPECT_EQ(ask(server.port(), as("modest", two)).status, 200);
  EXPECT_EQ(ask(server.port(), as("modest", R"({"prompt": "x", "n": 4})")).status, 429);
  busy.clear();
  EXPECT_TRUE(soon([&] { return ask(server.port(), as("greedy", two)).status == 200; }));
}

TEST(ServerTest, TellsIdsInHeadersIfAsked) {
  ServerOptions options;
  options.request_id_headers = true;
  RunningServer server({}, options);
  for (const char* more : {R"(, "max_tokens": 1)", R"(, "max_tokens": 1, "stream": true)"}) {
    EXPECT_TRUE(chat(server.port(), user(more), "X-Request-Id: mine\r\n")
                    .has_header("\r\nX-Request-Id: mine\r\n"));
    EXPECT_TRUE(chat(server.port(), user(more)).has_header("\r\nX-Request-Id: "));
  }
  EXPECT_FALSE(ask(RunningServer().port(), get("/health")).has_header("X-Request-Id"));
}

TEST(ServerTest, SaysSoWhileItLoads) {
  ServerOptions options;
  options.http.port = 0;
  Server server(options);
  EXPECT_EQ(ask(server.port(), get("/health")).status, 503);
  const Received got = chat(server.port(), user());
  EXPECT_EQ(got.status, 503);
  EXPECT_EQ(got.json()["error"]["message"], "Loading model");
  EXPECT_TRUE(got.has_header("Retry-After: "));
}

TEST(ServerTest, DefaultsOfTheModelAreUsed) {
  ModelOptions model;
  model.override_generation_config = {{"max_new_tokens", 3}, {"min_p", 0.01}};
  RunningServer server({}, {}, mock_limits(), model);
  EXPECT_EQ(chat(server.port(), user()).json()["usage"]["completion_tokens"], 3);
}

}  // namespace
}  // namespace quern::serve
