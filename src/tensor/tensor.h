// The only header that includes LibTorch. `Tensor` is at::Tensor under our name; a function that
// takes one checks its shape before reading it. LibTorch runs on one thread: base/threads.h cuts
// parallel work into items, so results do not depend on the number of threads (LibTorch's own GEMMs
// would).
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

// ATen defines a macro of this name, which would shadow others.
#undef CHECK

#include <cstdint>
#include <initializer_list>
#include <string>

namespace quern {

using Tensor = at::Tensor;
using DType = at::ScalarType;

// Call once before any other use: sets one LibTorch thread, without hidden parallelism.
void prepare_torch();

// "[3, 4]"
std::string shape_text(const Tensor& x);
std::string shape_text(at::IntArrayRef shape);

// Fails unless `x` has this shape; -1 stands for any size. `name` names the tensor in the message.
void check_shape(const Tensor& x, std::initializer_list<int64_t> shape, const std::string& name);

// A tensor over memory that `owner` keeps alive.
template <class Owner>
Tensor borrow(const void* data, at::IntArrayRef shape, DType dtype, Owner owner) {
  return at::from_blob(
      const_cast<void*>(data), shape, [owner = std::move(owner)](void*) mutable { owner.reset(); },
      at::TensorOptions().dtype(dtype));
}

}  // namespace quern
