#include "kernels/int4.h"

#include <algorithm>

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

// A weight with scales of both signs, and activations whose outlier channels are `outlier` times as
// large.
struct Int4Data {
  explicit Int4Data(const Int4Case& c, float outlier = 30, uint32_t seed = 1)
      : shape(c.shape),
        tokens(c.tokens),
        codes(random_bytes(shape.rows * shape.columns / 2, seed)),
        scales(floats_as(shape.scale_type,
                         normal_floats(shape.rows * shape.groups(), seed + 1, 0.01f))),
        zeros(random_bytes(shape.rows * shape.groups(), seed + 2)),
        x(normal_floats(tokens * shape.columns, seed + 3)),
        arranged(static_cast<int64_t>(int4_bytes(shape))) {
    for (char& zero : zeros) zero &= 15;
    for (size_t i = 0; i < x.size(); i += 97) x[i] *= outlier;
    arrange_int4(shape, source(), arranged.data());
  }

  Int4Source source() const {
    return {bytes(codes), scales.data(), shape.symmetric ? nullptr : bytes(zeros)};
  }

  double weight(int64_t row, int64_t column) const {
    const uint8_t byte = bytes(codes)[(row * shape.columns + column) / 2];
    const int64_t group = row * shape.groups() + column / shape.group;
    const int zero = shape.symmetric ? 8 : bytes(zeros)[group];
    return double{load_float(shape.scale_type, scales.data(), group)} *
           ((column % 2 ? byte >> 4 : byte & 15) - zero);
  }

  Guarded<float> product(const CpuKernels& kernels) const {
    Guarded<uint8_t> memory(static_cast<int64_t>(int4_activation_bytes(shape, tokens)));
    const Int4Activations activations = int4_activations(shape, tokens, memory.data());
    // Tokens and rows in several calls, as threads take them.
    kernels.quantize_activations(shape, x.data(), tokens / 2, tokens, activations);
    kernels.quantize_activations(shape, x.data(), 0, tokens / 2, activations);
    EXPECT_TRUE(memory.guards_hold());
    Guarded<float> out(tokens * shape.rows);
    for (int64_t row = 0; row < shape.rows; row += 64)
      kernels.int4_product(shape, arranged.data(), activations, row,
                           std::min<int64_t>(row + 64, shape.rows), out.data());
    EXPECT_TRUE(out.guards_hold());
    return out;
  }

  Int4Shape shape;
  int64_t tokens;
  std::string codes;
  std::vector<uint8_t> scales;
  std::string zeros;
  std::vector<float> x;
  Guarded<uint8_t> arranged;

 private:
  static const uint8_t* bytes(const std::string& s) {
    return reinterpret_cast<const uint8_t*>(s.data());
  }
};

// The sum over k of weight times activation, and the largest change by rounding the activations to
// 16 bits.
struct Exact {
  double value = 0, bound = 0;
};

Exact exact_product(const Int4Data& data, int64_t token, int64_t row) {
  const int64_t columns = data.shape.columns, group = data.shape.group;
  const float* x = data.x.data() + token * columns;
  Exact exact;
  for (int64_t first = 0, last = 0; first < columns; first = last) {
    last = std::min({first + 128, first / group * group + group, columns});
    double largest = 0, weights = 0;
    for (int64_t k = first; k < last; ++k) {
      exact.value += data.weight(row, k) * x[k];
      largest = std::max(largest, std::abs(double{x[k]}));
      weights += std::abs(data.weight(row, k));
    }
    // Half a step, and a little for fp32.
    exact.bound += weights * largest * (0.5 / 32500 + 2e-6);
  }
  return exact;
}

TEST(Int4, ReferenceEqualsTheDefinitionInDouble) {
  for (const Int4Case& c : int4_cases()) {
    for (float outlier : {1.0f, 30.0f}) {
      const Int4Data data(c, outlier);
      EXPECT_TRUE(data.arranged.guards_hold());
      const Guarded<float> out = data.product(*available_cpu_kernels().front());
      double error = 0, norm = 0;
      for (int64_t t = 0; t < c.tokens; ++t) {
        for (int64_t row = 0; row < c.shape.rows; ++row) {
          const Exact exact = exact_product(data, t, row);
          const double difference = out[t * c.shape.rows + row] - exact.value;
          ASSERT_LE(std::abs(difference), exact.bound) << name_of(c) << " " << t << " " << row;
          error += difference * difference;
          norm += exact.value * exact.value;
        }
      }
      if (outlier == 1) {
        EXPECT_LT(std::sqrt(error / norm), 1e-4) << name_of(c);
      }
    }
  }
}

