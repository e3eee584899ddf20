// The kernels of delta_chunk.h over 16 lanes, written once for all instruction sets: `L` supplies
// the vector of 16 floats. Matrix products come from float_matrix_lanes.h.
#pragma once

#include "kernels/cpu/float_matrix_lanes.h"
#include "kernels/cpu/sequence_lanes.h"
#include "kernels/kernels.h"

namespace quern::kernels {

template <class L>
struct DeltaChunkKernels {
  static void forward(const DeltaChunk& c, float* state, float* out, int64_t out_stride,
                      float* scratch) {
    const Work work(c, scratch);
    prepare(c, state, work);
    for (int64_t i = 0; i < c.tokens; ++i)
      scale(c.value_width, work.exp_total[i], work.from_state_q(c, i), out + i * out_stride);
    multiply(c.tokens, c.value_width, c.tokens, {work.m, kTokens}, {work.u, c.value_width}, out,
             out_stride, true, work);
    scale(c.key_width * c.value_width, work.exp_total[c.tokens - 1], state, state);
    multiply(c.key_width, c.value_width, c.tokens, {work.k_to_end, c.key_width, true},
             {work.u, c.value_width}, state, c.value_width, true, work);
  }

  static void backward(const DeltaChunk& c, const DeltaChunkGradient& g, float* scratch) {
    const Work work(c, scratch);
    prepare(c, g.state, work);
    gradient_of_u(c, g, work);
    solve_transposed(c, work);
    products_with_u(c, g, work);
    gradient_of_values(c, g, work);
    gradient_of_scores(c, g, work);
    gradient_of_keys_to_end(c, g, work);
    gradient_through_state(c, g, work);
    // A decay is part of the sums of its token and of all later tokens.
    float later = 0;
    for (int64_t i = c.tokens - 1; i >= 0; --i) {
      later += work.d_total[i];
      g.d_decay[i * c.gate_stride] = later;
    }
  }

 private:
  using Floats = typename L::Floats;
  static constexpr int64_t kTokens = DeltaChunk::kTokens;

  // Scratch memory; matrices of scores have rows of kTokens, zero where j > i.
  struct Work {
    Work(const DeltaChunk& c, float* scratch) : next(scratch) {
      const int64_t values = kTokens * c.value_width, keys = kTokens * c.key_width;
      total = take(kTokens);
      exp_total = take(kTokens);
      to_end = take(kTokens);
      d_total = take(kTokens);
      for (float** scores : {&between, &l, &m}) *scores = take(kTokens * kTokens);
      d_lm = take(2 * kTokens * kTokens);
      from_state = take(2 * values);
      x = take(values);
      u = take(values);
      d_xo = take(2 * values);
      k_to_end = take(keys);
      d_k_to_end = take(keys);
      product = next;
    }
    float* take(int64_t count) {
      float* taken = next;
      next += count;
      return taken;
    }
    const float* from_state_q(const DeltaChunk& c, int64_t i) const {
      return from_state + (c.tokens + i) * c.value_width;
    }

    float* next;
    float *total, *exp_total, *to_end;  // G_i, exp(G_i), exp(G_last - G_i)
    float* d_total;                     // the gradient of G
    float *between, *l, *m;             // exp(G_i - G_j), L, M
    float* d_lm;                        // dX U^T, then dO U^T: [2 * tokens, kTokens]
    float* from_state;                  // S^T k_i, then S^T q_i: [2 * tokens, value_width]
    float* x;                           // v_i - exp(G_i) S^T k_i
    float* u;
    float* d_xo;        // the gradients of X, then of O: [2 * tokens, value_width]
    float* k_to_end;    // exp(G_last - G_j) k_j
    float* d_k_to_end;  // its gradient
    float* product;     // scratch of the products
  };

  static void multiply(int64_t rows, int64_t columns, int64_t inner, const FloatMatrix& a,
                       const FloatMatrix& b, float* c, int64_t c_stride, bool accumulate,
                       const Work& work) {
    FloatMatrixKernels<L>::product({rows, columns, inner, a, b, c, c_stride, accumulate},
                                   work.product);
  }

