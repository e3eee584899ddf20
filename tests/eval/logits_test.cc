#include "eval/logits.h"

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"
#include "eval/sample.h"
#include "tests/eval/artifact.h"

namespace quern::eval {
namespace {

class LogitsTest : public testing::Test {
 protected:
  LogitsTest() : golden_(test_data("qwen36") / "golden.safetensors") {
    prepare_torch();
    model_ = std::make_shared<nn::Source>(test_data("qwen36"));
  }

  std::vector<int32_t> ids(const std::string& name) const {
    const Tensor x = golden_.tensor(name).to(at::kInt).contiguous();
    return {x.const_data_ptr<int32_t>(), x.const_data_ptr<int32_t>() + x.numel()};
  }

  checkpoint::SafetensorsFile golden_;
  std::shared_ptr<const nn::Source> model_;
  Scratch scratch_;
};

TEST_F(LogitsTest, EqualTheReferences) {
  std::vector<std::vector<int32_t>> lists;
  for (int i = 0; i < 3; ++i) lists.push_back(ids(fmt::format("p{}.input_ids", i)));
  // A budget of one state puts every list into a group of its own.
  write_logits(model_, lists, scratch_ / "out.safetensors", {.state_bytes = 1});
  const checkpoint::SafetensorsFile out(scratch_ / "out.safetensors");
  ASSERT_EQ(out.tensors().size(), 3u);
  for (int i = 0; i < 3; ++i) {
    const Tensor mine = out.tensor(fmt::format("logits.{}", i));
    const Tensor theirs = golden_.tensor(fmt::format("p{}.logits", i));
    ASSERT_EQ(mine.sizes(), theirs.sizes());
    EXPECT_LT((mine - theirs).abs().max().item<double>(), 2e-4) << i;
  }
}

TEST_F(LogitsTest, LeavesNothingBehindWhenItFails) {
  EXPECT_THROW(write_logits(model_, {{1}, {1 << 30}}, scratch_ / "out.safetensors"), Error);
  EXPECT_THROW(write_logits(model_, {{1}, {}}, scratch_ / "out.safetensors"), Error);
  EXPECT_TRUE(std::filesystem::is_empty(scratch_ / ""));
}

TEST_F(LogitsTest, ReadsTokenLists) {
  write_file(scratch_ / "ids.json", "[[1, 2, 3], [40]]");
  const std::vector<std::vector<int32_t>> lists = {{1, 2, 3}, {40}};
  EXPECT_EQ(read_token_lists(scratch_ / "ids.json"), lists);
  for (const char* bad : {"[1, 2]", "{}", "[[1.5]]", "[[\"a\"]]", "[[1e10]]"}) {
    write_file(scratch_ / "ids.json", bad);
    EXPECT_THROW(read_token_lists(scratch_ / "ids.json"), Error) << bad;
  }
}

TEST_F(LogitsTest, GreedyContinuation) {
  for (int i = 0; i < 3; ++i) {
    const auto expected = ids(fmt::format("p{}.greedy_ids", i));
    const auto prompt = ids(fmt::format("p{}.input_ids", i));
    EXPECT_EQ(greedy(model_, prompt, std::ssize(expected), {}), expected) << i;
    const std::vector<int32_t> stops = {expected[2]};
    EXPECT_EQ(greedy(model_, prompt, std::ssize(expected), stops).back(), expected[2]);
  }
}

TEST(Sample, LoopsAreDegenerate) {
  std::vector<int32_t> constant(16, 5), loop, late, varied, twice;
  for (int i = 0; i < 32; ++i) {
    loop.push_back(i % 3);
    late.push_back(i < 8 ? 100 + i : i % 5);
    varied.push_back(i * i % 11);
    twice.push_back(i % 16);  // a repeated sentence is not a short loop
  }
  EXPECT_TRUE(is_degenerate(constant));
  EXPECT_TRUE(is_degenerate(loop));
  EXPECT_TRUE(is_degenerate(late));
  EXPECT_FALSE(is_degenerate(varied));
  EXPECT_FALSE(is_degenerate(twice));
  EXPECT_FALSE(is_degenerate(std::span(constant).first(15)));
}

}  // namespace
}  // namespace quern::eval
