// The memory of compress: predicted from shapes, and measured.
#include "compress/memory.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "models/models.h"
#include "tensor/machine_memory.h"
#include "tests/compress/job.h"

namespace quern::compress {
namespace {

class MemoryTest : public CompressTest {
 protected:
  static MemoryNeed need(const Recipe& recipe, const Calibration& data) {
    const auto source = std::make_shared<nn::Source>(test_data("qwen36"));
    const auto model = models::make_model(source->files.config());
    const auto sites = list_sites(source, *model);
    const Plan plan = make_plan(*source, sites, recipe, kAutoGptq);
    return memory_need(*model, nn::Weights(source), sites.linears, plan, recipe,
                       WindowSizes::of(data), {});
  }
};

// At two sizes, to separate the parts that grow with the data from the constant ones.
TEST_F(MemoryTest, AJobTakesWhatWasPredicted) {
  int64_t grown[2], said[2];
  for (const int size : {0, 1}) {
    RecipeOptions options = auto_round_options(2);
    options.batch_size = size == 0 ? 4 : 16;
    const Calibration data = calibration(size == 0 ? 4 : 32, 512, 512);
    said[size] = need(make_recipe(options), data).total();
    grown[size] = growth_during([&] { run("qwen36", options, data, "out"); });
    fs::remove_all(folder_ / "out");
    RecordProperty(size == 0 ? "small" : "large", static_cast<int>(grown[size] >> 20));
  }
  // Threads, code and heap fragments take a constant amount.
  constexpr int64_t kFixed = 64 << 20;
  for (const int size : {0, 1}) {
    EXPECT_LE(grown[size], said[size] + kFixed) << said[size];
    EXPECT_GE(2 * (grown[size] + kFixed), said[size]) << grown[size];
  }
}

TEST_F(MemoryTest, RefusesWhatDoesNotFit) {
  const RecipeOptions options = auto_round_options(2);
  const Calibration data = calibration(4, 64, 512);
  const int64_t needed = need(make_recipe(options), data).total();
  fs::create_directories(folder_ / "out");
  CompressOptions job;
  job.output = folder_ / "out";
  job.memory_bytes = needed - 1;
  try {
    compress(std::make_shared<nn::Source>(test_data("qwen36")), make_recipe(options), data, job,
             {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::infeasible);
    EXPECT_NE(std::string(error.what()).find("--nsamples"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(fs::is_empty(folder_ / "out"));
  job.memory_bytes = needed;
  compress(std::make_shared<nn::Source>(test_data("qwen36")), make_recipe(options), data, job, {});
}

}  // namespace
}  // namespace quern::compress
