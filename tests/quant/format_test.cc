// The layouts on disk against files of compressed-tensors and auto-round, read and written.
#include "quant/format.h"

#include <gtest/gtest.h>

#include "quant/dequantize.h"
#include "quant/grid.h"
#include "tests/formats.h"
#include "tests/quant/golden.h"

namespace quern::quant {
namespace {

using Tensors = std::map<std::string, Tensor>;

Lookup lookup_in(const Tensors& tensors) {
  return [&tensors](const std::string& name) {
    auto found = tensors.find(name);
    return found == tensors.end() ? Tensor() : found->second;
  };
}

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Signed 4-bit numbers [rows, columns] as codes.
QuantWeight from_values(const Tensor& values) {
  int64_t rows = values.size(0), columns = values.size(1);
  Tensor padded = at::zeros({rows, (columns + 1) / 2 * 2}, at::kByte);
  padded.narrow(1, 0, columns).copy_(values.add(8).to(at::kByte));
  Tensor pairs = padded.view({rows, -1, 2});
  return {.scheme = {.group_size = -1},
          .columns = columns,
          .codes = pairs.select(-1, 0).bitwise_or(pairs.select(-1, 1).bitwise_left_shift(4)),
          .scales = at::ones({rows, 1}, at::kBFloat16),
          .zeros = {}};
}

TEST(PackQuantized, WordsEqualCompressedTensors) {
  Golden golden("pack_int");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    const auto& params = one["params"];
    if (!golden.has(one, "values") || params["num_bits"] != 4) continue;
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor values = golden.tensor(one, "values"), packed = golden.tensor(one, "packed");
    if (params["packed_dim"] == 0) {  // zero points
      QuantWeight weight = from_values(at::zeros({values.size(0), values.size(1) * 2}, at::kChar));
      weight.scheme = {.group_size = 2, .symmetric = false};
      weight.scales = at::ones(values.sizes(), at::kBFloat16);
      weight.zeros = values.add(8).to(at::kByte);
      Tensors disk;
      for (auto& [name, x] : to_disk("m", weight, kCompressedTensors)) disk[name] = x;
      EXPECT_TRUE(same_bits(disk.at("m.weight_zero_point"), packed));
      QuantWeight back = from_disk("m", weight.scheme, kCompressedTensors, lookup_in(disk));
      EXPECT_TRUE(same_bits(back.zeros, weight.zeros));
    } else if (values.dim() == 2) {
      QuantWeight weight = from_values(values);
      Tensors disk;
      for (auto& [name, x] : to_disk("m", weight, kCompressedTensors)) disk[name] = x;
      EXPECT_TRUE(same_bits(disk.at("m.weight_packed"), packed));
      QuantWeight back = from_disk("m", weight.scheme, kCompressedTensors, lookup_in(disk));
      EXPECT_TRUE(same_bits(back.codes, weight.codes));
    }
    ++checked;
  }
  EXPECT_EQ(checked, 15);
}

TEST(PackQuantized, WholeModulesEqualCompressedTensors) {
  Golden golden("pack_int");
  int checked = 0;
  for (const auto& one : golden.cases()) {
    if (!golden.has(one, "weight_packed")) continue;
    SCOPED_TRACE(one["id"].get<std::string>());
    Tensor weight = golden.tensor(one, "weight");
    Scheme scheme{.group_size = one["params"].value("group_size", int64_t{-1}),
                  .symmetric = one["params"]["symmetric"],
                  .scale_dtype = weight.scalar_type()};
    QuantWeight got = round_to_nearest(weight, scheme);
    auto plan = planned("m", weight.size(0), weight.size(1), scheme, kCompressedTensors);
    Tensors disk;
    size_t i = 0;
    for (auto& [name, x] : to_disk("m", got, kCompressedTensors)) {
      EXPECT_TRUE(same_bits(x, golden.tensor(one, name.substr(2)))) << name;
      EXPECT_EQ(plan[i].name, name);
      EXPECT_EQ(plan[i].dtype, x.scalar_type());
      EXPECT_EQ(plan[i++].shape, x.sizes().vec());
      disk[name] = x;
    }
    QuantWeight back = from_disk("m", scheme, kCompressedTensors, lookup_in(disk));
    EXPECT_EQ(back.scheme, scheme);
    EXPECT_TRUE(same_bits(back.codes, got.codes));
    EXPECT_TRUE(
        at::equal(dequantize(back, weight.scalar_type()), golden.tensor(one, "decompressed")));
    ++checked;
  }
  EXPECT_EQ(checked, 17);
}

// The peer's packed tensors are read, equal their codes, and are written again with equal bits.
TEST(GptqLayout, EqualsAutoRound) {
  Golden golden("autoround_pack");
  std::map<std::string, JsonValue> inputs;
  int checked = 0;
  for (const auto& one : golden.cases()) {
    inputs[one["id"].get<std::string>()] = one;
    if (!golden.has(one, "qweight")) continue;
    std::string id = one["id"].get<std::string>();
    std::string backend = one["params"]["backend"].get<std::string>();
    if (backend != "auto_round:auto_gptq" && backend != "gptqmodel") continue;
    const JsonValue& input = inputs.at(one["params"]["input"].get<std::string>());
    int64_t columns = input["params"]["in"], group = input["params"]["group_size"];
    if (columns % group != 0) continue;  // quern refuses such groups
    SCOPED_TRACE(id);
    Scheme scheme{
        .group_size = group, .symmetric = input["params"]["symmetric"], .scale_dtype = at::kHalf};
    Format format = backend == "gptqmodel" ? kGptq : kAutoGptq;
    Tensors disk;
    for (const char* role : {"qweight", "qzeros", "scales", "g_idx"}) {
      if (golden.has(one, role)) disk[std::string("m.") + role] = golden.tensor(one, role);
    }
    // This class stores the zeros themselves; whole exports (the next test) store zero - 1.
    if (format == kGptq) disk["m.qzeros"] = disk["m.qzeros"].sub(0x11111111);
    QuantWeight weight = from_disk("m", scheme, format, lookup_in(disk));
    Tensor qdq = golden.tensor(input, "qdq");
    EXPECT_TRUE(at::equal(dequantize(weight, qdq.scalar_type()), qdq));
    EXPECT_TRUE(same_bits(weight.scales, golden.tensor(input, "scale")));
    if (!scheme.symmetric) {
      EXPECT_TRUE(at::equal(weight.zeros.to(at::kInt), golden.tensor(input, "zp")));
    }
    auto written = to_disk("m", weight, format);
    EXPECT_EQ(written.size(), disk.size());
    for (auto& [name, x] : written) EXPECT_TRUE(same_bits(x, disk.at(name))) << name;
    ++checked;
  }
  EXPECT_GE(checked, 30);
}

// Whole tensors of real runs, read and written again.
TEST(RealRuns, SampleSurvivesReadingAndWriting) {
  Tensors sample = read_tensors(kTestData / "peers/rtn_sample.safetensors");
  int checked = 0;
  for (const auto& [name, x] : sample) {
    bool packed = name.ends_with(".weight_packed"), gptq = name.ends_with(".qweight");
    if (!packed && !gptq) continue;
    std::string module = name.substr(0, name.rfind('.'));
    Format format = packed                               ? kCompressedTensors
                    : sample.contains(module + ".g_idx") ? kGptq
                                                         : kAutoGptq;
    QuantWeight weight = from_disk(module, {}, format, lookup_in(sample));
    for (auto& [tensor, data] : to_disk(module, weight, format)) {
      EXPECT_TRUE(same_bits(data, sample.at(tensor))) << tensor;
    }
    ++checked;
  }
  EXPECT_GE(checked, 30);
}

class BrokenModule : public testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(1);
    weight_ = at::randn({16, 64}).to(at::kBFloat16);
    for (Format format : {kCompressedTensors, kGptq}) {
      scheme_.scale_dtype = format.scale_dtype(at::kBFloat16);
      for (auto& [name, x] : to_disk("m", round_to_nearest(weight_, scheme_), format)) {
        disk_[name] = x.clone();
      }
    }
  }

  std::string read(const Format& format) {
    return message_of([&] { from_disk("m", scheme_, format, lookup_in(disk_)); });
  }

  Tensor weight_;
  Scheme scheme_{.group_size = 32};
  Tensors disk_;
};

