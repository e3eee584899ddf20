// The plan refuses everything that the kernels refuse, before any work.
#include "compress/limits.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "compress/autoround.h"
#include "compress/plan.h"
#include "compress/recipe_options.h"
#include "models/models.h"
#include "tests/compress/job.h"
#include "tests/formats.h"

namespace quern::compress {
namespace {

Recipe recipe(int64_t group, int iters = 0) {
  return make_recipe(
      {.method = iters > 0 ? "auto-round" : "rtn", .group_size = group, .iters = iters});
}

// The message of resolve() for one linear; empty if accepted.
std::string refusal(const Recipe& recipe, int64_t rows, int64_t columns) {
  try {
    resolve(recipe, {{"model.layers.0.up_proj", rows, columns}});
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::infeasible) << error.what();
    return error.what();
  }
}

TEST(Limits, GroupsThatTheKernelsCannotHold) {
  for (const int iters : {0, 3}) {
    for (const int64_t group : {1, 8, 16, 24, 48}) {
      const std::string why = refusal(recipe(group, iters), 64, 192);
      EXPECT_NE(why.find("model.layers.0.up_proj"), std::string::npos) << group;
      EXPECT_NE(why.find(fmt::format("groups of {} columns", group)), std::string::npos) << why;
      EXPECT_NE(why.find("that works: 32, 64, -1 for the whole row (192)"), std::string::npos)
          << why;
    }
    for (const int64_t group : {32, 64, 96, -1})
      EXPECT_EQ(refusal(recipe(group, iters), 64, 192), "");
  }
}

// Named in a layer rule, narrow linears are not kept for their shape.
TEST(Limits, RowsThatAreNoMultipleOfAGroup) {
  for (const int64_t columns : {40, 41, 100}) {
    Recipe whole_row = recipe(-1);
    whole_row.steps[0].layers = {{.pattern = "model.layers.0.up_proj", .symmetric = true}};
    const std::string why = refusal(whole_row, 64, columns);
    EXPECT_NE(why.find(fmt::format("groups of {} columns", columns)), std::string::npos) << why;
    EXPECT_NE(why.find("no group size works"), std::string::npos) << why;
  }
}

TEST(Limits, MoreLinearsAreCounted) {
  try {
    resolve(recipe(16), {{"a", 64, 64}, {"b", 64, 64}, {"c", 64, 64}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("(2 more linears"), std::string::npos) << error.what();
  }
}

// The formats' own limits too: eight rows in a word.
TEST(Limits, OfFormatsAreInfeasibleToo) {
  try {
    quant::planned("a", 36, 64, {.group_size = 32}, kAutoGptq);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::infeasible);
  }
}

TEST(Limits, OfIterations) {
  EXPECT_THROW(recipe(128, 5001), Error);
  EXPECT_EQ(recipe(128, 5000).steps[0].as<AutoRoundSettings>().iters, 5000);
}

// The whole job writes nothing.
TEST_F(CompressTest, NothingIsWrittenThatGenerateWouldRefuse) {
  for (const int iters : {0, 2}) {
    EXPECT_THROW(run("qwen36", recipe(16, iters), calibration(2, 16, 512), "out"), Error);
    EXPECT_TRUE(fs::is_empty(folder_ / "out"));
  }
}

}  // namespace
}  // namespace quern::compress
