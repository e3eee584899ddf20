// Recipes and options against the cards and the peers' runs, on lists of names with real sizes.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/yaml.h"
#include "compress/autoround.h"
#include "compress/awq.h"
#include "compress/method.h"
#include "compress/recipe_options.h"
#include "compress/recipe_read.h"
#include "compress/recipe_yaml.h"
#include "compress/resolve.h"
#include "compress/sparsegpt.h"

namespace quern::compress {
namespace {

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

::testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << text << "\" has no \"" << part << "\"";
}

Recipe parse(const std::string& yaml) { return parse_recipe(parse_yaml(yaml, "r.yaml"), "r.yaml"); }

// sarvam-30b: layer 0 dense, layers 1-18 with 128 experts.
std::vector<LinearInfo> sarvam() {
  std::vector<LinearInfo> linears;
  auto mlp = [&](const std::string& at, int64_t inner, const std::string& experts = "") {
    const std::string unit = experts.empty() ? at + "gate_up_proj" : experts;
    linears.push_back({at + "gate_proj", inner, 4096, Role::ordinary, unit});
    linears.push_back({at + "up_proj", inner, 4096, Role::ordinary, unit});
    linears.push_back({at + "down_proj", 4096, inner, Role::ordinary, experts});
  };
  for (int i = 0; i < 19; ++i) {
    std::string layer = fmt::format("model.layers.{}.", i);
    linears.push_back({layer + "attention.query_key_value", 4608, 4096});
    linears.push_back({layer + "attention.dense", 4096, 4096});
    if (i == 0) {
      mlp(layer + "mlp.", 8192);
      continue;
    }
    linears.push_back({layer + "mlp.gate", 128, 4096, Role::router});
    for (int e = 0; e < 128; ++e)
      mlp(fmt::format("{}mlp.experts.{}.", layer, e), 1024, layer + "mlp.experts");
    mlp(layer + "mlp.shared_experts.", 1024);
  }
  linears.push_back({"lm_head", 262144, 4096, Role::lm_head});
  return linears;
}

void add_moe(std::vector<LinearInfo>& linears, const std::string& layer, Role role) {
  auto role_of = [role](Role own) { return role == Role::ordinary ? own : role; };
  auto mlp = [&](const std::string& at, const std::string& experts = "") {
    const std::string unit = experts.empty() ? at + "gate_up_proj" : experts;
    linears.push_back({at + "gate_proj", 512, 2048, role, unit});
    linears.push_back({at + "up_proj", 512, 2048, role, unit});
    linears.push_back({at + "down_proj", 2048, 512, role, experts});
  };
  linears.push_back({layer + "mlp.gate", 256, 2048, role_of(Role::router)});
  for (int e = 0; e < 256; ++e)
    mlp(fmt::format("{}mlp.experts.{}.", layer, e), layer + "mlp.experts");
  mlp(layer + "mlp.shared_expert.");
  linears.push_back({layer + "mlp.shared_expert_gate", 1, 2048, role_of(Role::shared_expert_gate)});
}

void add_attention(std::vector<LinearInfo>& linears, const std::string& layer, Role role) {
  std::string at = layer + "self_attn.", unit = at + "qkv_proj";
  linears.push_back({at + "q_proj", 8192, 2048, role, unit});
  linears.push_back({at + "k_proj", 512, 2048, role, unit});
  linears.push_back({at + "v_proj", 512, 2048, role, unit});
  linears.push_back({at + "o_proj", 2048, 4096, role});
}

// Qwen3.6-35B-A3B with its vision tower and draft layer.
std::vector<LinearInfo> qwen36() {
  std::vector<LinearInfo> linears;
  for (int i = 0; i < 27; ++i) {
    std::string block = fmt::format("model.visual.blocks.{}.", i);
    linears.push_back({block + "attn.qkv", 3456, 1152, Role::vision});
    linears.push_back({block + "attn.proj", 1152, 1152, Role::vision});
    linears.push_back({block + "mlp.linear_fc1", 4304, 1152, Role::vision});
    linears.push_back({block + "mlp.linear_fc2", 1152, 4304, Role::vision});
  }
  linears.push_back({"model.visual.merger.linear_fc1", 4608, 4608, Role::vision});
  linears.push_back({"model.visual.merger.linear_fc2", 2048, 4608, Role::vision});
  for (int i = 0; i < 40; ++i) {
    std::string layer = fmt::format("model.language_model.layers.{}.", i);
    if (i % 4 == 3) {
      add_attention(linears, layer, Role::ordinary);
    } else {
      std::string at = layer + "linear_attn.";
      linears.push_back({at + "in_proj_qkv", 8192, 2048, Role::ordinary, at + "in_proj_qkvz"});
      linears.push_back({at + "in_proj_z", 4096, 2048, Role::ordinary, at + "in_proj_qkvz"});
      linears.push_back({at + "in_proj_b", 32, 2048, Role::ordinary, at + "in_proj_ba"});
      linears.push_back({at + "in_proj_a", 32, 2048, Role::ordinary, at + "in_proj_ba"});
      linears.push_back({at + "out_proj", 2048, 4096});
    }
    add_moe(linears, layer, Role::ordinary);
  }
  linears.push_back({"lm_head", 248320, 2048, Role::lm_head});
  linears.push_back({"mtp.fc", 2048, 4096, Role::draft});
  add_attention(linears, "mtp.layers.0.", Role::draft);
  add_moe(linears, "mtp.layers.0.", Role::draft);
  return linears;
}

const Verdict& verdict_of(const Resolution& resolution, const std::string& name) {
  for (const Verdict& verdict : resolution.verdicts) {
    if (verdict.name == name) return verdict;
  }
  throw std::out_of_range(name);
}

std::filesystem::path assets() {
  if (const char* folder = std::getenv("QUERN_ASSETS")) return folder;
  return std::filesystem::path(QUERN_SOURCE_DIR) / "../shared";
}

// The recipe inside a model card: from "default_stage:" to the next empty line.
std::optional<std::string> recipe_of_card(const std::string& number) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(assets() / "cards", error)) {
    if (!entry.path().filename().string().starts_with(number)) continue;
    std::string text = read_file(entry.path());
    size_t begin = text.find("default_stage:");
    if (begin != std::string::npos) return text.substr(begin, text.find("\n\n", begin) - begin);
  }
  return std::nullopt;
}

