// One request between the engine and its client: tokens come in, text goes out, whole or as a
// stream. Lives on the I/O thread of its connection.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "http/server.h"
#include "serve/admission.h"
#include "serve/api_response.h"
#include "serve/engine_loop.h"
#include "serve/metrics.h"
#include "serve/reasoning.h"
#include "serve/served_model.h"
#include "serve/stop_strings.h"

namespace quern::serve {

// What all answers share.
struct AnswerContext {
  const ServedModel& model;
  EngineLoop& engine;
  Metrics& metrics;
};

class Answer : public Receiver, public std::enable_shared_from_this<Answer> {
 public:
  using Clock = std::chrono::steady_clock;

  // queued: the prompt's tokens, until the first answer begins. `ended` is called once, when client
  // and engine are done with it, with the status of the answer.
  Answer(AnswerContext context, std::shared_ptr<http::Exchange> exchange, ApiRequest request,
         Prepared prepared, WriterOptions writer, std::unique_ptr<Admission::Queued> queued,
         std::function<void(int status)> ended);
  ~Answer() override;

  // Hands the requests to the engine and watches the client. What has not begun by `deadline` is
  // answered 504; what has, ends there with what it has.
  void start(std::optional<Clock::time_point> deadline);

  void receive(size_t index, engine::Update& update, const StepTimes& step) override;
  void fail() override;
  int io_thread() const override { return io_thread_; }

 private:
  struct Choice {
    Choice(const ServedModel& model, const ApiRequest& request, const engine::Request& asked,
           std::string_view begun);

    prompt::Detokenizer detokenizer;
    StopStrings stops;
    ReasoningState reasoning;
    Piece unsent;  // all of it, unless it is streamed
    ChoiceTimes times;
    int64_t reasoning_tokens = 0;
    bool echoed = false, done = false;
  };

  Piece take_tokens(Choice& choice, engine::Update& update);
  void take_text(Choice& choice, Piece& piece, Voice voice, const std::string& text);
  void end_choice(Choice& choice, Piece& piece, const engine::Update& update);
  // Of a stream: what there is leaves, if the client reads; else it becomes one chunk later.
  void send_text(size_t index);
  void send_all_text();
  void begin_stream();
  // Every piece of a stream leaves through here: the client may go at any of them.
  void tell(std::string_view piece);
  void finish();
  void leave();
  void expire();
  // Nothing more comes of it: the client, if it is there, gets an error.
  void give_up(const char* finish_reason, int status, const char* message);
  void begin_choice(Choice& choice, int64_t cached_tokens, const StepTimes& step);
  void count_tokens(Choice& choice, int64_t tokens, const StepTimes& step);
  double seconds(Clock::time_point time) const {
    return std::chrono::duration<double>(time - arrived_).count();
  }
  EchoedPrompt& prompt_of(size_t index) {
    return prompts_[index / static_cast<size_t>(request_.n)];
  }
  Usage usage() const;
  Usage usage_of_prompt() const;  // before the answer
  bool only_prompt() const { return request_.echo && request_.max_tokens == 0; }

  AnswerContext context_;
  std::shared_ptr<http::Exchange> exchange_;  // none after the end
  const int io_thread_;
  ApiRequest request_;
  std::vector<engine::Request> unsent_;  // until start()
  std::vector<Choice> choices_;
  std::vector<EchoedPrompt> prompts_;
  ApiWriter writer_;
  const Clock::time_point arrived_;
  std::function<void(int)> ended_;
  int status_ = 200;
  int64_t prompt_tokens_ = 0;
  std::unique_ptr<Admission::Queued> queued_;
  size_t open_ = 0;  // choices that are not done
  bool streaming_ = false;
  bool behind_ = false;  // a stream that waits for its client to read
  bool over_ = false;    // nothing more is told
};

}  // namespace quern::serve
