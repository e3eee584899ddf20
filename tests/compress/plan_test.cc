// The sizes that four model cards state, from the headers of the checkpoints that they started
// from. Each test writes those headers as sparse files.
#include "compress/plan.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/yaml.h"
#include "compress/memory.h"
#include "compress/recipe_options.h"
#include "compress/recipe_read.h"
#include "layouts/headers.h"
#include "models/models.h"
#include "ops/learning_stack.h"
#include "tests/formats.h"
#include "tests/scratch.h"

namespace quern::compress {
namespace {

class PublishedSizes : public testing::Test {
 protected:
  PublishedSizes() { prepare_torch(); }

  void write(const std::string& family, const layouts::LayoutOptions& options = {}) {
    const JsonValue config = layouts::published_config(family);
    layouts::write_headers(layouts::layout_of(Json(config, family), options), config,
                           folder_.path());
    source_ = std::make_shared<const nn::Source>(folder_.path());
  }

  Plan plan(const Recipe& recipe, const quant::Format& format, bool drop_unused = false) const {
    const auto model = models::make_model(source_->files.config());
    std::vector<std::string> dropped;
    if (drop_unused) dropped = model->unused(nn::Weights(source_));
    return make_plan(*source_, list_sites(source_, *model, dropped), recipe, format, dropped);
  }

  int64_t parameters() const {
    int64_t sum = 0;
    for (const std::string& name : source_->files.names()) {
      int64_t numbers = 1;
      for (const int64_t size : source_->files.info(name).shape) numbers *= size;
      sum += numbers;
    }
    return sum;
  }

