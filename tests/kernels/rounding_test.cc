#include "kernels/rounding.h"

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

// Weights with difficult groups: all zero, a tie of both extremes, one value, tiny values.
std::vector<float> hard_weights(int64_t count, int64_t group) {
  std::vector<float> w = normal_floats(count, 3, 0.05f);
  const auto fill = [&](int64_t index, float value) {
    if ((index + 1) * group > count) return;
    for (int64_t k = index * group; k < (index + 1) * group; ++k) w[k] = value;
  };
  fill(0, 0);
  if (count > group) {
    w[group] = 0.5f;
    w[group + 1] = -0.5f;
  }
  fill(2, 0);
  if (count > 2 * group) w[2 * group + 3] = -0.25f;
  for (int64_t k = 3 * group; k < std::min(4 * group, count); ++k) w[k] *= 1e-5f;
  for (int64_t k = 4 * group; k < std::min(5 * group, count); ++k) w[k] = std::abs(w[k]);
  return w;
}

// A matrix that is being tuned, with all of its memory guarded.
struct Tuned {
  Tuned(const CpuKernels& kernels, const RoundingCase& c)
      : kernels(&kernels),
        rounding(c.rounding),
        weight(floats_as(rounding.weight_type,
                         hard_weights(c.rows * rounding.columns, rounding.group))),
        offsets(c.rows * rounding.columns * (narrow() ? 2 : 4)),
        groups(c.rows * rounding.groups()),
        momentum(c.rows * rounding.columns),
        w_hat(c.rows * rounding.columns),
        codes(c.rows * rounding.columns / 2),
        scales(c.rows * rounding.groups() * float_bytes(rounding.scale_type)),
        zeros(c.rows * rounding.groups()),
        state{c.rows, weight.data(), offsets.data(), groups.data(),
              c.momentum ? momentum.data() : nullptr},
        out{codes.data(), scales.data(), rounding.symmetric ? nullptr : zeros.data()} {
    kernels.rounding_start(rounding, state);
    kernels.rounding_forward(rounding, state, w_hat.data());
    kernels.rounding_codes(rounding, state, out);
  }
  Tuned(const Tuned&) = delete;

  void step(const std::vector<float>& gradient, int32_t steps_left, bool best) {
    kernels->rounding_step(rounding,
                           {.gradient = gradient.data(),
                            .best = best ? &out : nullptr,
                            .steps_left = steps_left,
                            .minmax_step = 0.005f * static_cast<float>(steps_left) / 200,
                            .momentum = 0.9f},
                           state, w_hat.data());
  }

  int64_t weights() const { return w_hat.count(); }

  // 30 steps; every third one was the best so far.
  void tune() {
    for (int t = 0; t < 30; ++t) step(normal_floats(weights(), 100 + t), 200 - t, t % 3 == 0);
  }

  bool guards_hold() const {
    return offsets.guards_hold() && groups.guards_hold() && momentum.guards_hold() &&
           w_hat.guards_hold() && codes.guards_hold() && scales.guards_hold() &&
           zeros.guards_hold();
  }
  bool same_bits(const Tuned& other) const {
    return offsets.same_bits(other.offsets) && groups.same_bits(other.groups) &&
           momentum.same_bits(other.momentum) && w_hat.same_bits(other.w_hat) &&
           codes.same_bits(other.codes) && scales.same_bits(other.scales) &&
           zeros.same_bits(other.zeros);
  }

  bool narrow() const { return rounding.offset_type == OffsetType::int16; }
  int32_t offset(int64_t i) const {
    return narrow() ? reinterpret_cast<const int16_t*>(offsets.data())[i]
                    : reinterpret_cast<const int32_t*>(offsets.data())[i];
  }
  float w(int64_t i) const { return load_float(rounding.weight_type, weight.data(), i); }
  float scale(int64_t g) const { return load_float(rounding.scale_type, scales.data(), g); }
  int code(int64_t i) const { return i % 2 ? codes[i / 2] >> 4 : codes[i / 2] & 15; }
  int zero(int64_t g) const { return rounding.symmetric ? 8 : zeros[g]; }

