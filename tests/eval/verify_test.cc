// Artifacts with one planted defect each: verify() must find it and name the tensor.
#include "eval/verify.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/eval/artifact.h"
#include "tests/formats.h"

namespace quern::eval {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLayer = "model.language_model.layers.";
std::string layer(const std::string& name) { return kLayer + name; }

// Keeps the bytes of a checkpoint's tensors while a test changes some of them.
using Tensors = std::map<std::string, Tensor>;

// A copy of an artifact that a test may damage.
class Damaged {
 public:
  Damaged(const fs::path& artifact, const quant::Format& format) : format_(format) {
    fs::copy(artifact, folder(), fs::copy_options::recursive);
  }

  fs::path folder() const { return scratch_ / "artifact"; }
  quant::Format format() const { return format_; }

  // All tensors go through `edit`, into one shard.
  void tensors(const std::function<void(Tensors&)>& edit) const {
    Tensors all;
    {
      const checkpoint::Checkpoint files(folder());
      for (const std::string& name : files.names()) all[name] = files.tensor(name).clone();
    }
    edit(all);
    for (const auto& file : fs::directory_iterator(folder())) {
      if (checkpoint::is_weight_file(file.path().filename())) fs::remove(file);
    }
    checkpoint::write_safetensors(folder() / "model.safetensors", {all.begin(), all.end()});
  }

  // One packed matrix as codes and scales.
  void matrix(const std::string& module,
              const std::function<void(quant::QuantWeight&)>& edit) const {
    tensors([&](Tensors& all) {
      auto weight = quant::from_disk(module, {}, format_, [&](const std::string& name) {
        return all.contains(name) ? all[name] : Tensor();
      });
      edit(weight);
      for (auto& [name, tensor] : quant::to_disk(module, weight, format_)) all[name] = tensor;
    });
  }

  void json(const std::string& file, const std::function<void(JsonValue&)>& edit) const {
    JsonValue value = read_json(folder() / file);
    edit(value);
    write_file(folder() / file, quern::to_text(value));
  }

 private:
  Scratch scratch_;
  quant::Format format_;
};

class VerifyTest : public testing::TestWithParam<quant::Format> {
 protected:
  static void SetUpTestSuite() {
    prepare_torch();
    scratch_ = std::make_unique<Scratch>();
    for (quant::Format format : {kCompressedTensors, kAutoGptq})
      write_artifact(source(), artifact(format), format);
  }
  static void TearDownTestSuite() { scratch_.reset(); }

  static fs::path source() { return test_data("tiny-qwen3.6"); }
  static fs::path artifact(const quant::Format& format) {
    return *scratch_ / std::string(std::string(format.name));
  }
  bool llm_compressor() const { return GetParam() == kCompressedTensors; }
  std::string codes() const { return llm_compressor() ? ".weight_packed" : ".qweight"; }
  std::string scales() const { return llm_compressor() ? ".weight_scale" : ".scales"; }

  static VerifyReport check(const fs::path& folder) {
    return verify(folder, source(), {.quality = false});
  }

  // Records the current state of every matrix, so only its bound can detect a defect.
  static void record_again(const Damaged& damaged, const quant::Bound& bound) {
    const nn::Source made(damaged.folder());
    quant::Records records;
    for (const Module& module : modules_of(std::make_shared<nn::Source>(source()))) {
      if (!is_quantized(module)) continue;
      const auto weight =
          quant::from_disk(module.name, *made.quantization->scheme_of(module.name),
                           made.quantization->format(), [&](const std::string& name) {
                             return made.files.has(name) ? made.files.tensor(name) : Tensor();
                           });
      records.matrices[module.name] = quant::record_of(module.weight, weight, bound);
    }
    write_file(damaged.folder() / quant::kRecordFile, quern::to_text(quant::to_json(records)));
  }

