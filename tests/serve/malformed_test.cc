// Requests that make no sense, one by one: each gets its status and an error object, and the server
// goes on.
#include <gtest/gtest.h>

#include "tests/serve/running.h"

namespace quern::serve {
namespace {

struct Case {
  const char* path;
  std::string body;
  int status;
  std::string says;  // in the message
};

const char* const kChat = "/v1/chat/completions";
const char* const kText = "/v1/completions";

Case field(const char* path, const std::string& field, int status, const std::string& says) {
  const std::string start = path == kChat ? R"({"messages": [{"role": "user", "content": "x"}], )"
                                          : R"({"prompt": "x", "max_tokens": 2, )";
  return {path, start + field + "}", status, says};
}

Case messages(const std::string& list, const std::string& says) {
  return {kChat, R"({"messages": )" + list + "}", 400, says};
}

std::string repeated(const std::string& text, size_t times) {
  std::string result;
  for (size_t i = 0; i < times; ++i) result += text;
  return result;
}

std::vector<Case> cases() {
  std::vector<Case> all = {
      // Not JSON, or not only JSON
      {kChat, "", 400, "not valid JSON"},
      {kChat, "{", 400, "not valid JSON"},
      {kChat, "[]", 400, "valid dictionary"},
      {kChat, "null", 400, "valid dictionary"},
      {kChat, "5", 400, "valid dictionary"},
      {kChat, "{} {}", 400, "not valid JSON"},
      {kChat, "{'messages': []}", 400, "not valid JSON"},
      {kChat, R"({"messages": [],})", 400, "not valid JSON"},
      {kChat, std::string("{\"a\": \"\xff\xfe\"}"), 400, "not valid JSON"},
      {kChat, std::string("{\"a\": 1\0}", 9), 400, "zero byte"},
      {kChat, R"({"messages": "\ud800"})", 400, "not valid JSON"},
      {kChat, R"({"messages": "\udc00\ud800"})", 400, "not valid JSON"},
      {kChat, R"({"a": 1, "a": 2})", 400, "appears twice"},
      {kChat, R"({"messages": [{"role": "user", "role": "system", "content": "x"}]})", 400,
       "twice"},
      {kChat, repeated("[", 100'000), 400, "nested deeper"},
      {kChat, repeated("{\"a\":", 10'000), 400, "nested deeper"},
      {kChat, "{\"a\": " + repeated("[", 127) + repeated("]", 127) + "}", 400, "messages"},
      {kChat, "{\"a\": " + repeated("[", 128) + repeated("]", 128) + "}", 400, "nested deeper"},
      // Numbers
      field(kText, R"("temperature": NaN)", 400, "not valid JSON"),
      field(kText, R"("temperature": Infinity)", 400, "not valid JSON"),
      field(kText, R"("temperature": 1e999)", 400, "not valid JSON"),
      field(kText, R"("temperature": -0.1)", 400, "temperature must be in [0, 2], got -0.1."),
      field(kText, R"("temperature": 2.1)", 400, "temperature must be in [0, 2], got 2.1."),
      field(kText, R"("temperature": "hot")", 400,
            "body.temperature: Input should be a valid number"),
      field(kText, R"("temperature": true)", 400, "body.temperature"),
      field(kText, R"("temperature": [1])", 400, "body.temperature"),
      field(kText, R"("top_p": 0)", 400, "top_p must be in (0, 1], got 0."),
      field(kText, R"("top_p": 1.01)", 400, "top_p must be in (0, 1]"),
      field(kText, R"("top_p": {})", 400, "body.top_p"),
      field(kText, R"("top_k": -2)", 400, "top_k must be 0 (disable), or at least 1, got -2."),
      field(kText, R"("top_k": 1.5)", 400, "body.top_k: Input should be a valid integer"),
      field(kText, R"("top_k": 18446744073709551615)", 400, "64-bit"),
      field(kText, R"("top_k": 1e300)", 400, "64-bit"),
      field(kText, R"("min_p": -0.01)", 400, "min_p must be in [0, 1]"),
      field(kText, R"("min_p": 1.5)", 400, "min_p must be in [0, 1]"),
      field(kText, R"("repetition_penalty": 0)", 400,
            "repetition_penalty must be greater than zero"),
      field(kText, R"("repetition_penalty": -1)", 400, "greater than zero"),
      field(kText, R"("frequency_penalty": 2.5)", 400,
            "frequency_penalty must be in [-2, 2], got 2.5."),
      field(kText, R"("presence_penalty": -3)", 400,
            "presence_penalty must be in [-2, 2], got -3."),
      field(kText, R"("seed": "one")", 400, "body.seed"),
      field(kText, R"("seed": 0.5)", 400, "body.seed"),
      field(kText, R"("n": 0)", 400, "n must be at least 1, got 0."),
      field(kText, R"("n": -1)", 400, "n must be at least 1"),
      field(kText, R"("n": 129)", 400, "n must be at most 128"),
      field(kText, R"("n": 1000000000)", 400, "n must be at most"),
      field(kText, R"("n": 2, "temperature": 0)", 400,
            "n must be 1 when using greedy sampling, got 2."),
      field(kText, R"("n": "2")", 400, "body.n"),
      field(kText, R"("best_of": 5)", 400, "best_of"),
      field(kText, R"("logprobs": -1)", 400, "logprobs must be a non-negative value"),
      field(kText, R"("logprobs": 21)", 400, "greater than max allowed: 20"),
      field(kText, R"("logprobs": true)", 400, "body.logprobs"),
      field(kText, R"("prompt_logprobs": 21)", 400, "greater than max allowed: 20"),
      field(kText, R"("prompt_logprobs": 1, "stream": true)", 400,
            "`prompt_logprobs` are not available"),
      field(kText, R"("min_tokens": -1)", 400, "min_tokens must be greater than or equal to 0"),
      field(kText, R"("min_tokens": 3)", 400,
            "min_tokens must be less than or equal to max_tokens=2, got 3."),
      field(kText, R"("truncate_prompt_tokens": -2)", 400, "truncate_prompt_tokens"),
      field(kText, R"("priority": 1)", 400, "priority scheduling is not enabled"),
      field(kText, R"("priority": "high")", 400, "body.priority"),
      // Words and ids
      field(kText, R"("stop": "")", 400, "stop cannot contain an empty string."),
      field(kText, R"("stop": ["a", ""])", 400, "stop cannot contain an empty string."),
      field(kText, R"("stop": [1])", 400, "body.stop.0"),
      field(kText, R"("stop": {"a": 1})", 400, "body.stop"),
      field(kText, "\"stop\": [" + repeated("\"a\",", 64) + "\"a\"]", 400,
            "at most 64 strings, got 65"),
      field(kText, "\"stop\": \"" + repeated("a", 4097) + "\"", 400, "at most 4096 bytes"),
      field(kText, R"("stop_token_ids": ["a"])", 400, "body.stop_token_ids.0"),
      field(kText, R"("stop_token_ids": [-1])", 400, "body.stop_token_ids.0"),
      field(kText, R"("stop_token_ids": [2048])", 400, "2048"),
      field(kText, R"("stop_token_ids": 5)", 400, "body.stop_token_ids"),
      field(kText, R"("stop_token_ids": [99999999999])", 400, "body.stop_token_ids.0"),
      field(kText, R"("allowed_token_ids": [])", 400, "allowed_token_ids"),
      field(kText, R"("allowed_token_ids": [5000])", 400, "5000"),
      field(kText, R"("bad_words": [""])", 400, "bad_words"),
      field(kText, R"("bad_words": [["a"]])", 400, "body.bad_words.0"),
      field(kText, "\"bad_words\": [" + repeated("\"a\",", 128) + "\"a\"]", 400, "at most 128"),
      field(kText, R"("logit_bias": {"a": 1})", 400, "body.logit_bias.a"),
      field(kText, R"("logit_bias": {"-1": 1})", 400, "body.logit_bias.-1"),
      field(kText, R"("logit_bias": {"1": "x"})", 400, "body.logit_bias.1"),
      field(kText, R"("logit_bias": {"2048": 1})", 400, "2048"),
      field(kText, R"("logit_bias": {"99999999999999999999": 1})", 400, "body.logit_bias"),
      field(kText, R"("logit_bias": [1])", 400, "body.logit_bias"),
      // Switches
      field(kText, R"("stream": "yes")", 400, "body.stream: Input should be a valid boolean"),
      field(kText, R"("stream": 1)", 400, "body.stream"),
      field(kText, R"("stream_options": {"include_usage": true})", 400,
            "only be defined when `stream=True`"),
      field(kText, R"("stream": true, "stream_options": [])", 400, "body.stream_options"),
      field(kText, R"("stream": true, "stream_options": {"include_usage": 1})", 400,
            "body.stream_options.include_usage"),
      field(kText, R"("echo": "x")", 400, "body.echo"),
      field(kText, R"("ignore_eos": 0)", 400, "body.ignore_eos"),
      field(kText, R"("model": 5)", 400, "body.model"),
      field(kText, R"("model": "other")", 404, "The model `other` does not exist."),
      field(kText, R"("cache_salt": "")", 400, "cache_salt"),
      field(kText, R"("cache_salt": "a/b")", 400, "cache_salt"),
      field(kText, "\"cache_salt\": \"" + repeated("a", 129) + "\"", 400, "cache_salt"),
      field(kText, R"("suffix": "end")", 400, "suffix is not currently supported"),
      field(kText, R"("use_beam_search": true)", 501, "Beam search"),
      field(kText, R"("prompt_embeds": "AAAA")", 501, "prompt_embeds"),
      field(kChat, R"("response_format": {"type": "json_object"})", 501, "json_object"),
      field(kChat, R"("response_format": {})", 400, "body.response_format.type"),
      field(kChat, R"("guided_regex": "a+")", 501, "Structured output"),
      // Prompts
      {kText, R"({"max_tokens": 1})", 400, "Either prompt or prompt_embeds"},
      {kText, R"({"prompt": null})", 400, "Either prompt or prompt_embeds"},
      {kText, R"({"prompt": ""})", 400, "cannot be empty"},
      {kText, R"({"prompt": []})", 400, "prompt should not be empty"},
      {kText, R"({"prompt": [[]]})", 400, "cannot be empty"},
      {kText, R"({"prompt": {}})", 400, "body.prompt"},
      {kText, R"({"prompt": 5})", 400, "body.prompt"},
      {kText, R"({"prompt": [1, "a"]})", 400, "body.prompt.1"},
      {kText, R"({"prompt": ["a", 1]})", 400, "body.prompt.1"},
      {kText, R"({"prompt": [[1], "a"]})", 400, "body.prompt.1"},
      {kText, R"({"prompt": [1.5]})", 400, "body.prompt.0"},
      {kText, R"({"prompt": [-1]})", 400, "body.prompt.0"},
      {kText, R"({"prompt": [2048]})", 400, "2048"},
      {kText, R"({"prompt": [4294967296]})", 400, "body.prompt.0"},
      {kText, "{\"prompt\": [" + repeated("\"a\",", 1024) + "\"a\"]}", 400, "at most 1024 entries"},
      {kText, R"({"prompt": "x", "max_tokens": 0})", 400, "max_tokens must be at least 1, got 0."},
      {kText, R"({"prompt": "x", "max_tokens": -5})", 400, "max_tokens must be at least 1"},
      {kText, R"({"prompt": "x", "max_tokens": 4097})", 400,
       "maximum context length is 4096 tokens"},
      {kText, "{\"prompt\": \"" + repeated("a b ", 4096) + "\"}", 400,
       "maximum context length is 4096 tokens. However, you requested 16 output tokens"},
      {kText, "{\"prompt\": \"" + repeated("xyz ", 1 << 20) + "\"}", 400, "maximum context length"},
      // Conversations
      {kChat, "{}", 400, "body.messages: Field required"},
      messages("null", "body.messages: Field required"),
      messages("[]", "body.messages"),
      messages("\"hi\"", "body.messages: Input should be a valid list"),
      messages("[5]", "body.messages.0"),
      messages("[{}]", "body.messages.0.role: Field required"),
      messages(R"([{"role": 5, "content": "x"}])", "body.messages.0.role"),
      messages(R"([{"role": "king", "content": "x"}])", "Unknown role: king"),
      messages(R"([{"role": "user", "content": 5}])", "body.messages.0.content"),
      messages(R"([{"role": "user", "content": {"text": "x"}}])", "body.messages.0.content"),
      messages(R"([{"role": "user", "content": ["x"]}])", "body.messages.0.content.0"),
      messages(R"([{"role": "user", "content": [{"text": "x"}]}])",
               "body.messages.0.content.0.type"),
      messages(R"([{"role": "user", "content": [{"type": "text"}]}])",
               "body.messages.0.content.0.text"),
      messages(R"([{"role": "user", "content": [{"type": "poem", "text": "x"}]}])",
               "Unknown part type: poem"),
      messages(
          R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}])",
          "At most 0 image(s)"),
      messages(R"([{"role": "assistant", "tool_calls": 5}, {"role": "user", "content": "x"}])",
               "tool_calls"),
      messages(R"([{"role": "system", "content": "x"}])", "No user message given."),
      field(kChat, R"("top_logprobs": 2)", 400,
            "when using `top_logprobs`, `logprobs` must be set to true."),
      field(kChat, R"("logprobs": 2)", 400, "body.logprobs"),
      field(kChat, R"("logprobs": true, "top_logprobs": 50)", 400, "greater than max allowed"),
      field(kChat, R"("tools": [])", 400, "tools must not be an empty array."),
      field(kChat, R"("tools": "f")", 400, "body.tools"),
      field(kChat, R"("tool_choice": "auto")", 400, "`tools` must be set"),
      field(kChat, R"("tools": [{"type": "function", "function": {"name": "f"}}])", 501,
            "Calling tools"),
      field(kChat, R"("chat_template": "{{ messages }}")", 400, "--trust-request-chat-template"),
      field(kChat, R"("chat_template_kwargs": {"chat_template": "x"})", 400,
            "cannot set \"chat_template\""),
      field(kChat, R"("chat_template_kwargs": {"tokenize": true})", 400, "cannot set \"tokenize\""),
      field(kChat, R"("chat_template_kwargs": 5)", 400, "body.chat_template_kwargs"),
      field(kChat, R"("add_generation_prompt": true, "continue_final_message": true)", 400,
            "Cannot set both"),
      field(kChat, R"("reasoning_effort": 5)", 400, "body.reasoning_effort"),
      {"/tokenize", "{}", 400, "body.prompt: Field required"},
      {"/tokenize", R"({"prompt": 5})", 400, "body.prompt"},
      {"/detokenize", "{}", 400, "body.tokens: Field required"},
      {"/detokenize", R"({"tokens": ["a"]})", 400, "body.tokens.0"},
      {"/detokenize", R"({"tokens": [99999]})", 400, "out of vocabulary"},
  };
  return all;
}

TEST(MalformedTest, EveryOneIsRefusedWithASentence) {
  RunningServer server;
  ASSERT_GE(cases().size(), 100U);
  for (const Case& bad : cases()) {
    const std::string shown = bad.body.substr(0, 120);
    const Received got = ask(server.port(), post(bad.path, bad.body));
    ASSERT_EQ(got.status, bad.status) << shown << "\n" << got.body;
    const JsonValue error = got.json().at("error");
    EXPECT_EQ(error.at("code"), bad.status) << shown;
    EXPECT_TRUE(error.at("param").is_null() || error.at("param").is_string()) << shown;
    EXPECT_FALSE(error.at("type").get<std::string>().empty()) << shown;
    EXPECT_NE(error.at("message").get<std::string>().find(bad.says), std::string::npos)
        << shown << "\n"
        << got.body;
    EXPECT_LT(got.body.size(), 6000U) << shown;
  }
  EXPECT_EQ(chat(server.port(), user(R"(, "max_tokens": 1)")).status, 200);
  EXPECT_EQ(server->state().kv_tokens_used, 0);
}

TEST(MalformedTest, WhatLooksOddIsAccepted) {
  RunningServer server;
  for (
      const std::string& more :
      {R"("max_tokens": 2.0)", R"("temperature": 1)", R"("temperature": null)", R"("n": null)",
       R"("stop": null)", R"("stop": [])", R"("no_such_field": {"a": [1]})", R"("seed": -1)",
       R"("logit_bias": {"5": 1000})", R"("top_k": -1)", R"("top_k": 0)", R"("model": "")",
       R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "none")",
       R"("response_format": {"type": "text"})", R"("user": "me")", R"("best_of": 1)",
       R"("stream_options": null)", R"("reasoning_effort": "none")"}) {
    const std::string limit =
        more.find("max_tokens") == std::string::npos ? R"("max_tokens": 1, )" : "";
    const Received got = chat(server.port(), user(", " + limit + more));
    EXPECT_EQ(got.status, 200) << more << got.body;
  }
}

TEST(MalformedTest, LimitsHoldToTheByte) {
  ServerOptions options;
  options.http.limits.body_bytes = 2000;
  options.http.limits.headers = 20;
  options.http.limits.head_bytes = 4000;
  options.http.limits.request_line_bytes = 300;
  RunningServer server({}, options);
  auto body = [](size_t size) {
    std::string text = R"({"prompt": "x", "max_tokens": 1, "user": ")";
    return text + std::string(size - text.size() - 2, 'a') + "\"}";
  };
  EXPECT_EQ(complete(server.port(), body(2000)).status, 200);
  EXPECT_EQ(complete(server.port(), body(2001)).status, 413);
  auto chunked = [&](size_t size) {
    const std::string bytes = body(size);
    std::string text =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    for (size_t at = 0; at < bytes.size(); at += 100) {
      const std::string piece = bytes.substr(at, 100);
      text += fmt::format("{:x}\r\n{}\r\n", piece.size(), piece);
    }
    return text + "0\r\n\r\n";
  };
  EXPECT_EQ(ask(server.port(), chunked(2000)).status, 200);
  EXPECT_EQ(ask(server.port(), chunked(2001)).status, 413);
  auto headers = [](size_t count) {
    std::string text;
    for (size_t i = 1; i < count; ++i) text += "X-" + std::to_string(i) + ": y\r\n";
    return text;
  };
  EXPECT_EQ(ask(server.port(), get("/health", headers(20))).status, 200);
  EXPECT_EQ(ask(server.port(), get("/health", headers(21))).status, 431);
  const size_t fixed = get("/health", "X: \r\n").size() - 4;  // without the empty line's bytes
  EXPECT_EQ(
      ask(server.port(), get("/health", "X: " + std::string(4000 - fixed, 'a') + "\r\n")).status,
      200);
  EXPECT_EQ(
      ask(server.port(), get("/health", "X: " + std::string(4001 - fixed, 'a') + "\r\n")).status,
      431);
  const size_t line = std::string("GET /health? HTTP/1.1").size();
  EXPECT_EQ(ask(server.port(), get("/health?" + std::string(300 - line, 'a'))).status, 200);
  EXPECT_EQ(ask(server.port(), get("/health?" + std::string(301 - line, 'a'))).status, 414);
}

TEST(MalformedTest, ATemplateThatNeverEndsIsStopped) {
  for (const std::string& text :
       {std::string(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        std::string("{% set a = messages[0].role * 99999 %}{% set b = a * 99999 %}{{ b }}"),
        std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")}) {
    ModelOptions model;
    model.chat_template = text;
    RunningServer server({}, {}, mock_limits(), model);
    const Received got = chat(server.port(), user());
    EXPECT_EQ(got.status, 400) << got.body;
    EXPECT_EQ(complete(server.port(), R"({"prompt": "x", "max_tokens": 1})").status, 200);
  }
}

}  // namespace
}  // namespace quern::serve
