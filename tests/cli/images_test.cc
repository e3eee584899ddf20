// generate --image and calibration rows with pictures, on the random fixtures.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "tests/cli/run.h"

namespace quern::cli {
namespace {

std::string picture(const std::string& name) { return (test_data("image") / name).string(); }

class CliImagesTest : public testing::TestWithParam<const char*> {
 protected:
  std::string fixture() const { return test_data(GetParam()).string(); }
  std::vector<std::string> ask(const std::vector<std::string>& images) const {
    std::vector<std::string> args = {"generate", fixture(), "--prompt",  "hi", "--temperature",
                                     "0",        "--json",  "--threads", "1",  "--max-tokens",
                                     "6"};
    for (const std::string& image : images) args.insert(args.end(), {"--image", image});
    return args;
  }
  static nlohmann::json answer(const Ran& ran) {
    EXPECT_EQ(ran.code, 0) << ran.err;
    return nlohmann::json::parse(ran.out);
  }

  Scratch scratch_;
};

TEST_P(CliImagesTest, PicturesArePartOfThePrompt) {
  const auto none = answer(quern(ask({}))), one = answer(quern(ask({picture("gradient.png")}))),
             two = answer(quern(ask({picture("gradient.png"), picture("lossy.webp")})));
  const bool gemma = std::string(GetParam()) == "gemma4";
  // Soft tokens of gradient.png, and the tokens around them.
  const int64_t around = gemma ? 2 + 2 : 2, soft = gemma ? 63 : 6;
  EXPECT_EQ(one.at("prompt_tokens").get<int64_t>() - none.at("prompt_tokens").get<int64_t>(),
            soft + around);
  EXPECT_GT(two.at("prompt_tokens"), one.at("prompt_tokens"));
  EXPECT_NE(none.at("text"), one.at("text"));
}

TEST_P(CliImagesTest, AChatShowsPictures) {
  const std::vector<std::string> args = {"generate",  fixture(), "--temperature", "0",
                                         "--threads", "1",       "--max-tokens",  "6"};
  const Ran shown = quern(args, "/image " + picture("gradient.png") + "\nhi\n");
  ASSERT_EQ(shown.code, 0) << shown.err;
  EXPECT_EQ(shown.out,
            answer(quern(ask({picture("gradient.png")}))).at("text").get<std::string>() + "\n");
}

TEST_P(CliImagesTest, BadPicturesAreRefused) {
  const Ran animated = quern(ask({picture("animation.png")}));
  EXPECT_EQ(animated.code, 4);
  EXPECT_NE(animated.err.find("picture 1: an animation"), std::string::npos) << animated.err;
  const Ran missing = quern(ask({"no-such.png"}));
  EXPECT_EQ(missing.code, 4);
  EXPECT_NE(missing.err.find("no-such.png"), std::string::npos) << missing.err;
}

// Vision and audio tensors are unchanged, whatever the calibration data.
TEST_P(CliImagesTest, CalibrationSeesPictures) {
  fs::create_directory(scratch_ / "pictures");
  fs::copy(picture("gradient.png"), scratch_ / "pictures");
  std::string rows;
  for (int i = 0; i < 4; ++i) {
    const nlohmann::json part = {{"type", "image"}, {"path", "pictures/gradient.png"}};
    const nlohmann::json text = {{"type", "text"}, {"text", "question " + std::to_string(i)}};
    rows += nlohmann::json{{"messages", {{{"role", "user"}, {"content", {part, text}}}}}}.dump();
    rows += "\n";
  }
  const std::string data = scratch_.write("rows.jsonl", rows);
  const std::string out = (scratch_ / "out").string();
  auto args = [&](const std::string& packing) {
    return std::vector<std::string>{"compress",  fixture(), "-o",         out,        "--data",
                                    data,        "--iters", "1",          "--seqlen", "80",
                                    "--packing", packing,   "--no-verify"};
  };
  const Ran joined = quern(args("concat"));
  EXPECT_EQ(joined.code, 2) << joined.err;
  EXPECT_NE(joined.err.find("--packing truncate"), std::string::npos) << joined.err;

  const Ran ran = quern(args("truncate"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.err.find("4 pictures"), std::string::npos) << ran.err;
  const checkpoint::Checkpoint before(fixture()), after(out);
  int compared = 0;
  for (const std::string& name : before.names()) {
    if (name.find("vis") == std::string::npos && name.find("audio") == std::string::npos) continue;
    const Tensor a = before.tensor(name).contiguous(), b = after.tensor(name).contiguous();
    ASSERT_EQ(a.nbytes(), b.nbytes()) << name;
    EXPECT_EQ(std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()), 0) << name;
    ++compared;
  }
  EXPECT_GT(compared, 30);
}

TEST_P(CliImagesTest, RowsStayBelowTheirFolder) {
  for (const std::string& name : {std::string("../rows.jsonl"), picture("gradient.png"),
                                  std::string("https://example.org/a.png")}) {
    const nlohmann::json part = {{"type", "image"}, {"path", name}};
    const std::string row =
        nlohmann::json{{"messages", {{{"role", "user"}, {"content", {part}}}}}}.dump();
    const std::string out = (scratch_ / "out").string();
    const Ran ran =
        quern({"compress", fixture(), "-o", out, "--data", scratch_.write("rows.jsonl", row + "\n"),
               "--iters", "1", "--seqlen", "64", "--packing", "truncate"});
    EXPECT_EQ(ran.code, 4) << name << ran.err;
    EXPECT_NE(ran.err.find(", line 1: "), std::string::npos) << ran.err;
    EXPECT_FALSE(fs::exists(out));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CliImagesTest, testing::Values("gemma4", "qwen36"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CliImagesRefusalTest, ATextModelTakesNone) {
  const Ran ran = quern({"generate", test_data("glm45").string(), "--prompt", "hi", "--image",
                         picture("gradient.png")});
  EXPECT_EQ(ran.code, 2) << ran.err;
  EXPECT_NE(ran.err.find("takes no pictures"), std::string::npos) << ran.err;
}

}  // namespace
}  // namespace quern::cli
