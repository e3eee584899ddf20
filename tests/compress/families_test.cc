// Published recipes and draft layers on the fixtures of GLM-4.5 and Sarvam, and on the trained
// Qwen3.6.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "compress/calibrate.h"
#include "compress/draft.h"
#include "compress/plan.h"
#include "compress/recipe_read.h"
#include "models/models.h"
#include "tests/compress/job.h"
#include "tests/formats.h"

namespace quern::compress {
namespace {

class FamiliesTest : public CompressTest {
 protected:
  Recipe recipe(const std::string& yaml) const {
    fs::create_directories(folder_);
    write_file(folder_ / "recipe.yaml", yaml);
    return read_recipe(folder_ / "recipe.yaml");
  }

  // What a job would make, without running it.
  struct Planned {
    Plan plan;
    std::set<std::string> ignored;  // by quantization_config

    int64_t quantized(const std::string& place) const {
      return std::ranges::count_if(plan.verdicts, [&](const Verdict& verdict) {
        return verdict.scheme && verdict.name.starts_with(place);
      });
    }
  };
  Planned planned(const std::string& model, const Recipe& recipe) const {
    const auto source = std::make_shared<nn::Source>(test_data(model));
    const auto architecture = models::make_model(source->files.config());
    Planned made{make_plan(source, *architecture, recipe, kCompressedTensors, false), {}};
    const nn::Weights root(source);
    const JsonValue config = quant::quantization_config(
        kCompressedTensors, made.plan.modules,
        {.blocks = {architecture->blocks_path(root)}, .draft = architecture->draft_path(root)});
    made.ignored = config["ignore"].get<std::set<std::string>>();
    return made;
  }

  // Tensors of the source below `place` that the output does not hold byte for byte.
  std::vector<std::string> changed(const std::string& model, const std::string& out,
                                   const std::string& place) const {
    const checkpoint::Checkpoint source(test_data(model)), made(folder_ / out);
    std::vector<std::string> names;
    for (const std::string& name : source.names()) {
      if (!name.starts_with(place)) continue;
      if (!made.has(name) || !std::ranges::equal(source.bytes(name), made.bytes(name)))
        names.push_back(name);
    }
    return names;
  }

  int64_t packed(const std::string& out, const std::string& place) const {
    const checkpoint::Checkpoint made(folder_ / out);
    return std::ranges::count_if(made.names(), [&](const std::string& name) {
      return name.starts_with(place) &&
             (name.ends_with(".weight_packed") || name.ends_with(".qweight"));
    });
  }

  std::set<std::string> ignored(const std::string& out) const {
    const JsonValue config = read_json(folder_ / out / "config.json");
    return config["quantization_config"]["ignore"].get<std::set<std::string>>();
  }

