// Checkpoints with NaN: the run detects and names them.
#include <bit>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/compress/job.h"

namespace quern::compress {
namespace {

class NotFiniteTest : public CompressTest {
 protected:
  // A copy of the fixture with one number of a bf16 tensor replaced by NaN.
  fs::path damaged(const std::string& model, const std::string& tensor, int64_t index) {
    const fs::path copy = folder_ / "damaged";
    fs::remove_all(copy);
    fs::create_directories(folder_);
    fs::copy(test_data(model), copy, fs::copy_options::recursive);
    for (const auto& entry : fs::directory_iterator(copy)) {
      if (entry.path().extension() != ".safetensors") continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      uint64_t length = 0;
      file.read(reinterpret_cast<char*>(&length), sizeof length);
      std::string header(length, ' ');
      file.read(header.data(), static_cast<std::streamsize>(length));
      const JsonValue tensors = parse_json(header, "header");
      if (!tensors.contains(tensor)) continue;
      const uint16_t nan = 0x7fc0;
      file.seekp(static_cast<std::streamoff>(
          8 + length + tensors[tensor]["data_offsets"][0].get<uint64_t>() + 2 * index));
      file.write(reinterpret_cast<const char*>(&nan), sizeof nan);
      return copy;
    }
    ADD_FAILURE() << tensor << " is not there";
    return copy;
  }

  std::string message(const fs::path& source, const Calibration& data,
                      const RecipeOptions& options = auto_round_options(2)) {
    return message(source, data, make_recipe(options));
  }
  std::string message(const fs::path& source, const Calibration& data, const Recipe& recipe,
                      const quant::Format& format = kAutoGptq) {
    fs::remove_all(folder_ / "out");
    fs::create_directories(folder_ / "out");
    CompressOptions options;
    options.output = folder_ / "out";
    options.format = format;
    try {
      compress(std::make_shared<nn::Source>(source), recipe, data, options, {});
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::invalid_input);
      return error.what();
    }
  }
};

// Token 32 is the first of the calibration.
TEST_F(NotFiniteTest, TheInputsOfGptq) {
  const fs::path source =
      damaged("qwen36", "model.language_model.embed_tokens.weight", 32 * 256 + 7);
  const std::string text = message(source, calibration(2, 16, 512), {.method = "gptq"});
  EXPECT_NE(text.find("layers.0"), std::string::npos) << text;
  EXPECT_NE(text.find("inputs are not finite"), std::string::npos) << text;
}

TEST_F(NotFiniteTest, TheInputsOfMethodsThatMoveScale) {
  const fs::path source =
      damaged("qwen36", "model.language_model.embed_tokens.weight", 32 * 256 + 7);
  for (const char* modifier : {"AWQModifier", "SmoothQuantModifier"}) {
    const std::string text =
        message(source, calibration(2, 16, 512),
                recipe_of(std::string(modifier) + ": {}, " + rounding("QuantizationModifier")),
                kCompressedTensors);
    EXPECT_NE(text.find("layers.0"), std::string::npos) << text;
    EXPECT_NE(text.find("inputs are not finite"), std::string::npos) << text;
  }
}

// Whether a token reaches the expert or not.
TEST_F(NotFiniteTest, AnExpertWithScalesOfAwq) {
  constexpr int64_t kMatrix = 256 * 256;
  for (int64_t expert = 0; expert < 8; expert += 3) {
    const fs::path source =
        damaged("qwen36", "model.language_model.layers.0.mlp.experts.gate_up_proj",
                expert * kMatrix + 1000);
    const std::string text =
        message(source, calibration(1, 2, 512),
                recipe_of("AWQModifier: {n_grid: 3}, " + rounding("QuantizationModifier")),
                kCompressedTensors);
    EXPECT_NE(text.find(fmt::format("layers.0.mlp.experts.{}.", expert)), std::string::npos)
        << text;
  }
}

// Two tokens reach four of the eight experts at most.
TEST_F(NotFiniteTest, AnExpertThatNoTokenReaches) {
  constexpr int64_t kMatrix = 256 * 256;
  for (int64_t expert = 0; expert < 8; ++expert) {
    const fs::path source =
        damaged("qwen36", "model.language_model.layers.0.mlp.experts.gate_up_proj",
                expert * kMatrix + 1000);
    const std::string said = message(source, calibration(1, 2, 512));
    EXPECT_NE(said.find(fmt::format("layers.0.mlp.experts.{}.gate_proj", expert)),
              std::string::npos)
        << said;
    EXPECT_NE(said.find("NaN"), std::string::npos) << said;
  }
}

TEST_F(NotFiniteTest, TheWindowThatGivesNoNumber) {
  Calibration data = calibration(4, 20, 300);
  data.windows[2][7] = 400;  // a token that no other window has
  const std::string said =
      message(damaged("qwen36", "model.language_model.embed_tokens.weight", 400 * 256), data);
  EXPECT_NE(said.find("model.language_model.layers.0: its output for calibration window 2"),
            std::string::npos)
      << said;
}

}  // namespace
}  // namespace quern::compress
