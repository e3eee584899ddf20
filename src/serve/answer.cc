#include "serve/answer.h"

#include <algorithm>

#include "base/log.h"
#include "serve/errors.h"
#include "serve/json_text.h"

namespace quern::serve {
namespace {

constexpr int kClientLeft = 499;  // no client sees it; nginx counts such requests so
constexpr const char* kStreamEnd = "data: [DONE]\n\n";
const std::optional<ReasoningMarks> kNoMarks;

const char* finish_reason(engine::Finish finish) {
  switch (finish) {
    case engine::Finish::stop:
      return "stop";
    case engine::Finish::length:
      return "length";
    case engine::Finish::cancelled:
      return "abort";
    case engine::Finish::error:
      return "error";
  }
  return "";
}

http::Response stream_head() {
  return {.content_type = "text/event-stream; charset=utf-8",
          .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}};
}

}  // namespace

Answer::Choice::Choice(const ServedModel& model, const ApiRequest& request,
                       const engine::Request& asked, std::string_view begun)
    : detokenizer(model.tokenizer(),
                  request.skip_special_tokens ? prompt::Show::text : prompt::Show::all,
                  asked.tokens),
      stops(request.stop,
            request.include_stop_text ? StopStrings::Keep::stop : StopStrings::Keep::none),
      reasoning(request.endpoint == Endpoint::chat ? model.reasoning() : kNoMarks, begun) {
  times.prompt_tokens = static_cast<int64_t>(asked.tokens.size());
  times.max_tokens = asked.max_tokens;
}

Answer::Answer(AnswerContext context, std::shared_ptr<http::Exchange> exchange, ApiRequest request,
               Prepared prepared, WriterOptions writer, std::unique_ptr<Admission::Queued> queued,
               std::function<void(int)> ended)
    : context_(context),
      exchange_(std::move(exchange)),
      io_thread_(exchange_->io_thread()),
      request_(std::move(request)),
      unsent_(std::move(prepared.requests)),
      writer_(std::move(writer), request_, context.model.tokenizer(), unsent_),
      arrived_(exchange_->arrived()),
      ended_(std::move(ended)),
      prompt_tokens_(prepared.prompt_tokens),
      queued_(std::move(queued)),
      open_(unsent_.size()) {
  choices_.reserve(unsent_.size());
  for (const engine::Request& asked : unsent_)
    choices_.emplace_back(context.model, request_, asked, prepared.begun);
  const bool keep_prompt =
      request_.echo || request_.return_prompt_logprobs || request_.return_token_ids;
  prompts_.resize(unsent_.size() / static_cast<size_t>(request_.n));
  for (size_t i = 0; i < prompts_.size(); ++i) {
    if (keep_prompt) prompts_[i].ids = unsent_[i * static_cast<size_t>(request_.n)].tokens;
    if (request_.echo) prompts_[i].text = std::move(prepared.prompt_texts[i]);
  }
}

Answer::~Answer() {
  queued_.reset();
  ended_(status_);
}

void Answer::start(std::optional<Clock::time_point> deadline) {
  if (exchange_->left()) return leave();
  exchange_->on_left([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->leave();
  });
  if (deadline)
    exchange_->at(*deadline, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->expire();
    });
  for (Choice& choice : choices_) choice.times.submitted = seconds(Clock::now());
  context_.engine.submit(shared_from_this(), std::move(unsent_));
  unsent_ = {};
}

// The client has gone: its requests end in the next step.
void Answer::leave() {
  if (over_) return;
  exchange_.reset();
  give_up("abort", kClientLeft, "");
}

// The time that the client allowed is over.
void Answer::expire() {
  if (over_) return;
  const bool begun = std::any_of(choices_.begin(), choices_.end(),
                                 [](const Choice& choice) { return choice.times.new_tokens > 0; });
  if (begun)
    context_.engine.cancel(shared_from_this());  // ends with "abort" and what there is
  else
    give_up("abort", 504, "The request could not begin in the time that it was given.");
}

