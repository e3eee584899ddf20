// AutoRound's kernels (kernels/rounding.h) over 16 lanes, written once for all instruction sets:
// `L` supplies the vector of 16 floats. The reference instantiates it with a plain array.
#pragma once

#include "kernels/floats.h"
#include "kernels/rounding.h"

namespace quern::kernels {

constexpr int64_t kLanes = 16;

static float clamp01(float x) { return x < 0 ? 0.0f : x > 1 ? 1.0f : x; }

static float sign(float x) { return static_cast<float>((x > 0) - (x < 0)); }

// The grid of one group in its current state.
struct RoundingGrid {
  float scale, zero;
  float a, b;  // -low * alpha and high * beta
  bool held;   // epsilon bounded the scale, so it has no gradient

  // The range of q.
  float lowest, highest;
};

template <class L>
RoundingGrid rounding_grid(const Rounding& rounding, const RoundingGroup& group) {
  const float a = -(group.low * clamp01(group.alpha)), b = group.high * clamp01(group.beta);
  const float epsilon = L::round_to(rounding.scale_type, rounding.epsilon);
  if (rounding.symmetric) {
    const float scale = L::round_to(rounding.scale_type, (b < a ? a : -b) * 0.125f);
    const bool held = scale < 0 ? scale > -epsilon : scale < epsilon;
    const float held_scale = scale < 0 ? -epsilon : epsilon;
    return {held ? held_scale : scale, 0, a, b, held, -8, 7};
  }
  const float scale = L::round_to(rounding.scale_type, (b + a) / 15);
  const bool held = scale < epsilon;
  const float used = held ? epsilon : scale;
  return {used, L::round(a / used), a, b, held, 0, 15};
}

// round(w / s + V) + zero for 16 weights, before clamping.
template <class L>
typename L::Floats rounded(typename L::Floats ratio, typename L::Ints offsets, float delta,
                           float zero) {
  const auto shifted = L::add(ratio, L::mul(L::to_floats(offsets), L::splat(delta)));
  return L::add(L::round(shifted), L::splat(zero));
}

template <class L>
typename L::Floats clamped(typename L::Floats q, const RoundingGrid& grid) {
  return L::min(L::max(q, L::splat(grid.lowest)), L::splat(grid.highest));
}

template <class L, FloatType kWeight, class Offset>
void write_group(const RoundingGrid& grid, float delta, int64_t columns, const void* weight,
                 const Offset* offsets, float* w_hat) {
  const auto scale = L::splat(grid.scale), zero = L::splat(grid.zero);
  for (int64_t k = 0; k < columns; k += kLanes) {
    const auto ratio = L::div(L::template load_as<kWeight>(weight, k), scale);
    const auto q = clamped<L>(rounded<L>(ratio, L::load(offsets + k), delta, grid.zero), grid);
    L::store(w_hat + k, L::mul(scale, L::sub(q, zero)));
  }
}

template <class L, FloatType kWeight, class Offset>
void write_codes(const RoundingGrid& grid, float delta, int64_t columns, const void* weight,
                 const Offset* offsets, uint8_t* codes) {
  const auto scale = L::splat(grid.scale), lowest = L::splat(grid.lowest);
  for (int64_t k = 0; k < columns; k += kLanes) {
    const auto ratio = L::div(L::template load_as<kWeight>(weight, k), scale);
    const auto q = clamped<L>(rounded<L>(ratio, L::load(offsets + k), delta, grid.zero), grid);
    L::store_nibbles(codes + k / 2, L::sub(q, lowest));
  }
}

struct ScaleGradient {
  float scale = 0;    // dL/ds
  float clamped = 0;  // dL/dc, the sum of G where q was clamped
};

// One sign step of the offsets of a group; returns the gradients for alpha and beta.
template <class L, FloatType kWeight, class Offset>
ScaleGradient step_offsets(const RoundingGrid& grid, float delta, const RoundingStep& step,
                           int64_t columns, const void* weight, const float* gradient,
                           Offset* offsets, float* momentum) {
  const auto scale = L::splat(grid.scale), zero = L::splat(grid.zero);
  const auto lowest = L::splat(grid.lowest), highest = L::splat(grid.highest);
  const auto none = L::splat(0);
  const auto outside = L::splat(grid.zero == 0 && grid.lowest < 0 ? 0 : -grid.a / grid.scale);
  const int32_t move = grid.scale < 0 ? -step.steps_left : step.steps_left;
  auto scale_sum = none, clamped_sum = none;
  for (int64_t k = 0; k < columns; k += kLanes) {
    const auto ratio = L::div(L::template load_as<kWeight>(weight, k), scale);
    const auto n = L::load(offsets + k);
    const auto g = L::load(gradient + k);
    const auto q = rounded<L>(ratio, n, delta, grid.zero);
    const auto inside = L::both(L::at_most(lowest, q), L::at_most(q, highest));
    const auto slope = L::sub(L::sub(clamped<L>(q, grid), zero), L::select(inside, ratio, outside));
    scale_sum = L::add(scale_sum, L::mul(g, slope));
    clamped_sum = L::add(clamped_sum, L::select(inside, none, g));
    if (momentum) {
      const auto fresh = L::select(inside, L::mul(g, scale), none);
      const auto buffer = L::add(L::mul(L::splat(step.momentum), L::load(momentum + k)), fresh);
      L::store(momentum + k, buffer);
      L::store(offsets + k, L::step_against(n, buffer, step.steps_left));
    } else {
      L::store(offsets + k, L::step_against(n, L::select(inside, g, none), move));
    }
  }
  return {L::sum(scale_sum), L::sum(clamped_sum)};
}

// One sign step of alpha and beta.
static void step_factors(const Rounding& rounding, const RoundingGrid& grid,
                         const RoundingStep& step, ScaleGradient gradient, bool momentum,
                         RoundingGroup& group) {
  const float ds = grid.held ? 0 : gradient.scale;
  float alpha_gradient = 0, beta_gradient = 0;
  if (rounding.symmetric) {
    if (grid.a >= grid.b) alpha_gradient = ds * group.low * (grid.a > grid.b ? -0.125f : 0.0625f);
    if (grid.b >= grid.a) beta_gradient = ds * group.high * (grid.b > grid.a ? -0.125f : -0.0625f);
  } else {
    alpha_gradient = group.low * (gradient.clamped - ds / 15);
    beta_gradient = group.high * (ds / 15);
  }
  if (momentum) {
    alpha_gradient += step.momentum * group.alpha_momentum;
    beta_gradient += step.momentum * group.beta_momentum;
    group.alpha_momentum = alpha_gradient;
    group.beta_momentum = beta_gradient;
  }
  group.alpha = clamp01(group.alpha) - step.minmax_step * sign(alpha_gradient);
  group.beta = clamp01(group.beta) - step.minmax_step * sign(beta_gradient);
}

// Calls body(index of the group, index of its first weight) for every group in `rows` rows.
template <class Body>
void for_each_group(const Rounding& rounding, int64_t rows, Body body) {
  const int64_t count = rows * rounding.groups();
  for (int64_t i = 0; i < count; ++i) body(i, i * rounding.group);
}

template <class L, FloatType kWeight, class Offset>
struct RoundingOf {
  static Offset* offsets(const RoundingRows& state) { return static_cast<Offset*>(state.offsets); }
  static const void* at(const void* weight, int64_t index) {
    return static_cast<const uint8_t*>(weight) + index * float_bytes(kWeight);
  }

