// A place in a checkpoint from which modules take their tensors by name. This class determines
// whether a weight is dense or packed, fused or split by expert; a model file states only names and
// shapes.
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
// kv_cache_scheme). The code that creates the caches reads it; modules do not.
bool is_cache_scale(const std::string& tensor);

// Whether a packed module has a bias of zeros, as GPTQ's tools write for linears without a bias.
bool has_zero_bias(const checkpoint::Files& files, const std::string& module);

enum class Bias { none, present };

// One of several linears that read one input.
struct Part {
  std::string name;
  Axis rows;
};

// Whether a module is an embedding table, judged by the last part of its name.
bool is_embedding_table(const std::string& module);

struct LinearSite;
// Whether the matrix is an embedding, which is looked up and therefore never quantized.
bool is_tied(const LinearSite& site);

// One matrix of the model under its checkpoint name, for compress and verify.
struct LinearSite {
  std::string name;  // of the module, "model.layers.0.mlp.experts.3.up_proj"
  Weight weight;
  int64_t matrix;      // in the weight's stack
  std::string source;  // the tensor that holds it; fused experts share one
  // Its input: sites with equal inputs (for experts, also equal matrices) are multiplied with the
  // same activations. The name of the module or of its unit.
  std::string input;
  // The module into which vLLM fuses it and its siblings, with the same prefix; "" if none.
  std::string fused;
  Role role;
  std::vector<std::string> absent = {};  // parts of that unit that the model lacks
  std::string in_block = {};             // its name inside its block; "" outside blocks
  bool expert = false;
  // The linear whose output channels, times numbers that do not depend on them, are the columns of
  // this one, in order; a scale can move from the rows of one to the columns of the other. "" if
  // there is none.
  std::string producer = {};
};

// The site as quantization_config describes it.
quant::ModuleScheme module_scheme(const LinearSite& site, std::optional<quant::Scheme> scheme);

// A model folder, and the schemes of its packed weights.
struct Source {
  explicit Source(const std::filesystem::path& folder);
  explicit Source(std::unique_ptr<const checkpoint::Files> model);

  std::unique_ptr<const checkpoint::Files> opened;
  const checkpoint::Files& files;  // the opened files
  std::optional<quant::QuantizationConfig> quantization;
};

class Weights {
 public:
  explicit Weights(std::shared_ptr<const Source> source);

  Weights operator/(const std::string& name) const;
  // The place of block `index`.
  Weights operator/(int index) const;
  // Lists the linears taken from the returned place and below it in `sites`, which must outlive it;
  // the linears of linear_rows() in `slices`; norms that linears read in `norms`.
  Weights listing(std::vector<LinearSite>* sites, std::vector<LinearSite>* slices = nullptr,
                  std::vector<NormSite>* norms = nullptr) const;
  // Marks ordinary linears below this place as parts of a draft layer.
  Weights drafting() const;
  // The share of one rank: a module states whole sizes and gets local tensors.
  Weights of(const Rank& rank) const;
  // The number of local heads among `heads`.
  int64_t local(int64_t heads) const;

  bool has(const std::string& name) const;         // a tensor below this place
  bool has_linear(const std::string& name) const;  // its weight, dense or packed
  std::string path(const std::string& name) const { return prefix_ + name; }

  // Small tensors, in fp32.
  Tensor tensor(const std::string& name, std::initializer_list<int64_t> shape) const;
  // Divides the first dimension among ranks.
  Tensor tensor(const std::string& name, std::initializer_list<int64_t> shape,
                const Axis& first) const;
  // readers: all inputs below this place (LinearSite::input) that consist of the norm's output
  // only; empty if the output also goes elsewhere.
  Norm norm(const std::string& name, int64_t width, double eps,
            const std::vector<std::string>& readers = {}) const;
  // A norm that multiplies by 1 + w.
  Norm norm_plus_one(const std::string& name, int64_t width, double eps,
                     const std::vector<std::string>& readers = {}) const;
  Embedding embedding(const std::string& name, int64_t rows, int64_t width) const;

  Linear linear(const std::string& name, const Axis& rows, const Axis& columns,
                Role role = Role::ordinary, Bias bias = Bias::none,
                Split split = Split::none) const;
  // The linear at the end of a unit; the ranks divide its inputs. producer: LinearSite::producer,
  // below this place.
  Linear closing(const std::string& name, int64_t rows, const Axis& columns,
                 const std::string& producer = {}) const;
  // A head that is tied to the embedding with the full name `embedding`: listed under its own name,
  // which readers expect, with the embedding's tensor as its source.
  Linear tied_head(const std::string& name, const std::string& embedding, int64_t rows,
                   int64_t columns) const;
  // Rows [first, first + count) of a linear; the whole linear is listed elsewhere.
  Linear linear_rows(const std::string& name, int64_t rows, int64_t columns, int64_t first,
                     int64_t count) const;
  // Linears that read one input; `fused` is vLLM's name for all of them. A checkpoint may store
  // them under this name as one matrix with the rows of all parts in order. Ranks divide the rows.
  // `absent`: parts that vLLM has and this model lacks, for readers that look up all parts.
  Linear merged(const std::string& fused, const std::vector<Part>& parts, int64_t columns,
                Bias bias = Bias::none, const std::vector<std::string>& absent = {}) const;
  // A part of such a unit that the model never reads: it is only listed.
  void unread(const std::string& fused, const Part& part, int64_t columns) const;
  Mlp mlp(const std::string& name, int64_t hidden, int64_t inner,
          Activation activation = Activation::silu) const;
  // `count` experts below `name`: one tensor for all experts, or one for each expert. Ranks divide
  // `inner`.
  Experts experts(const std::string& name, int64_t count, int64_t hidden, int64_t inner,
                  Activation activation = Activation::silu) const;

  // Tensors of the checkpoint below this place that no module has taken.
  std::vector<std::string> untaken() const;
  // Fails if there are any, except scales of caches, because config.json then describes another
  // model than the tensors.
  void expect_all_taken() const;

 private:
  // A whole matrix, which ranks divide.
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
  size_t block_ = 0;    // length of the prefix up to the names inside a block; 0: outside blocks
  std::vector<LinearSite>* sites_ = nullptr;
  std::vector<LinearSite>* slices_ = nullptr;
  std::vector<NormSite>* norms_ = nullptr;
  bool draft_ = false;
  Rank rank_;
};

}  // namespace quern::nn
