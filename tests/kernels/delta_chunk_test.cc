// A chunk of the gated delta rule against its recurrence in double precision, its gradient against
// differences of that recurrence, and every table against the reference, bit for bit.
#include <algorithm>

#include "tests/kernels/cases.h"

namespace quern::kernels {
namespace {

struct Size {
  int64_t tokens, key_width, value_width;
};
constexpr Size kSizes[] = {{1, 16, 16},  {2, 16, 32},  {15, 32, 16}, {16, 16, 16},
                           {17, 48, 80}, {63, 16, 16}, {64, 32, 64}, {64, 128, 128}};

constexpr int64_t kTokens = DeltaChunk::kTokens;

// All inputs of a chunk. `decay` is the mean of -g.
struct Chunk {
  Size size;
  std::vector<float> kq, v, decay, beta, state, kk, qk;

  Chunk(const Size& s, float mean_decay)
      : size(s),
        kq(normal_floats(2 * s.tokens * s.key_width, 1, 1 / std::sqrt(float(s.key_width)))),
        v(normal_floats(s.tokens * s.value_width, 2)),
        decay(normal_floats(s.tokens, 3)),
        beta(normal_floats(s.tokens, 4)),
        state(normal_floats(s.key_width * s.value_width, 5)),
        kk(kTokens * kTokens, 0.0f),
        qk(kTokens * kTokens, 0.0f) {
    for (float& g : decay) g = -std::abs(g) * mean_decay;
    for (float& b : beta) b = 1 / (1 + std::exp(-b));
    const auto product = [&](int64_t i, int64_t j) {
      double sum = 0;
      for (int64_t n = 0; n < s.key_width; ++n)
        sum += double{kq[i * s.key_width + n]} * kq[j * s.key_width + n];
      return static_cast<float>(sum);
    };
    for (int64_t i = 0; i < s.tokens; ++i)
      for (int64_t j = 0; j < s.tokens; ++j) {
        kk[i * kTokens + j] = product(i, j);
        qk[i * kTokens + j] = product(s.tokens + i, j);
      }
  }

  DeltaChunk view() const {
    return {size.tokens, size.key_width,   size.value_width, kq.data(),   kk.data(), qk.data(),
            v.data(),    size.value_width, decay.data(),     beta.data(), 1};
  }
};

struct Forward {
  std::vector<float> out, state;
};

Forward run(const CpuKernels& table, const Chunk& c) {
  const Size& s = c.size;
  Guarded<float> scratch(delta_chunk_scratch(s.key_width, s.value_width)),
      out(s.tokens * s.value_width), state(s.key_width * s.value_width);
  std::ranges::copy(c.state, state.data());
  table.delta_chunk(c.view(), state.data(), out.data(), s.value_width, scratch.data());
  EXPECT_TRUE(scratch.guards_hold() && out.guards_hold() && state.guards_hold()) << table.name;
  return {{out.data(), out.data() + out.count()}, {state.data(), state.data() + state.count()}};
}

// The recurrence, token by token: sum of out * d_out and S' * d_state.
struct Exact {
  std::vector<double> kq, v, decay, beta, state;

  explicit Exact(const Chunk& c)
      : kq(c.kq.begin(), c.kq.end()),
        v(c.v.begin(), c.v.end()),
        decay(c.decay.begin(), c.decay.end()),
        beta(c.beta.begin(), c.beta.end()),
        state(c.state.begin(), c.state.end()) {}

  std::vector<double> run(const Size& size, std::vector<double>& s) const {
    const int64_t dk = size.key_width, dv = size.value_width;
    std::vector<double> out(size.tokens * dv, 0.0);
    s = state;
    for (int64_t t = 0; t < size.tokens; ++t)
      for (int64_t j = 0; j < dv; ++j) {
        double u = v[t * dv + j];
        for (int64_t i = 0; i < dk; ++i) {
          s[i * dv + j] *= std::exp(decay[t]);
          u -= s[i * dv + j] * kq[t * dk + i];
        }
        for (int64_t i = 0; i < dk; ++i) {
          s[i * dv + j] += beta[t] * u * kq[t * dk + i];
          out[t * dv + j] += s[i * dv + j] * kq[(size.tokens + t) * dk + i];
        }
      }
    return out;
  }