  static void expect_named(const Damaged& damaged, const std::string& tensor) {
    const VerifyReport report = check(damaged.folder());
    EXPECT_FALSE(report.passed());
    const bool named = std::ranges::any_of(report.findings, [&](const Finding& finding) {
      return finding.severity == Severity::error &&
             (finding.tensor == tensor || finding.message.find(tensor) != std::string::npos);
    });
    EXPECT_TRUE(named) << tensor << " is not in:\n" << to_text(report);
  }

  // The defect is found, with and without compress's records, and the report names `tensor`.
  void expect_found(const std::function<void(const Damaged&)>& damage, const std::string& tensor) {
    for (bool recorded : {true, false}) {
      const Damaged damaged(artifact(GetParam()), GetParam());
      if (!recorded) fs::remove(damaged.folder() / quant::kRecordFile);
      damage(damaged);
      expect_named(damaged, tensor);
    }
  }

  // The codes of a matrix do not follow from its method: the hash detects it, and so does the bound
  // alone.
  void expect_codes_found(const std::function<void(const Damaged&)>& damage,
                          const std::string& tensor) {
    for (bool by_hash : {true, false}) {
      const Damaged damaged(artifact(GetParam()), GetParam());
      damage(damaged);
      if (!by_hash) record_again(damaged, {quant::Bound::Kind::code_distance, 0.5});
      expect_named(damaged, tensor);
    }
  }

  static std::unique_ptr<Scratch> scratch_;
};

std::unique_ptr<Scratch> VerifyTest::scratch_;

INSTANTIATE_TEST_SUITE_P(, VerifyTest, testing::Values(kCompressedTensors, kAutoGptq),
                         [](const auto& format) {
                           return format.param == kAutoGptq ? "AutoRound" : "CompressedTensors";
                         });

TEST_P(VerifyTest, AFaithfulArtifactPasses) {
  const VerifyReport report = verify(artifact(GetParam()), source());
  EXPECT_TRUE(report.passed()) << to_text(report);
  EXPECT_TRUE(report.findings.empty()) << to_text(report);
  EXPECT_EQ(report.tensors, 124);
  // 3 delta net layers of 3, one attention layer of 4; 8 experts and a shared one of 3, four times.
  EXPECT_EQ(report.matrices.size(), 3 * 3 + 4 + 4 * 9 * 3);
  for (const MatrixCheck& matrix : report.matrices) {
    EXPECT_TRUE(matrix.recorded && matrix.bounded) << matrix.module;
    EXPECT_EQ(matrix.error_ratio, 1) << matrix.module;
    EXPECT_GT(matrix.relative_error, 0.05) << matrix.module;
    EXPECT_LT(matrix.relative_error, 0.15) << matrix.module;
  }
  ASSERT_TRUE(report.quality);
  EXPECT_GT(report.quality->mean_kld, 0);
  ASSERT_TRUE(report.sample);
  EXPECT_FALSE(report.sample->degenerate);
  EXPECT_NE(report.sample->answer.find("#### 37"), std::string::npos) << report.sample->answer;
  EXPECT_TRUE(to_json(report)["passed"].get<bool>());
}

TEST_P(VerifyTest, SwappedExperts) {
  for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
    const std::string a = layer("1.mlp.experts.2.") + projection,
                      b = layer("1.mlp.experts.5.") + projection;
    auto swap = [&](const Damaged& damaged) {
      damaged.tensors([&](Tensors& all) {
        for (const std::string& part : {codes(), scales()}) std::swap(all[a + part], all[b + part]);
      });
    };
    expect_codes_found(swap, a + codes());
    expect_codes_found(swap, b + codes());
  }
}

TEST_P(VerifyTest, ScaleOfTheWrongSign) {
  const std::string module = layer("0.linear_attn.out_proj");
  expect_codes_found(
      [&](const Damaged& damaged) {
        damaged.matrix(module, [](quant::QuantWeight& weight) { weight.scales[7][1].neg_(); });
      },
      module + codes());
}

TEST_P(VerifyTest, ScaleOfTheWrongDtype) {
  const std::string name = layer("3.self_attn.k_proj") + scales();
  const DType wrong = llm_compressor() ? at::kHalf : at::kBFloat16;
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) { all[name] = all[name].to(wrong); });
      },
      name);
}

