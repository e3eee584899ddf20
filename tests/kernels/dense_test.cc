#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

struct DenseData {
  // The weight lies at an address that is only a multiple of its elements' size, as in a mapped
  // file.
  explicit DenseData(const DenseCase& c)
      : shape(c.shape),
        tokens(c.tokens),
        weight(shape.rows * shape.columns * float_bytes(shape.type), float_bytes(shape.type)),
        x(normal_floats(tokens * shape.columns, 7)) {
    const std::vector<uint8_t> bytes =
        floats_as(shape.type, normal_floats(shape.rows * shape.columns, 8));
    std::copy(bytes.begin(), bytes.end(), weight.data());
  }

  Guarded<float> product(const CpuKernels& kernels) const {
    Guarded<float> out(tokens * shape.rows);
    for (int64_t row = 0; row < shape.rows; row += 7)
      kernels.dense_product(shape, weight.data(), x.data(), tokens, row,
                            std::min<int64_t>(row + 7, shape.rows), out.data());
    EXPECT_TRUE(out.guards_hold());
    return out;
  }

  DenseShape shape;
  int64_t tokens;
  Guarded<uint8_t> weight;
  std::vector<float> x;
};

std::string name_of(const DenseCase& c) {
  return std::to_string(c.shape.rows) + "x" + std::to_string(c.shape.columns) + ", " +
         std::to_string(c.tokens) + " tokens";
}

TEST(Dense, ReferenceEqualsTheDefinitionInDouble) {
  for (const DenseCase& c : dense_cases()) {
    const DenseData data(c);
    const Guarded<float> out = data.product(*available_cpu_kernels().front());
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t row = 0; row < c.shape.rows; ++row) {
        double exact = 0, magnitude = 0;
        for (int64_t k = 0; k < c.shape.columns; ++k) {
          const double term =
              double{load_float(c.shape.type, data.weight.data(), row * c.shape.columns + k)} *
              data.x[t * c.shape.columns + k];
          exact += term;
          magnitude += std::abs(term);
        }
        EXPECT_NEAR(out[t * c.shape.rows + row], exact, 4e-6 * magnitude) << name_of(c);
      }
    }
  }
}

TEST(Dense, EveryInstructionSetGivesTheReferencesBits) {
  for (const DenseCase& c : dense_cases()) {
    const DenseData data(c);
    const Guarded<float> expected = data.product(*available_cpu_kernels().front());
    for (const CpuKernels* kernels : available_cpu_kernels())
      EXPECT_TRUE(data.product(*kernels).same_bits(expected)) << kernels->name << " " << name_of(c);
  }
}

TEST(Dense, ATokensResultDoesNotDependOnItsNeighbours) {
  for (const FloatType type : {FloatType::bf16, FloatType::fp32}) {
    const DenseData data({{13, 300, type}, 8});
    for (const CpuKernels* kernels : available_cpu_kernels()) {
      const Guarded<float> all = data.product(*kernels);
      for (int64_t t = 0; t < 8; ++t) {
        Guarded<float> alone(13);
        kernels->dense_product(data.shape, data.weight.data(), data.x.data() + t * 300, 1, 0, 13,
                               alone.data());
        EXPECT_EQ(std::memcmp(alone.data(), all.data() + t * 13, 13 * sizeof(float)), 0)
            << kernels->name;
      }
    }
  }
}

TEST(Dense, EveryHalfConvertsExactly) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (int64_t count : {65536, 65535, 15, 1, 0}) {
      Guarded<float> brain(count), half(count);
      kernels->floats_from_bf16(bits.data(), count, brain.data());
      kernels->floats_from_fp16(bits.data(), count, half.data());
      for (int64_t i = 0; i < count; ++i) {
        const float b = float_from_bf16(bits[i]), h = float_from_fp16(bits[i]);
        ASSERT_TRUE(brain[i] == b || (std::isnan(brain[i]) && std::isnan(b))) << i;
        ASSERT_TRUE(half[i] == h || (std::isnan(half[i]) && std::isnan(h))) << i;
      }
      EXPECT_TRUE(brain.guards_hold() && half.guards_hold());
    }
  }
}

}  // namespace
}  // namespace quern::kernels
