// Pictures through processor, tower and text model, against transformers on the fixtures.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "nn/media.h"
#include "prompt/image_processor.h"
#include "prompt/media.h"
#include "tests/models/golden.h"

namespace quern::models {
namespace {

constexpr double kLogitTolerance = 2e-4;
constexpr double kFeatureTolerance = 1e-4;  // of the largest value

struct Fixture {
  const char* name;
  double pixel_step;  // one level of 255
};

class VisionTest : public testing::TestWithParam<Fixture> {
 protected:
  VisionTest()
      : folder_(test_data(GetParam().name)),
        golden_(folder_ / "golden.safetensors"),
        whole_((prepare_torch(), folder_)),
        tower_(whole_.model->vision(whole_.weights)) {}

  Tensor golden(const std::string& name) const { return golden_.tensor("image." + name); }

  // The golden pixels are those of the picture's real patches, then padding.
  prompt::Patches processed() const {
    const Tensor rgb = golden("rgb_u8").permute({2, 0, 1});
    return (*prompt::image_processor(folder_))(rgb, "golden");
  }
  prompt::Patches golden_patches() const {
    prompt::Patches patches = processed();
    patches.values = golden("pixel_values")
                         .reshape({-1, patches.values.size(1)})
                         .narrow(0, 0, patches.values.size(0));
    return patches;
  }

  // The golden prompt as a template would write it, with one image token.
  std::vector<int32_t> short_prompt() const {
    const prompt::ImageTokens media = *whole_.model->image_tokens();
    const Tensor ids = golden("input_ids").contiguous();
    std::vector<int32_t> tokens(ids.const_data_ptr<int32_t>(),
                                ids.const_data_ptr<int32_t>() + ids.numel());
    const auto first = std::find(tokens.begin(), tokens.end(), media.image);
    auto last = first;
    while (*last == media.image) ++last;
    return join({tokens.begin(), first - std::ssize(media.before)}, {media.image},
                {last + std::ssize(media.after), tokens.end()});
  }
  static std::vector<int32_t> join(std::vector<int32_t> a, const std::vector<int32_t>& b,
                                   const std::vector<int32_t>& c) {
    a.insert(a.end(), b.begin(), b.end());
    a.insert(a.end(), c.begin(), c.end());
    return a;
  }

  prompt::ImagePrompt read(const std::vector<int32_t>& tokens,
                           const std::vector<std::string>& images) const {
    return prompt::ImageReader(prompt::image_processor(folder_), *whole_.model->image_tokens())(
        tokens, images);
  }
  static std::string picture(const std::string& name) {
    return read_file(test_data("image") / name);
  }

  std::vector<nn::PlacedImage> placed(const prompt::ImagePrompt& prompt) const {
    at::NoGradGuard no_grad;
    std::vector<nn::PlacedImage> images;
    for (const auto& [first, patches] : prompt.images)
      images.push_back({first, patches.soft_rows(), patches.soft_columns(), (*tower_)(patches)});
    return images;
  }
  Tensor positions(const std::vector<nn::PlacedImage>& images, int64_t tokens) const {
    if (whole_.model->image_tokens()->by_grid) return nn::grid_positions(images, tokens);
    return at::arange(tokens, at::kLong);
  }