TEST_P(VerifyTest, ScaleThatIsNotFinite) {
  const std::string name = layer("3.self_attn.k_proj") + scales();
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) { all[name].view({-1})[3] = NAN; });
      },
      name);
}

TEST_P(VerifyTest, ScaleOfZero) {
  const std::string name = layer("2.mlp.shared_expert.down_proj") + scales();
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) { all[name].view({-1})[3] = 0; });
      },
      name);
}

TEST_P(VerifyTest, GroupOffByOne) {
  const std::string module = layer("3.self_attn.q_proj");
  for (int64_t direction : {0, 1}) {
    expect_codes_found(
        [&](const Damaged& damaged) {
          damaged.matrix(module, [&](quant::QuantWeight& weight) {
            weight.scales = weight.scales.roll(1, direction);
          });
        },
        module + codes());
  }
}

TEST_P(VerifyTest, LowestBitsFlipped) {
  const std::string module = layer("3.self_attn.o_proj");
  expect_codes_found(
      [&](const Damaged& damaged) {
        damaged.matrix(module, [](quant::QuantWeight& weight) { weight.codes.bitwise_xor_(0x11); });
      },
      module + codes());
}

// Some codes one further than rounding put them: up to 1.5 from weight / scale.
TEST_P(VerifyTest, CodesMayBeAsFarAsTheBoundOfTheirMethod) {
  const std::string module = layer("3.self_attn.o_proj");
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.matrix(module, [](quant::QuantWeight& weight) {
    Tensor row = weight.codes[0];
    const Tensor low = row.bitwise_and(15);
    row.add_(low.ge(4).bitwise_and(low.le(11)).to(at::kByte));
  });
  record_again(damaged, {quant::Bound::Kind::code_distance, 1.0});
  EXPECT_FALSE(check(damaged.folder()).passed());
  record_again(damaged, {quant::Bound::Kind::code_distance, 1.5});
  const VerifyReport report = check(damaged.folder());
  EXPECT_TRUE(report.passed()) << to_text(report);
}

// Codes as of GPTQ and SparseGPT: far from weight / scale, without a bound.
TEST_P(VerifyTest, CodesWithoutABoundAreHeldAgainstTheRecordAlone) {
  const std::string module = layer("3.self_attn.o_proj");
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.matrix(module, [](quant::QuantWeight& weight) { weight.codes.bitwise_xor_(0x33); });
  record_again(damaged, {});
  const VerifyReport report = check(damaged.folder());
  EXPECT_TRUE(report.passed()) << to_text(report);
  EXPECT_NE(to_text(report).find("as compress recorded, 0 within the bound"), std::string::npos);
  damaged.matrix(module, [](quant::QuantWeight& weight) { weight.codes[3][5].bitwise_xor_(1); });
  EXPECT_FALSE(check(damaged.folder()).passed()) << "its hash is another";
}

// Another program's artifact: structure, copied tensors, finite numbers and quality are checked.
TEST_P(VerifyTest, WithoutARecordNoMatrixIsCompared) {
  const Damaged damaged(artifact(GetParam()), GetParam());
  fs::remove(damaged.folder() / quant::kRecordFile);
  damaged.matrix(layer("3.self_attn.o_proj"),
                 [](quant::QuantWeight& weight) { weight.codes.bitwise_xor_(0x33); });
  const VerifyReport report = check(damaged.folder());
  EXPECT_TRUE(report.passed()) << to_text(report);
  EXPECT_NE(to_text(report).find("none was compared"), std::string::npos) << to_text(report);
  EXPECT_FALSE(to_json(report)["matrices_compared"].get<bool>());
  EXPECT_EQ(report.matrices.size(), 3 * 3 + 4 + 4 * 9 * 3);
  for (const MatrixCheck& matrix : report.matrices)
    EXPECT_FALSE(matrix.recorded || matrix.bounded) << matrix.module;
}

