#include "engine/pass_budget.h"

#include <algorithm>

namespace quern::engine {
namespace {

constexpr int64_t kFewest = 16;
// Where nothing is known yet: fast enough on a slow processor, and soon corrected.
constexpr int64_t kFirst = 64;
// Of what a pass has shown, against what was known before it.
constexpr double kNewest = 0.25;

void learn(double& known, double shown) {
  known = known == 0 ? shown : known + kNewest * (shown - known);
}

}  // namespace

PassBudget::PassBudget(double target_seconds, int64_t most)
    : target_(target_seconds), most_(most) {}

int64_t PassBudget::tokens() const {
  if (target_ == 0) return most_;
  if (token_seconds_ == 0) return std::min(kFirst, most_);
  const double left = std::max(0.0, target_ - answers_seconds_) / token_seconds_;
  return left >= static_cast<double>(most_)
             ? most_
             : std::min(most_, std::max(kFewest, static_cast<int64_t>(left)));
}

void PassBudget::took(double seconds, int64_t answers, int64_t prompts) {
  if (prompts == 0) return learn(answers_seconds_, seconds);
  // A few tokens say little about what one of many costs, and without answers none wait.
  const double base = answers > 0 ? answers_seconds_ : 0;
  if (prompts >= kFewest)
    learn(token_seconds_, std::max(1e-9, (seconds - base) / static_cast<double>(prompts)));
}

}  // namespace quern::engine
