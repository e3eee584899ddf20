#include "ops/delta_rule.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "ops/pieces.h"

namespace quern::ops {
namespace {

constexpr int64_t kChunk = 64;
constexpr double kNormEps = 1e-6;
// Channels of a piece of the convolution.
constexpr int64_t kConvChannels = 256;

Tensor unit(const Tensor& x) {
  return x * (x.square().sum(-1, /*keepdim=*/true) + kNormEps).rsqrt();
}

// [tokens, heads, width] -> [heads, chunks, 64, width], padded with zeros, which neither decay nor
// add to a state.
Tensor in_chunks(const Tensor& x, int64_t chunks) {
  Tensor t = x.transpose(0, 1);
  int64_t missing = chunks * kChunk - t.size(1);
  if (missing > 0) t = at::constant_pad_nd(t, {0, 0, 0, missing});
  return t.reshape({t.size(0), chunks, kChunk, x.size(2)});
}

struct ChunkResult {
  Tensor output;  // [tokens, value heads, value width]
  Tensor state;
};

// One sequence, key heads with their value heads. Within a chunk of C tokens, with G the running
// sum of the decays and S0 the state at its start:
//   (I + L) U = beta V - beta exp(G) K S0,  L_ij = beta_i (k_i . k_j) exp(G_i - G_j) for j < i
//   o_i = exp(G_i) S0^T q_i + sum_{j <= i} (q_i . k_j) exp(G_i - G_j) u_j
//   S1 = exp(G_C) S0 + sum_j exp(G_C - G_j) k_j u_j^T
// Only differences G_i - G_j with j <= i are exponentiated, which are never positive.
ChunkResult chunked(const DeltaInputs& in, const Tensor& initial) {
  const int64_t tokens = in.v.size(0), heads = in.v.size(1), key_width = in.k.size(2),
                value_width = in.v.size(2);
  const int64_t repeat = heads / in.k.size(1), chunks = (tokens + kChunk - 1) / kChunk;
  auto to_value_heads = [&](const Tensor& x) {
    return repeat == 1 ? x : x.repeat_interleave(repeat, 0);
  };
  Tensor q = to_value_heads(
      in_chunks(unit(in.q) * std::pow(static_cast<double>(key_width), -0.5), chunks));
  Tensor k = to_value_heads(in_chunks(unit(in.k), chunks));
  Tensor v = in_chunks(in.v, chunks);
  Tensor beta = in_chunks(in.beta.unsqueeze(-1), chunks);
  Tensor total = in_chunks(in.decay.unsqueeze(-1), chunks).cumsum(2);  // G, [heads, chunks, 64, 1]

  Tensor lower = at::ones({kChunk, kChunk}, at::kFloat).tril();
  // exp(G_i - G_j) for j <= i, else 0.
  Tensor between = (total - total.transpose(2, 3)).mul(lower).exp() * lower;
  Tensor system = (k * beta).matmul(k.transpose(2, 3)) * between;
  Tensor right = at::cat({v * beta, k * beta * total.exp()}, -1);
  Tensor solved = at::linalg_solve_triangular(system, right, /*upper=*/false, /*left=*/true,
                                              /*unitriangular=*/true);
  Tensor u_own = solved.narrow(-1, 0, value_width),
         k_carried = solved.narrow(-1, value_width, key_width);
  Tensor q_from_state = q * total.exp();
  Tensor scores = q.matmul(k.transpose(2, 3)) * between;
  Tensor last = total.narrow(2, kChunk - 1, 1);
  Tensor k_to_state = (k * (last - total).exp()).transpose(2, 3);
  Tensor state_decay = last.exp();

  Tensor state =
      initial.defined() ? initial : at::zeros({heads, key_width, value_width}, at::kFloat);
  std::vector<Tensor> outputs;
  for (int64_t c = 0; c < chunks; ++c) {
    Tensor u = u_own.select(1, c) - k_carried.select(1, c).matmul(state);
    outputs.push_back(q_from_state.select(1, c).matmul(state) + scores.select(1, c).matmul(u));
    state = state * state_decay.select(1, c) + k_to_state.select(1, c).matmul(u);
  }
  Tensor output = at::stack(outputs, 1)
                      .reshape({heads, chunks * kChunk, value_width})
                      .narrow(1, 0, tokens)
                      .transpose(0, 1);
  return {output, state};
}

void check_shapes(const DeltaInputs& in, const Tensor& state) {
  QUERN_CHECK(in.q.sizes() == in.k.sizes() && in.v.size(1) % in.k.size(1) == 0);
  QUERN_CHECK(in.decay.size(1) == in.v.size(1) && in.beta.size(1) == in.v.size(1));
  QUERN_CHECK(state.size(0) == in.v.size(1) && state.is_contiguous());
}

// o and the new state of one head for one token; q and k already normalized.
void recur_head(const float* q, const float* k, const float* v, float decay, float beta,
                int64_t key_width, int64_t value_width, float* state, float* output) {
  const float factor = std::exp(decay);
  std::vector<float> u(value_width, 0.0f);
  for (int64_t i = 0; i < key_width; ++i) {
    float* row = state + i * value_width;
    for (int64_t j = 0; j < value_width; ++j) {
      row[j] *= factor;
      u[j] += row[j] * k[i];
    }
  }
  for (int64_t j = 0; j < value_width; ++j) u[j] = beta * (v[j] - u[j]);
  std::fill(output, output + value_width, 0.0f);
  for (int64_t i = 0; i < key_width; ++i) {
    float* row = state + i * value_width;
    for (int64_t j = 0; j < value_width; ++j) {
      row[j] += k[i] * u[j];
      output[j] += row[j] * q[i];
    }
  }
}

}  // namespace

Tensor causal_conv_silu(const Tensor& x, const Tensor& weight, const Bounds& bounds,
                        const Tensor& past) {
  const int64_t taps = weight.size(1), channels = x.size(1);
  QUERN_CHECK(weight.size(0) == channels && (!past.defined() || bounds.size() == 2));
  std::vector<Piece> pieces;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    for (int64_t c = 0; c < channels; c += kConvChannels) {
      const int64_t first = bounds[s], length = bounds[s + 1] - first,
                    width = std::min(kConvChannels, channels - c);
      auto cut_columns = [c, width](const Tensor& t) { return t.narrow(1, c, width); };
      auto cut = [=](const Tensor& t) { return cut_columns(t.narrow(0, first, length)); };
      pieces.push_back(
          {[=](const Tensor& t, size_t which) {
             // Input 0 is cut by sequence and channel, the weight and the past by channel alone.
             return which == 0 ? cut(t) : which == 1 ? t.narrow(0, c, width) : cut_columns(t);
           },
           cut});
    }
  }
  auto filter = [taps](const std::vector<Tensor>& in) {
    Tensor padded =
        in.size() > 2 ? at::cat({in[2], in[0]}) : at::constant_pad_nd(in[0], {0, 0, taps - 1, 0});
    Tensor sum;
    for (int64_t j = 0; j < taps; ++j) {
      Tensor term = padded.narrow(0, j, in[0].size(0)) * in[1].select(1, j);
      sum = j == 0 ? term : sum + term;
    }
    return at::silu(sum);
  };
  std::vector<Tensor> inputs = {x, weight};
  if (past.defined()) inputs.push_back(past);
  return by_pieces(filter, std::move(inputs), x.sizes(), std::move(pieces));
}