TEST_P(VerifyTest, ABoundThatIsNotKnown) {
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.json(quant::kRecordFile, [&](JsonValue& json) {
    json[layer("3.self_attn.o_proj")]["bound"] = {{"columns", 3}};
  });
  expect_named(damaged, "columns");
}

TEST_P(VerifyTest, NibblesInTheWrongOrder) {
  const std::string module = layer("1.linear_attn.in_proj_z");
  expect_codes_found(
      [&](const Damaged& damaged) {
        damaged.matrix(module, [](quant::QuantWeight& weight) {
          const Tensor low = weight.codes.bitwise_and(15);
          weight.codes = weight.codes.bitwise_right_shift(4) + low * 16;
        });
      },
      module + codes());
}

// A flipped bit may stay within the bound of rounding; only the record detects it.
TEST_P(VerifyTest, OneBitFlipped) {
  const std::string module = layer("2.mlp.experts.0.up_proj");
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.matrix(module, [](quant::QuantWeight& weight) { weight.codes[3][5].bitwise_xor_(1); });
  const VerifyReport report = check(damaged.folder());
  ASSERT_FALSE(report.findings.empty());
  for (const Finding& finding : report.findings) EXPECT_EQ(finding.tensor, module + codes());
  EXPECT_NE(report.findings.back().message.find(quant::kRecordFile), std::string::npos);
}

TEST_P(VerifyTest, NormRewritten) {
  const std::string name = layer("2.input_layernorm.weight");
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) { all[name] = (all[name] + 1) - 1; });
      },
      name);
}

TEST_P(VerifyTest, NormInAnotherDtype) {
  const std::string name = layer("2.input_layernorm.weight");
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) { all[name] = all[name].to(at::kFloat); });
      },
      name);
}

TEST_P(VerifyTest, MissingTensors) {
  for (const std::string& name :
       {std::string("mtp.fc.weight"), std::string("mtp.layers.0.mlp.experts.gate_up_proj"),
        std::string("model.visual.pos_embed.weight"), layer("0.mlp.gate.weight"),
        layer("0.mlp.experts.4.down_proj") + codes(), layer("3.self_attn.v_proj") + scales()}) {
    expect_found(
        [&](const Damaged& damaged) {
          damaged.tensors([&](Tensors& all) { ASSERT_EQ(all.erase(name), 1u) << name; });
        },
        name);
  }
}

TEST_P(VerifyTest, AWholeExpertMissing) {
  const std::string module = layer("0.mlp.experts.4.down_proj");
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) {
          std::erase_if(all, [&](const auto& entry) { return entry.first.starts_with(module); });
        });
      },
      module);
}

// auto-round splits the stacked experts of a draft layer that it leaves unquantized.
void split_draft_experts(Tensors& all) {
  const std::string place = "mtp.layers.0.mlp.experts.";
  const Tensor both = all.at(place + "gate_up_proj");
  const int64_t rows = both.size(1) / 2;
  for (int64_t expert = 0; expert < both.size(0); ++expert) {
    const std::string name = place + std::to_string(expert);
    all[name + ".gate_proj.weight"] = both[expert].narrow(0, 0, rows).clone();
    all[name + ".up_proj.weight"] = both[expert].narrow(0, rows, rows).clone();
  }
  all.erase(place + "gate_up_proj");
}

TEST_P(VerifyTest, StacksMayBeSplit) {
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.tensors(split_draft_experts);
  const VerifyReport report = check(damaged.folder());
  EXPECT_TRUE(report.passed()) << to_text(report);
}

TEST_P(VerifyTest, SplitStacksMustBeWhatTheyWere) {
  const std::string module = "mtp.layers.0.mlp.experts.3.up_proj";
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) {
          split_draft_experts(all);
          all[module + ".weight"][5][7] += 1;
        });
      },
      module + ".weight");
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) {
          split_draft_experts(all);
          all.erase(module + ".weight");
        });
      },
      module);
}