TEST(PublishedRecipe, ResolvesAsWrittenOnSarvam) {
  auto text = recipe_of_card("000");
  if (!text)
    GTEST_SKIP() << "the model cards are not there: set QUERN_ASSETS to the folder with cards/";
  Recipe recipe = parse(*text);
  ASSERT_EQ(recipe.steps.size(), 1u);
  EXPECT_EQ(recipe.steps[0].method, &auto_round_method());
  EXPECT_EQ(recipe.steps[0].as<AutoRoundSettings>().iters, 200);
  EXPECT_EQ(recipe.steps[0].as<AutoRoundSettings>().batch_size, 1);
  Resolution resolution = resolve(recipe, sarvam());
  EXPECT_EQ(resolution.quantized(), 18 * 128 * 3);
  EXPECT_EQ(verdict_of(resolution, "model.layers.10.mlp.experts.127.up_proj").scheme,
            quant::Scheme{});
  EXPECT_FALSE(verdict_of(resolution, "model.layers.0.mlp.up_proj").scheme);
  EXPECT_TRUE(has(verdict_of(resolution, "model.layers.3.mlp.gate").reason, "router"));
  // The recipe has self_attn for other models; sarvam's is called attention.
  ASSERT_EQ(resolution.warnings.size(), 1u);
  EXPECT_TRUE(has(resolution.warnings[0], "self_attn"));
  Resolution again = resolve(parse(recipe_yaml(recipe, resolution)), sarvam());
  EXPECT_EQ(again.quantized(), resolution.quantized());
}

RecipeOptions published_options() {
  return {.group_size = 128,
          .iters = 400,
          .ignore = {"mtp.fc", "linear_attn.in_proj_a", "linear_attn.in_proj_b", "shared_expert"}};
}

TEST(PublishedOptions, QuantizeTheNumberOfLinearsThatTheModelCardSays) {
  std::vector<LinearInfo> linears = qwen36();
  // The card counts neither routers (parameters upstream) nor the draft layer (not loaded).
  int64_t counted = 0;
  for (const LinearInfo& linear : linears) {
    counted += linear.role != Role::router && linear.role != Role::draft;
  }
  EXPECT_EQ(counted, 31181);
  Resolution resolution = resolve(make_recipe(published_options()), linears);
  EXPECT_EQ(resolution.quantized(), 30850);
  EXPECT_TRUE(has(verdict_of(resolution, "mtp.fc").reason, "mtp.fc"));
  EXPECT_TRUE(has(verdict_of(resolution, "mtp.layers.0.mlp.experts.3.up_proj").reason, "draft"));
}