  double loss(const Size& size, const std::vector<float>& d_out,
              const std::vector<float>& d_state) const {
    std::vector<double> s;
    const std::vector<double> out = run(size, s);
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
    for (size_t i = 0; i < s.size(); ++i) sum += s[i] * d_state[i];
    return sum;
  }
};

TEST(DeltaChunkTest, EqualsTheRecurrenceInEveryTable) {
  for (const Size& s : kSizes)
    for (float decay : {0.0f, 0.1f, 2.0f, 80.0f}) {
      const Chunk c(s, decay);
      const Forward expected = run(*available_cpu_kernels().front(), c);
      for (const CpuKernels* table : available_cpu_kernels()) {
        const Forward got = run(*table, c);
        EXPECT_EQ(got.out, expected.out) << table->name << " " << s.tokens;
        EXPECT_EQ(got.state, expected.state) << table->name << " " << s.tokens;
      }
      std::vector<double> state;
      const std::vector<double> out = Exact(c).run(s, state);
      for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(expected.out[i], out[i], 2e-5) << i;
      for (size_t i = 0; i < state.size(); ++i) ASSERT_NEAR(expected.state[i], state[i], 2e-5) << i;
    }
}

struct Backward {
  std::vector<float> state, v, decay, beta, kq, kk, qk;

