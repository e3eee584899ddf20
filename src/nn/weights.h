// A place in a checkpoint from which modules take their tensors by name. Whether a weight is dense
// or packed, fused or split by expert, is found out here; a model file states names and shapes
// only.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/files.h"
#include "nn/experts.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/role.h"
#include "nn/split.h"
#include "quant/config.h"

namespace quern::nn {

// Whether a tensor scales the keys or values of a layer's cache (compressed-tensors'
// kv_cache_scheme). The code that makes the caches reads it; no module does.
bool is_cache_scale(const std::string& tensor);

// Whether a packed module has a bias of zeros, as GPTQ's tools write for linears without one.
bool has_zero_bias(const checkpoint::Files& files, const std::string& module);

enum class Bias { none, present };

// One of several linears that read one input.
struct Part {
  std::string name;
  Axis rows;
};

// Whether a module is a table of rows that are looked up, by the last part of its name.
bool is_embedding_table(const std::string& module);

struct LinearSite;
// Whether the matrix is that of an embedding, which is looked up and so never quantized.
bool is_tied(const LinearSite& site);

// One matrix of the model under its checkpoint name, as compress and verify see it.
struct LinearSite {
  std::string name;  // of the module, "model.layers.0.mlp.experts.3.up_proj"
  Weight weight;
  int64_t matrix;      // of the weight's stack
  std::string source;  // the tensor that holds it; fused experts share one
  // What it reads: sites with equal inputs (and, of experts, equal matrices) are multiplied with
  // the same activations. A module's name, or that of its unit.
  std::string input;
  // The module that vLLM makes of it and its siblings, with the same prefix; "" if none.
  std::string fused;
  Role role;
  std::vector<std::string> absent = {};  // parts of that unit that the model lacks
  std::string in_block = {};             // its name inside its block; "" outside of blocks
  bool expert = false;
};

// As quantization_config tells it to readers.
quant::ModuleScheme module_scheme(const LinearSite& site, std::optional<quant::Scheme> scheme);

// A model folder and how its packed weights are to be read.
struct Source {
  explicit Source(const std::filesystem::path& folder);
  explicit Source(std::unique_ptr<const checkpoint::Files> model);

  std::unique_ptr<const checkpoint::Files> opened;
  const checkpoint::Files& files;  // those that were opened
  std::optional<quant::QuantizationConfig> quantization;
};

class Weights {
 public:
  explicit Weights(std::shared_ptr<const Source> source);

  Weights operator/(const std::string& name) const;
  // One of several blocks.
  Weights operator/(int index) const;
  // The linears that are taken from the returned place and those below it are listed in `sites`,
  // which must outlive it; what linear_rows() takes, in `slices`; norms that some linears read, in
  // `norms`.
  Weights listing(std::vector<LinearSite>* sites, std::vector<LinearSite>* slices = nullptr,
                  std::vector<NormSite>* norms = nullptr) const;
  // Ordinary linears below this place are part of a draft layer.
  Weights drafting() const;
  // The share of one rank: sizes that a module states are those of the whole, what it gets is
  // local.
  Weights of(const Rank& rank) const;
  // How many of so many heads are local.
  int64_t local(int64_t heads) const;

  bool has(const std::string& name) const;         // a tensor of the checkpoint, below this place
  bool has_linear(const std::string& name) const;  // its weight, dense or packed
  std::string path(const std::string& name) const { return prefix_ + name; }

  // Small tensors, in fp32.
  Tensor tensor(const std::string& name, std::initializer_list<int64_t> shape) const;
  // The first dimension is divided among ranks.
  Tensor tensor(const std::string& name, std::initializer_list<int64_t> shape,
                const Axis& first) const;
  // readers: the inputs below this place (LinearSite::input) that are the norm's output and nothing
  // else, all of them; none where the output also goes elsewhere.
  Norm norm(const std::string& name, int64_t width, double eps,
            const std::vector<std::string>& readers = {}) const;
  // The norm multiplies by 1 + w.
  Norm norm_plus_one(const std::string& name, int64_t width, double eps,
                     const std::vector<std::string>& readers = {}) const;
  Embedding embedding(const std::string& name, int64_t rows, int64_t width) const;