  static bool start(const Rounding& rounding, const RoundingRows& state) {
    bool finite = true;
    for_each_group(rounding, state.rows, [&](int64_t g, int64_t first) {
      // x - x is 0 for a finite number and NaN otherwise; min and max would ignore a NaN.
      auto low = L::splat(0), high = L::splat(0), none = L::splat(0);
      for (int64_t k = first; k < first + rounding.group; k += kLanes) {
        const auto w = L::template load_as<kWeight>(state.weight, k);
        low = L::min(low, w);
        high = L::max(high, w);
        none = L::add(none, L::sub(w, w));
        L::store(offsets(state) + k, L::to_ints(L::splat(0)));
        if (state.momentum) L::store(state.momentum + k, L::splat(0));
      }
      state.groups[g] = {1, 1, L::smallest(low), L::largest(high), 0, 0};
      const float scale = rounding_grid<L>(rounding, state.groups[g]).scale;
      finite &= L::sum(none) == 0 && scale - scale == 0;
    });
    return finite;
  }

  static void forward(const Rounding& rounding, const RoundingRows& state, float* w_hat) {
    for_each_group(rounding, state.rows, [&](int64_t g, int64_t first) {
      write_group<L, kWeight, Offset>(rounding_grid<L>(rounding, state.groups[g]), rounding.delta,
                                      rounding.group, at(state.weight, first),
                                      offsets(state) + first, w_hat + first);
    });
  }