TEST(PublishedOptions, TheirRecipeFileGivesTheSameVerdicts) {
  RecipeOptions options = published_options();
  options.layers = {parse_layer_rule("self_attn\\.o_proj$=group_size:32"),
                    parse_layer_rule("layers.5.linear_attn.out_proj=bits:16")};
  Recipe recipe = make_recipe(options);
  Resolution resolution = resolve(recipe, qwen36());
  EXPECT_EQ(resolution.quantized(), 30849);
  Recipe stored = parse(recipe_yaml(recipe, resolution));
  EXPECT_EQ(stored.style, RuleStyle::llm_compressor);
  EXPECT_EQ(stored.steps[0].as<AutoRoundSettings>().iters, 400);
  Resolution again = resolve(stored, qwen36());
  for (size_t i = 0; i < resolution.verdicts.size(); ++i) {
    ASSERT_EQ(again.verdicts[i].scheme, resolution.verdicts[i].scheme) << again.verdicts[i].name;
  }
}

TEST(Resolve, ThirtyThousandLinearsTimesTenPatternsAreQuick) {
  Recipe recipe = parse(R"(
default_stage:
  default_modifiers:
    QuantizationModifier:
      targets: ['re:.*mlp\.experts\.\d+\.(gate|up|down)_proj$', 're:.*self_attn\.(q|k|v|o)_proj$']
      scheme: W4A16
      ignore: ['re:.*lm_head', 're:^model\.visual', 're:^mtp', 're:.*in_proj_(a|b)$', 're:.*shared_expert',
               're:.*layers\.0\.', 're:.*layers\.39\.', 're:.*mlp\.gate$'])");
  std::vector<LinearInfo> linears = qwen36();
  auto begin = std::chrono::steady_clock::now();
  Resolution resolution = resolve(recipe, linears);
  std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(resolution.quantized(), 38 * 768 + 9 * 4);
  RecordProperty("milliseconds", static_cast<int>(taken.count() * 1000));
  EXPECT_LT(taken.count(), 5.0);  // 0.1 s; sanitizers and busy machines are slower
}

// What llm-compressor itself did with its own recipe.yaml.
TEST(PeerRun, SavedRecipeSelectsWhatThePeerQuantized) {
  JsonValue run = read_json(std::filesystem::path(QUERN_SOURCE_DIR) /
                            "tests/data/peers/format/autoround_mm.json");
  std::vector<LinearInfo> linears;
  std::set<std::string> expected;
  for (const auto& [name, entry] : run["tensors"].items()) {
    std::string module = name.substr(0, name.rfind('.'));
    if (name.ends_with(".weight_packed")) {
      linears.push_back({module, entry[2][0], entry[2][1].get<int64_t>() * 8});
      expected.insert(module);
    }
  }
  for (const auto& ignored : run["quantization_config"]["ignore"]) {
    auto name = ignored.get<std::string>();
    if (name.starts_with("re:")) continue;
    bool vision = name.find("visual") != std::string::npos;
    linears.push_back({name, 64, 128, vision ? Role::vision : Role::ordinary});
  }
  Recipe recipe = parse(run["recipe_yaml"].get<std::string>());
  Resolution resolution = resolve(recipe, linears);
  std::set<std::string> got;
  for (const Verdict& verdict : resolution.verdicts) {
    if (verdict.scheme) got.insert(verdict.name);
  }
  EXPECT_EQ(got, expected);
}

TEST(PeerRun, MlpRecipeWithGroupsOf32) {
  std::filesystem::path file = assets() / "recipes/recipe_AR_W4A16G32.yaml";
  if (!std::filesystem::exists(file)) {
    GTEST_SKIP() << "the recipes are not there: set QUERN_ASSETS to the folder with recipes/";
  }
  Resolution resolution = resolve(read_recipe(file), sarvam());
  EXPECT_EQ(resolution.quantized(), 3);  // of layer 0: "mlp." is followed by the projection
  EXPECT_EQ(verdict_of(resolution, "model.layers.0.mlp.up_proj").scheme->group_size, 32);
}

