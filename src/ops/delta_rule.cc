#include "ops/delta_rule.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/dense_rows.h"
#include "ops/pieces.h"

namespace quern::ops {
namespace {

// Channels in one piece of the convolution.
constexpr int64_t kConvChannels = 256;

Tensor unit(const Tensor& x) {
  return x * (x.square().sum(-1, /*keepdim=*/true) + kDeltaNormEps).rsqrt();
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

std::string delta_refusal(int64_t key_width, int64_t value_width) {
  if (key_width > 0 && key_width % 16 == 0 && value_width > 0 && value_width % 16 == 0) return "";
  return fmt::format(
      "linear attention with keys of {} and values of {} numbers is not supported: both must be "
      "multiples of 16",
      key_width, value_width);
}

Tensor causal_conv_silu(const Tensor& x, const Tensor& weight, const Bounds& bounds) {
  const int64_t taps = weight.size(1), channels = x.size(1);
  QUERN_CHECK(weight.size(0) == channels);
  std::vector<Piece> pieces;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    for (int64_t c = 0; c < channels; c += kConvChannels) {
      const int64_t first = bounds[s], length = bounds[s + 1] - first,
                    width = std::min(kConvChannels, channels - c);
      auto cut = [=](const Tensor& t) { return t.narrow(0, first, length).narrow(1, c, width); };
      pieces.push_back({[=](const Tensor& t, size_t which) {
                          // The input is cut by sequence and channel, the weight by channel alone.
                          return which == 0 ? cut(t) : t.narrow(0, c, width);
                        },
                        cut});
    }
  }
  auto filter = [taps](const std::vector<Tensor>& in) {
    Tensor padded = at::constant_pad_nd(in[0], {0, 0, taps - 1, 0});
    Tensor sum;
    for (int64_t j = 0; j < taps; ++j) {
      Tensor term = padded.narrow(0, j, in[0].size(0)) * in[1].select(1, j);
      sum = j == 0 ? term : sum + term;
    }
    return at::silu(sum);
  };
  return by_pieces(filter, {x, weight}, x.sizes(), std::move(pieces));
}

Tensor delta_rule_reference(const DeltaInputs& in, Tensor& state) {
  check_shapes(in, state);
  const int64_t tokens = in.v.size(0), heads = in.v.size(1), key_width = in.k.size(2),
                value_width = in.v.size(2);
  const int64_t repeat = heads / in.k.size(1);
  Tensor q = (unit(in.q) * std::pow(static_cast<double>(key_width), -0.5)).contiguous(),
         k = unit(in.k).contiguous();
  Tensor v = in.v.contiguous(), decay = in.decay.contiguous(), beta = in.beta.contiguous();
  Tensor output = at::empty({tokens, heads, value_width}, in.v.options());
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

// ---- ongoing sequences

namespace {

// Tokens in one work item of the convolution.
constexpr int64_t kConvTokens = 64;

// Keeps the latest inputs of the convolution for later tokens.
void keep_newest(const Tensor& x, const OngoingSequence& sequence, float* past, int64_t kept) {
  const int64_t channels = x.size(1), stays = std::max<int64_t>(0, kept - sequence.tokens);
  std::copy(past + (kept - stays) * channels, past + kept * channels, past);
  for (int64_t row = stays; row < kept; ++row) {
    const float* from =
        x.const_data_ptr<float>() + (sequence.first + sequence.tokens - kept + row) * x.stride(0);
    std::copy(from, from + channels, past + row * channels);
  }
}

// Advances the value heads of one key head of one sequence.
void step_head(const DeltaInputs& in, const OngoingSequence& sequence, int64_t key_head,
               const Tensor& factor, Tensor& states, Tensor& output) {
  const int64_t tokens = sequence.tokens, key_width = in.k.size(2), value_width = in.v.size(2),
                heads = in.v.size(1), repeat = heads / in.k.size(1);
  const auto unit_rows = [&](const Tensor& x, float scale) {
    std::vector<float> rows(static_cast<size_t>(tokens * key_width));
    kernels::cpu_kernels().unit_rows(
        x.const_data_ptr<float>() + sequence.first * x.stride(0) + key_head * x.stride(1), tokens,
        x.stride(0), key_width, static_cast<float>(kDeltaNormEps), scale, rows.data());
    return rows;
  };
  const std::vector<float> q = unit_rows(in.q, 1 / std::sqrt(static_cast<float>(key_width))),
                           k = unit_rows(in.k, 1);
  for (int64_t head = key_head * repeat; head < (key_head + 1) * repeat; ++head) {
    const int64_t gate = sequence.first * heads + head;
    kernels::cpu_kernels().delta_rule(
        {tokens, key_width, value_width, q.data(), k.data(),
         in.v.const_data_ptr<float>() + sequence.first * in.v.stride(0) + head * in.v.stride(1),
         factor.const_data_ptr<float>() + gate, in.beta.const_data_ptr<float>() + gate,
         in.v.stride(0), heads,
         states.data_ptr<float>() + (sequence.slot * heads + head) * key_width * value_width,
         output.data_ptr<float>() + (sequence.first * heads + head) * value_width,
         heads * value_width});
  }
}

}  // namespace

Tensor causal_conv_silu_step(const Tensor& x_in, const Tensor& weight,
                             std::span<const OngoingSequence> sequences, Tensor& past) {
  const Tensor x = dense_rows(x_in), w = weight.contiguous();
  const int64_t taps = w.size(1), channels = x.size(1), kept = taps - 1;
  QUERN_CHECK(w.size(0) == channels && past.size(1) == kept && past.size(2) == channels);
  if (channels % 16 != 0 || taps > kernels::Convolution::kMostTaps)
    fail(
        "a convolution of {} channels and {} taps cannot run token by token: channels must be "
        "a multiple of 16, taps at most {}",
        channels, taps, kernels::Convolution::kMostTaps);
  Tensor output = at::empty(x.sizes(), x.options());
  struct Item {
    const OngoingSequence* sequence;
    int64_t token, channel;
  };
  std::vector<Item> items;
  for (const OngoingSequence& sequence : sequences)
    for (int64_t token = 0; token < sequence.tokens; token += kConvTokens)
      for (int64_t channel = 0; channel < channels; channel += kConvChannels)
        items.push_back({&sequence, token, channel});
  auto past_of = [&](const OngoingSequence& sequence) {
    return past.data_ptr<float>() + sequence.slot * kept * channels;
  };
  parallel_for(std::ssize(items), [&](int64_t i) {
    const auto& [sequence, token, channel] = items[static_cast<size_t>(i)];
    // Only the first piece reads the kept inputs: a piece is never shorter than the filter.
    static_assert(kConvTokens >= kernels::Convolution::kMostTaps);
    const float* from =
        x.const_data_ptr<float>() + (sequence->first + token) * x.stride(0) + channel;
    kernels::cpu_kernels().convolve(
        {std::min(kConvTokens, sequence->tokens - token),
         std::min(kConvChannels, channels - channel), taps, from, x.stride(0),
         token == 0 ? past_of(*sequence) + channel : from - kept * x.stride(0),
         token == 0 ? channels : x.stride(0), w.const_data_ptr<float>() + channel * taps,
         output.data_ptr<float>() + (sequence->first + token) * channels + channel, channels});
  });
  for (const OngoingSequence& sequence : sequences)
    keep_newest(x, sequence, past_of(sequence), kept);
  return output;
}

Tensor delta_rule_step(const DeltaInputs& given, std::span<const OngoingSequence> sequences,
                       Tensor& states) {
  const DeltaInputs in{dense_rows(given.q), dense_rows(given.k), dense_rows(given.v),
                       given.decay.contiguous(), given.beta.contiguous()};
  check_shapes(in, states[0]);
  QUERN_CHECK(delta_refusal(in.k.size(2), in.v.size(2)).empty());
  Tensor factor = at::empty(in.decay.sizes(), in.decay.options());
  for (int64_t i = 0; i < factor.numel(); ++i)
    factor.data_ptr<float>()[i] = std::exp(in.decay.const_data_ptr<float>()[i]);
  Tensor output = at::empty(in.v.sizes(), in.v.options());
  const int64_t key_heads = in.k.size(1);
  parallel_for(std::ssize(sequences) * key_heads, [&](int64_t i) {
    step_head(in, sequences[static_cast<size_t>(i / key_heads)], i % key_heads, factor, states,
              output);
  });
  return output;
}

}  // namespace quern::ops
