#include "serve/reasoning.h"

#include <array>

#include "base/error.h"

namespace quern::serve {
namespace {

struct Marks {
  const char* open;
  const char* close;
  const char* title;
  std::string_view parsers;  // vLLM's names, between spaces
};

constexpr std::array<Marks, 2> kMarks = {
    Marks{"<think>", "</think>", "",
          " qwen3 glm45 deepseek_r1 deepseek_v3 holo2 kimi_k2 nemotron_v3 sarvam step3 "},
    Marks{"<|channel>", "<channel|>", "thought\n", " gemma4 "}};

std::optional<ReasoningMarks> ids_of(const Marks& marks, const prompt::Tokenizer& tokenizer) {
  const auto open = tokenizer.id(marks.open), close = tokenizer.id(marks.close);
  if (!open || !close) return std::nullopt;
  return ReasoningMarks{*open, *close, marks.open, marks.close, marks.title};
}

}  // namespace

std::optional<ReasoningMarks> reasoning_marks(const std::string& parser,
                                              const prompt::Tokenizer& tokenizer,
                                              std::string_view template_text) {
  if (parser == "none") return std::nullopt;
  for (const Marks& marks : kMarks) {
    const bool named = marks.parsers.find(" " + parser + " ") != std::string_view::npos;
    if (!named && parser != "auto") continue;
    const auto ids = ids_of(marks, tokenizer);
    if (named && !ids)
      fail(Exit::usage, "--reasoning-parser {}: the tokenizer has no tokens {} and {}", parser,
           marks.open, marks.close);
    if (ids && (named || template_text.find(marks.close) != std::string_view::npos)) return ids;
  }
  if (parser == "auto") return std::nullopt;
  fail(Exit::usage,
       "--reasoning-parser {}: this server knows auto, none, qwen3, glm45, deepseek_r1, sarvam and "
       "gemma4",
       parser);
}

ReasoningState::ReasoningState(const std::optional<ReasoningMarks>& marks, std::string_view begun)
    : marks_(marks ? &*marks : nullptr) {
  if (!marks_) return;
  const size_t open = begun.rfind(marks_->open_text), close = begun.rfind(marks_->close_text);
  if (open == std::string_view::npos || (close != std::string_view::npos && close > open)) return;
  voice_ = Voice::thought;
  begin_ = begun.substr(open + marks_->open_text.size());
  in_title_ = begin_.size() < marks_->title.size() && marks_->title.starts_with(begin_);
  if (!in_title_) begin_.clear();
}

std::optional<Voice> ReasoningState::see(int32_t id) {
  if (!marks_) return voice_;
  if (id == marks_->open) {
    if (voice_ == Voice::said) in_title_ = !marks_->title.empty();
    voice_ = Voice::thought;
    return std::nullopt;
  }
  if (id == marks_->close && voice_ == Voice::thought) {
    voice_ = Voice::said;
    return std::nullopt;
  }
  return voice_;
}

std::string ReasoningState::thought(std::string text) {
  if (!in_title_) return text;
  begin_ += text;
  const std::string& title = marks_->title;
  if (begin_.size() < title.size() && title.starts_with(begin_)) return {};
  in_title_ = false;
  if (begin_.starts_with(title)) begin_.erase(0, title.size());
  return std::exchange(begin_, {});
}

}  // namespace quern::serve