TEST(Matching, NamesBeforeExpressionsBeforeClasses) {
  Recipe recipe = parse(R"(
a_stage:
  first_modifiers:
    QuantizationModifier:
      config_groups:
        everything: {targets: [Linear], weights: {num_bits: 4, group_size: 128, strategy: group}}
        by_name: {targets: [model.layers.1.attention.dense], weights: {num_bits: 4, group_size: 32}}
        late: {targets: ['re:model.*attention.dense'], weights: {num_bits: 4, group_size: -1}}
        early: {targets: ['re:.*attention.dense'], weights: {num_bits: 4, group_size: 64, symmetric: false}}
)");
  Resolution resolution = resolve(recipe, sarvam());
  auto group = [&](const std::string& name) {
    return verdict_of(resolution, name).scheme->group_size;
  };
  EXPECT_EQ(group("model.layers.1.attention.dense"), 32);
  EXPECT_EQ(group("model.layers.2.attention.dense"), 64);  // "re:." sorts before "re:m"
  EXPECT_EQ(group("model.layers.2.attention.query_key_value"), 128);
  EXPECT_FALSE(verdict_of(resolution, "model.layers.2.attention.dense").scheme->symmetric);
  EXPECT_FALSE(verdict_of(resolution, "lm_head").scheme);
}

TEST(Matching, ProtectedLinearsNeedTheirFullName) {
  auto quantized = [](const std::string& target) {
    Recipe recipe =
        parse("s_stage: {m_modifiers: {QuantizationModifier: {scheme: W4A16, targets: ['" + target +
              "', model.language_model.layers.3.self_attn.o_proj]}}}");
    return resolve(recipe, qwen36()).quantized() - 1;
  };
  EXPECT_EQ(quantized("re:.*mlp\\.gate$"), 0);
  EXPECT_EQ(quantized("re:.*mtp.*"), 0);
  EXPECT_EQ(quantized("mtp.fc"), 1);
  EXPECT_EQ(quantized("model.language_model.layers.0.mlp.gate"), 1);
  EXPECT_EQ(quantized("re:.*"), 30850 + 60 + 120 - 1);
  EXPECT_EQ(quantized("re:.*lm_head"), 1);
  EXPECT_EQ(quantized("lm_head"), 1);
}

TEST(Matching, LaterStepsOverrideAndTuneEarlierOnes) {
  Recipe recipe = parse(R"(
s_stage:
  a_modifiers:
    QuantizationModifier: {scheme: W4A16, targets: ['re:.*mlp.experts.*', 're:.*dense'], weight_observer: mse}
  b_modifiers:
    AutoRoundModifier:
      iters: 10
      config_groups: {g: {targets: ['re:.*dense'], weights: {num_bits: 4, group_size: 32}}}
)");
  Resolution resolution = resolve(recipe, sarvam());
  const Verdict& expert = verdict_of(resolution, "model.layers.1.mlp.experts.0.up_proj");
  const Verdict& dense = verdict_of(resolution, "model.layers.1.attention.dense");
  EXPECT_EQ(expert.step, 0u);
  EXPECT_EQ(expert.observer, quant::Observer::mse);
  EXPECT_EQ(dense.step, 1u);
  EXPECT_EQ(dense.scheme->group_size, 32);
  Recipe tuned = parse(R"(
s_stage:
  a_modifiers:
    QuantizationModifier: {scheme: W4A16}
    AutoRoundModifier: {iters: 10}
)");
  for (const Verdict& verdict : resolve(tuned, sarvam()).verdicts) EXPECT_EQ(verdict.step, 1u);
}

TEST(AutoRoundStyle, DigitsEndAndNarrowLinearsAreKept) {
  std::vector<LinearInfo> linears = {{"model.layers.1.up", 64, 64},
                                     {"model.layers.10.up", 64, 64},
                                     {"model.layers.2.narrow", 48, 64},
                                     {"lm_head", 64, 64, Role::lm_head}};
  RecipeOptions options{.group_size = 32, .ignore = {"layers.1"}};
  Resolution resolution = resolve(make_recipe(options), linears);
  EXPECT_FALSE(resolution.verdicts[0].scheme);
  EXPECT_TRUE(resolution.verdicts[1].scheme);
  EXPECT_TRUE(has(resolution.verdicts[2].reason, "multiple of 32"));
  EXPECT_FALSE(resolution.verdicts[3].scheme);
  options.layers = {parse_layer_rule("lm_head=bits:4"),
                    parse_layer_rule("layers.2.narrow=sym:false")};
  options.layers[1].pattern = "model.layers.2.narrow";
  resolution = resolve(make_recipe(options), linears);
  EXPECT_TRUE(resolution.verdicts[2].scheme && !resolution.verdicts[2].scheme->symmetric);
  EXPECT_TRUE(resolution.verdicts[3].scheme);
  Resolution again = resolve(parse(recipe_yaml(make_recipe(options), resolution)), linears);
  for (size_t i = 0; i < linears.size(); ++i) {
    EXPECT_EQ(again.verdicts[i].scheme, resolution.verdicts[i].scheme) << linears[i].name;
  }
}

