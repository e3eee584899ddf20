#include "serve/engine_loop.h"

#include "base/error.h"
#include "base/log.h"

namespace quern::serve {
namespace {

constexpr size_t kMostWaiting = 16'384;  // deliveries in an inbox, some megabytes

using Clock = std::chrono::steady_clock;

int64_t nanoseconds(Clock::time_point time) {
  return time.time_since_epoch() / std::chrono::nanoseconds(1);
}

}  // namespace

EngineLoop::EngineLoop(std::unique_ptr<engine::Engine> engine, int io_threads, Listeners listeners)
    : engine_(std::move(engine)),
      listeners_(std::move(listeners)),
      outgoing_(static_cast<size_t>(io_threads)) {
  for (int i = 0; i < io_threads; ++i) inboxes_.push_back(std::make_unique<Inbox>());
  thread_ = std::thread([this] { run(); });
}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  for (auto& inbox : inboxes_) {
    const std::lock_guard lock(inbox->mutex);
    inbox->taken.notify_one();
  }
  thread_.join();
}

void EngineLoop::submit(std::shared_ptr<Receiver> receiver, std::vector<engine::Request> requests) {
  unfinished_ += static_cast<int64_t>(requests.size());
  give({std::move(receiver), std::move(requests), kAll});
}

void EngineLoop::cancel(std::shared_ptr<Receiver> receiver) {
  give({std::move(receiver), {}, kAll});
}

void EngineLoop::cancel(std::shared_ptr<Receiver> receiver, size_t index) {
  give({std::move(receiver), {}, index});
}

void EngineLoop::cancel_all() { give({}); }

void EngineLoop::give(Command command) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = commands_.empty();
    commands_.push_back(std::move(command));
  }
  if (first) wake_.notify_one();
}

engine::EngineState EngineLoop::state() const {
  const std::lock_guard lock(state_mutex_);
  return state_;
}

double EngineLoop::step_seconds() const {
  const int64_t began = step_began_;
  return began ? static_cast<double>(nanoseconds(Clock::now()) - began) * 1e-9 : 0;
}

void EngineLoop::run() {
  for (;;) {
    std::vector<Command> commands;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock,
                 [&] { return stopping_ || !commands_.empty() || (!dead_ && !engine_->idle()); });
      if (stopping_) return;
      commands.swap(commands_);
    }
    for (Command& command : commands) obey(command);
    if (!dead_ && !engine_->idle()) step();
    send();
  }
}

void EngineLoop::obey(Command& command) {
  for (size_t i = 0; i < command.requests.size(); ++i) {
    engine::Update refused{.finish = engine::Finish::error};
    try {
      if (dead_) fail(Exit::internal, "the engine has died");
      const int64_t number = engine_->submit(std::move(command.requests[i]));
      waiting_[number] = {command.receiver, i};
      numbers_[command.receiver.get()].push_back(number);
      continue;
    } catch (const std::exception& error) {
      refused.error = error.what();
    }
    --unfinished_;
    outgoing_[static_cast<size_t>(command.receiver->io_thread())].push_back(
        {{command.receiver, i}, std::move(refused), step_});
  }
  if (!command.requests.empty()) return;
  if (!command.receiver)
    for (const auto& [number, to] : waiting_) engine_->cancel(number);
  const auto found = numbers_.find(command.receiver.get());
  if (found == numbers_.end()) return;
  for (int64_t number : found->second)
    if (command.index == kAll || waiting_.at(number).index == command.index)
      engine_->cancel(number);
}

void EngineLoop::step() {
  step_.began = Clock::now();
  step_began_ = nanoseconds(step_.began);
  try {
    auto updates = engine_->step();
    step_.ended = Clock::now();
    for (engine::Update& update : updates) route(std::move(update));
  } catch (const std::exception& error) {
    die(error.what());
  }
  step_began_ = 0;
  const engine::EngineState state = engine_->state();
  if (state.steps != state_.steps) listeners_.stepped(state);
  const std::lock_guard lock(state_mutex_);
  state_ = state;
}

void EngineLoop::route(engine::Update update) {
  const auto found = waiting_.find(update.request);
  QUERN_CHECK(found != waiting_.end());
  Waiting& to = found->second;
  auto& outgoing = outgoing_[static_cast<size_t>(to.receiver->io_thread())];
  if (!update.finish) {
    outgoing.push_back({to, std::move(update), step_});
    return;
  }
  --unfinished_;
  const auto numbers = numbers_.find(to.receiver.get());
  std::erase(numbers->second, update.request);
  if (numbers->second.empty()) numbers_.erase(numbers);
  outgoing.push_back({std::move(to), std::move(update), step_});
  waiting_.erase(found);
}

void EngineLoop::send() {
  for (size_t i = 0; i < outgoing_.size(); ++i) {
    std::vector<Delivery>& from = outgoing_[i];
    if (from.empty()) continue;
    bool first = false;
    {
      Inbox& inbox = *inboxes_[i];
      std::unique_lock lock(inbox.mutex);
      inbox.taken.wait(lock, [&] { return stopping_ || inbox.deliveries.size() < kMostWaiting; });
      first = inbox.deliveries.empty();
      if (first)
        inbox.deliveries.swap(from);
      else
        std::move(from.begin(), from.end(), std::back_inserter(inbox.deliveries));
    }
    from.clear();
    // A message that has not been taken yet brings these along.
    if (first) listeners_.post(static_cast<int>(i), [this, i] { deliver(static_cast<int>(i)); });
  }
}

void EngineLoop::deliver(int io_thread) {
  std::vector<Delivery> deliveries;
  {
    Inbox& inbox = *inboxes_[static_cast<size_t>(io_thread)];
    const std::lock_guard lock(inbox.mutex);
    deliveries.swap(inbox.deliveries);
    inbox.taken.notify_one();
  }
  for (Delivery& delivery : deliveries) {
    // The updates of all others are here as well.
    try {
      delivery.to.receiver->receive(delivery.to.index, delivery.update, delivery.step);
    } catch (const std::exception& error) {
      log_warning("an answer could not be written: {}", error.what());
      delivery.to.receiver->fail();
    }
  }
}

void EngineLoop::die(const std::string& why) {
  log_warning("the engine died: {}", why);
  dead_ = true;
  while (!waiting_.empty())
    route({.request = waiting_.begin()->first,
           .finish = engine::Finish::error,
           .error = "the engine died"});
  send();
  listeners_.died();
}

}  // namespace quern::serve
