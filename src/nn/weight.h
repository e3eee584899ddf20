// A shared handle of one stored matrix, or of a stack of equal-shaped matrices (the experts of a
// block). When its stack is replaced (dense, being tuned, packed), every module that multiplies by
// it sees the change.
#pragma once

#include <memory>
#include <string>

#include "ops/dense_stack.h"
#include "ops/input_tap.h"

namespace quern::nn {

class Weight {
 public:
  Weight() = default;
  Weight(std::string name, std::shared_ptr<ops::Stack> stack)
      : stored_(std::make_shared<Stored>(Stored{std::move(name), std::move(stack)})) {}

  // The name of the module. A stack of experts is named "...mlp.experts.up_proj".
  const std::string& name() const { return stored_->name; }
  // Whether both are handles of the same stored weight.
  bool is(const Weight& other) const { return stored_ == other.stored_; }
  int64_t matrices() const { return stack()->matrices(); }
  int64_t rows() const { return stack()->rows(); }
  int64_t columns() const { return stack()->columns(); }

  const std::shared_ptr<ops::Stack>& stack() const { return stored_->stack; }
  void become(std::shared_ptr<ops::Stack> stack) const { stored_->stack = std::move(stack); }
  // The stack as a `Form`; null if it has another form.
  template <class Form>
  std::shared_ptr<Form> as() const {
    return std::dynamic_pointer_cast<Form>(stack());
  }
  std::shared_ptr<ops::DenseStack> dense() const { return as<ops::DenseStack>(); }

  // The tap that sees the inputs, or null. Set by Tapped (nn/tap.h).
  ops::InputTap* tap() const { return stored_->tap; }

 private:
  friend class Tapped;

  struct Stored {
    std::string name;
    std::shared_ptr<ops::Stack> stack;
    ops::InputTap* tap = nullptr;
  };

  std::shared_ptr<Stored> stored_;
};

}  // namespace quern::nn
