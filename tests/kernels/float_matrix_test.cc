// Products of fp32 matrices of every table against their definition, bit for bit, for every memory
// layout of the factors.
#include <algorithm>
#include <limits>

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

struct Size {
  int64_t rows, columns, inner;
};

// Tiles of 12 x 32, 6 x 16 and 4 x 16, squares of 16, and parts of 96 x 512 x 256: sizes equal to
// each, off by one, and smaller.
constexpr Size kSizes[] = {{1, 1, 1},      {12, 32, 16},   {13, 33, 17},  {11, 31, 15},
                           {6, 16, 256},   {5, 100, 257},  {97, 70, 31},  {96, 512, 16},
                           {100, 513, 20}, {64, 128, 64},  {3, 17, 600},  {7, 1, 300},
                           {1, 40, 5},     {25, 1030, 40}, {200, 20, 258}};

// x [rows, columns], or its transpose, in a wider matrix whose other elements are not numbers.
struct Placed {
  Placed(const std::vector<float>& x, int64_t rows, int64_t columns, bool transposed)
      : stride((transposed ? rows : columns) + 3),
        values((transposed ? columns : rows) * stride, std::numeric_limits<float>::quiet_NaN()),
        matrix{nullptr, stride, transposed} {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        values[transposed ? j * stride + i : i * stride + j] = x[i * columns + j];
    matrix.data = values.data();
  }

  int64_t stride;
  std::vector<float> values;
  FloatMatrix matrix;
};

// The definition; c [rows, columns] is added to.
void multiply(const Size& s, const std::vector<float>& a, const std::vector<float>& b,
              std::vector<float>& c) {
  for (int64_t i = 0; i < s.rows; ++i)
    for (int64_t j = 0; j < s.columns; ++j)
      for (int64_t k = 0; k < s.inner; ++k)
        c[i * s.columns + j] =
            std::fma(a[i * s.inner + k], b[k * s.columns + j], c[i * s.columns + j]);
}

class FloatMatrixTest : public ::testing::TestWithParam<Size> {};

TEST_P(FloatMatrixTest, EveryTableEqualsTheDefinitionHoweverTheFactorsLie) {
  const Size s = GetParam();
  const std::vector<float> a = normal_floats(s.rows * s.inner, 1),
                           b = normal_floats(s.inner * s.columns, 2),
                           before = normal_floats(s.rows * s.columns, 3);
  for (const bool accumulate : {false, true}) {
    std::vector<float> expected = before;
    if (!accumulate) std::ranges::fill(expected, 0.0f);
    multiply(s, a, b, expected);
    for (const bool turned_a : {false, true})
      for (const bool turned_b : {false, true})
        for (const CpuKernels* table : available_cpu_kernels()) {
          const Placed left(a, s.rows, s.inner, turned_a), right(b, s.inner, s.columns, turned_b);
          Guarded<float> scratch(kFloatScratch), c(s.rows * s.columns);
          std::ranges::copy(before, c.data());
          table->float_product({s.rows, s.columns, s.inner, left.matrix, right.matrix, c.data(),
                                s.columns, accumulate},
                               scratch.data());
          EXPECT_TRUE(scratch.guards_hold() && c.guards_hold()) << table->name;
          EXPECT_TRUE(std::equal(expected.begin(), expected.end(), c.data()))
              << table->name << turned_a << turned_b << accumulate;
        }
  }
}

INSTANTIATE_TEST_SUITE_P(, FloatMatrixTest, ::testing::ValuesIn(kSizes), [](const auto& info) {
  const Size& s = info.param;
  return std::to_string(s.rows) + "x" + std::to_string(s.columns) + "x" + std::to_string(s.inner);
});

TEST(FloatMatrix, AnElementDoesNotDependOnItsNeighbours) {
  constexpr int64_t kRows = 40, kColumns = 70, kInner = 600;
  const std::vector<float> a = normal_floats(kRows * kInner, 4),
                           b = normal_floats(kInner * kColumns, 5);
  std::vector<float> scratch(kFloatScratch), all(kRows * kColumns);
  for (const CpuKernels* table : available_cpu_kernels()) {
    table->float_product(
        {kRows, kColumns, kInner, {a.data(), kInner}, {b.data(), kColumns}, all.data(), kColumns},
        scratch.data());
    for (int64_t i = 0; i < kRows; i += 7) {
      std::vector<float> row(kColumns);
      table->float_product({1,
                            kColumns,
                            kInner,
                            {a.data() + i * kInner, kInner},
                            {b.data(), kColumns},
                            row.data(),
                            kColumns},
                           scratch.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), all.begin() + i * kColumns)) << table->name;
    }
    for (int64_t j = 0; j < kColumns; j += 9) {
      float element = 0;
      table->float_product(
          {1, 1, kInner, {a.data(), kInner}, {b.data() + j, kColumns}, &element, 1},
          scratch.data());
      EXPECT_EQ(element, all[j]) << table->name;
    }
  }
}

TEST(FloatMatrix, ASumOfNothingIsZeroOrWhatWasThere) {
  std::vector<float> scratch(kFloatScratch);
  for (const CpuKernels* table : available_cpu_kernels()) {
    std::vector<float> c(6, 2.0f);
    table->float_product({2, 3, 0, {nullptr, 0}, {nullptr, 3}, c.data(), 3, true}, scratch.data());
    EXPECT_EQ(c, std::vector<float>(6, 2.0f));
    table->float_product({2, 3, 0, {nullptr, 0}, {nullptr, 3}, c.data(), 3}, scratch.data());
    EXPECT_EQ(c, std::vector<float>(6, 0.0f));
  }
}

}  // namespace
}  // namespace quern::kernels
