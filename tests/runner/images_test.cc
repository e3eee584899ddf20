// Requests with pictures: the engine against the model run whole.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "models/models.h"
#include "runner/model_engine.h"
#include "runner/sequence_images.h"

namespace quern::runner {
namespace {

using namespace engine;
namespace fs = std::filesystem;

fs::path data_folder() { return fs::path(QUERN_SOURCE_DIR) / "tests/data"; }

std::string picture(const std::string& name) { return read_file(data_folder() / "image" / name); }

class ImagesTest : public testing::TestWithParam<const char*> {
 protected:
  ImagesTest() : folder_(data_folder() / GetParam()) {
    prepare_torch();
    source_ = std::make_shared<nn::Source>(folder_);
    model_ = models::make_model(source_->files.config());
  }

  // Text, a picture, text, a picture, text.
  prompt::ImagePrompt prompt() const {
    const prompt::ImageTokens media = *model_->image_tokens();
    const std::vector<int32_t> tokens = {40, 41, media.image, 50, 51, 52, media.image, 60, 61};
    return prompt::ImageReader(prompt::image_processor(folder_), media)(
        tokens, {picture("gradient.png"), picture("progressive.jpg")});
  }

  std::vector<int32_t> answer(int64_t chunk, prompt::ImagePrompt asked) const {
    ModelEngine engine(
        source_, {.max_num_seqs = 1, .max_num_batched_tokens = chunk, .kv_type = nn::KvType::fp32});
    engine.submit({.tokens = std::move(asked.tokens),
                   .max_tokens = 8,
                   .sampling = {.temperature = 0},
                   .images = std::move(asked.images)});
    std::vector<int32_t> tokens;
    while (!engine.idle())
      for (const Update& update : engine.step())
        tokens.insert(tokens.end(), update.tokens.begin(), update.tokens.end());
    return tokens;
  }

  // The likeliest tokens, without caches: the whole sequence once for each.
  std::vector<int32_t> recomputed(const prompt::ImagePrompt& asked) const {
    at::NoGradGuard no_grad;
    const nn::Weights root(source_);
    const auto tower = model_->vision(root);
    const auto stem = model_->stem(root);
    const auto head = model_->head(root);
    std::vector<std::unique_ptr<nn::Block>> blocks;
    for (int i = 0; i < model_->blocks(); ++i) blocks.push_back(model_->block(root, i));
    std::vector<nn::PlacedImage> images;
    for (const auto& [first, patches] : asked.images)
      images.push_back({first, patches.soft_rows(), patches.soft_columns(), (*tower)(patches)});
    std::vector<int32_t> tokens = asked.tokens, answer;
    for (int i = 0; i < 8; ++i) {
      nn::Pass pass = nn::Pass::whole({std::ssize(tokens)});
      pass.media = nn::media_of(images, 0, std::ssize(tokens));
      if (model_->image_tokens()->by_grid)
        pass.positions = nn::grid_positions(images, std::ssize(tokens));
      Tensor x = (*stem)(at::tensor(tokens, at::kInt).to(at::kLong), pass);
      for (const auto& block : blocks) x = (*block)(x, pass);
      answer.push_back(head->logits(head->norm(x.slice(0, -1))).argmax().item<int>());
      tokens.push_back(answer.back());
    }
    return answer;
  }

  fs::path folder_;
  std::shared_ptr<const nn::Source> source_;
  std::unique_ptr<nn::Model> model_;
};

TEST_P(ImagesTest, CachedIsRecomputedForEveryChunk) {
  const std::vector<int32_t> expected = recomputed(prompt());
  for (int64_t chunk : {1, 4, 11, 512}) EXPECT_EQ(answer(chunk, prompt()), expected) << chunk;
}

TEST_P(ImagesTest, ThePictureMatters) {
  prompt::ImagePrompt other = prompt();
  for (auto& image : other.images) image.patches.values = image.patches.values.neg();
  EXPECT_NE(answer(512, prompt()), answer(512, std::move(other)));
}

// Pictures, other pictures among the same tokens, and text alone share passes, and the cache only
// with their own kind.
TEST_P(ImagesTest, AnswersDoNotDependOnTheCompany) {
  prompt::ImagePrompt other = prompt();
  for (auto& image : other.images) image.patches.values = image.patches.values.neg();
  const prompt::ImagePrompt text{std::vector<int32_t>(40, 44), {}};
  const std::vector<prompt::ImagePrompt> asked = {prompt(), text, other, prompt(), text};
  for (int64_t tokens : {9, 512}) {
    ModelEngine engine(
        source_,
        {.max_num_seqs = 8, .max_num_batched_tokens = tokens, .kv_type = nn::KvType::fp32});
    auto submit = [&](size_t i) {
      engine.submit({.tokens = asked[i].tokens,
                     .max_tokens = 8,
                     .sampling = {.temperature = 0},
                     .images = asked[i].images});
    };
    std::vector<std::vector<int32_t>> answers(asked.size());
    std::vector<int64_t> known(asked.size());
    auto run = [&] {
      while (!engine.idle()) {
        for (const Update& update : engine.step()) {
          auto& answer = answers[static_cast<size_t>(update.request)];
          answer.insert(answer.end(), update.tokens.begin(), update.tokens.end());
          if (update.cached_tokens)
            known[static_cast<size_t>(update.request)] = *update.cached_tokens;
        }
      }
    };
    for (size_t i : {0u, 1u, 2u}) submit(i);
    run();
    for (size_t i : {3u, 4u}) submit(i);
    run();
    for (size_t i = 0; i < asked.size(); ++i) EXPECT_EQ(answers[i], answer(512, asked[i])) << i;
    EXPECT_EQ(known[2], 0) << "the tokens are known, the pictures are not";
    EXPECT_GT(known[3], 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ImagesTest, testing::Values("gemma4", "qwen36"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SequenceImagesTest, PositionsBehindPicturesAreOneShift) {
  // 3 x 4 soft tokens take 4 positions: 8 less than their number.
  struct Tower : nn::Vision {
    Tensor encode(const prompt::Patches& patches) const override {
      return at::zeros({patches.soft_tokens(), 2}, at::kFloat);
    }
    Tensor project(const Tensor& encoded) const override { return encoded; }
  };
  const prompt::Patches patches{at::zeros({48, 1}, at::kFloat), 6, 8, 2};
  SequenceImages images({{5, patches}}, /*by_grid=*/true);
  images.encode(Tower());
  nn::Caches caches;
  nn::Pass pass = nn::Pass::next(17, 3, caches);
  images.complete(pass, 17, 3);
  EXPECT_TRUE(at::equal(pass.positions, at::tensor({9, 10, 11}, at::kLong))) << pass.positions;
  pass = nn::Pass::next(15, 4, caches);
  images.complete(pass, 15, 4);
  const Tensor expected =
      at::tensor({5, 5, 9, 10, 7, 7, 9, 10, 7, 8, 9, 10}, at::kLong).reshape({3, 4});
  EXPECT_TRUE(at::equal(pass.positions, expected)) << pass.positions;
}

TEST(EngineImagesTest, AModelWithoutATowerRefusesThem) {
  prepare_torch();
  ModelEngine engine(std::make_shared<nn::Source>(data_folder() / "glm45"));
  const prompt::Patches patches{at::zeros({4, 1}, at::kFloat), 2, 2, 2};
  EXPECT_THROW(engine.submit({.tokens = {3, 4}, .images = {{1, patches}}}), Error);
}

}  // namespace
}  // namespace quern::runner
