#include "engine/pass_budget.h"

#include <gtest/gtest.h>

namespace quern::engine {
namespace {

constexpr int64_t kMost = 2048;

// A processor on which a pass takes `answers` seconds and `token` more for each of a prompt.
struct Machine {
  double answers, token;

  double pass(int64_t tokens) const { return answers + token * static_cast<double>(tokens); }
};

// The time of the last of so many passes that mix answers and prompts.
double last_pass(PassBudget& budget, const Machine& machine, int passes) {
  double seconds = 0;
  for (int i = 0; i < passes; ++i) {
    budget.took(machine.pass(0), 4, 0);
    const int64_t tokens = budget.tokens();
    seconds = machine.pass(tokens);
    budget.took(seconds, 4, tokens);
  }
  return seconds;
}

TEST(PassBudgetTest, APassWithAnswersTakesTheTarget) {
  for (const Machine machine : {Machine{0.05, 0.005}, Machine{0.02, 0.0005}, Machine{0.1, 0.002}}) {
    PassBudget budget(0.25, kMost);
    EXPECT_NEAR(last_pass(budget, machine, 12), 0.25, 0.02) << machine.token;
  }
}

TEST(PassBudgetTest, FollowsWhatChanges) {
  PassBudget budget(0.25, kMost);
  last_pass(budget, {0.02, 0.0005}, 12);
  EXPECT_NEAR(last_pass(budget, {0.1, 0.002}, 40), 0.25, 0.02);
}

TEST(PassBudgetTest, FastProcessorsTakeAllAndSlowOnesAFew) {
  PassBudget fast(0.25, kMost), slow(0.25, kMost);
  last_pass(fast, {0.001, 0.00001}, 12);
  EXPECT_EQ(fast.tokens(), kMost);
  last_pass(slow, {0.4, 0.01}, 12);
  EXPECT_EQ(slow.tokens(), 16);
  EXPECT_EQ(PassBudget(0.25, 8).tokens(), 8) << "never more than fits";
}

TEST(PassBudgetTest, WithoutATargetAPassTakesAll) {
  PassBudget budget(0, kMost);
  last_pass(budget, {0.4, 0.01}, 3);
  EXPECT_EQ(budget.tokens(), kMost);
}

}  // namespace
}  // namespace quern::engine