TEST(Errors, RulesThatMatchNothingNameTheNearest) {
  auto with = [](const std::string& fields) {
    return message_of([&] {
      resolve(
          parse("s_stage: {m_modifiers: {QuantizationModifier: {scheme: W4A16, " + fields + "}}}"),
          qwen36());
    });
  };
  EXPECT_TRUE(has(with("targets: ['re:.*mpl.experts.*']"), ".mlp.experts."));
  RecipeOptions options{.ignore = {"shared_expret"}};
  EXPECT_TRUE(has(message_of([&] { resolve(make_recipe(options), qwen36()); }), "shared_expert"));
  options = {.layers = {parse_layer_rule("self_attn.p_proj=bits:16")}};
  EXPECT_TRUE(has(message_of([&] { resolve(make_recipe(options), qwen36()); }), "self_attn."));
}

// As in llm-compressor: a recipe may serve several models.
TEST(LlmCompressorStyle, IgnoreEntriesThatMatchNothingAreWarnings) {
  const Resolution resolution = resolve(
      parse("s_stage: {m_modifiers: {QuantizationModifier: {scheme: W4A16, ignore: [lm_head, "
            "language_model.lm_head, model.embed_tokens, "
            "model.language_model.layers.3.self_atn.o_proj]}}}"),
      qwen36());
  ASSERT_EQ(resolution.warnings.size(), 3u);
  EXPECT_TRUE(has(resolution.warnings[0], "\"language_model.lm_head\" matches no linear"));
  EXPECT_TRUE(has(resolution.warnings[1], "\"model.embed_tokens\" matches no linear"));
  EXPECT_TRUE(has(resolution.warnings[2], "self_attn.o_proj"));
}

TEST(LlmCompressorStyle, WholeNumbersMayBeWrittenAsFloats) {
  const Recipe recipe = parse(
      "s_stage: {m_modifiers: {AutoRoundModifier: {scheme: W4A16, iters: 200.0, batch_size: "
      "4.0}}}");
  EXPECT_EQ(recipe.steps[0].as<AutoRoundSettings>().iters, 200);
  EXPECT_EQ(recipe.steps[0].as<AutoRoundSettings>().batch_size, 4);
  EXPECT_TRUE(has(message_of([] {
                    parse(
                        "s_stage: {m_modifiers: {AutoRoundModifier: {scheme: W4A16, iters: "
                        "0.5}}}");
                  }),
                  "iters must be a whole number, found 0.5"));
}

TEST(AutoRoundStyle, IgnoresExpressions) {
  std::vector<LinearInfo> linears = {{"model.layers.1.up", 64, 64},
                                     {"model.layers.1.down", 64, 64}};
  RecipeOptions options{.group_size = 32, .ignore = {R"(re:.*\.\d+\.up$)"}};
  Resolution resolution = resolve(make_recipe(options), linears);
  Resolution again = resolve(parse(recipe_yaml(make_recipe(options), resolution)), linears);
  for (const Resolution& made : {resolution, again}) {
    EXPECT_FALSE(made.verdicts[0].scheme);
    EXPECT_TRUE(made.verdicts[1].scheme);
  }
  options.ignore = {"re:.*\\.side$"};
  EXPECT_TRUE(
      has(message_of([&] { resolve(make_recipe(options), linears); }), "matches no linear"));
}

TEST(Errors, GroupsThatDoNotDivideNameSizesThatDo) {
  std::vector<LinearInfo> linears = {{"model.layers.0.mlp.down_proj", 4096, 10944}};
  std::string message = message_of([&] {
    resolve(parse("a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16}}}"), linears);
  });
  EXPECT_TRUE(has(message, "model.layers.0.mlp.down_proj"));
  EXPECT_TRUE(has(message, "10944"));
  EXPECT_TRUE(has(message, "that works: 32, 64, -1 for the whole row (10944)"));
}

