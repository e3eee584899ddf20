#include "nn/linear.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "ops/norm.h"

namespace quern::nn {
namespace {

// Tiles of a product. A tile of 512 tokens makes one pass over a weight of bf16 worth its
// conversion.
constexpr int64_t kTokenTile = 512;

int64_t tiles(int64_t total, int64_t tile) { return (total + tile - 1) / tile; }

Tensor linear_forward(const Tensor& x, const Weight& weight) {
  const int64_t tokens = x.size(0), rows = weight.rows(), columns = weight.columns();
  Tensor out = at::empty({tokens, rows}, at::kFloat);
  const float* in = x.const_data_ptr<float>();
  const int64_t token_tiles = tiles(tokens, kTokenTile), row_tiles = tiles(rows, Weight::kRowTile);
  std::vector<Activations> ready(token_tiles);
  parallel_for(token_tiles, [&](int64_t i) {
    const int64_t first = i * kTokenTile;
    ready[i] = weight.prepare(in + first * columns, std::min(kTokenTile, tokens - first), columns);
  });
  parallel_for(token_tiles * row_tiles, [&](int64_t i) {
    const int64_t token_tile = i / row_tiles, begin = i % row_tiles * Weight::kRowTile;
    const int64_t end = std::min(rows, begin + Weight::kRowTile);
    weight.product(ready[token_tile], 0, begin, end,
                   out.data_ptr<float>() + token_tile * kTokenTile * rows + begin, rows);
  });
  return out;
}

// The weight is no tensor of the graph: its "gradient" is the step that the backward pass takes.
// `anchor` only makes the graph reach a weight whose input needs no gradient.
struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& /*anchor*/, const Weight& weight) {
    context->save_for_backward({x});
    context->saved_data["weight"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(weight));
    return linear_forward(x, weight);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto capsule = context->saved_data["weight"].toCapsule();
    const Weight& weight = static_cast<Holder*>(capsule.get())->weight;
    const Tensor x = context->get_saved_variables()[0];
    const Tensor dy = gradients[0].contiguous();
    const int64_t tokens = x.size(0), rows = weight.rows(), columns = weight.columns();
    const float* dy_data = dy.const_data_ptr<float>();
    Tensor dx;
    if (context->needs_input_grad(0)) {
      dx = at::empty({tokens, columns}, at::kFloat);
      parallel_pieces(tokens, kTokenTile / 2, [&](int64_t begin, int64_t end) {
        weight.product_backward(dy_data + begin * rows, end - begin, rows, 0,
                                dx.data_ptr<float>() + begin * columns, columns,
                                /*accumulate=*/false);
      });
    }
    // Only now, because the gradient of x needs the weight before its step.
    if (weight.rounding()) {
      const StepInput in = weight.prepare_step(x.const_data_ptr<float>(), tokens, columns);
      parallel_pieces(rows, Weight::kRowTile, [&](int64_t begin, int64_t end) {
        weight.step(dy_data, rows, in, 0, begin, end);
      });
    }
    return {dx, Tensor(), Tensor()};
  }

  struct Holder : torch::CustomClassHolder {
    explicit Holder(Weight w) : weight(std::move(w)) {}
    Weight weight;
  };
};

}  // namespace

Tensor Linear::operator()(const Tensor& x_in) const {
  QUERN_CHECK(x_in.dim() == 2 && x_in.size(1) == weight_.columns());
  const Tensor x = x_in.contiguous();
  Tensor y;
  if (at::GradMode::is_enabled()) {
    Tensor anchor = at::empty({0}, at::kFloat).requires_grad_(weight_.rounding() != nullptr);
    y = LinearFunction::apply(x, anchor, weight_);
  } else {
    y = linear_forward(x, weight_);
  }
  return bias_.defined() ? y + bias_ : y;
}

Tensor Norm::operator()(const Tensor& x) const { return ops::rms_norm(x, weight_, eps_); }

Tensor Norm::gated(const Tensor& x, const Tensor& gate) const {
  return ops::gated_rms_norm(x, gate, weight_, eps_);
}

Tensor Mlp::operator()(const Tensor& x) const {
  auto [gate, up] = gate_up_(x);
  return down_proj_(activation_ == Activation::silu ? ops::silu_mul(gate, up)
                                                    : ops::gelu_tanh_mul(gate, up));
}

}  // namespace quern::nn