TEST(Int4, EveryInstructionSetGivesTheReferencesBits) {
  for (const Int4Case& c : int4_cases()) {
    const Int4Data data(c);
    const Guarded<float> expected = data.product(*available_cpu_kernels().front());
    for (const CpuKernels* kernels : available_cpu_kernels())
      EXPECT_TRUE(data.product(*kernels).same_bits(expected)) << kernels->name << " " << name_of(c);
  }
}

TEST(Int4, ATokensResultDoesNotDependOnItsNeighbours) {
  const Int4Case many = {{64, 512, 128, FloatType::bf16, true}, 110};
  const Int4Data data(many);
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    const Guarded<float> all = data.product(*kernels);
    for (int64_t count : {1, 2, 4, 5, 11, 12, 13, 30}) {
      Int4Data some(many);
      some.tokens = count;
      some.x.assign(data.x.begin() + 70 * 512, data.x.begin() + (70 + count) * 512);
      const Guarded<float> out = some.product(*kernels);
      EXPECT_EQ(std::memcmp(out.data(), all.data() + 70 * 64, count * 64 * sizeof(float)), 0)
          << kernels->name << " " << count;
    }
  }
}

TEST(Int4, ActivationsThatAreNotFiniteStayVisible) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      Int4Data data(Int4Case{{16, 128, 32, FloatType::bf16, true}, 3});
      data.x[128 + 40] = bad;
      const Guarded<float> out = data.product(*kernels);
      for (int64_t i = 0; i < 48; ++i)
        EXPECT_EQ(std::isnan(out[i]), i >= 16 && i < 32) << kernels->name << " " << bad;
    }
  }
}

TEST(Int4, ZerosAndTinyActivationsGiveZero) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    Int4Data data(Int4Case{{16, 64, 32, FloatType::fp16, false}, 2});
    for (size_t i = 0; i < data.x.size(); ++i) data.x[i] = i % 3 ? 1e-38f : 0;
    const Guarded<float> out = data.product(*kernels);
    for (int64_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], 0) << kernels->name;
  }
}

// The largest sums: every code 15, every zero 0, every activation at the end of its grid.
TEST(Int4, TheInnerSumCannotOverflow) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (const char* code : {"\xff", "\x00"}) {
      Int4Data data(Int4Case{{16, 128, 128, FloatType::fp32, false}, 2});
      data.codes.assign(data.codes.size(), code[0]);
      data.zeros.assign(data.zeros.size(), code[0] ? 0 : 15);
      data.scales = floats_as(FloatType::fp32, std::vector<float>(16, 1));
      data.x.assign(data.x.size(), -3);
      arrange_int4(data.shape, data.source(), data.arranged.data());
      const float expected = (code[0] ? 15.0f : -15.0f) * 128 * -3;
      const Guarded<float> out = data.product(*kernels);
      for (int64_t i = 0; i < 32; ++i) EXPECT_NEAR(out[i], expected, 0.01f) << kernels->name;
    }
  }
}

TEST(Int4, RefusalsNameTheLimit) {
  EXPECT_EQ(int4_refusal({16, 128, 32, FloatType::bf16, true}), "");
  EXPECT_EQ(int4_refusal({16, 128, 48, FloatType::bf16, true}),
            "groups of 48 columns are not a multiple of 32");
  EXPECT_EQ(int4_refusal({16, 160, 128, FloatType::bf16, true}),
            "160 columns do not divide into groups of 128");
  EXPECT_EQ(int4_refusal({16, 128, 0, FloatType::bf16, true}),
            "groups of 0 columns are not a multiple of 32");
  EXPECT_EQ(int4_refusal({0, 128, 128, FloatType::bf16, true}), "the matrix is empty");
}

}  // namespace
}  // namespace quern::kernels
