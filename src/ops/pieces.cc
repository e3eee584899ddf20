#include "ops/pieces.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"

namespace quern::ops {
namespace {

// Elements of a piece: a few hundred KB, which keeps a chain of functions in L2.
constexpr int64_t kPieceElements = 96 * 1024;

struct Job {
  PieceFunction f;
  std::vector<Piece> pieces;
  std::vector<int64_t> output_shape;
};

void run_forward(const Job& job, at::TensorList inputs, Tensor& output) {
  parallel_for(static_cast<int64_t>(job.pieces.size()), [&](int64_t i) {
    at::NoGradGuard no_grad;
    const Piece& piece = job.pieces[i];
    std::vector<Tensor> views;
    for (size_t which = 0; which < inputs.size(); ++which)
      views.push_back(piece.input(inputs[which], which));
    piece.output(output).copy_(job.f(views));
  });
}

// Memory for the gradient of an input. Each piece fills its own view; the gradient of elements that
// no piece reads is zero.
Tensor gradient_room(const Job& job, const Tensor& input, size_t which) {
  Tensor room = at::empty_like(input, at::MemoryFormat::Contiguous);
  int64_t filled = 0;  // views do not overlap
  for (const Piece& piece : job.pieces) filled += piece.input(room, which).numel();
  if (filled < room.numel()) room.zero_();
  return room;
}

std::vector<Tensor> run_backward(const Job& job, const std::vector<Tensor>& inputs,
                                 const std::vector<bool>& wanted, const Tensor& output_gradient) {
  std::vector<Tensor> gradients(inputs.size());
  for (size_t which = 0; which < inputs.size(); ++which) {
    if (wanted[which]) gradients[which] = gradient_room(job, inputs[which], which);
  }
  parallel_for(static_cast<int64_t>(job.pieces.size()), [&](int64_t i) {
    const Piece& piece = job.pieces[i];
    std::vector<Tensor> views, leaves;
    std::vector<size_t> leaf_of;
    at::AutoGradMode with_grad(true);
    for (size_t which = 0; which < inputs.size(); ++which) {
      Tensor view = piece.input(inputs[which], which).detach();
      if (wanted[which]) {
        view.requires_grad_(true);
        leaves.push_back(view);
        leaf_of.push_back(which);
      }
      views.push_back(view);
    }
    Tensor y = job.f(views);
    auto found = torch::autograd::grad({y}, leaves, {piece.output(output_gradient)},
                                       /*retain_graph=*/std::nullopt,
                                       /*create_graph=*/false, /*allow_unused=*/true);
    at::NoGradGuard no_grad;
    for (size_t leaf = 0; leaf < leaves.size(); ++leaf) {
      Tensor to = piece.input(gradients[leaf_of[leaf]], leaf_of[leaf]);
      found[leaf].defined() ? to.copy_(found[leaf]) : to.zero_();
    }
  });
  return gradients;
}

// On the device of the inputs.
Tensor output_of(const Job& job, at::TensorList inputs) {
  const auto* input = std::ranges::find_if(inputs, [](const Tensor& x) { return x.defined(); });
  return at::empty(job.output_shape, input->options().dtype(at::kFloat));
}

// LibTorch's interface for functions with their own gradient.
struct PiecesFunction : torch::autograd::Function<PiecesFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, std::shared_ptr<Job> job,
                        at::TensorList inputs) {
    Tensor output = output_of(*job, inputs);
    run_forward(*job, inputs, output);
    context->saved_data["job"] =
        c10::IValue::make_capsule(c10::make_intrusive<Holder>(std::move(job)));
    context->save_for_backward(inputs.vec());
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list output_gradients) {
    auto capsule = context->saved_data["job"].toCapsule();
    const Job& job = *static_cast<Holder*>(capsule.get())->job;
    std::vector<Tensor> inputs = context->get_saved_variables();
    std::vector<bool> wanted;
    for (size_t which = 0; which < inputs.size(); ++which)
      wanted.push_back(context->needs_input_grad(which));
    torch::autograd::variable_list gradients = {Tensor()};
    for (Tensor& gradient : run_backward(job, inputs, wanted, output_gradients[0])) {
      gradients.push_back(std::move(gradient));
    }
    return gradients;
  }