  static void encode(const Rounding& rounding, const RoundingRows& state, int64_t g, int64_t first,
                     const RoundingGrid& grid, const RoundingCodes& out) {
    write_codes<L, kWeight, Offset>(grid, rounding.delta, rounding.group, at(state.weight, first),
                                    offsets(state) + first, out.codes + first / 2);
    store_float(rounding.scale_type, out.scales, g, grid.scale);
    if (!rounding.symmetric) out.zeros[g] = static_cast<uint8_t>(grid.zero);
  }

  static void codes(const Rounding& rounding, const RoundingRows& state, const RoundingCodes& out) {
    for_each_group(rounding, state.rows, [&](int64_t g, int64_t first) {
      encode(rounding, state, g, first, rounding_grid<L>(rounding, state.groups[g]), out);
    });
  }

  static void step(const Rounding& rounding, const RoundingStep& step, const RoundingRows& state,
                   float* w_hat) {
    for_each_group(rounding, state.rows, [&](int64_t g, int64_t first) {
      RoundingGroup& group = state.groups[g];
      const RoundingGrid grid = rounding_grid<L>(rounding, group);
      if (step.best) encode(rounding, state, g, first, grid, *step.best);
      const void* weight = at(state.weight, first);
      float* momentum = state.momentum ? state.momentum + first : nullptr;
      const ScaleGradient gradient =
          step_offsets<L, kWeight, Offset>(grid, rounding.delta, step, rounding.group, weight,
                                           step.gradient + first, offsets(state) + first, momentum);
      step_factors(rounding, grid, step, gradient, momentum != nullptr, group);
      write_group<L, kWeight, Offset>(rounding_grid<L>(rounding, group), rounding.delta,
                                      rounding.group, weight, offsets(state) + first,
                                      w_hat + first);
    });
  }
};

// The table's functions; they dispatch on the types of weights and offsets once per call.
template <class L>
struct RoundingKernels {
  template <FloatType kWeight, class Call>
  static void with_offsets(const Rounding& rounding, Call call) {
    if (rounding.offset_type == OffsetType::int16)
      call(RoundingOf<L, kWeight, int16_t>());
    else
      call(RoundingOf<L, kWeight, int32_t>());
  }
  template <class Call>
  static void with_types(const Rounding& rounding, Call call) {
    if (rounding.weight_type == FloatType::bf16)
      with_offsets<FloatType::bf16>(rounding, call);
    else if (rounding.weight_type == FloatType::fp16)
      with_offsets<FloatType::fp16>(rounding, call);
    else
      with_offsets<FloatType::fp32>(rounding, call);
  }

  static bool start(const Rounding& rounding, const RoundingRows& state) {
    bool finite = true;
    with_types(rounding, [&](auto of) { finite = of.start(rounding, state); });
    return finite;
  }
  static void forward(const Rounding& rounding, const RoundingRows& state, float* w_hat) {
    with_types(rounding, [&](auto of) { of.forward(rounding, state, w_hat); });
  }
  static void codes(const Rounding& rounding, const RoundingRows& state, const RoundingCodes& out) {
    with_types(rounding, [&](auto of) { of.codes(rounding, state, out); });
  }
  static void step(const Rounding& rounding, const RoundingStep& step, const RoundingRows& state,
                   float* w_hat) {
    with_types(rounding, [&](auto of) { of.step(rounding, step, state, w_hat); });
  }
};

}  // namespace quern::kernels