TEST_P(VerifyTest, ExtraTensor) {
  for (const std::string& name : {layer("0.mlp.experts.8.down_proj") + codes(),
                                  std::string("lm_head.bias"), layer("4.input_layernorm.weight")}) {
    expect_found(
        [&](const Damaged& damaged) {
          damaged.tensors([&](Tensors& all) { all[name] = at::zeros({8}); });
        },
        name);
  }
}

TEST_P(VerifyTest, QuantizedAndNot) {
  const std::string name = layer("3.self_attn.v_proj.weight");
  expect_found(
      [&](const Damaged& damaged) {
        const Tensor original = checkpoint::Checkpoint(source()).tensor(name).clone();
        damaged.tensors([&](Tensors& all) { all[name] = original; });
      },
      name);
}

TEST_P(VerifyTest, TruncatedShard) {
  const fs::path folder = artifact(GetParam());
  const checkpoint::SafetensorsFile whole(folder / "model.safetensors");
  expect_found(
      [&](const Damaged& damaged) {
        const fs::path shard = damaged.folder() / "model.safetensors";
        fs::resize_file(shard, fs::file_size(shard) - 1);
      },
      whole.tensors().back().name);
}

TEST_P(VerifyTest, RecordThatIsNoJson) {
  expect_found(
      [](const Damaged& damaged) { write_file(damaged.folder() / quant::kRecordFile, "{"); },
      quant::kRecordFile);
}

// quantization_config in both of its places.
void edit_quantization(const Damaged& damaged, const std::function<void(JsonValue&)>& edit) {
  damaged.json("config.json", [&](JsonValue& json) { edit(json["quantization_config"]); });
  if (damaged.format() == kAutoGptq) damaged.json("quantization_config.json", edit);
}

TEST_P(VerifyTest, WrongIgnoreEntry) {
  const std::string router = layer("1.mlp.gate"), packed = layer("3.self_attn.o_proj");
  auto drop = [&](JsonValue& json) {
    if (llm_compressor()) {
      auto& ignore = json["ignore"];
      ignore.erase(std::find(ignore.begin(), ignore.end(), router));
    } else {
      ASSERT_EQ(json["extra_config"].erase(router), 1u);
    }
  };
  auto add = [&](JsonValue& json) {
    if (llm_compressor()) {
      json["ignore"].push_back(packed);
    } else {
      json["extra_config"][packed] = {{"bits", 16}, {"data_type", "float"}};
    }
  };
  expect_found([&](const Damaged& damaged) { edit_quantization(damaged, drop); }, router);
  expect_found([&](const Damaged& damaged) { edit_quantization(damaged, add); }, packed);
}

TEST_P(VerifyTest, WrongGroupSize) {
  auto edit = [&](JsonValue& json) {
    if (llm_compressor()) {
      json["config_groups"]["group_0"]["weights"]["group_size"] = 64;
    } else {
      json["group_size"] = 64;
    }
  };
  expect_found([&](const Damaged& damaged) { edit_quantization(damaged, edit); },
               layer("3.self_attn.o_proj") + (llm_compressor() ? ".weight_scale" : ".qzeros"));
}

TEST_P(VerifyTest, NoQuantizationConfig) {
  expect_found(
      [&](const Damaged& damaged) {
        fs::remove(damaged.folder() / "quantization_config.json");
        damaged.json("config.json", [](JsonValue& json) { json.erase("quantization_config"); });
      },
      "config.json");
}

TEST_P(VerifyTest, ConfigKeysChanged) {
  expect_found(
      [](const Damaged& damaged) {
        damaged.json("config.json",
                     [](JsonValue& json) { json["text_config"]["rms_norm_eps"] = 1e-5; });
      },
      "text_config.rms_norm_eps");
  expect_found(
      [](const Damaged& damaged) {
        damaged.json("config.json", [](JsonValue& json) { json.erase("vision_config"); });
      },
      "vision_config");
}