  // The gradient of kq, including the part through the products of keys and queries.
  std::vector<double> whole_kq(const Chunk& c) const {
    const int64_t n = c.size.tokens, width = c.size.key_width;
    std::vector<double> whole(kq.begin(), kq.end());
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t w = 0; w < width; ++w) {
          whole[i * width + w] += double{kk[i * kTokens + j]} * c.kq[j * width + w];
          whole[j * width + w] += double{kk[i * kTokens + j]} * c.kq[i * width + w];
          whole[(n + i) * width + w] += double{qk[i * kTokens + j]} * c.kq[j * width + w];
          whole[j * width + w] += double{qk[i * kTokens + j]} * c.kq[(n + i) * width + w];
        }
    return whole;
  }
};

Backward run_backward(const CpuKernels& table, const Chunk& c, const std::vector<float>& d_out,
                      const std::vector<float>& d_state) {
  const Size& s = c.size;
  Guarded<float> scratch(delta_chunk_scratch(s.key_width, s.value_width)),
      state(s.key_width * s.value_width), v(s.tokens * s.value_width), decay(s.tokens),
      beta(s.tokens), kq(2 * s.tokens * s.key_width), kk(kTokens * kTokens), qk(kTokens * kTokens);
  std::ranges::copy(d_state, state.data());
  for (Guarded<float>* sum : {&kq, &kk, &qk}) std::fill_n(sum->data(), sum->count(), 0.0f);
  table.delta_chunk_backward(
      c.view(),
      {c.state.data(), d_out.data(), s.value_width, state.data(), v.data(), s.value_width,
       decay.data(), beta.data(), kq.data(), kk.data(), qk.data()},
      scratch.data());
  const auto take = [&](Guarded<float>& x) {
    EXPECT_TRUE(x.guards_hold()) << table.name;
    return std::vector<float>(x.data(), x.data() + x.count());
  };
  take(scratch);
  return {take(state), take(v), take(decay), take(beta), take(kq), take(kk), take(qk)};
}

TEST(DeltaChunkTest, TheGradientIsTheRecurrencesInEveryTable) {
  for (const Size& s : {kSizes[0], kSizes[1], kSizes[4], kSizes[5], Size{64, 16, 16}})
    for (float decay : {0.1f, 2.0f}) {
      const Chunk c(s, decay);
      const auto d_out = normal_floats(s.tokens * s.value_width, 6),
                 d_state = normal_floats(s.key_width * s.value_width, 7);
      const Backward d = run_backward(*available_cpu_kernels().front(), c, d_out, d_state);
      for (const CpuKernels* table : available_cpu_kernels()) {
        const Backward other = run_backward(*table, c, d_out, d_state);
        EXPECT_TRUE(other.state == d.state && other.v == d.v && other.decay == d.decay &&
                    other.beta == d.beta && other.kq == d.kq && other.kk == d.kk &&
                    other.qk == d.qk)
            << table->name << " " << s.tokens;
      }
      Exact exact(c);
      const auto check = [&](std::vector<double>& values, const auto& gradient, const char* what) {
        const size_t step = values.size() < 40 ? 1 : values.size() / 29;
        for (size_t i = 0; i < values.size(); i += step) {
          constexpr double kMove = 1e-5;
          const double at = values[i];
          values[i] = at + kMove;
          const double above = exact.loss(s, d_out, d_state);
          values[i] = at - kMove;
          const double slope = (above - exact.loss(s, d_out, d_state)) / (2 * kMove);
          values[i] = at;
          ASSERT_NEAR(gradient[i], slope, 3e-4 + 2e-5 * std::abs(slope))
              << what << " " << i << " of " << s.tokens;
        }
      };
      check(exact.state, d.state, "state");
      check(exact.v, d.v, "v");
      check(exact.decay, d.decay, "decay");
      check(exact.beta, d.beta, "beta");
      check(exact.kq, d.whole_kq(c), "kq");
    }
}

// With a decay of exp(-80) per token, earlier tokens vanish, but the token itself does not.
TEST(DeltaChunkTest, StrongDecayForgetsAndStaysRight) {
  const Size s{64, 16, 16};
  Chunk c(s, 1.0f);
  std::ranges::fill(c.decay, -80.0f);
  const Forward got = run(cpu_kernels(), c);
  for (int64_t t = 1; t < s.tokens; ++t)
    for (int64_t j = 0; j < s.value_width; ++j) {
      // o = (q . k) beta v
      const double expected =
          double{c.qk[t * kTokens + t]} * c.beta[t] * c.v[t * s.value_width + j];
      ASSERT_NEAR(got.out[t * s.value_width + j], expected, 1e-6);
    }
  const auto d_out = normal_floats(s.tokens * s.value_width, 6),
             d_state = normal_floats(s.key_width * s.value_width, 7);
  const Backward d = run_backward(cpu_kernels(), c, d_out, d_state);
  for (int64_t t = 0; t + 1 < s.tokens; ++t)
    for (int64_t j = 0; j < s.value_width; ++j)
      ASSERT_NEAR(d.v[t * s.value_width + j],
                  double{c.qk[t * kTokens + t]} * c.beta[t] * d_out[t * s.value_width + j], 1e-6);
  for (float x : d.state) ASSERT_NEAR(x, 0, 1e-30);
  for (float x : d.decay) ASSERT_NEAR(x, 0, 1e-30);
}

TEST(DeltaChunkTest, UnitRowsHaveTheirGradientInEveryTable) {
  constexpr int64_t kRows = 5, kWidth = 48, kStride = 60;
  const auto x = normal_floats(kRows * kStride, 8), d_out = normal_floats(kRows * kWidth, 9);
  const auto run = [&](const CpuKernels& table) {
    std::vector<float> d(kRows * kWidth);
    table.unit_rows_backward(x.data(), kRows, kStride, kWidth, 1e-2f, 0.5f, d_out.data(), d.data(),
                             kWidth);
    return d;
  };
  const auto expected = run(*available_cpu_kernels().front());
  for (const CpuKernels* table : available_cpu_kernels()) EXPECT_EQ(run(*table), expected);
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t i = 0; i < kWidth; ++i) {
      const auto loss = [&](double move) {
        double square = 1e-2, product = 0;
        for (int64_t w = 0; w < kWidth; ++w) {
          const double value = x[row * kStride + w] + (w == i ? move : 0);
          square += value * value;
          product += value * d_out[row * kWidth + w];
        }
        return 0.5 * product / std::sqrt(square);
      };
      EXPECT_NEAR(expected[row * kWidth + i], (loss(1e-5) - loss(-1e-5)) / 2e-5, 1e-5);
    }
}

}  // namespace
}  // namespace quern::kernels