void Answer::receive(size_t index, engine::Update& update, const StepTimes& step) {
  Choice& choice = choices_[index];
  if (over_ || choice.done) return;
  if (update.cached_tokens) begin_choice(choice, *update.cached_tokens, step);
  if (!update.prompt_reports.empty()) prompt_of(index).reports = std::move(update.prompt_reports);
  if (update.finish == engine::Finish::error) {
    log_warning("a request failed: {}", update.error);
    return give_up("error", 500, "The engine failed while it worked on this request.");
  }
  if (update.tokens.empty() && !update.finish) return;
  if (!update.tokens.empty())
    count_tokens(choice, static_cast<int64_t>(update.tokens.size()), step);
  Piece piece = take_tokens(choice, update);
  if (choice.done) {
    --open_;
    context_.metrics.choice_ended(piece.finish_reason.c_str(), choice.times);
  }
  choice.unsent.add(std::move(piece));
  if (request_.stream) send_text(index);
  if (open_ == 0 && !behind_ && !over_) finish();
}

void Answer::fail() {
  if (!over_) give_up("error", 500, "The answer could not be written.");
}

void Answer::begin_choice(Choice& choice, int64_t cached_tokens, const StepTimes& step) {
  choice.times.cached_tokens = cached_tokens;
  choice.times.started = seconds(step.began);
}

void Answer::count_tokens(Choice& choice, int64_t tokens, const StepTimes& step) {
  const double now = seconds(step.ended);
  if (choice.times.new_tokens == 0) {
    queued_.reset();
    choice.times.first_token = now;
    context_.metrics.first_token(choice.times);
  } else {
    context_.metrics.next_token(now - choice.times.last_token);
  }
  choice.times.last_token = now;
  choice.times.new_tokens += tokens;
  context_.metrics.new_tokens(tokens);
}

void Answer::take_text(Choice& choice, Piece& piece, Voice voice, const std::string& text) {
  if (voice == Voice::said)
    piece.said += text;
  else
    piece.thought += choice.reasoning.thought(text);
}

Piece Answer::take_tokens(Choice& choice, engine::Update& update) {
  Piece piece;
  piece.ids = std::move(update.tokens);
  piece.reports = std::move(update.reports);
  if (only_prompt()) {  // the token that the engine cannot do without
    piece.ids.clear();
    piece.reports.clear();
    if (update.finish) end_choice(choice, piece, update);
    return piece;
  }
  int64_t position = choice.times.new_tokens - static_cast<int64_t>(piece.ids.size());
  std::vector<bool> shown(piece.ids.size(), true);
  for (size_t i = 0; i < piece.ids.size(); ++i, ++position) {
    const int32_t id = piece.ids[i];
    const bool ends = update.finish == engine::Finish::stop && i + 1 == piece.ids.size();
    if (ends && !request_.include_stop_text) break;
    const Voice before = choice.reasoning.voice();
    const auto voice = choice.reasoning.see(id);
    if (before == Voice::thought) ++choice.reasoning_tokens;
    if (request_.stream && !request_.include_reasoning) shown[i] = voice == Voice::said;
    if (!voice) {
      const std::string rest = choice.detokenizer.flush();
      take_text(choice, piece, before, choice.stops.push(rest) + choice.stops.flush());
      continue;
    }
    const std::string text = choice.detokenizer.push(id);
    const bool may_stop = position >= request_.settings.min_tokens;
    take_text(choice, piece, *voice, may_stop ? choice.stops.push(text) : text);
    if (choice.stops.found()) break;
  }
  piece.keep(shown);
  if (update.finish || choice.stops.found()) end_choice(choice, piece, update);
  return piece;
}

void Answer::end_choice(Choice& choice, Piece& piece, const engine::Update& update) {
  choice.done = true;
  const Voice voice = choice.reasoning.voice();
  if (!choice.stops.found())
    take_text(choice, piece, voice, choice.stops.push(choice.detokenizer.flush()));
  if (choice.stops.found()) {
    piece.finish_reason = "stop";
    piece.stop_reason = json_text(*choice.stops.found());
    if (!update.finish) {
      const auto index = static_cast<size_t>(&choice - choices_.data());
      context_.engine.cancel(shared_from_this(), index);
    }
    return;
  }
  take_text(choice, piece, voice, choice.stops.flush());
  piece.finish_reason = finish_reason(*update.finish);
  const auto& asked = request_.stop_token_ids;
  if (update.finish == engine::Finish::stop && !piece.ids.empty() &&
      std::find(asked.begin(), asked.end(), piece.ids.back()) != asked.end())
    piece.stop_reason = std::to_string(piece.ids.back());
}

