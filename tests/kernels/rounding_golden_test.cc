// The values and gradients of auto-round's own functions (tests/data/peers/autoround_qdq).
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

using nlohmann::json;

class Goldens {
 public:
  Goldens() {
    const std::string base = std::string(QUERN_SOURCE_DIR) + "/tests/data/peers/autoround_qdq";
    std::ifstream file(base + ".safetensors", std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    uint64_t size = 0;
    std::memcpy(&size, bytes_.data(), 8);
    header_ = json::parse(bytes_.substr(8, size));
    data_ = 8 + size;
    cases = json::parse(std::ifstream(base + ".json"))["cases"];
  }

  const uint8_t* bytes(const std::string& name) const {
    const uint64_t offset = header_.at(name).at("data_offsets").at(0);
    return reinterpret_cast<const uint8_t*>(bytes_.data()) + data_ + offset;
  }
  FloatType type(const std::string& name) const {
    const std::string dtype = header_.at(name).at("dtype");
    return dtype == "BF16" ? FloatType::bf16 : dtype == "F16" ? FloatType::fp16 : FloatType::fp32;
  }
  template <class T>
  std::vector<T> values(const std::string& name) const {
    const uint64_t begin = header_.at(name).at("data_offsets").at(0);
    const uint64_t end = header_.at(name).at("data_offsets").at(1);
    std::vector<T> out((end - begin) / sizeof(T));
    std::memcpy(out.data(), bytes(name), end - begin);
    return out;
  }

  json cases;

 private:
  std::string bytes_;
  json header_;
  size_t data_ = 0;
};

constexpr int64_t kRows = 12, kColumns = 256;

// The tuned V of the goldens is any float below one, so it becomes an integer of 31 bits.
constexpr float kDelta = 0x1p-31f;

struct GoldenCase {
  GoldenCase(const Goldens& goldens, const json& c)
      : id(c["id"]), input(c["params"]["input"]), tuned(goldens_has(c, "v")) {
    rounding.columns = kColumns;
    rounding.group = c["params"]["group_size"];
    rounding.weight_type = goldens.type(input);
    rounding.scale_type = goldens.type(id + ".scale");
    rounding.symmetric = !id.starts_with("int_asym");
    rounding.delta = kDelta;
    offsets.resize(kRows * kColumns);
    momentum.resize(kRows * kColumns);
    groups.resize(kRows * rounding.groups());
    state = {kRows, goldens.bytes(input), offsets.data(), groups.data(), momentum.data()};
    codes.resize(kRows * kColumns / 2);
    scales.resize(groups.size() * 4);
    zeros.resize(groups.size());
  }
  GoldenCase(const GoldenCase&) = delete;

  static bool goldens_has(const json& c, const char* role) { return c["tensors"].contains(role); }

  void start(const Goldens& goldens, const CpuKernels& kernels) {
    kernels.rounding_start(rounding, state);
    if (!tuned) return;
    const auto v = goldens.values<float>(id + ".v");
    const auto alpha = goldens.values<float>(id + ".min_scale");
    const auto beta = goldens.values<float>(id + ".max_scale");
    for (size_t i = 0; i < v.size(); ++i)
      offsets[i] = static_cast<int32_t>(std::llrint(double{v[i]} / kDelta));
    for (size_t g = 0; g < groups.size(); ++g) {
      groups[g].alpha = alpha[g];
      groups[g].beta = beta[g];
    }
  }

