// One answer between an engine and a client that may go at any time.
#include "serve/answer.h"

#include <gtest/gtest.h>

#include <deque>

#include "serve/api_request.h"
#include "tests/serve/running.h"

namespace quern::serve {
namespace {

// The turns of the I/O thread, which is the test's own.
class Turns {
 public:
  void post(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    turns_.push_back(std::move(work));
  }
  bool take_one() {
    std::function<void()> work;
    {
      const std::lock_guard lock(mutex_);
      if (turns_.empty()) return false;
      work = std::move(turns_.front());
      turns_.pop_front();
    }
    work();
    return true;
  }

 private:
  std::mutex mutex_;
  std::deque<std::function<void()>> turns_;
};

enum class Tells { in_a_turn, inside_of_write };

// A client that goes at a certain write, or never has room for more than one.
class FakeExchange : public http::Exchange {
 public:
  FakeExchange(Turns& turns, int leaves_at, Tells tells, bool slow = false)
      : turns_(turns), leaves_at_(leaves_at), tells_(tells), slow_(slow) {}

  http::Request& request() override { return request_; }
  const http::Request& request() const override { return request_; }
  Clock::time_point arrived() const override { return Clock::now(); }
  void add_header(http::Header) override {}
  void respond(http::Response response) override { write(response.body); }
  void begin(http::Response) override { write("head"); }
  void write(std::string_view piece) override {
    if (left_) return;
    text += piece;
    full_ = slow_;
    if (++writes != leaves_at_) return;
    left_ = true;
    if (!gone_) return;
    if (tells_ == Tells::in_a_turn)
      turns_.post(gone_);
    else
      gone_();
  }
  void end() override { ended = true; }
  bool left() const override { return left_; }
  void on_left(std::function<void()> work) override { gone_ = std::move(work); }
  bool full() const override { return full_; }
  void on_room(std::function<void()> work) override {
    turns_.post([this, work = std::move(work)] {
      full_ = false;
      work();
    });
  }
  void at(Clock::time_point, std::function<void()>) override {}
  int io_thread() const override { return 0; }
  void post(std::function<void()> work) override { turns_.post(std::move(work)); }

  std::string text;
  int writes = 0;
  bool ended = false;

 private:
  Turns& turns_;
  http::Request request_;
  const int leaves_at_;
  const Tells tells_;
  const bool slow_;
  bool left_ = false, full_ = false;
  std::function<void()> gone_;
};

struct Case {
  Endpoint endpoint;
  const char* body;
};
const Case kCases[] = {
    {Endpoint::chat, R"({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "n": 3,
       "temperature": 1, "stream": true, "stream_options": {"include_usage": true}})"},
    {Endpoint::completions, R"({"prompt": ["a b", "c d"], "max_tokens": 5, "echo": true,
       "logprobs": 2, "stream": true})"},
    {Endpoint::completions, R"({"prompt": "a b", "max_tokens": 0, "echo": true, "stream": true})"},
    {Endpoint::completions, R"({"prompt": "a b", "max_tokens": 9, "n": 2, "temperature": 1})"},
};

class AnswerTest : public testing::Test {
 protected:
  AnswerTest() : model_(tiny()) {
    auto engine = std::make_unique<engine::MockEngine>(engine::MockOptions{}, mock_limits(),
                                                       model_.encode(kMockText, false));
    loop_ = std::make_unique<EngineLoop>(
        std::move(engine), 1,
        EngineLoop::Listeners{
            .post = [this](int, std::function<void()> work) { turns_.post(std::move(work)); },
            .stepped = [](const engine::EngineState&) {},
            .died = [] {}});
  }

  static ModelOptions tiny() {
    ModelOptions options;
    options.folder = tiny_model();
    options.names = {"tiny"};
    return options;
  }

  // Runs the request to its end and returns the status that it ended with.
  int run(const Case& one, const std::shared_ptr<FakeExchange>& exchange) {
    ApiRequest request =
        read_api_request(one.endpoint, parse_body(one.body), model_.sampling_defaults(), {});
    Prepared prepared = prepare(request, model_, loop_->limits());
    // The engine's thread may be the last to hold the answer.
    std::atomic<int> status = 0, ends = 0;
    auto queued = std::make_unique<Admission::Queued>(admission_, key_, prepared.prompt_tokens);
    std::make_shared<Answer>(AnswerContext{model_, *loop_, metrics_}, exchange, std::move(request),
                             std::move(prepared), WriterOptions{.id = "id", .model = "tiny"},
                             std::move(queued),
                             [&](int ended_with) {
                               status = ended_with;
                               ++ends;
                             })
        ->start(std::nullopt);
    EXPECT_TRUE(soon([&] {
      while (turns_.take_one()) {
      }
      return ends > 0 && loop_->unfinished() == 0;
    }));
    while (turns_.take_one()) {
    }
    EXPECT_EQ(ends, 1);
    EXPECT_EQ(key_->queued_tokens, 0);
    return status;
  }

  Turns turns_;
  ServedModel model_;
  Metrics metrics_{"model_name=\"tiny\"", 4096};
  Admission admission_{AdmissionOptions{}};
  const Admission::Key key_ = std::make_shared<ApiKey>();
  std::unique_ptr<EngineLoop> loop_;
};

TEST_F(AnswerTest, TheClientMayGoAtEveryWrite) {
  for (const Case& one : kCases)
    for (const Tells tells : {Tells::in_a_turn, Tells::inside_of_write}) {
      const auto whole = std::make_shared<FakeExchange>(turns_, 0, tells);
      ASSERT_EQ(run(one, whole), 200) << one.body;
      for (int k = 1; k <= whole->writes; ++k) {
        const auto leaves = std::make_shared<FakeExchange>(turns_, k, tells);
        const int status = run(one, leaves);
        EXPECT_TRUE(status == 499 || k == whole->writes) << one.body << " at write " << k;
        EXPECT_EQ(leaves->writes, k);
      }
    }
}

TEST_F(AnswerTest, WhoHasGoneBeforeItBeginsCostsNothing) {
  const auto gone = std::make_shared<FakeExchange>(turns_, 1, Tells::in_a_turn);
  gone->write("x");
  EXPECT_EQ(run(kCases[0], gone), 499);
  EXPECT_EQ(loop_->state().steps, 0);
}

TEST_F(AnswerTest, ASlowClientGetsTheSameInFewerPieces) {
  for (const Case& one : kCases) {
    const auto fast = std::make_shared<FakeExchange>(turns_, 0, Tells::in_a_turn);
    const auto slow = std::make_shared<FakeExchange>(turns_, 0, Tells::in_a_turn, true);
    EXPECT_EQ(run(one, fast), 200);
    EXPECT_EQ(run(one, slow), 200) << one.body;
    EXPECT_LE(slow->writes, fast->writes);
    EXPECT_EQ(slow->ended, fast->ended);
  }
}

}  // namespace
}  // namespace quern::serve