TEST(Errors, FusedPartsMustAgree) {
  auto ignoring = [](const std::string& name) {
    RecipeOptions options{.ignore = {name}};
    return message_of([&] { resolve(make_recipe(options), qwen36()); });
  };
  EXPECT_TRUE(has(ignoring("self_attn.q_proj"), "qkv_proj as one"));
  EXPECT_TRUE(has(ignoring("in_proj_a"), "in_proj_ba as one"));
  EXPECT_TRUE(has(ignoring("layers.7.mlp.experts.3"), "layers.7.mlp.experts"));
  EXPECT_EQ(ignoring("layers.7.mlp.experts"), "");
}

TEST(Errors, RecipesThatAreNotUnderstood) {
  auto stage = [](const std::string& modifiers) {
    return "a_stage: {b_modifiers: {" + modifiers + "}}";
  };
  const std::vector<std::pair<std::string, std::string>> kCases = {
      {"quant_stage: 3", "no modifier"},
      {"{}", "no modifier"},
      {"default: {x: {QuantizationModifier: {scheme: W4A16}}}", "no modifier"},
      {stage("AutoRoundModifer: {scheme: W4A16}"), "did you mean AutoRoundModifier"},
      {stage("SpinQuantModifier: {}"), "AutoRoundModifier, AWQModifier, GPTQModifier"},
      {stage("AWQModifier: {}"), "AWQModifier quantizes nothing"},
      {stage("AWQModifier: {scheme: W4A16, ngrid: 3}"), "did you mean n_grid?"},
      {stage("AWQModifier: {scheme: W4A16, duo_scaling: maybe}"), "true, false or both"},
      {stage("AWQModifier: {scheme: W4A16, mappings: [{smooth_layer: a}]}"), "balance_layers"},
      {stage("AWQModifier: {scheme: W4A16, mappings: [{smoth_layer: a}]}"), "smooth_layer"},
      {stage("GPTQModifier: {}"), "no modifier before it"},
      {stage("GPTQModifier: {scheme: W4A16, actorder: group}"), "use static"},
      {stage("GPTQModifier: {actorder: static, config_groups: {g: {targets: [Linear], weights: "
             "{num_bits: 4, group_size: 32, actorder: group}}}}"),
       "use static"},
      {stage("GPTQModifier: {scheme: W4A16, dampening_frac: 0}"), "dampening_frac > 0"},
      {stage("QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: "
             "4, group_size: 32, actorder: static}}}}"),
       "for GPTQModifier only"},
      {stage("SparseGPTModifier: {sparsity: 0.1}"), "SparseGPTModifier quantizes nothing"},
      {stage("SparseGPTModifier: {sparsity: 1.5}"), "between 0 and 1"},
      {stage("SparseGPTModifier: {sparsity: [0.1, 0.2]}"), "a sparsity for each layer"},
      {stage("SparseGPTModifier: {sparsity: 0.5, mask_structure: 2of4}"), "expected \"2:4\""},
      {stage("SparseGPTModifier: {sparsity: 0.5, mask_structure: '5:4'}"), "expected \"2:4\""},
      {stage("SparseGPTModifier: {sparsity: 0.5, scheme: W4A16}"), "no field \"scheme\""},
      {stage("GPTQModifier: {scheme: W4A16}, SparseGPTModifier: {sparsity: 0.1}"),
       "must come before GPTQModifier"},
      {stage("AutoRoundModifier: {scheme: W4A16, iter: 20}"), "did you mean iters?"},
      {stage("QuantizationModifier: {scheme: W4A16, iters: 20}"), "no field \"iters\""},
      {stage("QuantizationModifier: {scheme: W8A16}"), "W8A16 is not supported"},
      {stage("QuantizationModifier: {targets: [Linear]}"), "neither scheme nor config_groups"},
      {stage("AutoRoundModifier: {iters: 3}"), "no modifier before it"},
      {stage("QuantizationModifier: {scheme: W4A16, config_groups: {}}"), "exclude each other"},
      {stage("QuantizationModifier: {scheme: W4A16, kv_cache_scheme: {num_bits: 8}}"),
       "kv_cache_scheme"},
      {stage("QuantizationModifier: {scheme: W4A16, weight_observer: msee}"),
       "the observer \"msee\""},
      {stage("QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: "
             "8}}}}"),
       "num_bits 8"},
      {stage("QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: "
             "4}}}}"),
       "strategy tensor"},
      {stage("AutoRoundModifier: {scheme: W4A16, lr: -1}"), "lr > 0"},
      {stage("AutoRoundModifier: {scheme: W4A16, iters: many}"), "iters"},
      {stage("AutoRoundModifier: {scheme: W4A16, iters: 5001}"), "iters <= 5000"},
  };
  for (const auto& [yaml, part] : kCases) {
    EXPECT_TRUE(has(message_of([&] { parse(yaml); }), part)) << yaml;
  }
  EXPECT_TRUE(has(message_of([] { make_recipe({.bits = 3}); }), "int4"));
  EXPECT_TRUE(has(message_of([] { make_recipe({.method = "awq"}); }), "auto-round, gptq, rtn"));
  EXPECT_TRUE(has(message_of([] { parse_layer_rule("lm_head"); }), "PATTERN=bits:16"));
  EXPECT_TRUE(has(message_of([] { parse_layer_rule("a=bits:5"); }), "PATTERN=bits:16"));
}

