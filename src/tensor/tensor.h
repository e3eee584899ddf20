// The only door to LibTorch. `Tensor` is at::Tensor under our name; whoever takes one checks its
// shape before reading it. LibTorch itself runs on one thread: parallel work is cut into items by
// base/threads.h, so that results do not depend on the number of threads (its own GEMMs would).
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

// ATen leaves a macro of this name behind, which would shadow everybody's own.
#undef CHECK

#include <cstdint>
#include <initializer_list>
#include <string>

namespace quern {

using Tensor = at::Tensor;
using DType = at::ScalarType;

// To be called once before any other use: one LibTorch thread, no hidden parallelism.
void prepare_torch();

// "[3, 4]"
std::string shape_text(const Tensor& x);
std::string shape_text(at::IntArrayRef shape);

// Fails unless `x` has this shape; -1 stands for any size. `name` says whose shape is wrong.
void check_shape(const Tensor& x, std::initializer_list<int64_t> shape, const std::string& name);

// A tensor over memory that somebody else owns and keeps alive through `owner`.
template <class Owner>
Tensor borrow(const void* data, at::IntArrayRef shape, DType dtype, Owner owner) {
  return at::from_blob(
      const_cast<void*>(data), shape, [owner = std::move(owner)](void*) mutable { owner.reset(); },
      at::TensorOptions().dtype(dtype));
}

}  // namespace quern
