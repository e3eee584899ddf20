// quantization_config against the peers' files: reading gives their schemes, and writing gives
// their contents plus additions for vLLM.
#include "quant/config.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/formats.h"
#include "tests/quant/golden.h"

namespace quern::quant {
namespace {

// Patterns of these files have literals, "\.", ".*", "^" and "$" only; the real engine is
// prompt/'s.
bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return true;
  if (pattern == "$") return text.empty();
  if (pattern.starts_with(".*")) {
    for (size_t i = 0; i <= text.size(); ++i) {
      if (matches(pattern.substr(2), text.substr(i))) return true;
    }
    return false;
  }
  size_t escape = pattern[0] == '\\';
  bool same = !text.empty() && pattern[escape] == text[0];
  return same && matches(pattern.substr(1 + escape), text.substr(1));
}

Match compile(const std::string& pattern) {
  std::string simple = pattern;
  const std::string kSearch = "(?s:.*?)(?:";
  if (simple.starts_with(kSearch)) {
    simple = ".*" + simple.substr(kSearch.size(), simple.size() - kSearch.size() - 1);
  }
  if (simple.starts_with("^")) simple = simple.substr(1);
  return [simple](std::string_view text) { return matches(simple, text); };
}

JsonValue run(const std::string& name) {
  return read_json(kTestData / "peers/format" / (name + ".json"));
}

QuantizationConfig read(const JsonValue& json) {
  return QuantizationConfig(Json(json, "quantization_config"), compile);
}

// The modules of a run: linears that were stored quantized, and those that were kept.
struct Modules {
  std::vector<std::string> quantized, kept;
};

Modules modules_of(const JsonValue& run) {
  Modules modules;
  for (const auto& [name, entry] : run["tensors"].items()) {
    std::string module = name.substr(0, name.rfind('.'));
    if (name.ends_with(".weight_packed") || name.ends_with(".qweight")) {
      modules.quantized.push_back(module);
    }
    bool linear = name.ends_with(".weight") && entry[2].size() == 2 &&
                  name.find("embed") == std::string::npos;
    if (linear) modules.kept.push_back(module);
  }
  return modules;
}

class PeerConfig : public testing::TestWithParam<const char*> {};

TEST_P(PeerConfig, SaysOfEveryModuleHowItIsStored) {
  std::string name = GetParam();
  JsonValue json = run(name);
  QuantizationConfig config = read(json["quantization_config"]);
  Modules modules = modules_of(json);
  EXPECT_GE(modules.quantized.size(), 60u);
  for (const std::string& module : modules.quantized) {
    // Quantized by the peer although its list of blocks omits it.
    if (name == "ar_rtn" && module == "mtp.fc") continue;
    auto scheme = config.scheme_of(module);
    ASSERT_TRUE(scheme) << module;
    EXPECT_EQ(scheme->group_size, 128);
    EXPECT_TRUE(scheme->symmetric);
  }
  // These exporters keep the draft layer without stating it.
  bool silent_on_drafts = name == "ar_rtn_ct" || name == "ar_rtn_gptq";
  for (const std::string& module : modules.kept) {
    if (silent_on_drafts && module.starts_with("mtp.")) continue;
    EXPECT_FALSE(config.scheme_of(module)) << module;
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, PeerConfig,
                         testing::Values("rtn_mm", "autoround_mm", "ar_rtn", "ar_rtn_mm",
                                         "ar_rtn_gptq", "ar_rtn_ct", "ar_200_path", "glm45_rtn"),
                         [](const auto& info) { return info.param; });

// A model's description of its linears: units that vLLM loads as one, places inside blocks.
const std::map<std::string, std::vector<std::string>> kUnits = {
    {"qkv_proj", {"q_proj", "k_proj", "v_proj"}},
    {"gate_up_proj", {"gate_proj", "up_proj"}},
    {"in_proj_qkvz", {"in_proj_qkv", "in_proj_z"}},
    {"in_proj_ba", {"in_proj_b", "in_proj_a"}}};

std::vector<std::string> parts_of(const std::string& unit) {
  const size_t last = unit.rfind('.') + 1;
  std::vector<std::string> parts = kUnits.at(unit.substr(last));
  for (std::string& part : parts) part.insert(0, unit.substr(0, last));
  return parts;
}

ModuleScheme described(const std::string& module, std::optional<Scheme> scheme) {
  ModuleScheme linear{module, std::move(scheme)};
  const size_t last = module.rfind('.') + 1, layers = module.find(".layers.");
  linear.expert = module.find(".experts.") != std::string::npos;
  linear.head = module == "lm_head";
  if (layers != std::string::npos)
    linear.in_block = module.substr(module.find('.', layers + 8) + 1);
  for (const auto& [unit, parts] : kUnits) {
    if (linear.expert || std::ranges::find(parts, module.substr(last)) == parts.end()) continue;
    linear.fused = module.substr(0, last) + unit;
  }
  return linear;
}

// The modules of a run: the kept linears in the order of the peer's list.
std::vector<ModuleScheme> linears_of(const std::string& name) {
  JsonValue json = run(name);
  std::vector<ModuleScheme> linears;
  std::set<std::string> known;
  for (const auto& module : json["quantization_config"]["ignore"]) {
    auto text = module.get<std::string>();
    if (!text.starts_with("re:")) linears.push_back(described(text, std::nullopt));
    known.insert(text);
  }
  Modules modules = modules_of(json);
  for (const auto& module : modules.quantized) linears.push_back(described(module, Scheme{}));
  for (const auto& module : modules.kept) {
    if (!known.contains(module)) linears.push_back(described(module, std::nullopt));
  }
  return linears;
}

TEST(CompressedTensorsConfig, IsThePeersButForTheVersion) {
  JsonValue expected = run("rtn_mm")["quantization_config"];
  JsonValue got = quantization_config(kCompressedTensors, linears_of("rtn_mm"), {});
  expected["version"] = got["version"];
  EXPECT_EQ(got.dump(), expected.dump());
}

// A random Llama of two blocks, by W4A16 with keys and values in FP8; the file says how.
TEST(CompressedTensorsConfig, IsThePeersWithKeysAndValuesInFp8) {
  JsonValue expected = run("kv_cache_fp8")["quantization_config"];
  JsonValue got = quantization_config(
      kCompressedTensors, {{"model.layers.0.mlp.up_proj", Scheme{}}, {"lm_head", std::nullopt}},
      {.fp8_kv_cache = true});
  expected["version"] = got["version"];
  EXPECT_EQ(got.dump(), expected.dump());
}

TEST(AutoRoundConfig, NamesPartsAndFusedUnitsAndDrafts) {
  std::vector<ModuleScheme> linears = linears_of("rtn_mm");
  linears.push_back({"model.language_model.layers.9.mlp.up_proj", Scheme{.group_size = 32}});
  ConfigDetails details{.blocks = {"model.language_model.layers"}, .iters = 400, .samples = 256};
  JsonValue json = quantization_config(kAutoGptq, linears, details);
  EXPECT_EQ(json["packing_format"], "auto_round:auto_gptq");
  EXPECT_EQ(json["bits"], 4);
  EXPECT_EQ(json["iters"], 400);
  EXPECT_EQ(json["nsamples"], 256);
  EXPECT_FALSE(json.contains("seqlen"));
  EXPECT_EQ(json["block_name_to_quantize"], "model.language_model.layers");
  const JsonValue& extra = json["extra_config"];
  for (int layer : {0, 1, 2}) {
    for (const char* part : {"in_proj_a", "in_proj_b", "in_proj_ba"}) {
      std::string name = fmt::format("model.language_model.layers.{}.linear_attn.{}", layer, part);
      ASSERT_TRUE(extra.contains(name)) << name;
      EXPECT_EQ(extra[name]["bits"], 16);
    }
  }
  EXPECT_TRUE(extra.contains("mtp.fc"));
  EXPECT_TRUE(extra.contains("lm_head"));
  EXPECT_EQ(extra["model.language_model.layers.9.mlp.up_proj"], (JsonValue{{"group_size", 32}}));
  EXPECT_FALSE(extra.contains("model.language_model.layers.3.self_attn.qkv_proj"));
}

class OwnConfig : public testing::TestWithParam<Format> {};

TEST_P(OwnConfig, ReadsBackAsItWasMeant) {
  std::vector<ModuleScheme> linears = linears_of("rtn_mm");
  for (ModuleScheme& linear : linears) {
    if (linear.module.ends_with("o_proj")) linear.scheme->group_size = 32;
    if (linear.module.ends_with("shared_expert.gate_proj")) linear.scheme.reset();
    if (linear.module.ends_with("shared_expert.up_proj")) linear.scheme.reset();
  }
  JsonValue json = quantization_config(GetParam(), linears,
                                       {.blocks = {"model.language_model.layers"}, .iters = 200});
  QuantizationConfig config = read(json);
  EXPECT_EQ(config.format(), GetParam());
  for (const ModuleScheme& linear : linears) {
    auto got = config.scheme_of(linear.module);
    ASSERT_EQ(got.has_value(), linear.scheme.has_value()) << linear.module;
    if (got) {
      EXPECT_EQ(got->group_size, linear.scheme->group_size) << linear.module;
    }
  }
  const std::string layer = "model.language_model.layers.";
  for (const char* unit : {"0.linear_attn.in_proj_ba", "0.mlp.shared_expert.gate_up_proj",
                           "3.self_attn.qkv_proj", "0.linear_attn.in_proj_qkvz"})
    config.check_unit(layer + unit, parts_of(layer + unit));
}

// Gemma 4's attention has no v_proj where values are keys, and no k_proj where it reads the keys of
// another layer.
TEST_P(OwnConfig, PartsThatAModelLacksAreStoredAsTheOthers) {
  const Scheme usual, other{.group_size = 32};
  std::vector<ModuleScheme> linears = {described("m.layers.0.self_attn.q_proj", std::nullopt),
                                       described("m.layers.0.self_attn.k_proj", std::nullopt),
                                       described("m.layers.0.self_attn.o_proj", std::nullopt),
                                       described("m.layers.1.self_attn.q_proj", other),
                                       described("m.layers.2.self_attn.q_proj", usual),
                                       described("m.layers.2.mlp.down_proj", usual)};
  linears[1].absent = {"m.layers.0.self_attn.v_proj"};
  linears[3].absent = {"m.layers.1.self_attn.k_proj", "m.layers.1.self_attn.v_proj"};
  linears[4].absent = {"m.layers.2.self_attn.k_proj", "m.layers.2.self_attn.v_proj"};
  const QuantizationConfig config =
      read(quantization_config(GetParam(), linears, {.blocks = {"m.layers"}, .iters = 200}));
  for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
    EXPECT_FALSE(config.scheme_of(fmt::format("m.layers.0.self_attn.{}", part))) << part;
    EXPECT_EQ(config.scheme_of(fmt::format("m.layers.1.self_attn.{}", part))->group_size, 32);
    EXPECT_EQ(config.scheme_of(fmt::format("m.layers.2.self_attn.{}", part))->group_size, 128);
  }
  for (const char* layer : {"0", "1", "2"}) {
    const std::string unit = fmt::format("m.layers.{}.self_attn.qkv_proj", layer);
    config.check_unit(unit, {unit.substr(0, unit.size() - 8) + "q_proj"});
    config.check_unit(unit, parts_of(unit));
  }
}

TEST_P(OwnConfig, ManyExceptionsTakeNoQuadraticTime) {
  std::vector<ModuleScheme> linears;
  for (int i = 0; i < 150'000; ++i)
    linears.push_back({fmt::format("model.layers.{}.mlp.experts.7.up_proj", i),
                       i % 2 ? std::optional(Scheme{}) : std::nullopt});
  // Seconds, where a search from the start of an object would take an hour.
  const JsonValue json = quantization_config(GetParam(), linears, {});
  if (GetParam() == kGptq) return;  // every reader tries its patterns one by one
  const QuantizationConfig config = read(json);
  EXPECT_FALSE(config.scheme_of("model.layers.149998.mlp.experts.7.up_proj"));
  EXPECT_TRUE(config.scheme_of("model.layers.149999.mlp.experts.7.up_proj"));
}

INSTANTIATE_TEST_SUITE_P(Formats, OwnConfig, testing::Values(kCompressedTensors, kAutoGptq, kGptq),
                         [](const auto& info) {
                           std::string name(info.param.name);
                           std::erase_if(name, [](char c) { return c == '-' || c == '_'; });
                           return name;
                         });

TEST(OwnConfig, PartsOfAFusedUnitMustAgree) {
  JsonValue json = quantization_config(
      kCompressedTensors,
      {{"a.q_proj", Scheme{}}, {"a.k_proj", std::nullopt}, {"a.v_proj", Scheme{}}}, {});
  QuantizationConfig config = read(json);
  EXPECT_THROW(config.check_unit("a.qkv_proj", {"a.q_proj", "a.k_proj", "a.v_proj"}), Error);
  EXPECT_NO_THROW(config.check_unit("a.qkv_proj", {"a.q_proj", "a.v_proj"}));
}

// Some versions of vLLM look up the parts, others the unit.
TEST(OwnConfig, AUnitMustSayWhatItsPartsSay) {
  JsonValue json = quantization_config(
      kAutoGptq, {{"a.q_proj", Scheme{}, "a.qkv_proj"}, {"a.o_proj", std::nullopt}}, {});
  json["extra_config"]["a.qkv_proj"] = {{"bits", 16}};
  EXPECT_THROW(read(json).check_unit("a.qkv_proj", {"a.q_proj"}), Error);
}

TEST(OwnConfig, NothingQuantizedIsAnError) {
  EXPECT_THROW(quantization_config(kAutoGptq, {{"a", std::nullopt}}, {}), Error);
}

TEST(PeerConfig, RefusesOtherNumberFormats) {
  JsonValue awq = {{"quant_method", "awq"}, {"bits", 4}};
  EXPECT_THROW(read(awq), Error);
  JsonValue json = run("rtn_mm")["quantization_config"];
  for (auto [key, value] : {std::pair<const char*, JsonValue>{"num_bits", 8},
                            {"type", "float"},
                            {"actorder", "group"},
                            {"strategy", "tensor"}}) {
    JsonValue changed = json;
    changed["config_groups"]["group_0"]["weights"][key] = value;
    EXPECT_THROW(read(changed), Error) << key;
  }
  JsonValue ordered = run("ar_rtn_gptq")["quantization_config"];
  ordered["desc_act"] = true;
  EXPECT_THROW(read(ordered), Error);
}

}  // namespace
}  // namespace quern::quant
