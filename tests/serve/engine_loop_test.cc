// One receiver that fails takes nothing from the others.
#include "serve/engine_loop.h"

#include <gtest/gtest.h>

#include "tests/serve/running.h"

namespace quern::serve {
namespace {

class Counter : public Receiver {
 public:
  explicit Counter(bool throws) : throws_(throws) {}
  void receive(size_t, engine::Update& update, const StepTimes&) override {
    if (throws_) throw std::bad_alloc();
    tokens += static_cast<int64_t>(update.tokens.size());
    ended |= update.finish.has_value();
  }
  void fail() override { failed = true; }
  int io_thread() const override { return 0; }

  int64_t tokens = 0;
  bool ended = false, failed = false;

 private:
  const bool throws_;
};

TEST(EngineLoopTest, AReceiverThatThrowsFailsAlone) {
  std::mutex mutex;
  std::vector<std::function<void()>> turns;
  EngineLoop loop(std::make_unique<engine::MockEngine>(engine::MockOptions{}, mock_limits(),
                                                       std::vector<int32_t>{1, 2, 3}),
                  1,
                  {.post =
                       [&](int, std::function<void()> work) {
                         const std::lock_guard lock(mutex);
                         turns.push_back(std::move(work));
                       },
                   .stepped = [](const engine::EngineState&) {},
                   .died = [] {}});
  const auto bad = std::make_shared<Counter>(true), good = std::make_shared<Counter>(false);
  engine::Request request;
  request.tokens = {5};
  request.max_tokens = 20;
  loop.submit(bad, {request});
  loop.submit(good, {request});
  EXPECT_TRUE(soon([&] {
    std::vector<std::function<void()>> now;
    {
      const std::lock_guard lock(mutex);
      now.swap(turns);
    }
    for (auto& turn : now) turn();
    return good->ended;
  }));
  EXPECT_EQ(good->tokens, 20);
  EXPECT_TRUE(bad->failed);
  EXPECT_FALSE(good->failed);
}

}  // namespace
}  // namespace quern::serve
