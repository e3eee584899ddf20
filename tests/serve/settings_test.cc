#include "serve/settings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;

const JsonValue kConfig = {{"max_position_embeddings", 4096}};

std::optional<std::string> nothing(const std::string&) { return std::nullopt; }

engine::EngineOptions engine_of(const std::vector<std::string>& words) {
  return engine_options(read_arguments(words, nothing), nothing, kConfig, 100);
}

int64_t bytes(const std::vector<std::string>& words,
              const std::map<std::string, std::string>& variables) {
  const Environment environment = [&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
  return engine_options(read_arguments(words, environment), environment, kConfig, 100).kv_bytes;
}

// The option wins over the variables, ours over vLLM's, and these count GiB.
TEST(SettingsTest, BytesOfTheCaches) {
  constexpr int64_t kGib = int64_t{1} << 30;
  EXPECT_EQ(bytes({"m"}, {}), 0);
  EXPECT_EQ(bytes({"m"}, {{"VLLM_CPU_KVCACHE_SPACE", "40"}}), 40 * kGib);
  EXPECT_EQ(bytes({"m"}, {{"VLLM_CPU_KVCACHE_SPACE", "40"}, {"QUERN_CPU_KVCACHE_SPACE", "3"}}),
            3 * kGib);
  EXPECT_EQ(bytes({"m", "--kv-cache-memory-bytes", "2M"}, {{"VLLM_CPU_KVCACHE_SPACE", "40"}}),
            2 << 20);
  EXPECT_THROW(bytes({"m"}, {{"VLLM_CPU_KVCACHE_SPACE", "4000000000"}}), Error);
  EXPECT_THROW(bytes({"m", "--kv-cache-memory-bytes", "0"}, {}), Error);
}

TEST(SettingsTest, OptionsOfTheEngine) {
  EXPECT_EQ(engine_of({"m"}).target_itl_ms, 250);
  EXPECT_EQ(engine_of({"m", "--target-itl-ms", "80"}).target_itl_ms, 80);
  EXPECT_EQ(engine_of({"m"}).max_model_len, 0);  // what the memory allows
  EXPECT_EQ(engine_of({"m", "--max-model-len", "1k"}).max_model_len, 1000);
  EXPECT_THROW(engine_of({"m", "--max-model-len", "5000"}), Error);
  EXPECT_THROW(engine_of({"m", "--target-itl-ms", "-1"}), Error);
  // Prompts that may not be cut must fit in a step.
  EXPECT_THROW(engine_of({"m", "--no-enable-chunked-prefill"}), Error);
  engine_of({"m", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"});
  engine_of({"m", "--no-enable-chunked-prefill", "--max-model-len", "2048"});
}

// refs/ decides, not the time of a folder, and half a download of another revision does not matter.
TEST(SettingsTest, NamesAreRevisionsInTheCache) {
  const fs::path home =
      fs::temp_directory_path() / ("quern-cache-test-" + std::to_string(::getpid()));
  const fs::path hub = home / "hub", cached = hub / "models--org--tiny";
  fs::create_directories(cached / "refs/pr");
  for (const char* commit : {"aaaa", "bbbb"}) fs::create_directories(cached / "snapshots" / commit);
  write_file(cached / "refs/main", "aaaa\n");
  write_file(cached / "refs/pr/7", "bbbb");
  const auto folder = [&](std::vector<std::string> words, bool by_hub = false) {
    const Environment environment = [&](const std::string& name) -> std::optional<std::string> {
      if (name == (by_hub ? "HF_HUB_CACHE" : "HF_HOME")) return (by_hub ? hub : home).string();
      return std::nullopt;
    };
    return model_folder(read_arguments(words, environment), environment).filename().string();
  };
  EXPECT_EQ(folder({"org/tiny"}), "aaaa");
  EXPECT_EQ(folder({"org/tiny"}, true), "aaaa");
  EXPECT_EQ(folder({"org/tiny", "--revision", "bbbb"}), "bbbb");
  EXPECT_EQ(folder({"org/tiny", "--revision", "pr/7"}), "bbbb");
  for (const char* wrong : {"cccc", "../snapshots/aaaa", "/etc", "refs/../main"})
    EXPECT_THROW(folder({"org/tiny", "--revision", wrong}), Error) << wrong;
  write_file(cached / "refs/main", "../../outside");
  EXPECT_THROW(folder({"org/tiny"}), Error);
  EXPECT_THROW(folder({"org/other"}), Error);
  fs::remove_all(home);
}

TEST(SettingsTest, PagesOfOtherOriginsNeedKeysOrAWord) {
  const auto origins = [](const std::vector<std::string>& words) {
    return server_options(read_arguments(words, nothing), nothing).cors.origins;
  };
  EXPECT_TRUE(origins({"m"}).empty());
  EXPECT_EQ(origins({"m", "--api-key", "k"}), std::vector<std::string>{"*"});
  EXPECT_EQ(origins({"m", "--allowed-origins", "[\"https://a\"]"}),
            std::vector<std::string>{"https://a"});
  EXPECT_THROW(origins({"m", "--allowed-origins", "[5]"}), Error);
}

}  // namespace
}  // namespace quern::serve
