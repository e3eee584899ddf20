// AutoRound's tuned rounding of one matrix (Cheng et al., "Optimize Weight Rounding via Signed
// Gradient Descent", 2023; auto-round's data_type/int.py and sign_round/sign_sgd.py): an offset V
// for each weight, and two factors alpha and beta for the smallest and largest weight of each
// group.
//
//   symmetric:  a = -low * alpha, b = high * beta, s = (b < a ? a : -b) / 8, zero = 0,
//               q = clamp(round(w / s + V), -8, 7)                      code = q + 8
//   asymmetric: s = (high * beta - low * alpha) / 15, zero = round(-low * alpha / s),
//               q = clamp(round(w / s + V) + zero, 0, 15)               code = q
//   w^ = s * (q - zero)
//
// s is rounded to its storage type, then kept at least epsilon away from zero; everything else is
// fp32, with true division and round half to even. V is n * delta with an integer n, which keeps a
// schedule of steps lr * (1 - t / iterations) exact: delta = lr / iterations, and step t adds or
// subtracts (iterations - t).
//
// The gradients have a closed form; with G = dL/dw^, and m = 1 where q was not clamped:
//   dL/dV = G s m
//   symmetric:  dL/ds = sum G (q - m w / s);  ds/dalpha = -low / 8 if a > b, ds/dbeta = -high / 8
//               if b > a, both halved and alpha's negated if a == b
//   asymmetric: dL/ds = sum G (q - zero - (m ? w : low * alpha) / s),  dL/dc = sum G (1 - m),
//               dL/dalpha = low (dL/dc - dL/ds / 15), dL/dbeta = high dL/ds / 15
// dL/ds is zero where epsilon bounded s. Sums run in 16 lanes, column k in lane k % 16, and the
// lanes are added by halves; every instruction set thus gives the same bits.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/floats.h"

namespace quern::kernels {

enum class OffsetType { int16, int32 };

// The narrowest type for n after all steps, 1 + 2 + ... + iterations.
constexpr OffsetType offset_type(int64_t iterations) {
  return iterations * (iterations + 1) / 2 <= INT16_MAX ? OffsetType::int16 : OffsetType::int32;
}

struct Rounding {
  int64_t columns = 0;
  int64_t group = 0;  // columns that share a scale; a multiple of 16 that divides columns
  FloatType weight_type = FloatType::bf16;
  FloatType scale_type = FloatType::fp16;
  OffsetType offset_type = OffsetType::int32;
  bool symmetric = true;
  float delta = 0;        // lr / iterations
  float epsilon = 1e-5f;  // rounded to scale_type before use

  int64_t groups() const { return columns / group; }
};

// The group sizes that the kernels can tune are multiples of this.
constexpr int64_t kRoundingGroupMultiple = 16;

// Empty, or why the kernels cannot tune a weight of this shape, as a clause for a message.
std::string rounding_refusal(const Rounding& rounding);

// n reaches iterations * (iterations + 1) / 2, and fp32 holds integers exactly up to 2^24.
constexpr int64_t kMaxRoundingIterations = 5000;

struct RoundingGroup {
  float alpha, beta;  // clamped to [0, 1] before use
  float low, high;    // smallest and largest weight, zero included
  float alpha_momentum, beta_momentum;
};

// The state of a range of rows of a matrix. Filled by CpuKernels::rounding_start.
struct RoundingRows {
  int64_t rows;
  const void* weight;     // weight_type [rows, columns]
  void* offsets;          // n, offset_type [rows, columns]
  RoundingGroup* groups;  // [rows, groups]
  float* momentum;        // [rows, columns], or null: no momentum
};

// The destination of the result, in the form of quant/scheme.h.
struct RoundingCodes {
  uint8_t* codes;  // [rows, columns / 2], column 2j in the low nibble of byte j
  void* scales;    // scale_type [rows, groups]
  uint8_t* zeros;  // [rows, groups]; null if symmetric
};

struct RoundingStep {
  const float* gradient;      // G [rows, columns]
  const RoundingCodes* best;  // if not null: first save the state that produced G here
  int32_t steps_left;         // iterations - t
  float minmax_step;          // the learning rate of alpha and beta in step t
  float momentum = 0;         // buffer = momentum * buffer + gradient; steps use the buffer's sign
};

}  // namespace quern::kernels