void Answer::tell(std::string_view piece) {
  if (over_) return;
  if (exchange_->left()) return leave();
  exchange_->write(piece);
}

void Answer::begin_stream() {
  streaming_ = true;
  exchange_->begin(stream_head());
  if (request_.endpoint != Endpoint::chat) return;
  for (size_t i = 0; i < choices_.size(); ++i) tell(writer_.role_chunk(i, usage_of_prompt()));
}

void Answer::send_text(size_t index) {
  if (over_ || behind_) return;
  Choice& choice = choices_[index];
  if (exchange_->full()) {
    behind_ = true;
    // The engine may be done with it by then.
    return exchange_->on_room([self = shared_from_this()] { self->send_all_text(); });
  }
  if (!streaming_) begin_stream();
  if (request_.echo && !choice.echoed) {
    choice.echoed = true;
    tell(writer_.echo_chunk(index, prompt_of(index), usage_of_prompt()));
  }
  Piece piece = std::exchange(choice.unsent, {});
  if (!request_.include_reasoning) piece.thought.clear();
  // Text that is held back, or half a character, has no chunk of its own; nor has a hidden thought.
  const bool tells_tokens = request_.logprobs() || request_.return_token_ids;
  if (piece.empty() && (piece.ids.empty() || !tells_tokens)) return;
  Usage so_far;
  if (request_.continuous_usage) so_far = usage();
  tell(writer_.chunk(index, piece, so_far));
}

void Answer::send_all_text() {
  behind_ = false;
  for (size_t i = 0; i < choices_.size(); ++i)
    if (!choices_[i].unsent.empty() || !choices_[i].unsent.ids.empty()) send_text(i);
  if (open_ == 0 && !behind_ && !over_) finish();
}

Usage Answer::usage_of_prompt() const {
  Usage usage{.prompt_tokens = prompt_tokens_};
  // As its tokens, once for all answers to a prompt.
  for (size_t i = 0; i < choices_.size(); i += static_cast<size_t>(request_.n))
    usage.cached_tokens += choices_[i].times.cached_tokens;
  return usage;
}

Usage Answer::usage() const {
  Usage usage = usage_of_prompt();
  for (const Choice& choice : choices_) {
    usage.completion_tokens += only_prompt() ? 0 : choice.times.new_tokens;
    usage.reasoning_tokens += choice.reasoning_tokens;
  }
  return usage;
}

void Answer::finish() {
  const auto n = static_cast<size_t>(request_.n);
  for (size_t i = 0; i < choices_.size(); i += n) {
    int64_t longest = 0;
    for (size_t k = i; k < i + n; ++k) longest = std::max(longest, choices_[k].times.new_tokens);
    context_.metrics.prompt_ended(request_.n, longest);
  }
  if (request_.stream) {
    if (request_.include_usage) tell(writer_.usage_chunk(usage()));
    tell(kStreamEnd);
    if (over_) return;
    exchange_->end();
  } else {
    std::vector<Piece> texts;
    for (Choice& choice : choices_) texts.push_back(std::move(choice.unsent));
    exchange_->respond({.body = writer_.whole(texts, prompts_, usage())});
  }
  over_ = true;
  exchange_.reset();
}

void Answer::give_up(const char* finish_reason, int status, const char* message) {
  over_ = true;
  status_ = status;
  for (Choice& choice : choices_)
    if (!choice.done) context_.metrics.choice_ended(finish_reason, choice.times);
  if (exchange_ && streaming_) {
    exchange_->write("data: " + error_response(status, message).body + "\n\n" + kStreamEnd);
    exchange_->end();
  } else if (exchange_) {
    exchange_->respond(error_response(status, message));
  }
  exchange_.reset();
  context_.engine.cancel(shared_from_this());
}

}  // namespace quern::serve