  Linear linear(const std::string& name, const Axis& rows, const Axis& columns,
                Role role = Role::ordinary, Bias bias = Bias::none,
                Split split = Split::none) const;
  // The linear at the end of a unit, whose inputs the ranks have divided.
  Linear closing(const std::string& name, int64_t rows, const Axis& columns) const {
    return linear(name, rows, columns, Role::ordinary, Bias::none, Split::columns);
  }
  // The head of a model whose head is tied to the embedding at the full name `embedding`: listed
  // under its own name, by which readers know it, with the embedding's tensor as its source.
  Linear tied_head(const std::string& name, const std::string& embedding, int64_t rows,
                   int64_t columns) const;
  // Rows [first, first + count) of a linear that is listed elsewhere, whole.
  Linear linear_rows(const std::string& name, int64_t rows, int64_t columns, int64_t first,
                     int64_t count) const;
  // Linears that read one input; `fused` is what vLLM calls them together. A checkpoint may hold
  // them under this name as one matrix, the rows of all parts in their order. Ranks divide the
  // rows.
  // `absent`: parts that vLLM has and this model lacks, for readers that ask for all of them.
  Linear merged(const std::string& fused, const std::vector<Part>& parts, int64_t columns,
                Bias bias = Bias::none, const std::vector<std::string>& absent = {}) const;
  // A part of such a unit that no pass reads: it is listed, and nothing multiplies by it.
  void unread(const std::string& fused, const Part& part, int64_t columns) const;
  Mlp mlp(const std::string& name, int64_t hidden, int64_t inner,
          Activation activation = Activation::silu) const;
  // `count` experts below `name`: one tensor for all of a kind, or one for each expert. Ranks
  // divide `inner`.
  Experts experts(const std::string& name, int64_t count, int64_t hidden, int64_t inner,
                  Activation activation = Activation::silu) const;

  // Tensors of the checkpoint below this place that no module has taken.
  std::vector<std::string> untaken() const;
  // Fails if there are any, scales of caches apart, because config.json then describes another
  // model than the tensors do.
  void expect_all_taken() const;

 private:
  // A matrix that ranks divide.
  struct Whole {
    Axis rows, columns;
    Split split;

    std::vector<int64_t> shape() const { return {rows.size(), columns.size()}; }
  };
  template <class Matrix>
  Matrix mine(const Matrix& matrix, const Whole& whole, const std::string& name) const;

  Weight part(const std::string& fused, const Part& part, int64_t columns) const;
  int64_t local_rows(const Axis& rows, const std::string& name) const;
  Tensor bias_of(const std::string& name, const Axis& rows, Bias bias, Split split) const;
  Norm listed_norm(const std::string& name, int64_t width, double eps,
                   const std::vector<std::string>& readers, bool plus_one) const;
  Tensor take(const std::string& full_name) const;
  Weight load(const std::string& module, const Whole& whole) const;
  Weight load_stack(const std::string& place, const std::string& projection, int64_t count,
                    const Whole& whole) const;
  void take_packed(const std::string& module, const Whole& whole) const;
  quant::QuantWeight read_packed(const std::string& module, const Whole& whole) const;
  Weight packed_stack(const std::string& name, const std::vector<std::string>& modules,
                      const Whole& whole) const;
  bool is_packed(const std::string& module) const;
  void list(const LinearSite& site) const;

  std::shared_ptr<const Source> source_;
  std::shared_ptr<std::set<std::string>> taken_;
  std::string prefix_;  // "" or ends in a dot
  size_t block_ = 0;    // characters of the prefix up to the names inside of a block; 0: outside
  std::vector<LinearSite>* sites_ = nullptr;
  std::vector<LinearSite>* slices_ = nullptr;
  std::vector<NormSite>* norms_ = nullptr;
  bool draft_ = false;
  Rank rank_;
};

}  // namespace quern::nn