  // ---- rows of a multiple of 16 numbers

  static void scale(int64_t count, float factor, const float* from, float* to) {
    const Floats factors = L::splat(factor);
    for (int64_t n = 0; n < count; n += 16) L::store(to + n, L::mul(factors, L::load(from + n)));
  }

  // to += factor * from
  static void add_scaled(int64_t count, float factor, const float* from, float* to) {
    const Floats factors = L::splat(factor);
    for (int64_t n = 0; n < count; n += 16)
      L::store(to + n, L::fma(factors, L::load(from + n), L::load(to + n)));
  }

  static float dot(int64_t count, const float* a, const float* b) {
    Floats sum = L::splat(0);
    for (int64_t n = 0; n < count; n += 16) sum = L::fma(L::load(a + n), L::load(b + n), sum);
    return L::sum(sum);
  }

  // ---- shared by both directions: everything up to U

  static void prepare(const DeltaChunk& c, const float* state, const Work& work) {
    sum_decays(c, work);
    for (int64_t i = 0; i < c.tokens; ++i) fill_scores(c, i, work);
    multiply(2 * c.tokens, c.value_width, c.key_width, {c.kq, c.key_width}, {state, c.value_width},
             work.from_state, c.value_width, false, work);
    for (int64_t i = 0; i < c.tokens; ++i) {
      const int64_t row = i * c.value_width;
      const Floats factor = L::splat(-work.exp_total[i]);
      for (int64_t n = 0; n < c.value_width; n += 16)
        L::store(work.x + row + n, L::fma(factor, L::load(work.from_state + row + n),
                                          L::load(c.v + i * c.v_stride + n)));
      scale(c.value_width, c.beta[i * c.gate_stride], work.x + row, work.u + row);
      scale(c.key_width, work.to_end[i], c.kq + i * c.key_width, work.k_to_end + i * c.key_width);
    }
    solve(c, work);
  }

  static void sum_decays(const DeltaChunk& c, const Work& work) {
    float total = 0;
    for (int64_t i = 0; i < kTokens; ++i) {
      if (i < c.tokens) total += c.decay[i * c.gate_stride];
      work.total[i] = total;
    }
    for (int64_t i = 0; i < kTokens; i += 16) {
      const Floats totals = L::load(work.total + i);
      L::store(work.exp_total + i, exp_of<L>(totals));
      L::store(work.to_end + i, exp_of<L>(L::sub(L::splat(total), totals)));
    }
  }

  static void fill_scores(const DeltaChunk& c, int64_t i, const Work& work) {
    const int64_t row = i * kTokens;
    const Floats total = L::splat(work.total[i]), beta = L::splat(c.beta[i * c.gate_stride]);
    for (int64_t j = 0; j <= i; j += 16) {
      const Floats between = exp_of<L>(L::sub(total, L::load(work.total + j)));
      L::store(work.between + row + j, between);
      L::store(work.l + row + j, L::mul(beta, L::mul(L::load(c.kk + row + j), between)));
      L::store(work.m + row + j, L::mul(L::load(c.qk + row + j), between));
    }
    work.l[row + i] = 0;
    for (int64_t j = i + 1; j < kTokens; ++j)
      work.between[row + j] = work.l[row + j] = work.m[row + j] = 0;
  }

  // Computes U from X: u_i -= sum over j < i of L_ij u_j.
  static void solve(const DeltaChunk& c, const Work& work) {
    by_columns(c.value_width, [&](auto vectors, int64_t column) {
      for (int64_t i = 1; i < c.tokens; ++i)
        subtract_rows<vectors>(c.value_width, work.l + i * kTokens, 1, 0, i, i, work.u + column);
    });
  }

