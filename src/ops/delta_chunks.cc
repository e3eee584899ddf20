// The gated delta rule over whole sequences. A work item is a key head of a sequence with its value
// heads: its chunks run in order, and all value heads share the products of the keys and queries.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "ops/delta_rule.h"
#include "ops/dense_rows.h"
#include "ops/float_matrix.h"
#include "tensor/memory.h"

namespace quern::ops {
namespace {

constexpr int64_t kChunk = kernels::DeltaChunk::kTokens;

struct Chunk {
  int64_t first, tokens;
};

// The chunks of each sequence.
std::vector<std::vector<Chunk>> chunks_of(const Bounds& bounds) {
  std::vector<std::vector<Chunk>> all;
  for (size_t s = 0; s + 1 < bounds.size(); ++s) {
    all.emplace_back();
    for (int64_t first = bounds[s]; first < bounds[s + 1]; first += kChunk)
      all.back().push_back({first, std::min(kChunk, bounds[s + 1] - first)});
  }
  return all;
}

// Inputs whose last dimension is dense, decay and beta contiguous.
struct Heads {
  DeltaInputs in;
  int64_t tokens, heads, key_heads, key_width, value_width, repeat;

  explicit Heads(const DeltaInputs& given)
      : in(given),
        tokens(in.v.size(0)),
        heads(in.v.size(1)),
        key_heads(in.k.size(1)),
        key_width(in.k.size(2)),
        value_width(in.v.size(2)),
        repeat(heads / key_heads) {}

  int64_t state_elements() const { return key_width * value_width; }
  float query_scale() const { return 1 / std::sqrt(static_cast<float>(key_width)); }
  const float* row(const Tensor& x, int64_t token, int64_t head) const {
    return x.const_data_ptr<float>() + token * x.stride(0) + head * x.stride(1);
  }
};

float* row(const Tensor& x, int64_t token, int64_t head) {
  return x.data_ptr<float>() + token * x.stride(0) + head * x.stride(1);
}

// A thread's memory for the current chunk of a key head.
class Scratch {
 public:
  explicit Scratch(const Heads& heads) : key_width_(heads.key_width) {
    kq_.resize(static_cast<size_t>(2 * kChunk * key_width_));
    scores_.resize(static_cast<size_t>(2 * kChunk * kChunk));
    d_kq_ = kq_;
    d_scores_ = scores_;
    kernel_.resize(
        static_cast<size_t>(kernels::delta_chunk_scratch(key_width_, heads.value_width)));
  }

  // Loads the keys and queries of a chunk and computes their products.
  void load(const Heads& heads, const Chunk& chunk, int64_t key_head) {
    tokens_ = chunk.tokens;
    const auto unit_rows = [&](const Tensor& x, float scale, float* out) {
      kernels::cpu_kernels().unit_rows(heads.row(x, chunk.first, key_head), tokens_, x.stride(0),
                                       key_width_, static_cast<float>(kDeltaNormEps), scale, out);
    };
    unit_rows(heads.in.k, 1, kq_.data());
    unit_rows(heads.in.q, heads.query_scale(), kq_.data() + tokens_ * key_width_);
    if (tokens_ < kChunk) std::ranges::fill(scores_, 0.0f);
    float_product({2 * tokens_,
                   tokens_,
                   key_width_,
                   keys(),
                   {kq_.data(), key_width_, true},
                   scores_.data(),
                   kChunk});
  }

  kernels::DeltaChunk chunk(const Heads& heads, const Chunk& chunk, int64_t head) const {
    return {tokens_,
            key_width_,
            heads.value_width,
            kq_.data(),
            scores_.data(),
            scores_.data() + tokens_ * kChunk,
            heads.row(heads.in.v, chunk.first, head),
            heads.in.v.stride(0),
            heads.row(heads.in.decay, chunk.first, head),
            heads.row(heads.in.beta, chunk.first, head),
            heads.heads};
  }