TEST_F(BrokenModule, IsRefusedWithTheNameOfTheTensor) {
  EXPECT_EQ(read(kCompressedTensors), "");
  EXPECT_EQ(read(kGptq), "");
  auto with = [this](const std::string& name, const Tensor& x, const Format& format) {
    Tensor before = disk_.at(name);
    disk_[name] = x;
    std::string message = read(format);
    disk_[name] = before;
    // The message names an existing tensor or, if two disagree, the module.
    std::string part = x.defined() ? "m" : name + " is missing";
    EXPECT_TRUE(message.starts_with(part)) << name << ": " << message;
    return message;
  };
  Tensor scale = disk_["m.weight_scale"].clone();
  scale[3][1] = std::numeric_limits<float>::infinity();
  EXPECT_NE(with("m.weight_scale", scale, kCompressedTensors).find("infinity"), std::string::npos);
  with("m.weight_scale", disk_["m.weight_scale"].to(at::kInt), kCompressedTensors);
  with("m.weight_scale", disk_["m.weight_scale"].narrow(1, 0, 1), kCompressedTensors);
  with("m.weight_shape", at::tensor({16, 80}, at::kLong), kCompressedTensors);
  with("m.weight_shape", Tensor(), kCompressedTensors);
  with("m.weight_packed", disk_["m.weight_packed"].to(at::kLong), kCompressedTensors);
  with("m.qweight", Tensor(), kGptq);
  with("m.qzeros", disk_["m.qzeros"].add(1), kGptq);
  std::string order = with("m.g_idx", disk_["m.g_idx"].flip(0), kGptq);
  EXPECT_NE(order.find("activation ordering"), std::string::npos);
  with("m.g_idx", Tensor(), kGptq);
}

TEST(Planned, RefusesWhatTheFormatCannotHold) {
  Scheme scheme{.group_size = 32};
  EXPECT_NE(message_of([&] { planned("a.b", 8, 48, scheme, kCompressedTensors); }).find("a.b"),
            std::string::npos);
  EXPECT_NE(message_of([&] { planned("a.b", 1, 64, scheme, kAutoGptq); }).find("a.b"),
            std::string::npos);
  EXPECT_EQ(planned("a.b", 1, 64, scheme, kCompressedTensors).size(), 3u);
}

}  // namespace
}  // namespace quern::quant
