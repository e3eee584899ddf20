// What clients get from a model of each family: the greedy continuations that transformers
// computed, of several prompts at once, whole and in a stream.
#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "runner/model_engine.h"
#include "tests/serve/running.h"

namespace quern::serve {
namespace {

constexpr int kPrompts = 3;

std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data" / name;
}

std::vector<int32_t> golden(const std::string& family, int prompt, const std::string& what) {
  const checkpoint::SafetensorsFile file(fixture(family) / "golden.safetensors");
  const Tensor ids = file.tensor(fmt::format("p{}.{}", prompt, what)).contiguous();
  return {ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + ids.numel()};
}

std::unique_ptr<engine::Engine> exact_engine(const std::string& family) {
  prepare_torch();
  engine::EngineOptions options;
  options.max_num_seqs = 4;
  options.max_num_batched_tokens = 64;  // the longest prompt comes in chunks
  options.kv_type = nn::KvType::fp32;
  options.kv_bytes = 64 << 20;
  return std::make_unique<runner::ModelEngine>(std::make_shared<const nn::Source>(fixture(family)),
                                               options);
}

class ServedModelTest : public testing::TestWithParam<const char*> {
 protected:
  ServedModelTest() : server_(exact_engine(GetParam()), {.folder = fixture(GetParam())}) {}

  static JsonValue all_prompts() {
    JsonValue prompts = JsonValue::array();
    for (int i = 0; i < kPrompts; ++i) prompts.push_back(golden(GetParam(), i, "input_ids"));
    return {{"prompt", prompts},
            {"max_tokens", 24},
            {"temperature", 0},
            {"ignore_eos", true},
            {"return_token_ids", true}};
  }

  RunningServer server_;
};

TEST_P(ServedModelTest, ContinuesAsTransformersDoes) {
  const JsonValue answer = complete(server_.port(), all_prompts().dump()).json();
  ASSERT_EQ(answer["choices"].size(), kPrompts) << answer.dump();
  for (int i = 0; i < kPrompts; ++i) {
    EXPECT_EQ(answer["choices"][i]["token_ids"].get<std::vector<int32_t>>(),
              golden(GetParam(), i, "greedy_ids"))
        << "prompt " << i;
  }
}

TEST_P(ServedModelTest, StreamsTheSameTokens) {
  JsonValue body = all_prompts();
  body["stream"] = true;
  std::vector<std::vector<int32_t>> streamed(kPrompts);
  for (const JsonValue& event : complete(server_.port(), body.dump()).events()) {
    for (const JsonValue& choice : event["choices"]) {
      const auto ids = choice["token_ids"].get<std::vector<int32_t>>();
      auto& all = streamed.at(choice["index"].get<size_t>());
      all.insert(all.end(), ids.begin(), ids.end());
    }
  }
  for (int i = 0; i < kPrompts; ++i)
    EXPECT_EQ(streamed[i], golden(GetParam(), i, "greedy_ids")) << "prompt " << i;
}

TEST_P(ServedModelTest, AnswersAChatByItsOwnTemplate) {
  const Received received =
      chat(server_.port(), R"({"messages": [{"role": "user", "content": "hi"}],
                               "max_tokens": 8, "ignore_eos": true})");
  ASSERT_EQ(received.status, 200) << received.body;
  const JsonValue answer = received.json();
  EXPECT_EQ(answer["usage"]["completion_tokens"], 8);
  EXPECT_GT(answer["usage"]["prompt_tokens"], 1);
}

INSTANTIATE_TEST_SUITE_P(, ServedModelTest, testing::Values("qwen36", "glm45", "gemma4", "sarvam"),
                         [](const auto& info) { return info.param; });

TEST(ServedTinyModelTest, CachedTokensAreCountedOnceForAllAnswers) {
  RunningServer server(std::make_unique<runner::ModelEngine>(
      std::make_shared<const nn::Source>(tiny_model()),
      engine::EngineOptions{.max_model_len = 256, .kv_bytes = 32 << 20}));
  std::string prompt;
  for (int i = 0; i < 10; ++i) prompt += "1 + 2 = 3, ";
  const std::string body =
      JsonValue{{"prompt", prompt}, {"n", 4}, {"max_tokens", 1}, {"temperature", 1}}.dump();
  complete(server.port(), body);
  const JsonValue usage = complete(server.port(), body).json()["usage"];
  const int64_t cached = usage["prompt_tokens_details"]["cached_tokens"];
  EXPECT_GT(cached, 16);
  EXPECT_LT(cached, usage["prompt_tokens"].get<int64_t>());
}

TEST(ServedTinyModelTest, AStormAgainstARealModelLeavesItsCachesFree) {
  RunningServer server(std::make_unique<runner::ModelEngine>(
      std::make_shared<const nn::Source>(tiny_model()),
      engine::EngineOptions{.max_model_len = 512, .max_num_seqs = 8, .kv_bytes = 32 << 20}));
  const std::string question = R"({"prompt": "2 + 3 =", "max_tokens": 8, "temperature": 0})";
  const std::string before = complete(server.port(), question).json()["choices"].dump();
  EXPECT_EQ(server->state().kv_tokens_used, 0);
  std::vector<std::thread> storm;
  for (int t = 0; t < 4; ++t)
    storm.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        Wire client(server.port());
        client.send(post("/v1/completions", stream_body(400)));
        for (int k = 0; k < (i + t) % 3; ++k) client.receive(5);
      }
    });
  for (std::thread& thread : storm) thread.join();
  EXPECT_TRUE(soon([&] {
    const auto state = server->state();
    return state.running == 0 && state.waiting == 0 && state.kv_tokens_used == 0;
  }));
  EXPECT_EQ(complete(server.port(), question).json()["choices"].dump(), before);
}

}  // namespace
}  // namespace quern::serve