  std::filesystem::path folder_;
  checkpoint::SafetensorsFile golden_;
  Whole whole_;
  std::unique_ptr<nn::Vision> tower_;
};

TEST_P(VisionTest, PixelsAreTorchvisions) {
  const prompt::Patches patches = processed(), expected = golden_patches();
  ASSERT_EQ(patches.values.sizes(), expected.values.sizes());
  const double difference = distance(patches.values, expected.values);
  RecordProperty("pixels", std::to_string(difference));
  // The same LibTorch gives the same bits; another processor may round a byte otherwise.
  EXPECT_LT(difference, 1.01 * GetParam().pixel_step);
}

TEST_P(VisionTest, StatesAndFeatures) {
  at::NoGradGuard no_grad;
  const Tensor encoded = tower_->encode(golden_patches());
  const Tensor states = golden("vision_last_hidden"), features = golden("features");
  ASSERT_EQ(encoded.sizes(), states.sizes());
  const double state = distance(encoded, states) / states.abs().max().item<double>();
  const double feature =
      distance(tower_->project(encoded), features) / features.abs().max().item<double>();
  RecordProperty("states", fmt::format("{:.1e}", state));
  RecordProperty("features", fmt::format("{:.1e}", feature));
  EXPECT_LT(state, kFeatureTolerance);
  EXPECT_LT(feature, kFeatureTolerance);
}

TEST_P(VisionTest, ThePromptIsExpanded) {
  const prompt::ImagePrompt prompt = read(short_prompt(), {picture("gradient.png")});
  const Tensor ids = at::tensor(prompt.tokens, at::kInt);
  ASSERT_TRUE(at::equal(ids, golden("input_ids")));
  ASSERT_EQ(prompt.images.size(), 1u);
  EXPECT_TRUE(at::equal(prompt.images[0].patches.values, processed().values));
}

TEST_P(VisionTest, LogitsInOnePass) {
  const prompt::ImagePrompt prompt = read(short_prompt(), {picture("gradient.png")});
  const auto images = placed(prompt);
  const Tensor ids = at::tensor(prompt.tokens, at::kInt).to(at::kLong);
  nn::Pass pass = nn::Pass::whole({ids.size(0)});
  pass.positions = positions(images, ids.size(0));
  if (pass.positions.dim() == 2)
    EXPECT_TRUE(at::equal(pass.positions, golden("position_ids").to(at::kLong)));
  pass.media = nn::media_of(images, 0, ids.size(0));
  const double difference = distance(whole_.logits(ids, pass), golden("logits"));
  RecordProperty("logits", fmt::format("{:.1e}", difference));
  EXPECT_LT(difference, kLogitTolerance);
}

// Positions that blocks get in addition to their input equal those of the pass.
TEST_P(VisionTest, SharedPositions) {
  const prompt::ImagePrompt prompt = read(short_prompt(), {picture("gradient.png")});
  const auto images = placed(prompt);
  const Tensor ids = at::tensor(prompt.tokens, at::kInt).to(at::kLong);
  nn::Pass pass = nn::Pass::whole({ids.size(0)});
  if (whole_.model->image_tokens()->by_grid)
    pass.share_grid_positions(nn::grid_positions(images, ids.size(0)));
  pass.media = nn::media_of(images, 0, ids.size(0));
  EXPECT_LT(distance(whole_.logits(ids, pass), golden("logits")), kLogitTolerance);
}

// Two pictures, chunks of random sizes that cut them, then single tokens after them.
TEST_P(VisionTest, ChunksCutPictures) {
  const std::vector<int32_t> once = short_prompt();
  std::vector<int32_t> tokens = join(once, once, {40, 41, 42});
  const prompt::ImagePrompt prompt =
      read(tokens, {picture("gradient.png"), picture("turned6.jpg")});
  const auto images = placed(prompt);
  const Tensor ids = at::tensor(prompt.tokens, at::kInt).to(at::kLong);
  const Tensor all = positions(images, ids.size(0));
  nn::Pass pass = nn::Pass::whole({ids.size(0)});
  pass.positions = all;
  pass.media = nn::media_of(images, 0, ids.size(0));
  const Tensor expected = whole_.logits(ids, pass);

  std::mt19937 random(3);
  for (int64_t longest : {1, 5, 40}) {
    nn::Caches caches;
    for (int64_t past = 0; past < ids.size(0);) {
      const int64_t count = std::min<int64_t>(1 + random() % longest, ids.size(0) - past);
      nn::Pass chunk = nn::Pass::next(past, count, caches);
      chunk.positions = all.narrow(-1, past, count);
      chunk.media = nn::media_of(images, past, count);
      const Tensor logits = whole_.logits(ids.narrow(0, past, count), chunk);
      ASSERT_LT(distance(logits, expected.narrow(0, past, count)), kLogitTolerance)
          << "tokens " << past << " to " << past + count;
      past += count;
    }
  }
}

TEST_P(VisionTest, ATextRunDoesNotReadTheTower) {
  Whole text(folder_);
  auto towers = [&](const nn::Weights& weights) {
    const auto names = weights.untaken();
    return std::count_if(names.begin(), names.end(), [](const std::string& name) {
      return name.find("vis") != std::string::npos;
    });
  };
  EXPECT_GT(towers(text.weights), 20);
  text.model->vision(text.weights);
  EXPECT_EQ(towers(text.weights), 0);
}

TEST_P(VisionTest, RefusesPatchesOfAnotherProcessor) {
  prompt::Patches patches = processed();
  patches.values = patches.values.narrow(1, 0, patches.values.size(1) - 1);
  EXPECT_THROW((*tower_)(patches), Error);
  patches = processed();
  patches.merge = 1;
  EXPECT_THROW((*tower_)(patches), Error);
}

TEST_P(VisionTest, AsManyPlacesAsPictures) {
  EXPECT_THROW(read(short_prompt(), {}), Error);
  EXPECT_THROW(read({40, 41}, {picture("gradient.png")}), Error);
  EXPECT_EQ(read({40, 41}, {}).tokens, std::vector<int32_t>({40, 41}));
}

INSTANTIATE_TEST_SUITE_P(Models, VisionTest,
                         testing::Values(Fixture{"gemma4", 1.0 / 255},
                                         Fixture{"qwen36", 2.0 / 255}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GridPositionsTest, LaterTokensFollowTheLongerSide) {
  const std::vector<nn::PlacedImage> images = {{2, 2, 3, {}}, {9, 1, 1, {}}};
  const Tensor positions = nn::grid_positions(images, 12);
  const Tensor expected = at::tensor({0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 8,  //
                                      0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8,  //
                                      0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8},
                                     at::kLong)
                              .reshape({3, 12});
  EXPECT_TRUE(at::equal(positions, expected)) << positions;
  EXPECT_TRUE(at::equal(nn::grid_positions({}, 4), at::arange(4, at::kLong).expand({3, 4})));
}

}  // namespace
}  // namespace quern::models
