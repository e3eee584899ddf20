#include "prompt/generation_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace quern::prompt {
namespace {

namespace fs = std::filesystem;

TEST(GenerationConfigTest, OfAModel) {
  const auto data = fs::path(QUERN_SOURCE_DIR) / "tests/data";
  const JsonValue defaults = sampling_defaults(generation_config(data / "tiny-qwen3.6"));
  EXPECT_EQ(defaults["temperature"], 1.0);
  EXPECT_EQ(defaults["top_k"], 20);
  EXPECT_EQ(defaults["top_p"], 0.95);
  EXPECT_FALSE(defaults.contains("do_sample"));
  EXPECT_TRUE(generation_config(data / "rows").empty());  // there is no such file
}

TEST(GenerationConfigTest, KeepsWhatIsMeant) {
  const JsonValue defaults = sampling_defaults({{"temperature", nullptr},
                                                {"top_k", 50},
                                                {"top_p", 0.5},
                                                {"max_new_tokens", 7},
                                                {"eos_token_id", 3}});
  EXPECT_EQ(defaults, (JsonValue{{"top_p", 0.5}, {"max_new_tokens", 7}}));
  EXPECT_TRUE(sampling_defaults(JsonValue()).empty());
}

TEST(GenerationConfigTest, RefusesWhatIsNoObject) {
  const fs::path folder = fs::temp_directory_path() / "quern-generation-config-test";
  fs::create_directories(folder);
  write_file(folder / "generation_config.json", "[1]");
  EXPECT_THROW(generation_config(folder), Error);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace quern::prompt