  const CpuKernels* kernels;
  Rounding rounding;
  std::vector<uint8_t> weight;
  Guarded<uint8_t> offsets;
  Guarded<RoundingGroup> groups;
  Guarded<float> momentum, w_hat;
  Guarded<uint8_t> codes, scales, zeros;
  RoundingRows state;
  RoundingCodes out;
};

std::string name_of(const RoundingCase& c) {
  return "groups of " + std::to_string(c.rounding.group) +
         (c.rounding.symmetric ? " symmetric" : " asymmetric") + (c.momentum ? " momentum" : "");
}

const CpuKernels& reference() { return *available_cpu_kernels().front(); }

// Also in a single row, and if only the scale is too large.
TEST(Rounding, StartSaysWhetherAllIsFinite) {
  for (const CpuKernels* kernels : available_cpu_kernels()) {
    for (const FloatType type : {FloatType::bf16, FloatType::fp16, FloatType::fp32}) {
      const Rounding rounding{.columns = 96, .group = 48, .weight_type = type};
      const auto finite = [&](float number) {
        std::vector<float> weights(3 * 96, 0.25f);
        weights[2 * 96 + 77] = number;
        const std::vector<uint8_t> stored = floats_as(type, weights);
        std::vector<int32_t> offsets(weights.size());
        std::vector<RoundingGroup> groups(6);
        return kernels->rounding_start(rounding,
                                       {3, stored.data(), offsets.data(), groups.data(), nullptr});
      };
      EXPECT_TRUE(finite(-3.0f)) << kernels->name;
      EXPECT_FALSE(finite(NAN)) << kernels->name;
      EXPECT_FALSE(finite(INFINITY)) << kernels->name;
      EXPECT_FALSE(finite(-INFINITY)) << kernels->name;
      if (type != FloatType::fp16) EXPECT_FALSE(finite(1e6f)) << kernels->name;  // s in fp16
    }
  }
}

TEST(Rounding, RefusesGroupsThatAreNotWholeVectors) {
  for (const auto& [columns, group] :
       std::vector<std::pair<int64_t, int64_t>>{{192, 8}, {192, 24}, {40, 40}, {0, 0}, {192, 128}})
    EXPECT_NE(rounding_refusal({.columns = columns, .group = group}), "") << group;
  for (const auto& [columns, group] :
       std::vector<std::pair<int64_t, int64_t>>{{192, 16}, {192, 48}, {48, 48}})
    EXPECT_EQ(rounding_refusal({.columns = columns, .group = group}), "") << group;
}

TEST(Rounding, EveryInstructionSetGivesTheReferencesBits) {
  for (const RoundingCase& c : rounding_cases()) {
    Tuned expected(reference(), c);
    expected.tune();
    for (const CpuKernels* kernels : available_cpu_kernels()) {
      Tuned tuned(*kernels, c);
      tuned.tune();
      EXPECT_TRUE(tuned.same_bits(expected)) << kernels->name << " " << name_of(c);
      EXPECT_TRUE(tuned.guards_hold()) << kernels->name << " " << name_of(c);
    }
  }
}

TEST(Rounding, CodesDequantizeToTheTunedWeight) {
  for (const RoundingCase& c : rounding_cases()) {
    Tuned tuned(reference(), c);
    tuned.tune();
    reference().rounding_codes(tuned.rounding, tuned.state, tuned.out);
    for (int64_t i = 0; i < tuned.weights(); ++i) {
      const int64_t g = i / tuned.rounding.group;
      ASSERT_EQ(tuned.w_hat[i], tuned.scale(g) * float(tuned.code(i) - tuned.zero(g)))
          << name_of(c) << " " << i;
    }
  }
}

TEST(Rounding, TheBestStateIsKeptAsItWasBeforeTheStep) {
  for (const RoundingCase& c : rounding_cases()) {
    Tuned tuned(reference(), c), before(reference(), c);
    for (Tuned* each : {&tuned, &before}) each->step(normal_floats(tuned.weights(), 5), 200, false);
    reference().rounding_codes(before.rounding, before.state, before.out);
    tuned.step(normal_floats(tuned.weights(), 6), 199, true);
    EXPECT_TRUE(tuned.codes.same_bits(before.codes)) << name_of(c);
    EXPECT_TRUE(tuned.scales.same_bits(before.scales)) << name_of(c);
    EXPECT_FALSE(tuned.offsets.same_bits(before.offsets)) << name_of(c);
  }
}