  Scratch folder_;
  std::shared_ptr<const nn::Source> source_;
};

struct Weight {
  size_t bytes = 0, tensors = 0;
};

Weight weight_of(const Plan& plan) {
  Weight weight;
  for (const checkpoint::PlannedTensor& tensor : plan.tensors) {
    if (tensor.fate == checkpoint::Fate::dropped) continue;
    weight.bytes += tensor.bytes();
    ++weight.tensors;
  }
  return weight;
}

double gib(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

int64_t quantized(const Plan& plan) {
  return std::ranges::count_if(plan.verdicts,
                               [](const Verdict& v) { return v.scheme.has_value(); });
}

Recipe parse(const std::string& yaml) { return parse_recipe(parse_yaml(yaml, "r.yaml"), "r.yaml"); }

// "BF16 ~70 GB, INT4 ~21 GB; 30,850 linear layers".
TEST_F(PublishedSizes, Qwen36AutoRound) {
  write("qwen3.6");
  EXPECT_EQ(source_->files.names().size(), 1045u);
  EXPECT_EQ(parameters(), 35'951'822'704);
  EXPECT_EQ(source_->files.total_bytes(), 71'903'645'408u);
  const Plan made = plan(make_recipe({.ignore = {"mtp.fc", "linear_attn.in_proj_a",
                                                 "linear_attn.in_proj_b", "shared_expert"}}),
                         kAutoGptq);
  EXPECT_EQ(quantized(made), 30'850);
  EXPECT_EQ(weight_of(made).bytes, 22'320'500'448u);
  EXPECT_NEAR(gib(weight_of(made).bytes), 20.79, 0.005);
}

// 256 windows of 2048 tokens, 400 iterations of 8 samples: offsets in 32 bits. The tuned weights
// take two bytes where the processor multiplies in bf16, else four.
TEST_F(PublishedSizes, Qwen36AutoRoundTakesLessThanSixteenGigabytes) {
  write("qwen3.6");
  const Recipe recipe = make_recipe(
      {.iters = 400,
       .ignore = {"mtp.fc", "linear_attn.in_proj_a", "linear_attn.in_proj_b", "shared_expert"}});
  const auto model = models::make_model(source_->files.config());
  const auto sites = list_sites(source_, *model);
  const MemoryNeed need = memory_need(*model, nn::Weights(source_), sites.linears,
                                      make_plan(*source_, sites, recipe, kAutoGptq), recipe,
                                      {.windows = 256, .tokens = 256 * 2048, .longest = 2048}, {});
  const bool bf16 = ops::LearningStack::fastest_dtype() == at::kBFloat16;
  EXPECT_NEAR(need.total(), bf16 ? 15.0e9 : 16.7e9, 0.3e9) << to_text(need);
  EXPECT_EQ(need.activations, 2ll * 256 * 2048 * 2048 * 2);
}

constexpr const char* kExpertsAwq = R"(
default_stage:
  default_modifiers:
    AWQModifier:
      config_groups:
        group_0:
          targets: ['re:.*mlp\.experts\.[0-9]+\.(down|gate|up)_proj$']
          weights: {num_bits: 4, type: int, symmetric: true, group_size: 32, strategy: group, observer: mse}
)";

// "requires ~65.7GiB": without the draft layer, which transformers does not load.
TEST_F(PublishedSizes, Glm45AirAwqWithoutTheDraft) {
  write("glm4.5", {.draft = false});
  EXPECT_EQ(source_->files.names().size(), 17'925u);
  const Plan made = plan(parse(kExpertsAwq), kCompressedTensors);
  EXPECT_EQ(quantized(made), 45 * 128 * 3);
  EXPECT_EQ(weight_of(made).tensors, 52'485u);
  EXPECT_EQ(weight_of(made).bytes, 70'448'337'408u);
  EXPECT_NEAR(gib(weight_of(made).bytes), 65.7, 0.1);
}

// The draft layer's experts have names that the pattern matches, and stay as they are.
TEST_F(PublishedSizes, Glm45AirAwqWithTheDraft) {
  write("glm4.5");
  const Plan made = plan(parse(kExpertsAwq), kCompressedTensors);
  EXPECT_EQ(quantized(made), 45 * 128 * 3);
  EXPECT_EQ(weight_of(made).bytes, 77'681'484'800u);
  EXPECT_NEAR(gib(weight_of(made).bytes), 72.3, 0.05);
}

// "Checkpoint size on disk 14.92 GB -> 9.33 GB": GiB, and tokenizer.json is among the files.
TEST_F(PublishedSizes, Gemma4PrunedAndGptq) {
  constexpr size_t kTokenizer = 32'169'626;
  write("gemma4");
  EXPECT_EQ(source_->files.names().size(), 2130u);
  EXPECT_NEAR(gib(source_->files.total_bytes() + kTokenizer), 14.92, 0.005);
  const Recipe recipe = parse(R"(
prune_stage:
  prune_modifiers:
    SparseGPTModifier:
      sparsity: 0.1
      targets: ['re:.*language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj$']
quant_stage:
  quant_modifiers:
    GPTQModifier:
      scheme: W4A16
      ignore: [lm_head, 're:.*vision_tower.*', 're:.*audio_tower.*', 're:.*embed_vision.*', 're:.*embed_audio.*']
)");
  const Plan made = plan(recipe, kCompressedTensors, /*drop_unused=*/true);
  const auto pruned = std::ranges::count_if(
      made.verdicts, [](const Verdict& verdict) { return verdict.pruned_by.has_value(); });
  EXPECT_EQ(pruned, 42 * 3);
  EXPECT_EQ(weight_of(made).bytes, 9'985'095'492u);
  EXPECT_NEAR(gib(weight_of(made).bytes + kTokenizer), 9.33, 0.005);
}

// "~25 GB, 6 shards", with F32 and BF16 among the tensor types: what is not quantized stays in
// fp32. The card's scales are BF16; ours have the dtype of the weights, twice that.
TEST_F(PublishedSizes, SarvamAutoRound) {
  write("sarvam");
  EXPECT_EQ(source_->files.names().size(), 7122u);
  EXPECT_EQ(parameters(), 32'152'650'368);
  const Recipe recipe = parse(R"(
default_stage:
  default_modifiers:
    AutoRoundModifier:
      targets: [Linear]
      scheme: W4A16
      ignore: ['re:.*lm_head', 're:^model\.layers\.0(?:\..*)?$', 're:.*\.attention\..*', 're:.*shared_expert.*']
)");
  const Plan made = plan(recipe, kCompressedTensors);
  EXPECT_EQ(quantized(made), 18 * 128 * 3);
  EXPECT_EQ(weight_of(made).tensors, 20'946u);
  EXPECT_EQ(weight_of(made).bytes, 28'048'079'360u);
  const size_t bf16_scales = 18ull * 128 * 3 * 1024 * 4096 / 128 * 2;
  EXPECT_NEAR(gib(weight_of(made).bytes - bf16_scales), 25.7, 0.01);
}

}  // namespace
}  // namespace quern::compress
