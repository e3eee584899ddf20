// The gated delta rule for a chunk of tokens of one value head, and its gradient. G is the running
// sum of the decays in the chunk, S the state before it, k_i and q_i are the keys and queries of
// its tokens:
//   L_ij = beta_i (k_i . k_j) exp(G_i - G_j) for j < i,   M_ij = (q_i . k_j) exp(G_i - G_j), j <= i
//   (I + L) U = X,   x_i = beta_i (v_i - exp(G_i) S^T k_i)
//   o_i = exp(G_i) S^T q_i + sum over j of M_ij u_j
//   S' = exp(G_last) S + sum over j of exp(G_last - G_j) k_j u_j^T
// (Yang et al., "Gated Delta Networks", 2024). Exponents are only differences G_i - G_j with j <=
// i, which are never positive. I + L is solved row by row from the first row, its transpose from
// the last.
#pragma once

#include <cstdint>

#include "kernels/float_matrix.h"

namespace quern::kernels {

struct DeltaChunk {
  int64_t tokens;                  // 1 to kTokens
  int64_t key_width, value_width;  // multiples of 16
  const float*
      kq;  // [2 * tokens, key_width]: the normalized keys; the normalized and scaled queries
  const float* kk;  // k_i . k_j at [i * kTokens + j], zeros for j >= tokens
  const float* qk;  // q_i . k_j, likewise
  const float* v;   // tokens are v_stride apart
  int64_t v_stride;
  const float* decay;  // g <= 0; tokens are gate_stride apart, as for beta
  const float* beta;
  int64_t gate_stride;

  static constexpr int64_t kTokens = 64;
};

// Inputs and outputs of the gradient. A gradient has the stride of its value.
struct DeltaChunkGradient {
  const float* state;  // S before the chunk, [key_width, value_width]
  const float* d_out;
  int64_t d_out_stride;
  float* d_state;  // [key_width, value_width]: the gradient of S' (in) and of S (out)
  float* d_v;
  int64_t d_v_stride;
  float* d_decay;  // tokens are gate_stride apart
  float* d_beta;
  // Added to the gradients from other value heads of the key head; for kk and qk, entries with j <
  // i and j <= i.
  float* d_kq;
  float* d_kk;
  float* d_qk;
};

// Floats of scratch memory for the rule or its gradient.
constexpr int64_t delta_chunk_scratch(int64_t key_width, int64_t value_width) {
  constexpr int64_t kTokens = DeltaChunk::kTokens;
  return kTokens * (6 * value_width + 2 * key_width + 5 * kTokens + 4) + kFloatScratch;
}

}  // namespace quern::kernels