  // The tiny model's own calibration rows.
  static Calibration rows(size_t count, size_t length) {
    Calibration made;
    std::ifstream in(test_data("calibration/calibration_64x256.jsonl"));
    for (std::string line; made.windows.size() < count && std::getline(in, line);) {
      auto ids = parse_json(line, "row")["input_ids"].get<std::vector<int32_t>>();
      ids.resize(length);
      made.windows.push_back(std::move(ids));
    }
    made.manifest = {{"rows", count}};
    return made;
  }
};

// The targets of a published recipe for GLM-4.5, whose modifier was AWQ.
std::string experts_recipe(const std::string& more_targets = "") {
  return R"(default_stage:
  default_modifiers:
    QuantizationModifier:
      config_groups:
        group_0:
          targets: ['re:.*mlp\.experts\.[0-9]+\.(down|gate|up)_proj$')" +
         more_targets + R"(]
          weights:
            num_bits: 4
            type: int
            symmetric: true
            group_size: 32
            strategy: group
            dynamic: false
            actorder: null
            observer: mse
      ignore: []
)";
}

TEST_F(FamiliesTest, PatternsDoNotReachTheDraftOfGlm) {
  const Planned made = planned("glm45", recipe(experts_recipe()));
  EXPECT_EQ(made.quantized("model.layers."), 2 * 8 * 3);
  EXPECT_EQ(made.quantized("model.layers.3."), 0);
  EXPECT_EQ(made.quantized("model.layers.1.mlp.gate"), 0);
  EXPECT_TRUE(made.ignored.contains("re:^model\\.layers\\.3.*"));
  for (const std::string& entry : made.ignored)
    EXPECT_FALSE(entry.starts_with("model.layers.3.")) << entry;
}

TEST_F(FamiliesTest, LiteralNamesReachTheDraftOfGlm) {
  std::string names;
  for (int expert = 0; expert < 8; ++expert)
    for (const char* projection : {"gate", "up", "down"})
      names += fmt::format(", model.layers.3.mlp.experts.{}.{}_proj", expert, projection);
  const Planned made = planned("glm45", recipe(experts_recipe(names)));
  EXPECT_EQ(made.quantized("model.layers.3."), 8 * 3);
  const std::set<std::string>& kept = made.ignored;
  for (const char* name : {"eh_proj", "mlp.gate", "shared_head.head", "self_attn.q_proj"})
    EXPECT_TRUE(kept.contains(fmt::format("model.layers.3.{}", name))) << name;
  EXPECT_FALSE(kept.contains("re:^model\\.layers\\.3.*"));
}

// As published for Sarvam, but for the number of iterations.
constexpr const char* kSarvamRecipe = R"(default_stage:
  default_modifiers:
    AutoRoundModifier:
      targets: [Linear]
      ignore: ['re:.*lm_head', 're:^model\.layers\.0(?:\..*)?$', 're:.*\.attention\..*', 're:.*self_attn.*',
        're:.*shared_expert.*']
      scheme: W4A16
      bypass_divisibility_checks: false
      iters: 2
      enable_torch_compile: false
      batch_size: 1
)";

TEST_F(FamiliesTest, TheRecipeOfSarvam) {
  run("sarvam", recipe(kSarvamRecipe), calibration(2, 40, 512), "out", kCompressedTensors);
  std::set<std::string> kept = {"lm_head"};
  for (const char* projection : {"gate", "up", "down"}) {
    kept.insert(fmt::format("model.layers.0.mlp.{}_proj", projection));
    for (int layer : {1, 2})
      kept.insert(fmt::format("model.layers.{}.mlp.shared_experts.{}_proj", layer, projection));
  }
  for (int layer : {0, 1, 2})
    for (const char* name : {"query_key_value", "dense"})
      kept.insert(fmt::format("model.layers.{}.attention.{}", layer, name));
  // Routers are no linears for llm-compressor; naming them does no harm.
  for (int layer : {1, 2}) kept.insert(fmt::format("model.layers.{}.mlp.gate", layer));
  EXPECT_EQ(ignored("out"), kept);
  EXPECT_EQ(packed("out", ""), 2 * 8 * 3);
  const checkpoint::Checkpoint made(folder_ / "out");
  for (const char* name : {"gate.weight", "gate.expert_bias"}) {
    const std::string tensor = fmt::format("model.layers.2.mlp.{}", name);
    EXPECT_TRUE(changed("sarvam", "out", tensor).empty());
    EXPECT_EQ(made.tensor(tensor).scalar_type(), at::kFloat) << name;
  }
}