  std::string id, input;
  bool tuned;
  Rounding rounding;
  std::vector<int32_t> offsets;
  std::vector<float> momentum;
  std::vector<RoundingGroup> groups;
  RoundingRows state;
  std::vector<uint8_t> codes, scales, zeros;
};

// quern always computes in fp32. auto-round divides a 16-bit weight by a scale of the same type in
// that type, and computes an untuned asymmetric range in the type of the weights; the other cases
// are comparable.
bool comparable(const Goldens& goldens, const json& c) {
  const std::string id = c["id"];
  if (!c["params"].contains("input")) return false;
  const FloatType weight = goldens.type(c["params"]["input"]), scale = goldens.type(id + ".scale");
  if (weight == scale && weight != FloatType::fp32) return false;
  if (id.starts_with("int_asym_tuned") || id.starts_with("int_sym")) return true;
  return id.starts_with("rtn_") || (id.starts_with("int_asym") && weight == FloatType::fp32);
}

template <class Body>
void for_each_golden(Body body) {
  const Goldens goldens;
  int count = 0;
  for (const json& c : goldens.cases) {
    if (!comparable(goldens, c)) continue;
    GoldenCase golden(goldens, c);
    for (const CpuKernels* kernels : available_cpu_kernels()) {
      golden.start(goldens, *kernels);
      body(goldens, golden, *kernels);
      ++count;
    }
  }
  EXPECT_GE(count, 15);
}

TEST(RoundingGolden, ValuesScalesAndZerosAreExact) {
  for_each_golden([](const Goldens& goldens, GoldenCase& golden, const CpuKernels& kernels) {
    std::vector<float> w_hat(kRows * kColumns);
    kernels.rounding_forward(golden.rounding, golden.state, w_hat.data());
    kernels.rounding_codes(golden.rounding, golden.state,
                           {golden.codes.data(), golden.scales.data(), golden.zeros.data()});
    const uint8_t* expected = goldens.bytes(golden.id + ".qdq");
    const FloatType type = goldens.type(golden.id + ".qdq");
    int different = 0;
    for (int64_t i = 0; i < kRows * kColumns; ++i)
      different += round_to(type, w_hat[i]) != load_float(type, expected, i);
    EXPECT_EQ(different, 0) << golden.id;
    EXPECT_EQ(std::memcmp(golden.scales.data(), goldens.bytes(golden.id + ".scale"),
                          golden.groups.size() * float_bytes(golden.rounding.scale_type)),
              0)
        << golden.id;
    if (golden.rounding.symmetric) return;
    const auto zeros = goldens.values<int32_t>(golden.id + ".zp");
    for (size_t g = 0; g < zeros.size(); ++g) EXPECT_EQ(golden.zeros[g], zeros[g]) << golden.id;
  });
}

// Theirs passes through the types of the weight and of the scale, there in two parts, which may
// cancel.
void expect_gradients(const GoldenCase& golden, float RoundingGroup::* ours,
                      const std::vector<float>& theirs) {
  float largest = 0;
  for (float gradient : theirs) largest = std::max(largest, std::abs(gradient));
  const bool exact = golden.rounding.weight_type == FloatType::fp32 &&
                     golden.rounding.scale_type == FloatType::fp32;
  const double relative = exact ? 1e-5 : 0.01, absolute = (exact ? 1e-6 : 0.006) * largest;
  for (size_t g = 0; g < theirs.size(); ++g)
    EXPECT_NEAR(golden.groups[g].*ours, theirs[g], relative * std::abs(theirs[g]) + absolute)
        << golden.id << " group " << g;
}

TEST(RoundingGolden, GradientsEqualAutograd) {
  for_each_golden([](const Goldens& goldens, GoldenCase& golden, const CpuKernels& kernels) {
    if (!golden.tuned) return;
    const std::vector<int32_t> before = golden.offsets;
    const auto gradient = goldens.values<float>(golden.id + ".grad_out");
    std::vector<float> w_hat(kRows * kColumns);
    kernels.rounding_step(golden.rounding, {gradient.data(), nullptr, 1, 0.0f, 0.0f}, golden.state,
                          w_hat.data());
    const auto signs = goldens.values<int8_t>(golden.id + ".grad_v_sign");
    int different = 0;
    for (size_t i = 0; i < signs.size(); ++i)
      different += before[i] - golden.offsets[i] != signs[i];
    EXPECT_EQ(different, 0) << golden.id;
    expect_gradients(golden, &RoundingGroup::alpha_momentum,
                     goldens.values<float>(golden.id + ".grad_min_scale"));
    expect_gradients(golden, &RoundingGroup::beta_momentum,
                     goldens.values<float>(golden.id + ".grad_max_scale"));
  });
}

}  // namespace
}  // namespace quern::kernels
