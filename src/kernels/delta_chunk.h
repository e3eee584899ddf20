// The gated delta rule for a chunk of tokens of one value head at once, and its gradient. With G
// the running sum of the decays within the chunk, S the state before it, and keys k_i and queries
// q_i of its tokens:
//   L_ij = beta_i (k_i . k_j) exp(G_i - G_j) for j < i,   M_ij = (q_i . k_j) exp(G_i - G_j), j <= i
//   (I + L) U = X,   x_i = beta_i (v_i - exp(G_i) S^T k_i)
//   o_i = exp(G_i) S^T q_i + sum over j of M_ij u_j
//   S' = exp(G_last) S + sum over j of exp(G_last - G_j) k_j u_j^T
// (Yang et al., "Gated Delta Networks", 2024). Only differences G_i - G_j with j <= i are
// exponentiated, which are never positive. I + L is solved row by row from the first, its
// transpose from the last.
#pragma once

#include <cstdint>

#include "kernels/float_matrix.h"

namespace quern::kernels {

struct DeltaChunk {
  int64_t tokens;                  // 1 to kTokens
  int64_t key_width, value_width;  // multiples of 16
  const float* kq;  // [2 * tokens, key_width]: the keys, normalized; the queries, and scaled
  const float* kk;  // k_i . k_j at [i * kTokens + j], zeros for j >= tokens
  const float* qk;  // q_i . k_j, the same
  const float* v;   // a token's values are v_stride apart
  int64_t v_stride;
  const float* decay;  // g <= 0; a token's are gate_stride apart, so with beta
  const float* beta;
  int64_t gate_stride;

  static constexpr int64_t kTokens = 64;
};

// What the gradient reads and writes. Strides are those of the values that it belongs to.
struct DeltaChunkGradient {
  const float* state;  // S before the chunk, [key_width, value_width]
  const float* d_out;
  int64_t d_out_stride;
  float* d_state;  // [key_width, value_width]: of S', then of S
  float* d_v;
  int64_t d_v_stride;
  float* d_decay;  // gate_stride apart
  float* d_beta;
  // Added to what other value heads of the key head have left; kk's and qk's for j < i and j <= i.
  float* d_kq;
  float* d_kk;
  float* d_qk;
};

// Floats of scratch memory that either takes.
constexpr int64_t delta_chunk_scratch(int64_t key_width, int64_t value_width) {
  constexpr int64_t kTokens = DeltaChunk::kTokens;
  return kTokens * (6 * value_width + 2 * key_width + 5 * kTokens + 4) + kFloatScratch;
}

}  // namespace quern::kernels
