#include "serve/settings.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace quern::serve {
namespace {

int64_t bytes(const std::vector<std::string>& words,
              const std::map<std::string, std::string>& variables) {
  const Environment environment = [&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
  return cache_bytes(read_arguments(words, environment), environment);
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

}  // namespace
}  // namespace quern::serve
