#include "nn/shared.h"

#include "base/error.h"

namespace quern::nn {

const Tensor& Shared::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  QUERN_CHECK(found != tensors_.end());
  return found->second;
}

Shared Shared::narrow(int64_t first, int64_t tokens) const {
  Shared part;
  for (const auto& [name, rows] : tensors_) part.set(name, rows.narrow(0, first, tokens));
  return part;
}

Shared Shared::cat(const std::vector<Shared>& parts) {
  Shared whole;
  for (const auto& [name, first] : parts.at(0).tensors_) {
    std::vector<Tensor> rows;
    for (const Shared& part : parts) rows.push_back(part.at(name));
    whole.set(name, at::cat(rows));
  }
  return whole;
}

Shared Shared::with_floats(DType dtype) const {
  Shared whole;
  for (const auto& [name, rows] : tensors_)
    whole.set(name, rows.is_floating_point() ? rows.to(dtype) : rows);
  return whole;
}

Shared Shared::beyond(const Shared& earlier) const {
  Shared added;
  for (const auto& [name, rows] : tensors_)
    if (!earlier.tensors_.contains(name)) added.set(name, rows);
  return added;
}

void Shared::add(const Shared& other) {
  for (const auto& [name, rows] : other.tensors_) set(name, rows);
}

}  // namespace quern::nn