// A half of a block without quantized weights is not computed in every iteration.
TEST_F(FamiliesTest, HalvesOfABlock) {
  const auto source = std::make_shared<nn::Source>(test_data("sarvam"));
  const auto model = models::make_model(source->files.config());
  const auto read_by_attention = [&](const std::vector<std::string>& ignore) {
    const Plan plan = make_plan(source, *model, make_recipe({.group_size = 32, .ignore = ignore}),
                                kAutoGptq, false);
    std::vector<nn::LinearSite> sites;
    const nn::Weights weights(source);
    const auto block = model->block(weights.listing(&sites), 1);
    const Samples samples = embed(*model->stem(weights), calibration(1, 20, 512).windows);
    return first_half_reads(*block, weights_of(tasks_of(sites, plan)), samples);
  };
  EXPECT_TRUE(read_by_attention({}));
  EXPECT_TRUE(read_by_attention({"query_key_value"}));
  EXPECT_FALSE(read_by_attention({"attention"}));

  const nn::Weights weights(source);
  const auto block = model->block(weights, 1);
  const Samples samples = embed(*model->stem(weights), calibration(1, 20, 512).windows);
  nn::Pass whole = samples.pass({0}), halves = samples.pass({0});
  at::NoGradGuard no_grad;
  const Tensor x = samples.read({0});
  EXPECT_TRUE((*block)(x, whole).equal(SecondHalf(*block)(FirstHalf(*block)(x, halves), halves)));
}

TEST_F(FamiliesTest, DraftsAreCopiedUnlessAskedFor) {
  run("tiny-qwen3.6", nearest_options(), {}, "out");
  EXPECT_TRUE(changed("tiny-qwen3.6", "out", "mtp.").empty());
  EXPECT_EQ(packed("out", "mtp."), 0);
}

struct DraftCase {
  const char *model, *place;
  int linears;  // of the attention, 8 experts and the shared expert
};

class DraftTest : public FamiliesTest, public testing::WithParamInterface<DraftCase> {};

INSTANTIATE_TEST_SUITE_P(, DraftTest,
                         testing::Values(DraftCase{"tiny-qwen3.6", "mtp", 4 + 8 * 3 + 3},
                                         DraftCase{"glm45", "model.layers.3", 4 + 8 * 3 + 3}),
                         [](const auto& c) {
                           return std::string(c.param.model) == "glm45" ? "Glm" : "Qwen";
                         });

// Every iteration sees all samples, so the first loss is that of round-to-nearest.
TEST_P(DraftTest, TunedOnRealStates) {
  const auto& [model, place, linears] = GetParam();
  const bool trained = std::string(model) == "tiny-qwen3.6";
  RecipeOptions options = auto_round_options(20);
  options.batch_size = 6;
  Recipe recipe = make_recipe(options);
  recipe.drafts = true;
  const Calibration data = trained ? rows(6, 64) : calibration(6, 64, 512);
  const CompressReport report = run(model, recipe, data, "out");
  const BlockReport& draft = report.blocks.back();
  EXPECT_EQ(draft.name, place);
  EXPECT_EQ(draft.block + 1, draft.blocks);
  EXPECT_EQ(draft.linears, linears);
  EXPECT_LT(draft.loss_after, 0.9 * draft.loss_before);
  EXPECT_GT(draft.expert_tokens.median, 0);
  EXPECT_EQ(packed("out", std::string(place) + "."), linears);

  // The written recipe names them, and has the same meaning.
  const Recipe again = read_recipe(folder_ / "out" / "recipe.yaml");
  const auto source = std::make_shared<nn::Source>(test_data(model));
  const auto architecture = models::make_model(source->files.config());
  const Plan plan = make_plan(*source, list_sites(source, *architecture), again, kAutoGptq);
  for (const Verdict& verdict : report.verdicts)
    EXPECT_EQ(plan.quantized(verdict.name) != nullptr, verdict.scheme.has_value()) << verdict.name;
}