// One group in double, with every rounding replaced by adding the rounding's change at `at`: the
// straight-through estimate is the gradient of this function.
class Surrogate {
 public:
  Surrogate(const Tuned& tuned, int64_t group, const RoundingGroup& at)
      : tuned_(tuned), first_(group * tuned.rounding.group), at_(at) {
    const double exact = raw_scale(at.alpha, at.beta);
    scale_shift_ = tuned.scale(group) - exact;
    const double scale = tuned.scale(group);
    if (!tuned.rounding.symmetric) zero_shift_ = tuned.zero(group) + at.low * at.alpha / scale;
  }

  // The offsets of the state that the codes were made from.
  double shifted(int64_t k, double scale) const { return tuned_.w(first_ + k) / scale + offset(k); }

  double loss(const std::vector<float>& gradient, double alpha, double beta) const {
    const double scale0 = raw_scale(at_.alpha, at_.beta) + scale_shift_;
    const double scale = raw_scale(alpha, beta) + scale_shift_;
    const bool symmetric = tuned_.rounding.symmetric;
    const double zero = symmetric ? 0 : -at_.low * alpha / scale + zero_shift_;
    const double lowest = symmetric ? -8 : 0, highest = symmetric ? 7 : 15;
    double sum = 0;
    for (int64_t k = 0; k < tuned_.rounding.group; ++k) {
      const double shift =
          std::nearbyint(static_cast<float>(shifted(k, scale0))) - shifted(k, scale0);
      const double zero0 = symmetric ? 0 : std::nearbyint(zero);
      const double q0 = shifted(k, scale0) + shift + zero0;
      double q = shifted(k, scale) + shift + zero;
      if (q0 < lowest) q = lowest;
      if (q0 > highest) q = highest;
      sum += gradient[first_ + k] * scale * (q - zero);
    }
    return sum;
  }

 private:
  double offset(int64_t k) const {
    return static_cast<double>(tuned_.offset(first_ + k)) * tuned_.rounding.delta;
  }
  double raw_scale(double alpha, double beta) const {
    const double a = -at_.low * alpha, b = at_.high * beta;
    if (!tuned_.rounding.symmetric) return (a + b) / 15;
    const bool positive = at_.high * at_.beta < -at_.low * at_.alpha;
    return (positive ? a : -b) / 8;
  }

  const Tuned& tuned_;
  int64_t first_;
  RoundingGroup at_;
  double scale_shift_, zero_shift_ = 0;
};

// Momentum 0 leaves the gradient itself in the buffers.
TEST(Rounding, GradientsEqualFiniteDifferences) {
  for (RoundingCase c : rounding_cases()) {
    c.momentum = true;
    Tuned tuned(reference(), c);
    for (int t = 0; t < 20; ++t) tuned.step(normal_floats(tuned.weights(), 40 + t), 200 - t, false);
    reference().rounding_codes(tuned.rounding, tuned.state, tuned.out);
    std::vector<RoundingGroup> groups(tuned.groups.data(),
                                      tuned.groups.data() + tuned.groups.count());
    std::vector<Surrogate> surrogates;
    for (size_t g = 0; g < groups.size(); ++g)
      surrogates.emplace_back(tuned, static_cast<int64_t>(g), groups[g]);
    const std::vector<float> gradient = normal_floats(tuned.weights(), 9);
    const double h = 1e-7;
    std::vector<double> alpha(groups.size()), beta(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      const auto loss = [&](double da, double db) {
        return surrogates[g].loss(gradient, groups[g].alpha + da, groups[g].beta + db);
      };
      alpha[g] = (loss(h, 0) - loss(-h, 0)) / (2 * h);
      beta[g] = (loss(0, h) - loss(0, -h)) / (2 * h);
    }
    tuned.kernels->rounding_step(tuned.rounding, {gradient.data(), nullptr, 1, 0.0f, 0.0f},
                                 tuned.state, tuned.w_hat.data());
    int compared = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      const RoundingGroup& at = groups[g];
      const bool inside = at.alpha <= 1 && at.beta <= 1 && at.alpha >= 0 && at.beta >= 0;
      const bool tie = tuned.rounding.symmetric && -at.low * at.alpha == at.high * at.beta;
      if (!inside || tie || std::abs(tuned.scale(static_cast<int64_t>(g))) <= 1.01e-5f) continue;
      ++compared;
      const double size = std::abs(alpha[g]) + std::abs(beta[g]);
      EXPECT_NEAR(tuned.groups[g].alpha_momentum, alpha[g], 1e-3 * size + 1e-6) << name_of(c) << g;
      EXPECT_NEAR(tuned.groups[g].beta_momentum, beta[g], 1e-3 * size + 1e-6) << name_of(c) << g;
    }
    EXPECT_GT(compared, 0) << name_of(c);
  }
}