TEST_P(VerifyTest, OtherFilesChanged) {
  expect_found([](const Damaged& damaged) { fs::remove(damaged.folder() / "chat_template.jinja"); },
               "chat_template.jinja");
  expect_found(
      [](const Damaged& damaged) {
        std::ofstream(damaged.folder() / "tokenizer_config.json", std::ios::app) << " ";
      },
      "tokenizer_config.json");
}

TEST_P(VerifyTest, FormatsOwnShapes) {
  const std::string module = layer("3.self_attn.k_proj");
  if (llm_compressor()) {
    expect_found(
        [&](const Damaged& damaged) {
          damaged.tensors([&](Tensors& all) { all[module + ".weight_shape"][1] = 128; });
        },
        module + ".weight_shape");
    return;
  }
  expect_found(
      [&](const Damaged& damaged) {
        damaged.tensors([&](Tensors& all) { all[module + ".qzeros"].fill_(0x66666666); });
      },
      module + ".qzeros");
  expect_found(
      [](const Damaged& damaged) {
        damaged.json("quantization_config.json", [](JsonValue& json) { json["bits"] = 16; });
      },
      "quantization_config.json");
}

TEST_P(VerifyTest, AnotherSourceThanCompressed) {
  const std::string name = layer("0.linear_attn.in_proj_qkv");
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.json(quant::kRecordFile, [&](JsonValue& json) { json[name]["relative_error"] = 0.05; });
  const VerifyReport report = check(damaged.folder());
  ASSERT_EQ(report.findings.size(), 1u) << to_text(report);
  EXPECT_EQ(report.findings[0].tensor, name + ".weight");
}

TEST_P(VerifyTest, RecordsAndMatricesMustMatch) {
  const std::string name = layer("0.linear_attn.in_proj_qkv");
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.json(quant::kRecordFile, [&](JsonValue& json) {
    json["no.such.module"] = json[name];
    json.erase(name);
  });
  const VerifyReport report = check(damaged.folder());
  ASSERT_EQ(report.findings.size(), 2u) << to_text(report);
  EXPECT_EQ(report.findings[0].tensor, name);
  EXPECT_EQ(report.findings[1].tensor, "no.such.module");
}

// ---- quality

VerifyOptions quick() { return {.windows = {.length = 64, .max_windows = 2}}; }

std::string all_messages(const VerifyReport& report) {
  std::string text;
  for (const Finding& finding : report.findings)
    text += finding.tensor + ": " + finding.message + "\n";
  return text;
}

TEST_P(VerifyTest, GatesAreKept) {
  VerifyOptions options = quick();
  options.max_kld = 1e-6;
  options.min_top1 = 1;
  const std::string messages = all_messages(verify(artifact(GetParam()), source(), options));
  EXPECT_NE(messages.find("the mean KL divergence is"), std::string::npos) << messages;
  EXPECT_NE(messages.find("the most likely token"), std::string::npos) << messages;
}

TEST_P(VerifyTest, ADegenerateSampleIsFound) {
  const Damaged damaged(artifact(GetParam()), GetParam());
  // The final norm multiplies by 1 + w: everything becomes 0, every token equally likely.
  damaged.tensors([](Tensors& all) { all["model.language_model.norm.weight"].fill_(-1); });
  const std::string messages = all_messages(verify(damaged.folder(), source(), quick()));
  EXPECT_NE(messages.find("the sample repeats itself"), std::string::npos) << messages;
  EXPECT_NE(messages.find("model.language_model.norm.weight"), std::string::npos) << messages;
}

TEST_P(VerifyTest, LogitsMustBeFinite) {
  const Damaged damaged(artifact(GetParam()), GetParam());
  damaged.tensors([](Tensors& all) { all["lm_head.weight"][9][3] = NAN; });
  const std::string messages = all_messages(verify(damaged.folder(), source(), quick()));
  EXPECT_NE(messages.find("not finite"), std::string::npos) << messages;
  EXPECT_NE(messages.find("nan nats per token"), std::string::npos) << messages;
}

}  // namespace
}  // namespace quern::eval