TEST(Errors, NothingLeftToQuantize) {
  Recipe recipe =
      parse("a_stage: {b_modifiers: {QuantizationModifier: {scheme: W4A16, ignore: [Linear]}}}");
  EXPECT_TRUE(has(message_of([&] { resolve(recipe, sarvam()); }), "nothing to quantize"));
}

// Steps of a recipe that was read, written and read again decide as before.
void expect_same_after_writing(const Recipe& recipe, const std::vector<LinearInfo>& linears) {
  const Resolution before = resolve(recipe, linears);
  const Recipe again = parse(recipe_yaml(recipe, before));
  ASSERT_EQ(again.steps.size(), recipe.steps.size());
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    const Step &a = recipe.steps[i], &b = again.steps[i];
    EXPECT_EQ(a.modifier, b.modifier);
    EXPECT_EQ(a.method, b.method);
    EXPECT_EQ(a.fp8_kv_cache, b.fp8_kv_cache);
    JsonValue of_a = JsonValue::object(), of_b = JsonValue::object();
    method_of_modifier(a.modifier)->write(a, of_a);
    method_of_modifier(b.modifier)->write(b, of_b);
    EXPECT_EQ(of_a, of_b);
    EXPECT_EQ(a.targets, b.targets);
  }
  const Resolution after = resolve(again, linears);
  for (size_t i = 0; i < linears.size(); ++i) {
    const Verdict &a = before.verdicts[i], &b = after.verdicts[i];
    ASSERT_EQ(a.scheme, b.scheme) << a.name;
    ASSERT_EQ(a.pruned_by, b.pruned_by) << a.name;
    ASSERT_EQ(a.act_order, b.act_order) << a.name;
    ASSERT_EQ(a.observer, b.observer) << a.name;
  }
}

TEST(PublishedRecipe, AwqOfExpertsIsReadAsWritten) {
  auto text = recipe_of_card("001");
  if (!text)
    GTEST_SKIP() << "the model cards are not there: set QUERN_ASSETS to the folder with cards/";
  const Recipe recipe = parse(*text);
  ASSERT_EQ(recipe.steps.size(), 1u);
  const Step& step = recipe.steps[0];
  EXPECT_EQ(step.modifier, "AWQModifier");
  const auto& settings = step.as<AwqSettings>();
  ASSERT_EQ(settings.mappings.size(), 2u);
  EXPECT_EQ(settings.mappings[0].smooth_layer, "re:.*post_attention_layernorm$");
  EXPECT_EQ(settings.mappings[0].balance_layers,
            (std::vector<std::string>{"re:.*gate_proj$", "re:.*up_proj$"}));
  EXPECT_EQ(settings.duo_scaling, DuoScaling::on);
  EXPECT_EQ(step.groups.at(0).observer, quant::Observer::mse);
  const Resolution resolution = resolve(recipe, sarvam());
  EXPECT_EQ(resolution.quantized(), 18 * 128 * 3);
  EXPECT_EQ(verdict_of(resolution, "model.layers.3.mlp.experts.7.up_proj").scheme->group_size, 32);
  expect_same_after_writing(recipe, sarvam());
}

