// The thread that owns the engine. Requests and cancellations come in from any thread; what a step
// made goes out as one message to each I/O thread that waits for some of it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"

namespace quern::serve {

// When the step that made an update began and ended.
struct StepTimes {
  std::chrono::steady_clock::time_point began, ended;
};

// Who waits for the answers to one HTTP request.
class Receiver {
 public:
  virtual ~Receiver() = default;
  // On the I/O thread `io_thread()`. `index`: which of the requests that were submitted together.
  virtual void receive(size_t index, engine::Update& update, const StepTimes& step) = 0;
  // receive() threw: nothing more can come of this one.
  virtual void fail() = 0;
  virtual int io_thread() const = 0;
};

class EngineLoop {
 public:
  // What the loop tells others, on the engine's thread.
  struct Listeners {
    std::function<void(int io_thread, std::function<void()> work)> post;
    std::function<void(const engine::EngineState& state)> stepped;
    std::function<void()> died;  // a step threw; nothing is accepted from then on
  };

  EngineLoop(std::unique_ptr<engine::Engine> engine, int io_threads, Listeners listeners);
  ~EngineLoop();

  // All end in updates to `receiver`, each in exactly one that has `finish`.
  void submit(std::shared_ptr<Receiver> receiver, std::vector<engine::Request> requests);
  void cancel(std::shared_ptr<Receiver> receiver);
  // One of the requests only: the others go on.
  void cancel(std::shared_ptr<Receiver> receiver, size_t index);
  void cancel_all();

  const engine::Limits& limits() const { return engine_->limits(); }
  engine::EngineState state() const;  // as of the last step
  // Requests that were submitted and have not ended.
  int64_t unfinished() const { return unfinished_; }
  bool dead() const { return dead_; }
  // How long the step at hand has been running; 0 between steps.
  double step_seconds() const;

 private:
  static constexpr size_t kAll = static_cast<size_t>(-1);

  struct Command {
    std::shared_ptr<Receiver> receiver;     // none: of everybody
    std::vector<engine::Request> requests;  // none: cancel
    size_t index = kAll;                    // to cancel; kAll: all
  };
  struct Waiting {
    std::shared_ptr<Receiver> receiver;
    size_t index;
  };
  struct Delivery {
    Waiting to;
    engine::Update update;
    StepTimes step;
  };
  // From the engine's thread to an I/O thread. Bounded: an engine that is faster than the I/O
  // thread waits for it.
  struct Inbox {
    std::mutex mutex;
    std::condition_variable taken;
    std::vector<Delivery> deliveries;
  };
  void give(Command command);
  void run();
  void obey(Command& command);
  void step();
  void route(engine::Update update);
  void send();
  void deliver(int io_thread);
  void die(const std::string& why);

  std::unique_ptr<engine::Engine> engine_;
  Listeners listeners_;

  std::mutex mutex_;  // guards commands_
  std::condition_variable wake_;
  std::vector<Command> commands_;
  std::atomic<bool> stopping_{false};

  std::unordered_map<int64_t, Waiting> waiting_;                       // by the engine's number
  std::unordered_map<const Receiver*, std::vector<int64_t>> numbers_;  // by who waits
  std::vector<std::vector<Delivery>> outgoing_;                        // by I/O thread
  std::vector<std::unique_ptr<Inbox>> inboxes_;

  StepTimes step_;  // the last one
  mutable std::mutex state_mutex_;
  engine::EngineState state_;
  std::atomic<int64_t> unfinished_{0};
  std::atomic<bool> dead_{false};
  std::atomic<int64_t> step_began_{0};  // nanoseconds of the steady clock; 0: no step
  std::thread thread_;
};

}  // namespace quern::serve
