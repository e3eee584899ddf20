// The whole job on small checkpoints: its output, independence of the number of threads, and the
// effect of tuning.
#include "compress/compress.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "models/models.h"
#include "tests/compress/job.h"
#include "tests/formats.h"

namespace quern::compress {
namespace {

TEST_F(CompressTest, SameBytesForEveryNumberOfThreads) {
  const Calibration data = calibration(4, 70, 512);
  set_threads(1);
  run("qwen36", auto_round_options(3), data, "one");
  set_threads(3);
  run("qwen36", auto_round_options(3), data, "three");
  expect_same_bytes("one", "three");
}

// More tokens than one pass of the reference, one piece of a loss and one tile of a product take.
TEST_F(CompressTest, SameBytesWhereThereIsMoreThanOnePieceOfEverything) {
  const Calibration data = calibration(10, 512, 512);
  for (const int threads : {1, 2, 3}) {
    set_threads(threads);
    run("qwen36", auto_round_options(3), data, std::to_string(threads));
  }
  expect_same_bytes("1", "2");
  expect_same_bytes("1", "3");
}

TEST_F(CompressTest, TuningLowersTheLossOfEveryBlock) {
  const CompressReport report =
      run("qwen36", auto_round_options(20), calibration(8, 64, 512), "out");
  ASSERT_EQ(report.blocks.size(), 4u);
  for (const BlockReport& block : report.blocks) {
    EXPECT_LT(block.loss_after, 0.8 * block.loss_before) << block.name;
    EXPECT_GT(block.loss_after, 0) << block.name;
  }
}

// Sums in another order may have other signs, so the losses may differ.
TEST_F(CompressTest, MicroBatchesTuneAsTheWholeBatchDoes) {
  const Calibration data = calibration(8, 64, 512);
  RecipeOptions whole = auto_round_options(20), parts = whole;
  whole.batch_size = 4;
  const CompressReport expected = run("qwen36", whole, data, "whole");
  const CompressReport report =
      run("qwen36", make_recipe(parts), data, "parts", kAutoGptq, {.gradient_accumulation = 2});
  EXPECT_NEAR(report.blocks[0].loss_before, expected.blocks[0].loss_before,
              1e-5 * expected.blocks[0].loss_before);
  for (size_t i = 0; i < report.blocks.size(); ++i) {
    EXPECT_NEAR(report.blocks[i].loss_after, expected.blocks[i].loss_after,
                0.15 * expected.blocks[i].loss_after)
        << report.blocks[i].name;
  }
}

// Each window of two tokens reaches only a few experts: the gradient of one micro-batch for an
// expert must survive micro-batches that do not reach the expert.
TEST_F(CompressTest, MicroBatchesWithIdleExperts) {
  const Calibration data = calibration(8, 2, 512);
  RecipeOptions whole = auto_round_options(20), parts = whole;
  whole.batch_size = 8;
  parts.batch_size = 1;
  const CompressReport expected = run("qwen36", whole, data, "whole");
  const CompressReport report =
      run("qwen36", make_recipe(parts), data, "parts", kAutoGptq, {.gradient_accumulation = 8});
  for (size_t i = 0; i < report.blocks.size(); ++i) {
    EXPECT_NEAR(report.blocks[i].loss_after, expected.blocks[i].loss_after,
                0.15 * expected.blocks[i].loss_after)
        << report.blocks[i].name;
    EXPECT_LT(report.blocks[i].loss_after, 0.8 * report.blocks[i].loss_before);
  }
}

// Iteration 0 is round-to-nearest and is kept if no later one is better.
TEST_F(CompressTest, OneIterationIsRoundToNearest) {
  run("qwen36", auto_round_options(1), calibration(2, 40, 512), "tuned");
  const RecipeOptions nearest = nearest_options();
  run("qwen36", nearest, {}, "nearest");
  EXPECT_EQ(read_file(folder_ / "tuned" / "quantization_errors.json"),
            read_file(folder_ / "nearest" / "quantization_errors.json"));
}

// Logits of the whole model, whose weights `change` may replace.
Tensor logits_of(const std::shared_ptr<const nn::Source>& source,
                 const std::function<void(const std::vector<nn::LinearSite>&)>& change) {
  const auto model = models::make_model(source->files.config());
  const nn::Weights root(source);
  at::NoGradGuard no_grad;
  nn::Pass pass = nn::Pass::whole({30});
  Tensor x = (*model->stem(root))(at::arange(30, at::kLong) + 40, pass);
  for (int i = 0; i < model->blocks(); ++i) {
    std::vector<nn::LinearSite> sites;
    const auto block = model->block(root.listing(&sites), i);
    change(sites);
    x = (*block)(x, pass);
  }
  return model->head(root)->logits(model->head(root)->norm(x));
}

// The packed artifact computes the same as the original model with the dequantized numbers.
TEST_F(CompressTest, WhatIsWrittenMultipliesAsItWasTuned) {
  run("qwen36", auto_round_options(5), calibration(4, 64, 512), "out", kCompressedTensors);
  const auto artifact = std::make_shared<nn::Source>(folder_ / "out"),
             source = std::make_shared<nn::Source>(test_data("qwen36"));
  ASSERT_TRUE(artifact->quantization);
  int64_t packed = 0;
  const Tensor written = logits_of(artifact, [&](const std::vector<nn::LinearSite>& sites) {
    for (const nn::LinearSite& site : sites) packed += !site.weight.dense();
  });
  // 4 blocks of 24 expert matrices and 3 of the shared expert, 3 x 3 of the delta nets, 4 of the
  // attention.
  EXPECT_EQ(packed, 4 * 27 + 3 * 3 + 4);
  const Tensor meant = logits_of(
      source, [&](const std::vector<nn::LinearSite>& sites) { take_from(*artifact, sites); });
  const Tensor original = logits_of(source, [](const auto&) {});
  EXPECT_LT(relative_distance(written, meant), 1e-3);
  EXPECT_GT(relative_distance(original, meant), 1e-2) << "nothing was quantized";
}

TEST_F(CompressTest, StopsAfterTheBlock) {
  fs::create_directories(folder_ / "out");
  std::atomic<bool> stop = false;
  CompressOptions options;
  options.output = folder_ / "out";
  options.stop = &stop;
  int done = 0;
  Progress progress;
  progress.block_done = [&](const BlockReport&) {
    ++done;
    stop = true;
  };
  const RecipeOptions nearest = nearest_options();
  try {
    compress(std::make_shared<nn::Source>(test_data("qwen36")), make_recipe(nearest), {}, options,
             progress);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::interrupted);
  }
  EXPECT_EQ(done, 1);
}

TEST_F(CompressTest, RefusesToTuneWithoutDataOrTwice) {
  EXPECT_THROW(run("qwen36", auto_round_options(5), {}, "out"), Error);
  const RecipeOptions nearest = nearest_options();
  run("qwen36", nearest, {}, "first");
  fs::create_directories(folder_ / "second");
  CompressOptions options;
  options.output = folder_ / "second";
  try {
    compress(std::make_shared<nn::Source>(folder_ / "first"), make_recipe(nearest), {}, options,
             {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("already quantized"), std::string::npos);
  }
}

}  // namespace
}  // namespace quern::compress