  // Computes dX from dU: dx_i -= sum over j > i of L_ji dx_j.
  static void solve_transposed(const DeltaChunk& c, const Work& work) {
    by_columns(c.value_width, [&](auto vectors, int64_t column) {
      for (int64_t i = c.tokens - 2; i >= 0; --i)
        subtract_rows<vectors>(c.value_width, work.l + i, kTokens, i + 1, c.tokens, i,
                               work.d_xo + column);
    });
  }

  // Columns are independent; a few vectors of them are solved together.
  template <class Body>
  static void by_columns(int64_t width, Body body) {
    int64_t column = 0;
    for (; column + 4 * 16 <= width; column += 4 * 16)
      body(std::integral_constant<int, 4>(), column);
    for (; column < width; column += 16) body(std::integral_constant<int, 1>(), column);
  }

  // rows[i] -= sum over j in [begin, end) of factors[j * step] rows[j], in the order of j.
  template <int kVectors>
  static void subtract_rows(int64_t width, const float* factors, int64_t step, int64_t begin,
                            int64_t end, int64_t i, float* rows) {
    Floats sums[kVectors];
    repeat<kVectors>([&](auto v) { sums[v] = L::load(rows + i * width + 16 * v); });
    for (int64_t j = begin; j < end; ++j) {
      const Floats factor = L::splat(-factors[j * step]);
      repeat<kVectors>(
          [&](auto v) { sums[v] = L::fma(factor, L::load(rows + j * width + 16 * v), sums[v]); });
    }
    repeat<kVectors>([&](auto v) { L::store(rows + i * width + 16 * v, sums[v]); });
  }

  // ---- the gradient

  // Computes dU = M^T dO + exp(G_last - G) K dS', next to dO.
  static void gradient_of_u(const DeltaChunk& c, const DeltaChunkGradient& g, const Work& work) {
    float* d_out = work.d_xo + c.tokens * c.value_width;
    for (int64_t i = 0; i < c.tokens; ++i)
      scale(c.value_width, 1, g.d_out + i * g.d_out_stride, d_out + i * c.value_width);
    multiply(c.tokens, c.value_width, c.tokens, {work.m, kTokens, true}, {d_out, c.value_width},
             work.d_xo, c.value_width, false, work);
    multiply(c.tokens, c.value_width, c.key_width, {work.k_to_end, c.key_width},
             {g.d_state, c.value_width}, work.d_xo, c.value_width, true, work);
  }

  // d_lm = dX U^T and dO U^T; dL = -dX U^T and dM = dO U^T.
  static void products_with_u(const DeltaChunk& c, const DeltaChunkGradient& g, const Work& work) {
    multiply(2 * c.tokens, c.tokens, c.value_width, {work.d_xo, c.value_width},
             {work.u, c.value_width, true}, work.d_lm, kTokens, false, work);
    for (int64_t i = 0; i < 2 * c.tokens; ++i)
      for (int64_t j = c.tokens; j < kTokens; ++j) work.d_lm[i * kTokens + j] = 0;
    multiply(c.tokens, c.key_width, c.value_width, {work.u, c.value_width},
             {g.d_state, c.value_width, true}, work.d_k_to_end, c.key_width, false, work);
  }

  static void gradient_of_values(const DeltaChunk& c, const DeltaChunkGradient& g,
                                 const Work& work) {
    for (int64_t i = 0; i < c.tokens; ++i) {
      const float* d_x = work.d_xo + i * c.value_width;
      scale(c.value_width, c.beta[i * c.gate_stride], d_x, g.d_v + i * g.d_v_stride);
      g.d_beta[i * c.gate_stride] = dot(c.value_width, d_x, work.x + i * c.value_width);
    }
  }