  void clear_gradients() {
    std::ranges::fill(d_kq_, 0.0f);
    std::ranges::fill(d_scores_, 0.0f);
  }

  // Adds the gradients of the products of keys and queries to the gradients of keys and queries.
  void add_gradients_of_scores() {
    const auto add = [&](float* scores, bool transposed, const kernels::FloatMatrix& rows,
                         float* to) {
      float_product({tokens_,
                     key_width_,
                     tokens_,
                     {scores, kChunk, transposed},
                     rows,
                     to,
                     key_width_,
                     /*accumulate=*/true});
    };
    add(d_qk(), false, keys(), d_queries());
    add(d_qk(), true, {kq_.data() + tokens_ * key_width_, key_width_}, d_kq());
    add(d_kk(), false, keys(), d_kq());
    add(d_kk(), true, keys(), d_kq());
  }

  float* d_kq() { return d_kq_.data(); }
  float* d_queries() { return d_kq_.data() + tokens_ * key_width_; }
  float* d_kk() { return d_scores_.data(); }
  float* d_qk() { return d_scores_.data() + tokens_ * kChunk; }
  float* kernel() { return kernel_.data(); }

 private:
  kernels::FloatMatrix keys() const { return {kq_.data(), key_width_}; }

  int64_t key_width_, tokens_ = 0;
  std::vector<float> kq_, scores_, d_kq_, d_scores_, kernel_;
};

// Computes the output of a key head's value heads in a sequence.
void forward_item(const Heads& heads, const std::vector<Chunk>& chunks, int64_t key_head,
                  const Tensor& output) {
  Scratch scratch(heads);
  std::vector<float> state(static_cast<size_t>(heads.repeat * heads.state_elements()), 0.0f);
  for (const Chunk& chunk : chunks) {
    scratch.load(heads, chunk, key_head);
    for (int64_t i = 0; i < heads.repeat; ++i) {
      const int64_t head = key_head * heads.repeat + i;
      kernels::cpu_kernels().delta_chunk(
          scratch.chunk(heads, chunk, head), state.data() + i * heads.state_elements(),
          row(output, chunk.first, head), output.stride(0), scratch.kernel());
    }
  }
}

// The states before each chunk, [chunks, value heads of the key head, key width, value width]. The
// backward pass recomputes them, because the states of all heads and sequences would take as much
// memory as four activations.
std::vector<float> states_before(const Heads& heads, const std::vector<Chunk>& chunks,
                                 int64_t key_head, Scratch& scratch) {
  const int64_t each = heads.repeat * heads.state_elements();
  std::vector<float> states(static_cast<size_t>(std::ssize(chunks) * each), 0.0f),
      output(static_cast<size_t>(kChunk * heads.value_width));
  for (size_t c = 0; c + 1 < chunks.size(); ++c) {
    float* before = states.data() + static_cast<int64_t>(c) * each;
    float* after = std::copy_n(before, each, before + each) - each;
    scratch.load(heads, chunks[c], key_head);
    for (int64_t i = 0; i < heads.repeat; ++i)
      kernels::cpu_kernels().delta_chunk(
          scratch.chunk(heads, chunks[c], key_head * heads.repeat + i),
          after + i * heads.state_elements(), output.data(), heads.value_width, scratch.kernel());
  }
  return states;
}

struct Gradients {
  Tensor q, k, v, decay, beta;
};

void backward_item(const Heads& heads, const std::vector<Chunk>& chunks, int64_t key_head,
                   const Tensor& d_out, const Gradients& d) {
  Scratch scratch(heads);
  std::vector<float> states = states_before(heads, chunks, key_head, scratch);
  std::vector<float> d_state(static_cast<size_t>(heads.repeat * heads.state_elements()), 0.0f);
  for (auto chunk = chunks.rbegin(); chunk != chunks.rend(); ++chunk) {
    scratch.load(heads, *chunk, key_head);
    scratch.clear_gradients();
    const float* before =
        states.data() + (chunks.rend() - chunk - 1) * heads.repeat * heads.state_elements();
    for (int64_t i = 0; i < heads.repeat; ++i) {
      const int64_t head = key_head * heads.repeat + i;
      kernels::cpu_kernels().delta_chunk_backward(
          scratch.chunk(heads, *chunk, head),
          {before + i * heads.state_elements(), row(d_out, chunk->first, head), d_out.stride(0),
           d_state.data() + i * heads.state_elements(), row(d.v, chunk->first, head), d.v.stride(0),
           row(d.decay, chunk->first, head), row(d.beta, chunk->first, head), scratch.d_kq(),
           scratch.d_kk(), scratch.d_qk()},
          scratch.kernel());
    }
    scratch.add_gradients_of_scores();
    const auto through_norm = [&](const Tensor& x, float scale, const float* from,
                                  const Tensor& to) {
      kernels::cpu_kernels().unit_rows_backward(heads.row(x, chunk->first, key_head), chunk->tokens,
                                                x.stride(0), heads.key_width,
                                                static_cast<float>(kDeltaNormEps), scale, from,
                                                row(to, chunk->first, key_head), to.stride(0));
    };
    through_norm(heads.in.k, 1, scratch.d_kq(), d.k);
    through_norm(heads.in.q, heads.query_scale(), scratch.d_queries(), d.q);
  }
}

template <class Body>
void for_each_item(const Heads& heads, const Bounds& bounds, Body body) {
  const auto chunks = chunks_of(bounds);
  parallel_for(std::ssize(chunks) * heads.key_heads, [&](int64_t i) {
    body(chunks[static_cast<size_t>(i / heads.key_heads)], i % heads.key_heads);
  });
}

Tensor forward_all(const Heads& heads, const Bounds& bounds) {
  Tensor output = at::empty(heads.in.v.sizes(), heads.in.v.options());
  for_each_item(heads, bounds, [&](const std::vector<Chunk>& chunks, int64_t key_head) {
    forward_item(heads, chunks, key_head, output);
  });
  return output;
}

struct DeltaRuleFunction : torch::autograd::Function<DeltaRuleFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& decay, const Tensor& beta,
                        const Bounds& bounds) {
    const Heads heads({q, k, v, decay, beta});
    context->save_for_backward({q, k, v, decay, beta});
    context->saved_data["bounds"] = bounds;
    return forward_all(heads, bounds);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Heads heads({saved[0], saved[1], saved[2], saved[3], saved[4]});
    const Tensor d_out = gradients[0].contiguous();
    const auto room = [](const Tensor& x) { return at::empty(x.sizes(), x.options()); };
    const Gradients d{room(heads.in.q), room(heads.in.k), room(heads.in.v), room(heads.in.decay),
                      room(heads.in.beta)};
    for_each_item(heads, context->saved_data["bounds"].toIntVector(),
                  [&](const std::vector<Chunk>& chunks, int64_t key_head) {
                    backward_item(heads, chunks, key_head, d_out, d);
                  });
    return {d.q, d.k, d.v, d.decay, d.beta, Tensor()};
  }
};

}  // namespace

Tensor delta_rule(const DeltaInputs& given, const Bounds& bounds) {
  QUERN_CHECK(delta_refusal(given.k.size(2), given.v.size(2)).empty());
  QUERN_CHECK(given.q.sizes() == given.k.sizes() && given.v.size(1) % given.k.size(1) == 0);
  QUERN_CHECK(given.decay.size(1) == given.v.size(1) && given.beta.size(1) == given.v.size(1));
  QUERN_CHECK(!bounds.empty() && bounds.front() == 0 && bounds.back() == given.v.size(0));
  const DeltaInputs in{dense_rows(given.q), dense_rows(given.k), dense_rows(given.v),
                       given.decay.contiguous(), given.beta.contiguous()};
  if (at::GradMode::is_enabled())
    return DeltaRuleFunction::apply(in.q, in.k, in.v, in.decay, in.beta, bounds);
  return forward_all(Heads(in), bounds);
}

}  // namespace quern::ops
