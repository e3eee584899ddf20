// Shared by the tests of the whole job: a scratch folder, calibration windows, and runs.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/threads.h"
#include "compress/compress.h"
#include "compress/recipe_options.h"
#include "ops/dense_stack.h"
#include "quant/dequantize.h"
#include "tests/formats.h"

namespace quern::compress {

namespace fs = std::filesystem;

inline fs::path test_data(const std::string& name) {
  return fs::path(QUERN_SOURCE_DIR) / "tests" / "data" / name;
}

class CompressTest : public testing::Test {
 protected:
  CompressTest()
      : folder_(fs::temp_directory_path() / ("quern-compress-test-" + std::to_string(::getpid()))) {
    prepare_torch();
    fs::remove_all(folder_);
  }
  ~CompressTest() override {
    fs::remove_all(folder_);
    set_threads(2);
  }

  // A few windows of the tiny model's calibration set.
  static Calibration calibration(size_t windows, int64_t length, int vocabulary) {
    Calibration made;
    for (size_t i = 0; i < windows; ++i) {
      std::vector<int32_t> window;
      for (int64_t j = 0; j < length; ++j)
        window.push_back(
            static_cast<int32_t>(32 + (i * 7919 + j * j * 31 + j) % (vocabulary - 32)));
      made.windows.push_back(window);
    }
    made.manifest = {{"rows", windows}};
    return made;
  }

  CompressReport run(const std::string& model, const Recipe& recipe, const Calibration& data,
                     const std::string& out, const quant::Format& format = kAutoGptq,
                     const AutoRoundOptions& tuning = {}) {
    fs::create_directories(folder_ / out);
    CompressOptions options;
    options.output = folder_ / out;
    options.format = format;
    options.tuning = tuning;
    return compress(std::make_shared<nn::Source>(test_data(model)), recipe, data, options, {});
  }
  CompressReport run(const std::string& model, const RecipeOptions& recipe, const Calibration& data,
                     const std::string& out, const quant::Format& format = kAutoGptq) {
    return run(model, make_recipe(recipe), data, out, format);
  }

  void expect_same_bytes(const std::string& a, const std::string& b) const {
    std::vector<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / a))
      files.push_back(entry.path().filename());
    EXPECT_GT(files.size(), 5u);
    for (const std::string& file : files)
      EXPECT_EQ(sha256_of_file(folder_ / a / file), sha256_of_file(folder_ / b / file)) << file;
  }

  fs::path folder_;
};

// Makes the weights of these sites dense, with the dequantized numbers of the artifact.
inline void take_from(const nn::Source& artifact, const std::vector<nn::LinearSite>& sites) {
  std::vector<std::pair<nn::Weight, std::vector<Tensor>>> weights;
  for (const nn::LinearSite& site : sites) {
    auto known = std::ranges::find_if(
        weights, [&](const auto& entry) { return entry.first.is(site.weight); });
    if (known == weights.end()) {
      weights.emplace_back(site.weight, site.weight.dense()->all());
      known = weights.end() - 1;
    }
    const auto scheme = artifact.quantization->scheme_of(site.name);
    if (!scheme) continue;
    const auto packed = quant::from_disk(
        site.name, *scheme, artifact.quantization->format(), [&](const std::string& name) {
          return artifact.files.has(name) ? artifact.files.tensor(name) : Tensor();
        });
    known->second[site.matrix] = quant::dequantize(packed, at::kFloat);
  }
  for (auto& [weight, matrices] : weights) {
    for (Tensor& matrix : matrices) matrix = matrix.to(at::kFloat);
    weight.become(std::make_shared<ops::DenseStack>(std::move(matrices)));
  }
}

inline double relative_distance(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

inline RecipeOptions auto_round_options(int iters) {
  RecipeOptions options;
  options.iters = iters;
  options.batch_size = 2;
  return options;
}

inline RecipeOptions nearest_options() { return {.method = "rtn"}; }

}  // namespace quern::compress