  struct Holder : torch::CustomClassHolder {
    explicit Holder(std::shared_ptr<Job> j) : job(std::move(j)) {}
    std::shared_ptr<Job> job;
  };
};

}  // namespace

Tensor by_pieces(const PieceFunction& f, std::vector<Tensor> inputs, at::IntArrayRef output_shape,
                 std::vector<Piece> pieces) {
  auto job = std::make_shared<Job>(Job{f, std::move(pieces), output_shape.vec()});
  bool differentiable =
      at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), [](const Tensor& x) {
        return x.defined() && x.requires_grad();
      });
  if (differentiable) return PiecesFunction::apply(std::move(job), at::TensorList(inputs));
  Tensor output = output_of(*job, inputs);
  run_forward(*job, inputs, output);
  return output;
}

namespace {

// LibTorch computes whole pairs of vectors and the remainder at the end with different code, whose
// last bits differ; its code for strided rows differs too. Contiguous rows, padded with rows of
// zeros, have no remainder, so the bits of a row do not depend on the number of rows.
PieceFunction over_whole_vectors(const PieceFunction& f, const std::vector<Tensor>& inputs) {
  constexpr int64_t kVectors = 32;
  int64_t multiple = 1;  // of rows, without a remainder
  for (const Tensor& input : inputs) {
    const int64_t row = std::max<int64_t>(1, input.numel() / std::max<int64_t>(input.size(0), 1));
    multiple = std::lcm(multiple, kVectors / std::gcd(kVectors, row));
  }
  return [f, multiple](const std::vector<Tensor>& in) {
    const int64_t rows = in[0].size(0), missing = (multiple - rows % multiple) % multiple;
    std::vector<Tensor> padded;
    for (const Tensor& x : in) {
      if (missing == 0) {
        padded.push_back(x.contiguous());
        continue;
      }
      std::vector<int64_t> shape = x.sizes().vec();
      shape[0] = missing;
      padded.push_back(at::cat({x, at::zeros(shape, x.options())}));
    }
    return missing == 0 ? f(padded) : f(padded).narrow(0, 0, rows);
  };
}

}  // namespace

Tensor by_rows(const PieceFunction& given, std::vector<Tensor> inputs,
               at::IntArrayRef output_row_shape) {
  QUERN_CHECK(!inputs.empty());
  const PieceFunction f = at::GradMode::is_enabled() ? given : over_whole_vectors(given, inputs);
  const int64_t rows = inputs[0].size(0);
  int64_t widest = 1;
  for (const Tensor& input : inputs) {
    QUERN_CHECK(input.size(0) == rows);
    widest = std::max(widest, input.numel() / std::max<int64_t>(rows, 1));
  }
  const int64_t piece_rows = std::clamp<int64_t>(kPieceElements / widest, 1, 1024);
  std::vector<int64_t> shape = {rows};
  shape.insert(shape.end(), output_row_shape.begin(), output_row_shape.end());
  if (rows <= piece_rows && !at::GradMode::is_enabled()) return f(inputs).reshape(shape);

  std::vector<Piece> pieces;
  for (int64_t begin = 0; begin < rows; begin += piece_rows) {
    int64_t count = std::min(piece_rows, rows - begin);
    auto cut = [begin, count](const Tensor& x) { return x.narrow(0, begin, count); };
    pieces.push_back({[cut](const Tensor& x, size_t) { return cut(x); }, cut});
  }
  return by_pieces(f, std::move(inputs), shape, std::move(pieces));
}

}  // namespace quern::ops
