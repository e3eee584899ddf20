// Shared by the tests of the whole job: a scratch folder, calibration windows, and runs.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/threads.h"
#include "base/yaml.h"
#include "compress/compress.h"
#include "compress/recipe_options.h"
#include "compress/recipe_read.h"
#include "models/models.h"
#include "ops/dense_stack.h"
#include "quant/dequantize.h"
#include "tests/formats.h"

namespace quern::compress {

namespace fs = std::filesystem;

inline fs::path test_data(const std::string& name) {
  return fs::path(QUERN_SOURCE_DIR) / "tests" / "data" / name;
}

inline double relative_distance(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

// Of modifiers as YAML: "GPTQModifier: {...}, ...".
inline Recipe recipe_of(const std::string& modifiers) {
  const std::string yaml = "a_stage: {a_modifiers: {" + modifiers + "}}";
  return parse_recipe(parse_yaml(yaml, "r.yaml"), "r.yaml");
}

// Groups of 32, which divide the columns of every fixture.
inline std::string rounding(const std::string& modifier, const std::string& ignore = "lm_head") {
  return modifier +
         ": {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, type: int, symmetric: "
         "true, strategy: group, group_size: 32}}}, ignore: [" +
         ignore + "]}";
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

  CompressReport run_recipe(const std::string& model, const std::string& modifiers,
                            const std::string& out, size_t windows = 8) {
    return run(model, recipe_of(modifiers), calibration(windows, 48, 512), out, kCompressedTensors);
  }

  // How far the artifact's logits are from the original's, on the calibration's tokens.
  double distance(const std::string& model, const std::string& out) const {
    const auto source = std::make_shared<nn::Source>(test_data(model)),
               artifact = std::make_shared<nn::Source>(folder_ / out);
    return relative_distance(logits(artifact), logits(source));
  }

  static Tensor logits(const std::shared_ptr<nn::Source>& from) {
    at::NoGradGuard no_grad;
    const auto model = models::make_model(from->files.config());
    const nn::Weights root(from);
    std::vector<Tensor> all;
    for (const auto& window : calibration(8, 48, 512).windows) {
      nn::Pass pass = nn::Pass::whole({std::ssize(window)});
      Tensor x = (*model->stem(root))(at::tensor(window, at::kInt).to(at::kLong), pass);
      for (int i = 0; i < model->blocks(); ++i) x = (*model->block(root, i))(x, pass);
      const auto head = model->head(root);
      all.push_back(head->logits(head->norm(x)));
    }
    return at::cat(all);
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

inline RecipeOptions auto_round_options(int iters) {
  RecipeOptions options;
  options.iters = iters;
  options.batch_size = 2;
  return options;
}

inline RecipeOptions nearest_options() { return {.method = "rtn"}; }

}  // namespace quern::compress