Tensor delta_rule(const DeltaInputs& in, const Bounds& bounds) {
  const int64_t key_heads = in.k.size(1), repeat = in.v.size(1) / key_heads;
  std::vector<Piece> pieces;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    for (int64_t head = 0; head < key_heads; ++head) {
      const int64_t first = bounds[s], length = bounds[s + 1] - first;
      auto key = [=](const Tensor& t) { return t.narrow(0, first, length).narrow(1, head, 1); };
      auto value = [=](const Tensor& t) {
        return t.narrow(0, first, length).narrow(1, head * repeat, repeat);
      };
      pieces.push_back(
          {[=](const Tensor& t, size_t which) { return which < 2 ? key(t) : value(t); }, value});
    }
  }
  auto f = [](const std::vector<Tensor>& x) {
    return chunked({x[0], x[1], x[2], x[3], x[4]}, Tensor()).output;
  };
  return by_pieces(f, {in.q, in.k, in.v, in.decay, in.beta}, in.v.sizes(), std::move(pieces));
}

Tensor delta_rule_reference(const DeltaInputs& in, Tensor& state) {
  check_shapes(in, state);
  const int64_t tokens = in.v.size(0), heads = in.v.size(1), key_width = in.k.size(2),
                value_width = in.v.size(2);
  const int64_t repeat = heads / in.k.size(1);
  Tensor q = (unit(in.q) * std::pow(static_cast<double>(key_width), -0.5)).contiguous(),
         k = unit(in.k).contiguous();
  Tensor v = in.v.contiguous(), decay = in.decay.contiguous(), beta = in.beta.contiguous();
  Tensor output = at::empty({tokens, heads, value_width}, at::kFloat);
  parallel_for(heads, [&](int64_t head) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t key = (t * in.k.size(1) + head / repeat) * key_width,
                    value = (t * heads + head) * value_width;
      recur_head(q.const_data_ptr<float>() + key, k.const_data_ptr<float>() + key,
                 v.const_data_ptr<float>() + value, decay.const_data_ptr<float>()[t * heads + head],
                 beta.const_data_ptr<float>()[t * heads + head], key_width, value_width,
                 state.data_ptr<float>() + head * key_width * value_width,
                 output.data_ptr<float>() + value);
    }
  });
  return output;
}

Tensor delta_rule_step(const DeltaInputs& in, Tensor& state) {
  check_shapes(in, state);
  if (in.v.size(0) == 1) return delta_rule_reference(in, state);
  const int64_t key_heads = in.k.size(1), repeat = in.v.size(1) / key_heads;
  Tensor output = at::empty(in.v.sizes(), at::kFloat);
  parallel_for(key_heads, [&](int64_t head) {
    at::NoGradGuard no_grad;
    auto key = [=](const Tensor& t) { return t.narrow(1, head, 1); };
    auto value = [=](const Tensor& t) { return t.narrow(1, head * repeat, repeat); };
    Tensor heads_state = state.narrow(0, head * repeat, repeat);
    auto [y, next] =
        chunked({key(in.q), key(in.k), value(in.v), value(in.decay), value(in.beta)}, heads_state);
    value(output).copy_(y);
    heads_state.copy_(next);
  });
  return output;
}

}  // namespace quern::ops
