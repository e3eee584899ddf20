// Every table against the reference, bit for bit, and the reference against the formulas in double
// precision.
#include "kernels/sequence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/kernels.h"

namespace quern::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class Numbers {
 public:
  float next(float scale) {  // roughly normal
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(random_.next() >> 40) * 0x1p-24f - 0.5f;
    return sum * scale;
  }
  std::vector<float> many(int64_t count, float scale) {
    std::vector<float> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(next(scale));
    return out;
  }

 private:
  NumpyRandom random_{17};
};

TEST(E4m3Test, RoundsToTheNearestOfAllCodes) {
  for (int code = 0; code < 256; ++code) {
    const float value = float_from_e4m3(static_cast<uint8_t>(code));
    if (std::isnan(value)) continue;
    EXPECT_EQ(e4m3_from_float(value), code) << value;
  }
  EXPECT_EQ(float_from_e4m3(0x7e), 448.0f);
  EXPECT_EQ(float_from_e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(float_from_e4m3(0x38), 1.0f);
  EXPECT_EQ(e4m3_from_float(1e9f), 0x7e);
  EXPECT_EQ(e4m3_from_float(-kInfinity), 0xfe);
  EXPECT_EQ(e4m3_from_float(std::nanf("")), 0x7f);
  Numbers numbers;
  for (int i = 0; i < 20000; ++i) {
    const float value = numbers.next(i % 3 ? 2.0f : i % 2 ? 0.02f : 600.0f);
    int best = 0;
    double least = 1e9;
    for (int code = 0; code < 127; ++code) {
      const double distance =
          std::abs(double{float_from_e4m3(static_cast<uint8_t>(code))} - std::abs(double{value}));
      if (distance < least || (distance == least && code % 2 == 0)) {
        least = distance;
        best = code;
      }
    }
    ASSERT_EQ(e4m3_from_float(value), best | (std::signbit(value) ? 0x80 : 0)) << value;
  }
}

struct AttentionCase {
  KvType type;
  int64_t width, rows, blocks;
};

// The partial sums of the rows over all blocks, [rows, width + 2].
std::vector<float> attend(const CpuKernels& kernels, const AttentionCase& c) {
  Numbers numbers;
  const KvBlock shape{c.type, c.width};
  const std::vector<float> q = numbers.many(c.rows * c.width, 0.3f);
  std::vector<float> weighted(static_cast<size_t>(c.rows * c.width), 0.0f),
      largest(static_cast<size_t>(c.rows), -kInfinity), sum(static_cast<size_t>(c.rows), 0.0f);
  for (int64_t b = 0; b < c.blocks; ++b) {
    std::vector<uint8_t> block(static_cast<size_t>(shape.bytes()));
    for (int64_t i = 0; i < 2 * c.width * KvBlock::kTokens; ++i)
      store_kv(c.type, block.data(), i, numbers.next(1.0f));
    std::vector<int32_t> begin, end;
    for (int64_t r = 0; r < c.rows; ++r) {  // the first block from a window's edge, the last masked
      begin.push_back(b == 0 ? static_cast<int32_t>(r % 5) : 0);
      end.push_back(b + 1 == c.blocks ? static_cast<int32_t>((r * 7) % 17) : 16);
    }
    kernels.attend(shape, block.data(), begin.data(), end.data(),
                   {c.rows, q.data(), weighted.data(), largest.data(), sum.data()});
  }
  weighted.insert(weighted.end(), largest.begin(), largest.end());
  weighted.insert(weighted.end(), sum.begin(), sum.end());
  return weighted;
}

TEST(SequenceTest, AttentionOfAllTablesIsEqual) {
  for (KvType type : {KvType::fp32, KvType::bf16, KvType::fp16, KvType::fp8_e4m3})
    for (int64_t width : {16, 64, 80})
      for (int64_t rows : {1, 4, 7})
        for (const CpuKernels* table : available_cpu_kernels()) {
          const AttentionCase c{type, width, rows, 3};
          EXPECT_EQ(attend(*table, c), attend(*available_cpu_kernels().front(), c))
              << table->name << " type " << static_cast<int>(type) << " width " << width;
        }
}

TEST(SequenceTest, ARowDependsOnItselfAlone) {
  const CpuKernels& kernels = cpu_kernels();
  Numbers numbers;
  const KvBlock shape{KvType::bf16, 64};
  const auto q = numbers.many(7 * 64, 0.3f);
  std::vector<uint8_t> block(static_cast<size_t>(shape.bytes()));
  for (int64_t i = 0; i < 2 * 64 * 16; ++i) store_kv(shape.type, block.data(), i, numbers.next(1));
  const std::vector<int32_t> begin(7, 0), end(7, 16);
  auto run = [&](int64_t first, int64_t rows) {
    std::vector<float> weighted(static_cast<size_t>(rows) * 64, 0.0f), sum(7, 0.0f),
        largest(7, -kInfinity);
    kernels.attend(shape, block.data(), begin.data(), end.data(),
                   {rows, q.data() + first * 64, weighted.data(), largest.data(), sum.data()});
    return weighted;
  };
  const auto all = run(0, 7);
  for (int64_t row = 0; row < 7; ++row)
    EXPECT_EQ(run(row, 1), std::vector<float>(all.begin() + row * 64, all.begin() + row * 64 + 64));
}

TEST(SequenceTest, AttentionIsSoftmax) {
  Numbers numbers;
  const KvBlock shape{KvType::fp32, 32};
  const auto q = numbers.many(32, 2.0f), kv = numbers.many(2 * 32 * 16, 2.0f);
  std::vector<float> weighted(32, 0.0f);
  float largest = -kInfinity, sum = 0;
  const int32_t begin = 3, end = 14;
  cpu_kernels().attend(shape, reinterpret_cast<const uint8_t*>(kv.data()), &begin, &end,
                       {1, q.data(), weighted.data(), &largest, &sum});
  std::vector<double> expected(32, 0.0);
  double total = 0;
  for (int token = begin; token < end; ++token) {
    double score = 0;
    for (int w = 0; w < 32; ++w) score += double{q[w]} * kv[w * 16 + token];
    const double p = std::exp(score);
    total += p;
    for (int w = 0; w < 32; ++w) expected[w] += p * kv[512 + token * 32 + w];
  }
  for (int w = 0; w < 32; ++w) EXPECT_NEAR(weighted[w] / sum, expected[w] / total, 2e-6);
}

struct DeltaCase {
  int64_t tokens, key_width, value_width;
};

std::vector<float> run_delta(const CpuKernels& kernels, const DeltaCase& c, int64_t cut) {
  Numbers numbers;
  const auto q = numbers.many(c.tokens * c.key_width, 0.2f),
             k = numbers.many(c.tokens * c.key_width, 0.2f),
             v = numbers.many(c.tokens * c.value_width, 1.0f), gates = numbers.many(c.tokens, 0.3f);
  std::vector<float> factor, beta;
  for (float g : gates) {
    factor.push_back(std::exp(-std::abs(g)));
    beta.push_back(0.5f + g / 2);
  }
  std::vector<float> state(static_cast<size_t>(c.key_width * c.value_width), 0.1f),
      out(static_cast<size_t>(c.tokens * c.value_width));
  for (int64_t t = 0; t < c.tokens; t += cut) {
    kernels.delta_rule({std::min(cut, c.tokens - t), c.key_width, c.value_width,
                        q.data() + t * c.key_width, k.data() + t * c.key_width,
                        v.data() + t * c.value_width, factor.data() + t, beta.data() + t,
                        c.value_width, 1, state.data(), out.data() + t * c.value_width,
                        c.value_width});
  }
  out.insert(out.end(), state.begin(), state.end());
  return out;
}

TEST(SequenceTest, DeltaRuleOfAllTablesAndCutsIsEqual) {
  for (const DeltaCase& c : {DeltaCase{9, 16, 16}, {5, 64, 64}, {7, 48, 144}}) {
    const auto expected = run_delta(*available_cpu_kernels().front(), c, c.tokens);
    for (const CpuKernels* table : available_cpu_kernels())
      for (int64_t cut : {int64_t{1}, int64_t{4}, c.tokens})
        EXPECT_EQ(run_delta(*table, c, cut), expected) << table->name << " cut " << cut;
  }
}

std::vector<float> run_convolution(const CpuKernels& kernels, int64_t tokens, int64_t cut) {
  constexpr int64_t kChannels = 48, kTaps = 4;
  Numbers numbers;
  // Three inputs from before, then the tokens.
  const auto x = numbers.many((tokens + 3) * kChannels, 2.0f),
             weight = numbers.many(kChannels * kTaps, 1.0f);
  std::vector<float> out(static_cast<size_t>(tokens * kChannels));
  for (int64_t t = 0; t < tokens; t += cut)
    kernels.convolve({std::min(cut, tokens - t), kChannels, kTaps, x.data() + (t + 3) * kChannels,
                      kChannels, x.data() + t * kChannels, kChannels, weight.data(),
                      out.data() + t * kChannels, kChannels});
  // The formula, once.
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < kChannels; ++c) {
      double sum = 0;
      for (int64_t tap = 0; tap < kTaps; ++tap)
        sum += double{x[(t + tap) * kChannels + c]} * weight[c * kTaps + tap];
      EXPECT_NEAR(out[t * kChannels + c], sum / (1 + std::exp(-sum)), 2e-6);
    }
  return out;
}

TEST(SequenceTest, ConvolutionOfAllTablesAndCutsIsEqual) {
  const auto expected = run_convolution(*available_cpu_kernels().front(), 11, 11);
  for (const CpuKernels* table : available_cpu_kernels())
    for (int64_t cut : {1, 2, 11}) EXPECT_EQ(run_convolution(*table, 11, cut), expected);
}

TEST(SequenceTest, UnitRowsOfAllTablesAreEqual) {
  Numbers numbers;
  const auto x = numbers.many(5 * 70, 3.0f);
  auto run = [&](const CpuKernels& kernels) {
    std::vector<float> out(5 * 64);
    kernels.unit_rows(x.data(), 5, 70, 64, 1e-6f, 0.5f, out.data());
    return out;
  };
  const auto expected = run(*available_cpu_kernels().front());
  double squares = 0;
  for (int i = 0; i < 64; ++i) squares += double{expected[i]} * expected[i];
  EXPECT_NEAR(squares, 0.25, 1e-6);
  for (const CpuKernels* table : available_cpu_kernels()) EXPECT_EQ(run(*table), expected);
}

}  // namespace
}  // namespace quern::kernels
