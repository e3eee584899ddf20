#include "base/nearest.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(Nearest, CountsEdits) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
}

TEST(Nearest, SuggestsOnlyWhatIsNear) {
  const std::vector<std::string> known = {"lr", "iters", "batch_size"};
  EXPECT_EQ(did_you_mean("itres", known), "; did you mean iters?");
  EXPECT_EQ(did_you_mean("batch-sise", known), "; did you mean batch_size?");
  EXPECT_EQ(did_you_mean("attention", known), "");
  EXPECT_EQ(did_you_mean("xy", known), "");
  EXPECT_EQ(did_you_mean("iters", {}), "");
}

// Names that differ only in the layer count as one.
TEST(Nearest, NamesThatDifferInNumbersCountOnce) {
  const std::vector<std::string> names = {"layers.0.mlp.up_proj", "layers.1.mlp.up_proj",
                                          "layers.0.self_attn.q_proj", "lm_head"};
  EXPECT_EQ(
      names_like("upproj", names),
      (std::vector<std::string>{"layers.0.mlp.up_proj", "layers.0.self_attn.q_proj", "lm_head"}));
}

}  // namespace
}  // namespace quern
