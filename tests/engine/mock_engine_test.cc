#include "engine/mock_engine.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::engine {
namespace {

const Limits kLimits{.vocabulary = 200, .max_model_len = 100, .max_num_seqs = 8};
const std::vector<int32_t> kText = {1, 2};

// A tokenizer of letters.
MockScript::Words letters() {
  return {.encode =
              [](std::string_view text) { return std::vector<int32_t>(text.begin(), text.end()); },
          .decode = [](auto ids) { return std::string(ids.begin(), ids.end()); }};
}

MockScript script_of(const std::string& json) {
  return {parse_json(json, "script.json"), "script.json", letters()};
}

Request asked(std::string_view text, int64_t max_tokens = 20) {
  return {.tokens = letters().encode(text), .max_tokens = max_tokens, .stop_ids = {0}};
}

// The tokens of each step until the answer ends.
std::vector<std::vector<int32_t>> steps_of(MockEngine& engine, Request request,
                                           std::optional<Finish> finish) {
  engine.submit(std::move(request));
  std::vector<std::vector<int32_t>> steps;
  std::optional<Finish> got;
  while (!engine.idle()) {
    for (const Update& update : engine.step()) {
      steps.push_back(update.tokens);
      got = update.finish;
      EXPECT_EQ(update.reports.size(), 0u);
    }
  }
  EXPECT_EQ(got, finish);
  return steps;
}

using Steps = std::vector<std::vector<int32_t>>;

TEST(MockEngineTest, RepeatsItsText) {
  MockEngine engine({}, kLimits, kText);
  EXPECT_EQ(steps_of(engine, asked("x", 3), Finish::length), (Steps{{1}, {2}, {1}}));
  MockEngine ending({.answer_tokens = 2}, kLimits, kText);
  EXPECT_EQ(steps_of(ending, asked("x"), Finish::stop), (Steps{{1}, {0}}));
}

TEST(MockEngineTest, FollowsItsScript) {
  MockEngine engine({}, kLimits, kText, script_of(R"([
      {"when": "sun", "says": "abcde", "tokens_per_step": 2},
      {"when": "rain", "steps": ["ab", [7, 8, 9], "c"], "ends": false},
      {"when": "stop", "steps": [[5, 0, 6]]}])"));
  EXPECT_EQ(steps_of(engine, asked("any sun?"), Finish::stop),
            (Steps{{'a', 'b'}, {'c', 'd'}, {'e'}, {0}}));
  EXPECT_EQ(steps_of(engine, asked("rain", 8), Finish::length),
            (Steps{{'a', 'b'}, {7, 8, 9}, {'c'}, {1}, {2}}));
  EXPECT_EQ(steps_of(engine, asked("rain", 4), Finish::length), (Steps{{'a', 'b'}, {7, 8}}));
  EXPECT_EQ(steps_of(engine, asked("stop"), Finish::stop), (Steps{{5, 0}}));
  EXPECT_EQ(steps_of(engine, asked("snow", 2), Finish::length), (Steps{{1}, {2}}));
  EXPECT_EQ(engine.state().new_tokens, 6 + 8 + 4 + 2 + 2);
}

TEST(MockEngineTest, EveryTokenOfAStepHasItsReport) {
  MockEngine engine({}, kLimits, kText, script_of(R"([{"says": "abc", "tokens_per_step": 3}])"));
  Request request = asked("x", 3);
  request.logprobs = 1;
  engine.submit(request);
  const auto updates = engine.step();
  ASSERT_EQ(updates.size(), 1u);
  ASSERT_EQ(updates[0].reports.size(), 3u);
  EXPECT_EQ(updates[0].reports[2].top[0].id, 'c');
}

TEST(MockEngineTest, RefusesScriptsThatSayNothingClear) {
  for (const char* bad :
       {"{}", R"([{"when": "x"}])", R"([{"says": "a", "steps": []}])", R"([{"steps": [""]}])",
        R"([{"says": "a", "tokens_per_step": 0}])", R"([{"say": "a"}])", R"([{"steps": [true]}])"})
    EXPECT_THROW(script_of(bad), Error) << bad;
}

TEST(MockEngineTest, Options) {
  const MockOptions options = MockOptions::of("tokens_per_s=50,script=/a/b=c.json,fail_step=3");
  EXPECT_EQ(options.tokens_per_s, 50);
  EXPECT_EQ(options.script, "/a/b=c.json");
  EXPECT_EQ(options.fail_step, 3);
  for (const char* bad : {"tokens_per_s", "tokens_per_s=x", "speed=3", "script"})
    EXPECT_THROW(MockOptions::of(bad), Error) << bad;
}

}  // namespace
}  // namespace quern::engine