  // Propagates the gradients of L and M to kk, qk, beta and G; L and M increase with G_i - G_j.
  static void gradient_of_scores(const DeltaChunk& c, const DeltaChunkGradient& g,
                                 const Work& work) {
    Floats columns[kTokens / 16];
    repeat<kTokens / 16>([&](auto v) { columns[v] = L::splat(0); });
    for (int64_t i = 0; i < c.tokens; ++i) {
      const int64_t row = i * kTokens;
      const float* d_m_row = work.d_lm + (c.tokens + i) * kTokens;
      Floats rows = L::splat(0), betas = L::splat(0);
      repeat<kTokens / 16>([&](auto v) {
        const int64_t at = row + 16 * v;
        const Floats between = L::load(work.between + at), l = L::load(work.l + at);
        // The diagonal of L is zero, but `between` is 1 there.
        const Floats d_l = L::mul(L::splat(-1), below_diagonal(work.d_lm + at, i, 16 * v));
        const Floats d_m = L::load(d_m_row + 16 * v);
        const Floats d_l_between = L::mul(d_l, between);
        L::store(g.d_kk + at,
                 L::fma(L::splat(c.beta[i * c.gate_stride]), d_l_between, L::load(g.d_kk + at)));
        L::store(g.d_qk + at, L::fma(d_m, between, L::load(g.d_qk + at)));
        betas = L::fma(d_l_between, L::load(c.kk + at), betas);
        const Floats growth = L::fma(d_l, l, L::mul(d_m, L::load(work.m + at)));
        rows = L::add(rows, growth);
        columns[v] = L::add(columns[v], growth);
      });
      g.d_beta[i * c.gate_stride] += L::sum(betas);
      work.d_total[i] = L::sum(rows);
    }
    alignas(64) float sums[kTokens];
    repeat<kTokens / 16>([&](auto v) { L::store(sums + 16 * v, columns[v]); });
    for (int64_t i = 0; i < c.tokens; ++i) work.d_total[i] -= sums[i];
  }

  static Floats below_diagonal(const float* row, int64_t i, int64_t j) {
    if (j + 16 <= i) return L::load(row);
    float kept[16];
    for (int64_t lane = 0; lane < 16; ++lane) kept[lane] = j + lane < i ? row[lane] : 0;
    return L::load(kept);
  }

  // Propagates the gradient of exp(G_last - G_j) k_j to k_j and G.
  static void gradient_of_keys_to_end(const DeltaChunk& c, const DeltaChunkGradient& g,
                                      const Work& work) {
    float sum = 0;
    for (int64_t j = 0; j < c.tokens; ++j) {
      const int64_t row = j * c.key_width;
      add_scaled(c.key_width, work.to_end[j], work.d_k_to_end + row, g.d_kq + row);
      const float growth = dot(c.key_width, work.k_to_end + row, work.d_k_to_end + row);
      work.d_total[j] -= growth;
      sum += growth;
    }
    work.d_total[c.tokens - 1] += sum;
  }

  // Propagates the gradients of the state's outputs and of S' to the keys and queries, to S and to
  // G.
  static void gradient_through_state(const DeltaChunk& c, const DeltaChunkGradient& g,
                                     const Work& work) {
    const int64_t last = c.tokens - 1, elements = c.key_width * c.value_width;
    for (int64_t i = 0; i < 2 * c.tokens; ++i) {
      const int64_t token = i % c.tokens, row = i * c.value_width;
      const float exp_total = work.exp_total[token];
      scale(c.value_width, i < c.tokens ? -c.beta[token * c.gate_stride] * exp_total : exp_total,
            work.d_xo + row, work.d_xo + row);
      work.d_total[token] += dot(c.value_width, work.d_xo + row, work.from_state + row);
    }
    multiply(2 * c.tokens, c.key_width, c.value_width, {work.d_xo, c.value_width},
             {g.state, c.value_width, true}, g.d_kq, c.key_width, true, work);
    work.d_total[last] += work.exp_total[last] * dot(elements, g.state, g.d_state);
    scale(elements, work.exp_total[last], g.d_state, g.d_state);
    multiply(c.key_width, c.value_width, 2 * c.tokens, {c.kq, c.key_width, true},
             {work.d_xo, c.value_width}, g.d_state, c.value_width, true, work);
  }
};

}  // namespace quern::kernels
