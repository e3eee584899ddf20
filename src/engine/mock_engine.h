// An engine without a model: it repeats a given text, or follows a script, at a given speed. Behind
// the real server it shows what the server itself costs, and how it treats requests that end in
// every possible way.
#pragma once

#include <chrono>
#include <deque>
#include <string_view>
#include <unordered_map>

#include "engine/engine.h"
#include "engine/mock_script.h"

namespace quern::engine {

struct MockOptions {
  double tokens_per_s = 0;    // of each sequence; 0: as fast as it goes
  double prefill_us = 0;      // for each token of a prompt
  int64_t answer_tokens = 0;  // then the first stop id; 0: until max_tokens
  int64_t fail_step = 0;      // this step ends its requests with Finish::error; 0: none
  int64_t throw_step = 0;     // this step throws, as no engine should; 0: none
  std::string script = {};    // a file for MockScript; empty: none

  // "tokens_per_s=50,prefill_us=10"; fails with Exit::usage.
  static MockOptions of(std::string_view text);
};

class MockEngine : public Engine {
 public:
  // `text`: what is answered, over and over; not empty. A script goes before it.
  MockEngine(const MockOptions& options, const Limits& limits, std::vector<int32_t> text,
             std::optional<MockScript> script = std::nullopt);

  int64_t submit(Request request) override;
  std::vector<Update> step() override;
  void cancel(int64_t request) override;
  bool idle() const override { return running_.empty() && waiting_.empty() && ended_.empty(); }
  const Limits& limits() const override { return limits_; }
  EngineState state() const override;

 private:
  struct Sequence {
    int64_t id;
    Request request;
    const MockScript::Answer* answer = nullptr;  // of the script
    size_t steps = 0;                            // of it, that were made
    int64_t made = 0;                            // tokens
  };

  void admit();
  void keep_time(int64_t prompt_tokens);
  Update advance(Sequence& sequence);
  // The tokens of the sequence's next step, before any limit.
  std::vector<int32_t> next_tokens(Sequence& sequence) const;
  int64_t tokens(const Sequence& sequence) const;

  MockOptions options_;
  Limits limits_;
  std::vector<int32_t> text_;
  std::optional<MockScript> script_;
  std::deque<Sequence> waiting_;
  std::vector<Sequence> running_;
  std::vector<int64_t> ended_;  // cancelled before the next step
  EngineState state_;
  std::chrono::steady_clock::time_point next_step_{};
  int64_t submitted_ = 0;
  int64_t prompt_tokens_ = 0;  // of those admitted in this step
};

}  // namespace quern::engine