// The packed draft computes the same as the original draft with the dequantized numbers.
TEST_P(DraftTest, PackedDraftsMultiply) {
  const auto& [model, place, linears] = GetParam();
  Recipe recipe = make_recipe(auto_round_options(2));
  recipe.drafts = true;
  run(model, recipe, calibration(2, 40, 512), "out", kCompressedTensors);
  const auto artifact = std::make_shared<nn::Source>(folder_ / "out"),
             source = std::make_shared<nn::Source>(test_data(model));
  const auto architecture = models::make_model(source->files.config());
  at::manual_seed(2);
  const Tensor state = at::randn({9, architecture->hidden()});
  const auto states_of = [&](const std::shared_ptr<const nn::Source>& from, bool meant) {
    at::NoGradGuard no_grad;
    std::vector<nn::LinearSite> sites;
    const nn::Weights root(from);
    const auto stem = architecture->stem(root);
    const auto draft = architecture->draft(root.listing(&sites));
    if (meant) take_from(*artifact, sites);
    nn::Pass pass = nn::Pass::whole({9});
    return (*draft)(draft->embed(at::arange(9, at::kLong) + 40, *stem, pass), state, pass);
  };
  const Tensor meant = states_of(source, true);
  EXPECT_LT(relative_distance(states_of(artifact, false), meant), 1e-3);
  EXPECT_GT(relative_distance(states_of(source, false), meant), 1e-2) << "nothing was quantized";
}

// Row t has the embedding of token t + 1, or the picture's feature if that token is a part of a
// picture; and the draft uses positions by row and column, like the blocks.
TEST_F(FamiliesTest, DraftsSeePictures) {
  at::manual_seed(4);
  const auto source = std::make_shared<nn::Source>(test_data("qwen36"));
  const nn::Weights weights(source);
  const auto model = models::make_model(source->files.config());
  const auto stem = model->stem(weights);
  const auto head = model->head(weights);
  const auto draft = model->draft(weights);
  const std::vector<std::vector<int32_t>> windows = calibration(2, 20, 512).windows;
  const std::vector<std::vector<nn::PlacedImage>> images = {{{3, 2, 3, at::randn({6, 256})}}, {}};
  const Samples last = embed(*stem, windows, images, /*by_grid=*/true);

  const Samples input = draft_input(*draft, *stem, *head, windows, images, last);
  ASSERT_EQ(input.count(), 2);
  for (const int64_t sample : {0, 1}) EXPECT_EQ(input.tokens(sample), 19);
  const Tensor embedded = input.read({0, 1}).narrow(1, 0, 256), rows = last.read({0, 1});
  const Tensor features = images[0][0].features.to(at::kBFloat16).to(at::kFloat);
  EXPECT_TRUE(embedded.narrow(0, 2, 6).equal(features));
  EXPECT_TRUE(embedded.narrow(0, 8, 11).equal(rows.narrow(0, 9, 11)));
  EXPECT_TRUE(embedded.narrow(0, 19, 19).equal(rows.narrow(0, 21, 19)));
  const nn::Pass pass = input.pass({0, 1}), before = last.pass({0, 1});
  const Tensor places = before.grid_positions();
  EXPECT_TRUE(
      pass.grid_positions().equal(at::cat({places.narrow(1, 0, 19), places.narrow(1, 20, 19)}, 1)));
  EXPECT_FALSE(places[0].equal(places[2])) << "a picture has columns";
}

// Experts with GELU next to a dense MLP.
TEST_F(FamiliesTest, ExpertsOfGemma4AreTuned) {
  RecipeOptions options = auto_round_options(20);
  options.group_size = 32;
  options.batch_size = 6;
  const CompressReport report = run("gemma4_moe", options, calibration(6, 48, 512), "out");
  EXPECT_EQ(packed("out", "model.language_model.layers.1.experts."), 8 * 3);
  for (const BlockReport& block : report.blocks) {
    EXPECT_LT(block.loss_after, 0.9 * block.loss_before) << block.name;
    EXPECT_GT(block.expert_tokens.median, 0);
  }
}

