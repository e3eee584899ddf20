// Image processors: sizes against transformers' (tools/make_image_fixtures.py), the order of
// patches and values, and settings that are refused. Pixel values are compared in tests/models.
#include "prompt/image_processor.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace quern::prompt {
namespace {

namespace fs = std::filesystem;

// As in google/gemma-4-E4B-it and Qwen/Qwen3.6-35B-A3B.
JsonValue gemma4() {
  return {{"image_processor_type", "Gemma4ImageProcessor"},
          {"patch_size", 16},
          {"pooling_kernel_size", 3},
          {"max_soft_tokens", 280},
          {"do_normalize", false},
          {"resample", 3}};
}

JsonValue qwen2_vl() {
  return {{"image_processor_type", "Qwen2VLImageProcessorFast"},
          {"size", {{"longest_edge", 16777216}, {"shortest_edge", 65536}}},
          {"patch_size", 16},
          {"temporal_patch_size", 2},
          {"merge_size", 2},
          {"image_mean", {0.5, 0.5, 0.5}},
          {"image_std", {0.5, 0.5, 0.5}}};
}

class ImageProcessorTest : public testing::Test {
 protected:
  ImageProcessorTest() : folder_(fs::path(testing::TempDir()) / "image_processor_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ImageProcessorTest() override { fs::remove_all(folder_); }

  std::unique_ptr<ImageProcessor> processor(const JsonValue& config) const {
    write_file(folder_ / "preprocessor_config.json", to_text(config));
    return image_processor(folder_);
  }
  std::string refusal(JsonValue config, const JsonValue& changes) const {
    config.update(changes);
    try {
      processor(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::invalid_input);
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(ImageProcessorTest, SizesAreTransformers) {
  const JsonValue golden =
      read_json(fs::path(QUERN_SOURCE_DIR) / "tests/data/image/golden.json").at("sizes");
  const std::map<std::string, std::unique_ptr<ImageProcessor>> processors = [&] {
    std::map<std::string, std::unique_ptr<ImageProcessor>> all;
    all["gemma4"] = processor(gemma4());
    all["qwen2_vl"] = processor(qwen2_vl());
    JsonValue tight = qwen2_vl();
    tight["size"] = {{"longest_edge", 65536}, {"shortest_edge", 3072}};
    all["qwen2_vl_tight"] = processor(tight);
    return all;
  }();
  int refused = 0;
  for (const JsonValue& row : golden) {
    const int64_t height = row.at("height"), width = row.at("width");
    const Tensor rgb = at::zeros({3, height, width}, at::kByte);
    for (const auto& [name, processor] : processors) {
      const std::string where = fmt::format("{} of {} x {}", name, height, width);
      if (row.at(name).is_null()) {
        EXPECT_THROW((*processor)(rgb, "a.png"), Error) << where;
        ++refused;
        continue;
      }
      const Patches patches = (*processor)(rgb, "a.png");
      EXPECT_EQ(patches.rows, row.at(name)[0].get<int64_t>()) << where;
      EXPECT_EQ(patches.columns, row.at(name)[1].get<int64_t>()) << where;
      EXPECT_EQ(patches.values.size(0), patches.rows * patches.columns) << where;
    }
  }
  EXPECT_GE(refused, 2) << "shapes that are refused belong to the list";
}

// A picture whose bytes encode their places, with a size that is not changed.
TEST_F(ImageProcessorTest, PatchesOfGemmaAreChannelLast) {
  JsonValue config = gemma4();
  config.update({{"patch_size", 2}, {"pooling_kernel_size", 1}, {"max_soft_tokens", 70}});
  const Tensor rgb =
      at::arange(3 * 14 * 20, at::kLong).remainder(251).to(at::kByte).reshape({3, 14, 20});
  const Patches patches = (*processor(config))(rgb, "a.png");
  ASSERT_EQ(patches.rows, 7);
  ASSERT_EQ(patches.columns, 10);
  EXPECT_EQ(patches.soft_tokens(), 70);
  // Patch (3, 4), pixel (1, 0) of it, green: value (1 * 2 + 0) * 3 + 1.
  EXPECT_FLOAT_EQ(patches.values[3 * 10 + 4][7].item<float>(),
                  rgb[1][3 * 2 + 1][4 * 2].item<float>() / 255);
}

TEST_F(ImageProcessorTest, PatchesOfQwenComeInSquares) {
  JsonValue config = qwen2_vl();
  config.update({{"patch_size", 2}, {"size", {{"longest_edge", 4096}, {"shortest_edge", 16}}}});
  const Tensor rgb =
      at::arange(3 * 12 * 16, at::kLong).remainder(251).to(at::kByte).reshape({3, 12, 16});
  const Patches patches = (*processor(config))(rgb, "a.png");
  ASSERT_EQ(patches.rows, 6);
  ASSERT_EQ(patches.columns, 8);
  EXPECT_EQ(patches.soft_tokens(), 12);
  // Patch (3, 4) is in square (1, 2), there in row 1 and column 0; blue, second frame, pixel (0,
  // 1).
  const int64_t patch = (1 * 4 + 2) * 4 + 2, value = (2 * 2 + 1) * 4 + 1;
  EXPECT_NEAR(patches.values[patch][value].item<float>(),
              rgb[2][3 * 2][4 * 2 + 1].item<float>() / 127.5 - 1, 1e-6);
}

TEST_F(ImageProcessorTest, AFolderWithoutOneHasNone) {
  EXPECT_EQ(image_processor(folder_), nullptr);
}

TEST_F(ImageProcessorTest, NestedSettingsComeFirst) {
  write_file(folder_ / "preprocessor_config.json", to_text(qwen2_vl()));
  write_file(folder_ / "processor_config.json", to_text({{"image_processor", gemma4()}}));
  EXPECT_EQ((*image_processor(folder_))(at::zeros({3, 64, 64}, at::kByte), "a.png").merge, 3);
}

TEST_F(ImageProcessorTest, RefusesWhatItDoesNotDo) {
  const std::pair<JsonValue, const char*> cases[] = {
      {{{"image_processor_type", "CLIPImageProcessor"}}, "CLIPImageProcessor is not supported"},
      {{{"resample", 2}}, "resample 2"},
      {{{"do_resize", false}}, "do_resize"},
      {{{"do_center_crop", true}}, "do_center_crop"},
      {{{"patch_size", 0}}, "patch_size is 0"},
      {{{"patch_size", -16}}, "patch_size is -16"},
      {{{"patch_size", 100000}}, "patch_size is 100000"},
      {{{"image_std", {0.5, 0, 0.5}}}, "must be positive"},
      {{{"image_mean", {0.5}}}, "must have 3 numbers"},
      {{{"rescale_factor", 0}}, "must be positive"},
  };
  for (const auto& [changes, why] : cases) {
    JsonValue qwen_changes = changes;
    qwen_changes["do_normalize"] = true;
    EXPECT_NE(refusal(qwen2_vl(), qwen_changes).find(why), std::string::npos) << why;
    EXPECT_NE(refusal(gemma4(), qwen_changes).find(why), std::string::npos) << why;
  }
  EXPECT_NE(refusal(gemma4(), {{"max_soft_tokens", 100}}).find("70, 140, 280"), std::string::npos);
  EXPECT_NE(refusal(gemma4(),
                    {{"max_soft_tokens", 1120}, {"patch_size", 64}, {"pooling_kernel_size", 16}})
                .find("the limit is"),
            std::string::npos);
  const JsonValue huge = {{"longest_edge", int64_t{1} << 40}, {"shortest_edge", int64_t{1} << 40}};
  EXPECT_NE(refusal(qwen2_vl(), {{"size", huge}}).find("edge is 1099511627776"), std::string::npos);
}

}  // namespace
}  // namespace quern::prompt
