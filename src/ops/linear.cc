#include "ops/linear.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "ops/cpu_stack.h"

namespace quern::ops {
namespace {

// Tokens of a tile: enough to amortize the conversion of a bf16 weight.
constexpr int64_t kTokenTile = 512;

int64_t tiles(int64_t total, int64_t tile) { return (total + tile - 1) / tile; }

// One of the stacks that read the input.
struct Part {
  CpuStack* stack;
  int64_t first_row;   // in the output
  int64_t first_tile;  // of kRowTile rows, among the tiles of all stacks
  size_t form;         // index of its form among the distinct forms
};

class Parts {
 public:
  explicit Parts(const Stacks& stacks) {
    for (const auto& stack : stacks) {
      CpuStack& part = on_cpu(stack);
      QUERN_CHECK(part.columns() == on_cpu(stacks[0]).columns());
      list_.push_back({&part, rows_, row_tiles_, form_of(part)});
      rows_ += part.rows();
      row_tiles_ += tiles(part.rows(), CpuStack::kRowTile);
    }
  }

  const std::vector<Part>& list() const { return list_; }
  int64_t rows() const { return rows_; }
  int64_t row_tiles() const { return row_tiles_; }
  int64_t columns() const { return list_[0].stack->columns(); }
  // The first stack of each form.
  const std::vector<CpuStack*>& forms() const { return forms_; }

  const Part& of_tile(int64_t tile) const {
    auto next = std::ranges::upper_bound(list_, tile, {}, &Part::first_tile);
    return *std::prev(next);
  }

 private:
  size_t form_of(CpuStack& stack) {
    for (size_t i = 0; i < forms_.size(); ++i)
      if (forms_[i]->input_form() == stack.input_form()) return i;
    forms_.push_back(&stack);
    return forms_.size() - 1;
  }

  std::vector<Part> list_;
  std::vector<CpuStack*> forms_;
  int64_t rows_ = 0, row_tiles_ = 0;
};

Tensor forward(const Tensor& x, const Stacks& stacks) {
  const Parts parts(stacks);
  const int64_t tokens = x.size(0), rows = parts.rows(), columns = parts.columns(),
                token_tiles = tiles(tokens, kTokenTile), forms = std::ssize(parts.forms());
  Tensor out = at::empty({tokens, rows}, x.options());
  const float* in = x.const_data_ptr<float>();
  float* y = out.data_ptr<float>();
  std::vector<ArrangedInput> arranged(token_tiles * forms);
  parallel_for(token_tiles * forms, [&](int64_t i) {
    const int64_t first = i / forms * kTokenTile;
    arranged[i] = parts.forms()[i % forms]->arrange(in + first * columns,
                                                    std::min(kTokenTile, tokens - first), columns);
  });
  parallel_for(token_tiles * parts.row_tiles(), [&](int64_t i) {
    const int64_t token_tile = i / parts.row_tiles(), tile = i % parts.row_tiles();
    const Part& part = parts.of_tile(tile);
    const int64_t begin = (tile - part.first_tile) * CpuStack::kRowTile;
    const int64_t end = std::min(part.stack->rows(), begin + CpuStack::kRowTile);
    part.stack->product(arranged[token_tile * forms + static_cast<int64_t>(part.form)], 0, begin,
                        end, y + token_tile * kTokenTile * rows + part.first_row + begin, rows);
  });
  return out;
}

// dx = sum of dy W over the stacks, in order.
Tensor input_gradient(const Parts& parts, const Tensor& dy) {
  const int64_t tokens = dy.size(0), rows = parts.rows(), columns = parts.columns();
  Tensor dx = at::empty({tokens, columns}, dy.options());
  const float* from = dy.const_data_ptr<float>();
  float* to = dx.data_ptr<float>();
  parallel_pieces(tokens, kTokenTile / 2, [&](int64_t begin, int64_t end) {
    for (const Part& part : parts.list()) {
      part.stack->input_gradient(from + begin * rows + part.first_row, end - begin, rows, 0,
                                 to + begin * columns, columns,
                                 /*accumulate=*/part.first_row > 0);
    }
  });
  return dx;
}

void learn(const Parts& parts, const Tensor& x, const Tensor& dy) {
  const int64_t tokens = x.size(0), rows = parts.rows();
  const float* from = dy.const_data_ptr<float>();
  std::vector<ArrangedInput> arranged(parts.forms().size());
  for (const Part& part : parts.list()) {
    if (!part.stack->learns()) continue;
    ArrangedInput& in = arranged[part.form];
    if (!in.x)
      in = part.stack->arrange_to_learn(x.const_data_ptr<float>(), tokens, parts.columns());
    parallel_pieces(part.stack->rows(), CpuStack::kRowTile, [&](int64_t begin, int64_t end) {
      part.stack->learn(from + part.first_row, rows, in, 0, begin, end);
    });
  }
}

bool any_learns(const Stacks& stacks) {
  return std::ranges::any_of(stacks, [](const auto& stack) { return stack->learns(); });
}

// The weights are not tensors of the graph: learn() takes their gradient. `anchor` makes the graph
// reach stacks whose input needs no gradient.
struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x,
                        const Tensor& /*anchor*/, const Stacks& stacks) {
    context->save_for_backward({x});
    context->saved_data["stacks"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(stacks));
    return ops::forward(x, stacks);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto capsule = context->saved_data["stacks"].toCapsule();
    const Stacks& stacks = static_cast<Holder*>(capsule.get())->stacks;
    const Parts parts(stacks);
    const Tensor x = context->get_saved_variables()[0], dy = gradients[0].contiguous();
    Tensor dx;
    if (context->needs_input_grad(0)) dx = input_gradient(parts, dy);
    // Last, because the gradient of x needs the weights before their step.
    learn(parts, x, dy);
    return {dx, Tensor(), Tensor()};
  }

  struct Holder : torch::CustomClassHolder {
    explicit Holder(Stacks s) : stacks(std::move(s)) {}
    Stacks stacks;
  };
};

}  // namespace

Tensor linear(const Tensor& x_in, const Stacks& stacks) {
  QUERN_CHECK(x_in.dim() == 2 && x_in.size(1) == stacks.at(0)->columns());
  const Tensor x = x_in.contiguous();
  if (!at::GradMode::is_enabled()) return forward(x, stacks);
  return LinearFunction::apply(x, at::empty({0}, x.options()).requires_grad_(any_learns(stacks)),
                               stacks);
}

}  // namespace quern::ops
