// A place in a checkpoint from which modules take their tensors by name. Whether a weight is dense
// or packed, fused or split by expert, is found out here; a model file states names and shapes
// only.
#pragma once

#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "quant/config.h"

namespace quern::nn {

// Whether a tensor scales the keys or values of a layer's cache (compressed-tensors'
// kv_cache_scheme): who makes the caches reads it, no module does.
bool is_cache_scale(const std::string& tensor);

// What a linear does, where that decides whether it may be quantized. draft: of a draft layer, and
// ordinary there; draft_input: joins embedding and state for a draft layer.
enum class Role {
  ordinary,
  stem,  // before the blocks, which AutoRound does not reach
  router,
  shared_expert_gate,
  lm_head,
  draft,
  draft_input,
  vision,
  audio
};

enum class Bias { none, present };

// Whether a module is a table of rows that are looked up, by the last part of its name.
bool is_embedding_table(const std::string& module);

// One matrix of the model under its checkpoint name, as compress and verify see it.
struct LinearSite {
  std::string name;  // of the module, "model.layers.0.mlp.experts.3.up_proj"
  Weight weight;
  int64_t matrix;      // of the weight's stack
  std::string source;  // the tensor that holds it; fused experts share one
  // The module that vLLM makes of it and its siblings, with the same prefix; "" if none.
  std::string fused;
  Role role;
};

// A model folder and how its packed weights are to be read.
struct Source {
  explicit Source(const std::filesystem::path& folder);

  checkpoint::Checkpoint files;
  std::optional<quant::QuantizationConfig> quantization;
};

class Weights {
 public:
  explicit Weights(std::shared_ptr<const Source> source);

  Weights operator/(const std::string& name) const;
  Weights operator/(int index) const { return *this / std::to_string(index); }
  // The linears that are taken from the returned place and those below it are listed in `sites`,
  // which must outlive it; what linear_rows() takes, in `slices`.
  Weights listing(std::vector<LinearSite>* sites, std::vector<LinearSite>* slices = nullptr) const;
  // Ordinary linears below this place are part of a draft layer.
  Weights drafting() const;

  bool has(const std::string& name) const;         // a tensor of the checkpoint, below this place
  bool has_linear(const std::string& name) const;  // its weight, dense or packed
  std::string path(const std::string& name) const { return prefix_ + name; }

  // Small tensors, in fp32.
  Tensor tensor(const std::string& name, std::initializer_list<int64_t> shape) const;
  Norm norm(const std::string& name, int64_t width, double eps) const;
  // The norm multiplies by 1 + w.
  Norm norm_plus_one(const std::string& name, int64_t width, double eps) const;
  Embedding embedding(const std::string& name, int64_t rows, int64_t width) const;

  Linear linear(const std::string& name, int64_t rows, int64_t columns, Role role = Role::ordinary,
                Bias bias = Bias::none) const;
  // Rows [first, first + count) of a linear that is listed elsewhere, whole.
  Linear linear_rows(const std::string& name, int64_t rows, int64_t columns, int64_t first,
                     int64_t count) const;
  // Linears that read one input; `fused` is what vLLM calls them together. A checkpoint may hold
  // them under this name as one matrix, the rows of all parts in their order.
  template <size_t N>
  Merged<N> merged(const std::string& fused, const std::array<std::string, N>& names,
                   const std::array<int64_t, N>& rows, int64_t columns,
                   Bias bias = Bias::none) const {
    if (has_linear(fused)) {
      const int64_t all_rows = std::accumulate(rows.begin(), rows.end(), int64_t{0});
      return Merged<N>(linear(fused, all_rows, columns, Role::ordinary, bias), rows);
    }
    std::array<Linear, N> parts;
    for (size_t i = 0; i < N; ++i) parts[i] = part(names[i], fused, rows[i], columns, bias);
    return Merged<N>(std::move(parts));
  }
  Mlp mlp(const std::string& name, int64_t hidden, int64_t inner,
          Activation activation = Activation::silu) const;
  // `count` experts below `name`: one tensor for all of a kind, or one for each expert.
  Experts experts(const std::string& name, int64_t count, int64_t hidden, int64_t inner,
                  Activation activation = Activation::silu) const;

  // Tensors of the checkpoint below this place that nobody has taken.
  std::vector<std::string> untaken() const;
  // Fails if there are any but scales of caches, because then config.json describes another model
  // than the tensors.
  void expect_all_taken() const;

 private:
  Linear part(const std::string& name, const std::string& fused, int64_t rows, int64_t columns,
              Bias bias) const;
  Linear with_bias(const std::string& name, Weight weight, Bias bias) const;
  Tensor take(const std::string& full_name) const;
  Weight load(const std::string& module, int64_t rows, int64_t columns) const;
  Weight load_stack(const std::string& place, const std::string& projection, int64_t count,
                    int64_t rows, int64_t columns) const;
  void take_packed(const std::string& module, int64_t rows, int64_t columns) const;
  quant::QuantWeight read_packed(const std::string& module, int64_t rows, int64_t columns) const;
  Weight packed_stack(const std::string& name, const std::vector<std::string>& modules,
                      int64_t rows, int64_t columns) const;
  bool is_packed(const std::string& module) const;
  void list(const LinearSite& site) const;

  std::shared_ptr<const Source> source_;
  std::shared_ptr<std::set<std::string>> taken_;
  std::string prefix_;  // "" or ends in a dot
  std::vector<LinearSite>* sites_ = nullptr;
  std::vector<LinearSite>* slices_ = nullptr;
  bool draft_ = false;
};

}  // namespace quern::nn
