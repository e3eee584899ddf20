#include "prompt/context_length.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace quern::prompt {
namespace {

int64_t length(const char* text) { return context_length(JsonValue::parse(text)); }

TEST(ContextLength, IsScaledAsVllmScalesIt) {
  EXPECT_EQ(length(R"({"max_position_embeddings": 4096})"), 4096);
  EXPECT_EQ(length(R"({"text_config": {"max_position_embeddings": 512}})"), 512);
  EXPECT_EQ(length(R"({"max_position_embeddings": 4096, "rope_scaling":
                       {"rope_type": "linear", "factor": 2.0}})"),
            8192);
  EXPECT_EQ(length(R"({"max_position_embeddings": 40960, "rope_scaling": {"type": "yarn",
                       "factor": 4, "original_max_position_embeddings": 32768}})"),
            131072);
  EXPECT_EQ(length(R"({"max_position_embeddings": 131072, "rope_parameters":
                       {"rope_type": "llama3", "factor": 8.0}})"),
            131072);
  EXPECT_EQ(length(R"({"max_position_embeddings": 262144, "rope_parameters":
                       {"rope_type": "default", "rope_theta": 1e7}})"),
            262144);
}

TEST(ContextLength, IsZeroWhereTheFileDoesNotSay) {
  EXPECT_EQ(length("{}"), 0);
  EXPECT_EQ(length("[]"), 0);
  EXPECT_EQ(length(R"({"max_position_embeddings": "x"})"), 0);
  EXPECT_EQ(length(R"({"max_position_embeddings": 8, "rope_scaling": {"factor": -3}})"), 8);
  EXPECT_EQ(length(R"({"max_position_embeddings": 8, "rope_scaling": {"factor": 1e300}})"), 8);
}

}  // namespace
}  // namespace quern::prompt
