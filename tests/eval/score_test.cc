// Compares with the numbers in the tiny trained model's README and of the peers' independent
// scorer.
#include "eval/score.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/threads.h"
#include "eval/distribution.h"
#include "tests/eval/artifact.h"
#include "tests/formats.h"

namespace quern::eval {
namespace {

class ScoreTest : public testing::Test {
 protected:
  ScoreTest() : tokenizer_(test_data("tiny-qwen3.6")) { prepare_torch(); }

  std::shared_ptr<nn::Source> tiny() const {
    return std::make_shared<nn::Source>(test_data("tiny-qwen3.6"));
  }
  std::vector<Window> windows(const WindowOptions& options) const {
    return text_windows(read_file(test_data("validation.txt")), tokenizer_, options);
  }

  prompt::Tokenizer tokenizer_;
};

TEST_F(ScoreTest, PerplexitiesOfTheReadme) {
  struct Row {
    WindowOptions windows;
    int64_t tokens;
    double mean_log_prob, perplexity;
  };
  for (const Row& row : {Row{{.length = 512}, 26242, -0.47492, 1.60788},
                         Row{{.length = 1024, .stride = 512}, 26293, -0.37430, 1.45397},
                         Row{{.length = 256}, 26191, -0.56784, 1.76445}}) {
    const Scores scores = score(tiny(), windows(row.windows));
    EXPECT_EQ(scores.tokens, row.tokens);
    EXPECT_EQ(scores.not_finite, 0);
    EXPECT_NEAR(scores.mean_log_prob, row.mean_log_prob, 1e-5);
    EXPECT_NEAR(scores.perplexity, row.perplexity, 1e-5);
  }
}

// llm-compressor's and auto-round's round-to-nearest of this model, scored through transformers.
TEST_F(ScoreTest, DivergenceOfBothGrids) {
  const auto text = windows({.length = 512, .max_windows = 40});
  struct Row {
    const quant::Format& format;
    double kld;
  };
  for (const Row& row : {Row{kCompressedTensors, 0.00623}, Row{kAutoGptq, 0.00482}}) {
    Scratch scratch;
    write_artifact(test_data("tiny-qwen3.6"), scratch / "out", row.format);
    const Comparison c = compare(tiny(), std::make_shared<nn::Source>(scratch / "out"), text);
    EXPECT_EQ(c.reference.tokens, 20440);
    EXPECT_NEAR(c.reference.perplexity, 1.61539, 1e-5);
    EXPECT_NEAR(c.mean_kld, row.kld, 0.03 * row.kld);
    EXPECT_GT(c.top1_agreement, 0.955);
    EXPECT_GT(c.kld_error, c.kld_token_error / 2);
    EXPECT_LT(c.kld_error, c.mean_kld / 4);
    EXPECT_GT(c.max_kld, 1);
  }
}

TEST_F(ScoreTest, AModelDoesNotDivergeFromItself) {
  const auto text = windows({.length = 64, .max_windows = 5});
  const Comparison c = compare(tiny(), tiny(), text);
  EXPECT_EQ(c.reference.perplexity, c.artifact.perplexity);
  EXPECT_EQ(c.mean_kld, 0);
  EXPECT_EQ(c.kld_error, 0);
  EXPECT_EQ(c.top1_agreement, 1);
}

// If not all states fit, windows run in groups: blocks are built for each group, and the numbers do
// not change.
TEST_F(ScoreTest, LittleMemoryGivesTheSame) {
  const auto text = windows({.length = 100, .max_windows = 7});
  int64_t blocks = 0;
  auto count = [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, ++blocks);
    EXPECT_EQ(total % 4, 0);
  };
  const Scores once = score(tiny(), text, {.progress = count});
  EXPECT_EQ(blocks, 4);
  blocks = 0;
  const int64_t two_windows = 2 * 100 * 256 * 4;
  const Scores often = score(tiny(), text, {.state_bytes = two_windows, .progress = count});
  EXPECT_EQ(blocks, 4 * 4);
  EXPECT_EQ(once.tokens, often.tokens);
  EXPECT_NEAR(once.mean_log_prob, often.mean_log_prob, 1e-6);
}

TEST_F(ScoreTest, TheNumberOfThreadsChangesNothing) {
  Scratch scratch;
  write_artifact(test_data("tiny-qwen3.6"), scratch / "out", kAutoGptq);
  const auto text = windows({.length = 90, .max_windows = 6});
  auto with_threads = [&](int count) {
    set_threads(count);
    return to_json(compare(tiny(), std::make_shared<nn::Source>(scratch / "out"), text)).dump();
  };
  EXPECT_EQ(with_threads(1), with_threads(3));
}

TEST_F(ScoreTest, RefusesTokensOfAnotherModel) {
  const std::vector<Window> text = {{.tokens = {1, 2, 5000}}};
  EXPECT_THROW(score(tiny(), text), Error);
}

TEST(Windows, EveryTokenIsScoredOnce) {
  std::vector<int32_t> tokens(100);
  for (int64_t stride : {0, 1, 3, 10}) {
    for (int64_t length : {10, 33, 100, 200}) {
      int64_t scored = 0;
      for (const Window& window : cut_windows(tokens, {.length = length, .stride = stride})) {
        scored += static_cast<int64_t>(window.tokens.size()) - window.first_scored;
        EXPECT_GE(window.first_scored, 1);
      }
      // Without overlap the first token of every window goes unscored.
      const int64_t lost = stride == 0 || stride == length ? (100 + length - 1) / length : 1;
      EXPECT_EQ(scored, 100 - lost) << length << " / " << stride;
    }
  }
}

TEST(Windows, RefusesWhatScoresNothing) {
  const std::vector<int32_t> tokens(10);
  EXPECT_THROW(cut_windows(tokens, {.length = 1}), Error);
  EXPECT_THROW(cut_windows(tokens, {.length = 4, .stride = 5}), Error);
  EXPECT_THROW(cut_windows(std::vector<int32_t>(1), {}), Error);
}

TEST(Distribution, DivergenceByHand) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2); any shift of the logits cancels.
  const std::vector<float> p = {std::log(2.0f) + 1, 1, 1}, q = {-1, -1, std::log(2.0f) - 1};
  const Distribution a(p), b(q);
  EXPECT_NEAR(a.divergence(b), 0.25 * std::log(2.0), 1e-6);
  EXPECT_NEAR(a.log_prob(0), std::log(0.5), 1e-6);
  EXPECT_EQ(a.likeliest(), 0);
  EXPECT_EQ(b.likeliest(), 2);
}

TEST(Distribution, SeesWhatIsNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(Distribution(std::vector<float>{1, 2}).finite());
  EXPECT_FALSE(Distribution(std::vector<float>{1, NAN}).finite());
  EXPECT_FALSE(Distribution(std::vector<float>{NAN, 1}).finite());
  EXPECT_FALSE(Distribution(std::vector<float>{1, infinity}).finite());
  EXPECT_FALSE(Distribution(std::vector<float>{1, -infinity}).finite());
}

}  // namespace
}  // namespace quern::eval
