// The tensors of published checkpoints as a function of their config.json: names, dtypes, shapes,
// and the kind of their values. Sources: the models' published tensor lists; `make_synthetic
// --check` compares layouts with fixtures.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::layouts {

// Values of a plausible size for a kind of weight.
enum class Fill {
  matrix,
  bias,
  norm,            // around 1
  norm_minus_one,  // the model multiplies by 1 + w
  convolution,
  decay,  // of the delta net, A_log
  step,   // of the delta net, dt_bias
  one,    // a factor
  low,    // a lower bound that no value reaches
  high,   // an upper bound that no value reaches
};

struct LayoutTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  Fill fill;
};

class Layout {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, Fill fill = Fill::matrix,
           DType dtype = at::kBFloat16) {
    tensors_.push_back({name, dtype, std::move(shape), fill});
  }
  // name.weight and name.bias
  void add_with_bias(const std::string& name, std::vector<int64_t> shape, Fill fill = Fill::matrix);
  // name.gate_proj, .up_proj and .down_proj
  void add_mlp(const std::string& name, int64_t hidden, int64_t inner, DType dtype = at::kBFloat16);

  const std::vector<LayoutTensor>& tensors() const { return tensors_; }

 private:
  std::vector<LayoutTensor> tensors_;
};

struct LayoutOptions {
  bool split_experts = false;  // Qwen3.6: a tensor for each expert instead of stacks
  bool draft = true;           // GLM-4.5: include the layer after the last one
};

// Chooses by the first entry of the config's architectures; fails on an unknown one.
Layout layout_of(const Json& config, const LayoutOptions& options = {});

void add_qwen3_6(Layout& layout, const Json& config, const LayoutOptions& options);
void add_glm4_5(Layout& layout, const Json& config, const LayoutOptions& options);
void add_gemma4(Layout& layout, const Json& config);
void add_sarvam(Layout& layout, const Json& config);

// "qwen3.6", "glm4.5", "gemma4", "sarvam"
std::vector<std::string> families();
// The settings of Qwen3.6-35B-A3B, GLM-4.5-Air, Gemma-4-E4B-it or sarvam-30b as published; with
// only `blocks` blocks if blocks > 0, including both kinds of block if there are two.
JsonValue published_config(const std::string& family, int blocks = 0);

// The image processor's file of the published model. The name is empty for a model without
// pictures.
struct ProcessorFile {
  std::string name;
  JsonValue content;
};
ProcessorFile published_processor(const std::string& family);

}  // namespace quern::layouts
