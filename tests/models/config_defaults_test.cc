// Keys missing from config.json have the reference's defaults. Sizes and settings are not a part of
// a model's interface, so two configurations count as equal if all outputs are equal bit for bit:
// the logits and picture features of a fixture's weights, or the message that refuses the fixture.
#include <gtest/gtest.h>

#include <map>

#include "tests/models/parity.h"

namespace quern::models {
namespace {

struct Family {
  const char* fixture;
  // The least number of keys that must have an effect, because their defaults differ from the
  // fixture's values.
  int effective;
};

std::string name_of(const testing::TestParamInfo<Family>& info) { return info.param.fixture; }

struct Outcome {
  std::string told;  // sizes, or the refusal
  bool refused = false;
  Tensor logits, features;

  bool operator==(const Outcome& other) const {
    auto same = [](const Tensor& a, const Tensor& b) {
      return a.defined() == b.defined() && (!a.defined() || a.equal(b));
    };
    return told == other.told && same(logits, other.logits) && same(features, other.features);
  }
};

class ConfigDefaultsTest : public testing::TestWithParam<Family> {
 protected:
  ConfigDefaultsTest()
      : source_(std::make_shared<nn::Source>(test_data(GetParam().fixture))),
        config_(read_json(test_data(GetParam().fixture) / "config.json")) {
    prepare_torch();
    at::manual_seed(3);
    picture_ = config_.contains("vision_config") && config_["vision_config"].contains("depth")
                   ? prompt::Patches{at::rand({6 * 4, 3 * 2 * 16 * 16}), 6, 4, 2}
                   : prompt::Patches{at::rand({9 * 6, 3 * 4 * 4}), 9, 6, 3};
  }

  Outcome outcome_of(const JsonValue& config) const {
    Outcome outcome;
    try {
      const auto model = make_model(Json(config, "config.json"));
      const nn::Weights weights(source_);
      const auto media = model->image_tokens();
      outcome.told = fmt::format("{} blocks, {} of {}, bos {}, {} shared, pictures {} {} {}",
                                 model->blocks(), model->hidden(), model->vocabulary(),
                                 model->bos().value_or(-1), model->shared_width(),
                                 media ? media->image : -1, media ? media->before.size() : 0,
                                 media && !media->before.empty() ? media->before[0] : -1);
      outcome.logits = logits_of(*model, weights);
      const auto vision = model->vision(weights);
      at::NoGradGuard no_grad;
      if (vision) outcome.features = (*vision)(picture_);
    } catch (const Error& error) {
      outcome.told += error.what();
      // For a place that one of two equal configurations lacks.
      if (const size_t at = outcome.told.find(".rope_parameters"); at != std::string::npos)
        outcome.told.erase(at, std::string(".rope_parameters").size());
      outcome.refused = true;
    }
    return outcome;
  }

  // Ids from 3 on: those that stand for pictures and sounds are among them.
  static Tensor logits_of(const nn::Model& model, const nn::Weights& weights) {
    at::NoGradGuard no_grad;
    nn::Pass pass = nn::Pass::whole({40});
    Tensor x = (*model.stem(weights))(at::arange(3, 43, at::kLong), pass);
    for (int i = 0; i < model.blocks(); ++i) x = (*model.block(weights, i))(x, pass);
    const auto head = model.head(weights);
    return head->logits(head->norm(x));
  }

  // "text_config/rope_parameters/rope_theta": the object that has the key, and the key.
  static std::pair<JsonValue*, std::string> place_of(JsonValue& config, const std::string& path) {
    JsonValue* holder = &config;
    size_t begin = 0;
    for (size_t end; (end = path.find('/', begin)) != std::string::npos; begin = end + 1)
      if (end > begin) holder = &holder->at(path.substr(begin, end - begin));
    return {holder, path.substr(begin)};
  }

  std::shared_ptr<const nn::Source> source_;
  JsonValue config_;
  prompt::Patches picture_;
};

TEST_P(ConfigDefaultsTest, AbsentKeysAreAsInTheReference) {
  const JsonValue table = read_json(test_data("config_defaults.json"));
  const Outcome base = outcome_of(config_);
  ASSERT_FALSE(base.refused) << base.told;
  int effective = 0;
  for (const auto& [path, row] : table.at(GetParam().fixture).items()) {
    JsonValue without = config_;
    auto [holder, key] = place_of(without, path);
    holder->erase(key);
    const Outcome absent = outcome_of(without);
    if (row.contains("refused")) {
      EXPECT_TRUE(absent.refused) << path;
    } else if (!row.contains("default")) {
      EXPECT_EQ(absent, base) << path << ": " << absent.told;
    } else {
      JsonValue written = config_;
      auto [place, name] = place_of(written, path);
      (*place)[name] = row["default"];
      const Outcome as_default = outcome_of(written);
      EXPECT_EQ(absent, as_default)
          << path << "\nabsent: " << absent.told << "\nwritten out: " << as_default.told;
      effective += !(as_default == base);
    }
  }
  EXPECT_GE(effective, GetParam().effective);
}

TEST_P(ConfigDefaultsTest, UnknownKeysAreRefusedByName) {
  for (const char* section : {"", "text_config", "vision_config"}) {
    for (const char* key : {"residual_multiplier", "attn_logit_softcapping", "router_bias_scale"}) {
      JsonValue changed = config_;
      JsonValue* holder = &changed;
      if (*section && !changed.contains(section)) continue;
      if (*section) holder = &changed[section];
      (*holder)[key] = 0.5;
      const Outcome outcome = outcome_of(changed);
      EXPECT_TRUE(outcome.refused) << section << " " << key;
      EXPECT_NE(outcome.told.find(key), std::string::npos) << outcome.told;
      (*holder)[key] = nullptr;
      EXPECT_FALSE(outcome_of(changed).refused) << section << " " << key;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ConfigDefaultsTest,
                         testing::Values(Family{"gemma4", 20}, Family{"glm45", 13},
                                         Family{"llama", 9}, Family{"qwen3", 8},
                                         Family{"qwen36", 20}, Family{"sarvam", 9}),
                         name_of);

}  // namespace
}  // namespace quern::models
