#include "models/settings.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::models {
namespace {

// The message of refuse_unread for an object that has one key, empty when it is accepted.
std::string refusal(const char* key, const char* value) {
  const JsonValue config = {{key, parse_json(value, "value")}};
  try {
    Settings(Json(config, "config.json")).refuse_unread();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

struct Entry {
  const char* key;
  const char* value;
};

TEST(SettingsTest, KeysThatComputeNothingAreAccepted) {
  for (const auto& [key, value] :
       std::initializer_list<Entry>{{"_attn_implementation", "\"sdpa\""},
                                    {"_attn_implementation_autoset", "true"},
                                    {"_flash_attn_2_enabled", "true"},
                                    {"use_flash_attn", "true"},
                                    {"use_flash_attention_2", "true"},
                                    {"num_beam_groups", "1"},
                                    {"output_scores", "true"},
                                    {"guidance_scale", "1.0"},
                                    {"resid_pdrop", "0.1"},
                                    {"attn_pdrop", "0.1"},
                                    {"attention_dropout", "0.1"},
                                    {"attention_probs_dropout_prob", "0.1"},
                                    {"num_experts", "0"},
                                    {"final_logit_softcapping", "0.0"},
                                    {"mlp_bias", "false"},
                                    {"pruned_heads", "{}"},
                                    {"cross_attention_hidden_size", "null"},
                                    {"vocabulary_file", "\"a.txt\""}}) {
    EXPECT_EQ(refusal(key, value), "") << key;
  }
}

TEST(SettingsTest, KeysThatMayComputeAreRefused) {
  for (const auto& [key, value] : std::initializer_list<Entry>{{"num_experts", "8"},
                                                               {"attn_logit_softcapping", "50.0"},
                                                               {"residual_multiplier", "0.22"},
                                                               {"mlp_bias", "true"},
                                                               {"qk_norm", "true"},
                                                               {"sliding_window", "4096"},
                                                               {"moe_layers", "[1]"}}) {
    EXPECT_EQ(refusal(key, value),
              fmt::format(
                  "config.json: {} {} is unknown for this architecture and may change its results",
                  key, value));
  }
}

TEST(SettingsTest, KeysThatWereReadAreKnown) {
  const JsonValue config = {{"num_experts", 8}, {"rms_norm_eps", 1e-6}};
  const Settings settings(Json(config, "config.json"));
  EXPECT_EQ(settings.get("num_experts", 0), 8);
  EXPECT_THROW(settings.refuse_unread(), Error);
  EXPECT_EQ(settings.get("rms_norm_eps", 1.0), 1e-6);
  EXPECT_NO_THROW(settings.refuse_unread());
}

}  // namespace
}  // namespace quern::models