TEST(Awq, MayLeaveTheQuantizingToTheNextModifier) {
  const Recipe recipe = parse(R"(
s_stage:
  m_modifiers:
    AWQModifier: {duo_scaling: both, n_grid: 10}
    QuantizationModifier: {scheme: W4A16, targets: ['re:.*mlp\.experts.*']}
)");
  const Resolution resolution = resolve(recipe, sarvam());
  EXPECT_EQ(verdict_of(resolution, "model.layers.3.mlp.experts.7.up_proj").step, 1u);
  EXPECT_EQ(recipe.steps[0].as<AwqSettings>().duo_scaling, DuoScaling::both);
  EXPECT_EQ(recipe.steps[0].as<AwqSettings>().grid, 10);
  expect_same_after_writing(recipe, sarvam());
}

// Pruning, then GPTQ, then FP8 for the cache: the steps of a published Gemma model.
TEST(Chain, PrunesQuantizesAndNamesTheCacheScheme) {
  const Recipe recipe = parse(R"(
prune_stage:
  prune_modifiers:
    SparseGPTModifier:
      sparsity: 0.1
      mask_structure: '0:0'
      targets: ['re:.*mlp\.(gate|up|down)_proj$']
quant_stage:
  quant_modifiers:
    GPTQModifier:
      targets: [Linear]
      scheme: W4A16
      ignore: [lm_head, 're:.*attention.*']
      kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}
)");
  ASSERT_EQ(recipe.steps.size(), 2u);
  EXPECT_EQ(recipe.steps[0].as<SparseGptSettings>().share, 0.1);
  EXPECT_EQ(recipe.steps[1].groups[0].act_order, ActOrder::by_activation);
  EXPECT_TRUE(recipe.steps[1].fp8_kv_cache);
  const Resolution resolution = resolve(recipe, sarvam());
  const Verdict& dense = verdict_of(resolution, "model.layers.0.mlp.up_proj");
  EXPECT_EQ(dense.pruned_by, 0u);
  EXPECT_EQ(dense.step, 1u);
  EXPECT_TRUE(dense.scheme);
  const Verdict& expert = verdict_of(resolution, "model.layers.1.mlp.experts.0.up_proj");
  EXPECT_FALSE(expert.pruned_by);
  EXPECT_TRUE(expert.scheme);
  EXPECT_FALSE(verdict_of(resolution, "model.layers.0.attention.dense").scheme);
  expect_same_after_writing(recipe, sarvam());
}

TEST(Gptq, ActOrderOfTheModifierFillsIn) {
  auto order = [](const std::string& fields, const std::string& weights) {
    return parse("s_stage: {m_modifiers: {GPTQModifier: {" + fields +
                 "config_groups: {g: {targets: [Linear], weights: {num_bits: 4, group_size: 32" +
                 weights + "}}}}}}")
        .steps.at(0)
        .groups.at(0)
        .act_order;
  };
  EXPECT_EQ(order("", ""), ActOrder::by_activation);
  EXPECT_EQ(order("actorder: null, ", ""), ActOrder::none);
  EXPECT_EQ(order("actorder: null, ", ", actorder: weight"), ActOrder::by_activation);
  EXPECT_EQ(order("actorder: static, ", ", actorder: weight"), ActOrder::by_activation);
}

TEST(Fields, AreReadAsLlmCompressorWritesThem) {
  Recipe recipe = parse(R"(
quant_stage:
  quant_modifiers:
    AutoRoundModifier:
      targets: Linear
      scheme: w4a16_asym
      ignore: [lm_head]
      iters: 50
      lr: 0.01
      batch_size: 2
      enable_torch_compile: true
      device_ids: null
      disable_opt_rtn: false
      requires_calibration_data: true
      sequential_targets: null
      bypass_divisibility_checks: false
)");
  const Step& step = recipe.steps.at(0);
  EXPECT_FALSE(step.groups.at(0).scheme.symmetric);
  EXPECT_EQ(step.groups[0].targets, std::vector<std::string>{"Linear"});
  const auto& settings = step.as<AutoRoundSettings>();
  EXPECT_EQ(settings.iters, 50);
  EXPECT_EQ(settings.lr, 0.01);
  EXPECT_EQ(settings.batch_size, 2);
}

}  // namespace
}  // namespace quern::compress