TEST(Rounding, OffsetsStepAgainstTheSignOfTheirGradient) {
  ASSERT_EQ(offset_type(200), OffsetType::int16);
  for (bool symmetric : {true, false}) {
    const RoundingCase c = {
        1,
        {64, 64, FloatType::fp32, FloatType::fp32, OffsetType::int16, symmetric, 1.0f / 40000},
        false};
    Tuned tuned(reference(), c);
    const float sign = tuned.scale(0) < 0 ? -1.0f : 1.0f;
    std::vector<float> gradient(64);
    for (int k = 0; k < 64; ++k) gradient[k] = static_cast<float>(k % 3 - 1) * 1e-20f;
    for (int t = 0; t < 200; ++t) {
      tuned.kernels->rounding_step(tuned.rounding, {gradient.data(), nullptr, 200 - t, 0.0f, 0.0f},
                                   tuned.state, tuned.w_hat.data());
    }
    // A column whose code was not clamped moves by 200 + 199 + ... + 1.
    int moved = 0;
    for (int k = 0; k < 64; ++k) {
      const int32_t expected = static_cast<int32_t>(-sign * static_cast<float>(k % 3 - 1) * 20100);
      if (gradient[k] == 0) {
        EXPECT_EQ(tuned.offset(k), 0);
      } else if (tuned.offset(k) == expected) {
        ++moved;
      } else {
        EXPECT_TRUE(tuned.code(k) == 0 || tuned.code(k) == 15) << k;
      }
    }
    EXPECT_GT(moved, 20);
  }
}

TEST(Rounding, OffsetsAreNarrowAsLongAsAllStepsFit) {
  EXPECT_EQ(offset_type(255), OffsetType::int16);  // 32,640
  EXPECT_EQ(offset_type(256), OffsetType::int32);  // 32,896
}

TEST(Rounding, NarrowAndWideOffsetsGiveTheSameCodes) {
  for (const RoundingCase& c : rounding_cases()) {
    RoundingCase narrow = c, wide = c;
    narrow.rounding.offset_type = OffsetType::int16;
    wide.rounding.offset_type = OffsetType::int32;
    Tuned a(reference(), narrow), b(reference(), wide);
    a.tune();
    b.tune();
    EXPECT_TRUE(a.codes.same_bits(b.codes) && a.w_hat.same_bits(b.w_hat)) << name_of(c);
    for (int64_t i = 0; i < a.weights(); ++i) ASSERT_EQ(a.offset(i), b.offset(i)) << name_of(c);
  }
}

TEST(Rounding, NoGradientMeansNoStep) {
  for (const RoundingCase& c : rounding_cases()) {
    Tuned tuned(reference(), c), untouched(reference(), c);
    tuned.step(std::vector<float>(tuned.weights()), 200, false);
    EXPECT_TRUE(tuned.offsets.same_bits(untouched.offsets)) << name_of(c);
    EXPECT_TRUE(tuned.w_hat.same_bits(untouched.w_hat)) << name_of(c);
    for (int64_t g = 0; g < tuned.groups.count(); ++g) {
      EXPECT_EQ(tuned.groups[g].alpha, 1);
      EXPECT_EQ(tuned.groups[g].beta, 1);
    }
  }
}

}  // namespace
}  // namespace quern::kernels
