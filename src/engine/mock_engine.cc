#include "engine/mock_engine.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "base/error.h"

namespace quern::engine {
namespace {

// Any distribution will do, as long as ranks and values agree: each next token is half as likely.
TokenReport report_of(int32_t id, int64_t top, int64_t vocabulary) {
  constexpr float kHalf = -0.6931472f;
  TokenReport report{.logprob = kHalf, .rank = 1, .top = {}};
  for (int64_t i = 0; i < top; ++i)
    report.top.push_back(
        {static_cast<int32_t>((id + i) % vocabulary), kHalf * static_cast<float>(i + 1)});
  return report;
}

}  // namespace

MockOptions MockOptions::of(std::string_view text) {
  MockOptions options;
  while (!text.empty()) {
    const std::string item(text.substr(0, text.find(',')));
    text.remove_prefix(std::min(text.size(), item.size() + 1));
    const size_t equals = item.find('=');
    const std::string name = item.substr(0, equals);
    char* end = nullptr;
    const char* number = equals == std::string::npos ? "" : item.c_str() + equals + 1;
    if (name == "script" && equals != std::string::npos) {
      options.script = number;
      continue;
    }
    const double value = std::strtod(number, &end);
    if (end == number || *end || !(value >= 0 && value < 1e12))
      fail(Exit::usage, "--mock-engine: \"{}\" is not NAME=NUMBER or script=FILE", item);
    if (name == "tokens_per_s")
      options.tokens_per_s = value;
    else if (name == "prefill_us")
      options.prefill_us = value;
    else if (name == "answer_tokens")
      options.answer_tokens = static_cast<int64_t>(value);
    else if (name == "fail_step")
      options.fail_step = static_cast<int64_t>(value);
    else if (name == "throw_step")
      options.throw_step = static_cast<int64_t>(value);
    else
      fail(Exit::usage,
           "--mock-engine: there is no \"{}\"; it knows tokens_per_s, prefill_us, answer_tokens, "
           "fail_step, throw_step and script",
           name);
  }
  return options;
}

MockEngine::MockEngine(const MockOptions& options, const Limits& limits, std::vector<int32_t> text,
                       std::optional<MockScript> script)
    : options_(options), limits_(limits), text_(std::move(text)), script_(std::move(script)) {
  QUERN_CHECK(!text_.empty());
}

int64_t MockEngine::submit(Request request) {
  check(request, limits_);
  const auto* answer = script_ ? script_->answer_to(request.tokens) : nullptr;
  waiting_.push_back({submitted_, std::move(request), answer});
  return submitted_++;
}

void MockEngine::cancel(int64_t request) {
  auto matches = [&](const Sequence& sequence) { return sequence.id == request; };
  if (std::erase_if(waiting_, matches) + std::erase_if(running_, matches))
    ended_.push_back(request);
}

void MockEngine::admit() {
  prompt_tokens_ = 0;
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_num_seqs) {
    prompt_tokens_ += static_cast<int64_t>(waiting_.front().request.tokens.size());
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  state_.prompt_tokens += prompt_tokens_;
}

// A step begins when the last one would have ended on a real model.
void MockEngine::keep_time(int64_t prompt_tokens) {
  using std::chrono::duration_cast;
  using Clock = std::chrono::steady_clock;
  double seconds = options_.prefill_us * 1e-6 * static_cast<double>(prompt_tokens);
  if (options_.tokens_per_s > 0) seconds += 1 / options_.tokens_per_s;
  if (seconds <= 0) return;
  next_step_ = std::max(next_step_, Clock::now() - std::chrono::milliseconds(1)) +
               duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::this_thread::sleep_until(next_step_);
}

std::vector<int32_t> MockEngine::next_tokens(Sequence& sequence) const {
  const auto& stops = sequence.request.stop_ids;
  const bool scripted = sequence.answer != nullptr;
  if (scripted && sequence.steps < sequence.answer->steps.size())
    return sequence.answer->steps[sequence.steps++];
  const bool said_all =
      scripted ? sequence.answer->ends
               : options_.answer_tokens > 0 && sequence.made + 1 >= options_.answer_tokens;
  if (said_all && !stops.empty()) return {stops.front()};
  return {text_[static_cast<size_t>(sequence.made) % text_.size()]};
}

Update MockEngine::advance(Sequence& sequence) {
  const Request& request = sequence.request;
  Update update{.request = sequence.id};
  if (sequence.made == 0) {
    update.cached_tokens = 0;
    if (request.prompt_logprobs)
      for (size_t i = 1; i < request.tokens.size(); ++i)
        update.prompt_reports.push_back(
            report_of(request.tokens[i], *request.prompt_logprobs, limits_.vocabulary));
  }
  for (const int32_t id : next_tokens(sequence)) {
    update.tokens.push_back(id);
    ++sequence.made;
    if (request.logprobs)
      update.reports.push_back(report_of(id, *request.logprobs, limits_.vocabulary));
    if (std::ranges::find(request.stop_ids, id) != request.stop_ids.end())
      update.finish = Finish::stop;
    else if (sequence.made >= request.max_tokens)
      update.finish = Finish::length;
    if (update.finish) break;  // what the step had beyond it is dropped
  }
  return update;
}

std::vector<Update> MockEngine::step() {
  std::vector<Update> updates;
  for (int64_t id : ended_) updates.push_back({.request = id, .finish = Finish::cancelled});
  ended_.clear();
  admit();
  if (running_.empty()) return updates;
  keep_time(prompt_tokens_);
  ++state_.steps;
  QUERN_CHECK(state_.steps != options_.throw_step);
  if (state_.steps == options_.fail_step) {
    ++state_.failed_steps;
    for (const Sequence& sequence : running_)
      updates.push_back({.request = sequence.id,
                         .finish = Finish::error,
                         .error = "a step that fails on purpose"});
    running_.clear();
    return updates;
  }
  state_.step_tokens = static_cast<int64_t>(running_.size()) + prompt_tokens_;
  const size_t cancelled = updates.size();
  for (Sequence& sequence : running_) {
    updates.push_back(advance(sequence));
    state_.new_tokens += std::ssize(updates.back().tokens);
  }
  size_t kept = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    if (updates[cancelled + i].finish) continue;
    if (kept != i) running_[kept] = std::move(running_[i]);
    ++kept;
  }
  running_.erase(running_.begin() + static_cast<ptrdiff_t>(kept), running_.end());
  return updates;
}

int64_t MockEngine::tokens(const Sequence& sequence) const {
  return static_cast<int64_t>(sequence.request.tokens.size()) + sequence.made;
}

EngineState MockEngine::state() const {
  EngineState state = state_;
  state.running = static_cast<int64_t>(running_.size());
  state.waiting = static_cast<int64_t>(waiting_.size());
  for (const Sequence& sequence : running_) state.kv_tokens_used += tokens(sequence);
  return state;
}

}  // namespace quern::engine
