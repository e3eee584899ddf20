#include "kernels/rows.h"

#include <limits>

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

constexpr FloatType kTypes[] = {FloatType::bf16, FloatType::fp16, FloatType::fp32};

// Widths around every vector's, and a row.
constexpr int64_t kWidths[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000};

const RowKernels& reference() { return available_cpu_kernels().front()->rows; }

std::vector<IntegerGrid> grids() {
  std::vector<IntegerGrid> all;
  for (const FloatType type : kTypes)
    for (const bool first : {false, true})
      for (const int middle : {8, 128})
        for (const int zero : {middle, 0, middle - 3})
          all.push_back({.scale = 0.3f / static_cast<float>(middle),
                         .zero = zero,
                         .middle = middle,
                         .add_zero_first = first,
                         .quotient_type = type});
  return all;
}

std::vector<uint8_t> encoded(const RowKernels& rows, const IntegerGrid& grid,
                             const std::vector<float>& x) {
  Guarded<uint8_t> codes(std::ssize(x));
  rows.encode(grid, x.data(), std::ssize(x), codes.data());
  EXPECT_TRUE(codes.guards_hold());
  return {codes.data(), codes.data() + codes.count()};
}

// The definition in IntegerGrid's words, with std::nearbyint.
uint8_t code_of(const IntegerGrid& grid, float x) {
  const auto rounded = [&](float value) { return round_to(grid.quotient_type, value); };
  const auto middle = static_cast<float>(grid.middle), zero = static_cast<float>(grid.zero);
  const float quotient = rounded(x / grid.scale);
  const float code =
      grid.add_zero_first
          ? std::nearbyint(std::clamp(rounded(quotient + (zero - middle)), -middle, middle - 1)) +
                middle
          : std::clamp(std::nearbyint(quotient) + zero, 0.0f, 2 * middle - 1);
  return static_cast<uint8_t>(code);
}

TEST(Rows, CodesEqualTheDefinition) {
  std::vector<float> x = normal_floats(3000, 3);
  for (int i = -40; i <= 40; ++i) x.push_back(static_cast<float>(i) * 0.5f * 0.3f / 8);  // ties
  x.insert(x.end(), {0.0f, -0.0f, 30.0f, -30.0f});
  for (const IntegerGrid& grid : grids()) {
    const std::vector<uint8_t> codes = encoded(reference(), grid, x);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(codes[i], code_of(grid, x[i])) << x[i];
  }
}

TEST(Rows, EveryInstructionSetGivesTheReferencesBits) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (const int64_t width : kWidths) {
      SCOPED_TRACE(std::string(kernels->name) + ", " + std::to_string(width));
      const RowKernels& rows = kernels->rows;
      const std::vector<float> x = normal_floats(width, 1), y = normal_floats(width, 2);
      for (const IntegerGrid& grid : grids())
        EXPECT_EQ(encoded(rows, grid, x), encoded(reference(), grid, x));
      const Range range = rows.range(x.data(), width),
                  expected = reference().range(x.data(), width);
      EXPECT_EQ(range.low, expected.low);
      EXPECT_EQ(range.high, expected.high);
      const SquareSums sums = rows.square_sums(x.data(), y.data(), width),
                       same = reference().square_sums(x.data(), y.data(), width);
      EXPECT_EQ(sums.first, same.first);
      EXPECT_EQ(sums.difference, same.difference);
      for (const FloatType type : kTypes) {
        Guarded<uint8_t> out(width * float_bytes(type)), wanted(width * float_bytes(type));
        rows.narrow(type, x.data(), width, out.data());
        reference().narrow(type, x.data(), width, wanted.data());
        EXPECT_TRUE(out.guards_hold() && out.same_bits(wanted));
      }
      const std::vector<uint8_t> codes = encoded(reference(), {.scale = 0.04f}, x);
      Guarded<float> numbers(width), wanted(width);
      rows.decode(codes.data(), width, -0.04f, 3, numbers.data());
      reference().decode(codes.data(), width, -0.04f, 3, wanted.data());
      EXPECT_TRUE(numbers.guards_hold() && numbers.same_bits(wanted));
    }
  }
}

TEST(Rows, NibblesComeBack) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (const int64_t width : kWidths) {
      std::vector<uint8_t> codes;
      for (int64_t i = 0; i < width; ++i) codes.push_back(static_cast<uint8_t>((7 * i + 3) % 16));
      Guarded<uint8_t> bytes((width + 1) / 2), back(width);
      kernels->rows.pack_nibbles(codes.data(), width, bytes.data());
      EXPECT_EQ(bytes[0], codes[0] | (width > 1 ? codes[1] << 4 : 0));
      EXPECT_EQ(width % 2 == 0 ? 0 : bytes[width / 2] >> 4, 0);
      kernels->rows.unpack_nibbles(bytes.data(), width, back.data());
      EXPECT_EQ(std::vector<uint8_t>(back.data(), back.data() + width), codes);
      EXPECT_TRUE(bytes.guards_hold() && back.guards_hold());
    }
  }
}

TEST(Rows, FindsWhatIsNotFinite) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (const int64_t width : kWidths) {
      std::vector<float> x = normal_floats(width, 1);
      x[0] = std::numeric_limits<float>::max();
      EXPECT_TRUE(kernels->rows.all_finite(x.data(), width)) << kernels->name;
      for (const float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
        for (const int64_t place : {int64_t{0}, width / 2, width - 1}) {
          const float good = std::exchange(x[place], bad);
          EXPECT_FALSE(kernels->rows.all_finite(x.data(), width)) << kernels->name << ", " << place;
          x[place] = good;
        }
      }
    }
  }
}

TEST(Rows, RangeHoldsZero) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    const float above[] = {3, 1, 2}, below[] = {-3, -1, -2}, both[] = {-0.0f, 0.0f, 0.0f};
    EXPECT_EQ(kernels->rows.range(above, 3).low, 0);
    EXPECT_EQ(kernels->rows.range(above, 3).high, 3);
    EXPECT_EQ(kernels->rows.range(below, 3).low, -3);
    EXPECT_EQ(kernels->rows.range(below, 3).high, 0);
    EXPECT_EQ(kernels->rows.range(both, 3).high, 0);
  }
}

}  // namespace
}  // namespace quern::kernels