// The disk space that compress checks before it begins.
TEST_F(FamiliesTest, FoldersWeighWhatThePlanSays) {
  int formats = 0;
  for (const char* name : {"glm45", "gemma4", "gemma4_moe", "qwen36", "sarvam"}) {
    const auto source = std::make_shared<nn::Source>(test_data(name));
    const auto model = models::make_model(source->files.config());
    RecipeOptions options = nearest_options();
    options.group_size = 32;
    // One format each: how a format weighs is the plan's sum over tensors, whatever the family.
    const quant::Format& format = formats++ % 2 == 0 ? kCompressedTensors : kAutoGptq;
    run(name, options, {}, name, format);
    size_t bytes = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / name))
      if (entry.is_regular_file()) bytes += entry.file_size();
    const size_t said =
        folder_bytes(*source, make_plan(source, *model, make_recipe(options), format, false));
    EXPECT_GE(said, bytes) << name;
    EXPECT_LT(said, bytes + bytes / 10 + (256 << 10)) << name;
    fs::remove_all(folder_ / name);
  }
}

class ConfigurationTest : public FamiliesTest {
 protected:
  static JsonValue configuration(const std::string& model, const quant::Format& format,
                                 std::vector<std::string> ignore = {}, bool drop_unused = false) {
    RecipeOptions options = nearest_options();
    options.group_size = 32;
    options.ignore = std::move(ignore);
    const auto source = std::make_shared<nn::Source>(test_data(model));
    const auto architecture = models::make_model(source->files.config());
    const Plan plan = make_plan(source, *architecture, make_recipe(options), format, drop_unused);
    const std::string blocks = architecture->blocks_path(nn::Weights(source));
    return quant::quantization_config(format, plan.modules, {.blocks = {blocks}});
  }
};

// Readers look up the head only as lm_head, tied or not.
TEST_F(ConfigurationTest, NamesTheHeadAsReadersDo) {
  for (const char* model : {"gemma4", "gemma4_moe", "glm45", "llama", "qwen3", "qwen36",
                            "qwen36_split_experts", "sarvam"}) {
    const JsonValue json = configuration(model, kCompressedTensors);
    const auto ignored = json["ignore"].get<std::set<std::string>>();
    EXPECT_TRUE(ignored.contains("lm_head")) << model;
    for (const std::string& name : ignored)
      EXPECT_EQ(name.find("embed_tokens"), std::string::npos) << model << ": " << name;
  }
  EXPECT_TRUE(configuration("llama", kAutoGptq)["extra_config"].contains("lm_head"));
}

// Layers that read the keys of other layers have no k_proj and v_proj in a checkpoint saved by
// transformers, or after --drop-unused.
TEST_F(ConfigurationTest, NamesPartsThatGemma4Lacks) {
  const std::string layer = "model.language_model.layers.4.self_attn.";
  for (const char* model : {"gemma4", "gemma4_resaved"}) {
    const JsonValue list = configuration(model, kCompressedTensors, {"self_attn"}, true)["ignore"];
    const JsonValue extra = configuration(model, kAutoGptq, {"self_attn"}, true)["extra_config"];
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
      EXPECT_EQ(std::ranges::count(list, JsonValue(layer + part)), 1) << model << part;
      EXPECT_TRUE(extra.contains(layer + part)) << model << part;
    }
    EXPECT_TRUE(extra.contains(layer + "qkv_proj")) << model;
  }
}

// An embedding that the head shares is looked up row by row.
TEST_F(ConfigurationTest, TiedHeadsAreNotQuantized) {
  for (const char* pattern : {"lm_head", ".*lm_head"}) {
    RecipeOptions options = nearest_options();
    options.group_size = 32;
    options.layers = {{.pattern = pattern, .group_size = 32}};
    try {
      run("llama", options, {}, "out");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::infeasible);
      EXPECT_NE(std::string(error.what()).find("tied to the embedding model.embed_tokens"),
                std::string::npos)
          << error.what();
    }
  }
}

TEST_F(FamiliesTest, NoDraftToCalibrate) {
  Recipe recipe = make_recipe(nearest_options());
  recipe.drafts = true;
  EXPECT_THROW(run("sarvam", recipe, {}, "out"), Error);
}

}  // namespace
}  // namespace quern::compress
