#include "nn/weights.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/threads.h"
#include "ops/packed_stack.h"
#include "prompt/pattern.h"

namespace quern::nn {
namespace {

std::string tensor_of(const std::string& module) { return module + ".weight"; }

Weight dense_weight(const std::string& name, std::vector<Tensor> matrices) {
  return Weight(name, std::make_shared<ops::DenseStack>(std::move(matrices)));
}

// Fused experts hold the gate rows, then the up rows in one tensor (Qwen3.6: experts.gate_up_proj
// [E, 2 I, H]).
struct FusedPlace {
  std::string tensor;
  int64_t first_row, all_rows;
};

// The quantization_config of config.json, or quantization_config.json, which AutoRound also writes.
std::optional<quant::QuantizationConfig> read_quantization(const checkpoint::Files& files) {
  auto compile = [](const std::string& pattern) -> quant::Match {
    return [compiled = std::make_shared<prompt::Pattern>(pattern)](std::string_view text) {
      return compiled->match(text);
    };
  };
  if (files.config().has("quantization_config")) {
    return quant::QuantizationConfig(files.config().at("quantization_config"), compile);
  }
  const char* own = "quantization_config.json";
  if (!files.has_file(own)) return std::nullopt;
  const JsonValue value = files.json(own);
  return quant::QuantizationConfig(Json(value, (files.folder() / own).string()), compile);
}

// Sizes come from config.json, so a tensor of another shape contradicts it.
void expect_shape(const std::string& name, at::IntArrayRef found, at::IntArrayRef wanted) {
  if (found == wanted) return;
  fail("{}: shape {}, but config.json implies {}; the files belong to different models", name,
       shape_text(found), shape_text(wanted));
}

FusedPlace fused_place(const std::string& projection, int64_t rows) {
  if (projection == "down_proj") return {"down_proj", 0, rows};
  return {"gate_up_proj", projection == "up_proj" ? rows : 0, 2 * rows};
}

}  // namespace

bool is_embedding_table(const std::string& module) {
  const std::string_view last = std::string_view(module).substr(module.rfind('.') + 1);
  return last.find("embed") != std::string_view::npos &&
         last.find("proj") == std::string_view::npos;
}

quant::ModuleScheme module_scheme(const LinearSite& site, std::optional<quant::Scheme> scheme) {
  // A draft layer's head is inside its block.
  const bool head = site.role == Role::lm_head && site.in_block.empty();
  return {site.name, std::move(scheme), site.fused, site.absent, site.in_block, site.expert, head};
}

bool is_tied(const LinearSite& site) {
  return is_embedding_table(site.source.substr(0, site.source.rfind('.')));
}

bool has_zero_bias(const checkpoint::Files& files, const std::string& module) {
  const std::string bias = module + ".bias";
  return files.has(bias) && files.tensor(bias).eq(0).all().item<bool>();
}

Source::Source(const std::filesystem::path& folder) : Source(checkpoint::open_model(folder)) {}

Source::Source(std::unique_ptr<const checkpoint::Files> model)
    : opened(std::move(model)), files(*opened), quantization(read_quantization(files)) {}

Weights::Weights(std::shared_ptr<const Source> source)
    : source_(std::move(source)), taken_(std::make_shared<std::set<std::string>>()) {}

Weights Weights::operator/(const std::string& name) const {
  Weights below = *this;
  below.prefix_ += name + ".";
  return below;
}

Weights Weights::operator/(int index) const {
  Weights block = *this / std::to_string(index);
  block.block_ = block.prefix_.size();
  return block;
}

Weights Weights::listing(std::vector<LinearSite>* sites, std::vector<LinearSite>* slices,
                         std::vector<NormSite>* norms) const {
  Weights here = *this;
  here.sites_ = sites;
  here.slices_ = slices;
  here.norms_ = norms;
  return here;
}

Weights Weights::drafting() const {
  Weights here = *this;
  here.draft_ = true;
  return here;
}

Weights Weights::of(const Rank& rank) const {
  Weights here = *this;
  here.rank_ = rank;
  return here;
}

int64_t Weights::local(int64_t heads) const { return local_rows(heads, prefix_); }

int64_t Weights::local_rows(const Axis& rows, const std::string& name) const {
  int64_t size = 0;
  for (const Range& piece : rows.share(rank_, name)) size += piece.size;
  return size;
}

template <class Matrix>
Matrix Weights::mine(const Matrix& matrix, const Whole& whole, const std::string& name) const {
  if (rank_.count == 1 || whole.split == Split::none) return matrix;
  return whole.split == Split::rows ? pick(matrix, 0, whole.rows.share(rank_, name), name)
                                    : pick(matrix, 1, whole.columns.share(rank_, name), name);
}

bool Weights::has(const std::string& name) const { return source_->files.has(prefix_ + name); }

bool Weights::has_linear(const std::string& name) const {
  return has(tensor_of(name)) || is_packed(prefix_ + name);
}

Tensor Weights::take(const std::string& full_name) const {
  taken_->insert(full_name);
  return source_->files.tensor(full_name);
}

Tensor Weights::tensor(const std::string& name, std::initializer_list<int64_t> shape) const {
  Tensor stored = take(prefix_ + name);
  expect_shape(prefix_ + name, stored.sizes(), shape);
  return stored.to(at::kFloat);
}

Tensor Weights::tensor(const std::string& name, std::initializer_list<int64_t> shape,
                       const Axis& first) const {
  const Tensor whole = tensor(name, shape);
  return rank_.count == 1 ? whole : pick(whole, 0, first.share(rank_, prefix_ + name));
}

Norm Weights::norm(const std::string& name, int64_t width, double eps,
                   const std::vector<std::string>& readers) const {
  return listed_norm(name, width, eps, readers, /*plus_one=*/false);
}

Norm Weights::norm_plus_one(const std::string& name, int64_t width, double eps,
                            const std::vector<std::string>& readers) const {
  return listed_norm(name, width, eps, readers, /*plus_one=*/true);
}

Norm Weights::listed_norm(const std::string& name, int64_t width, double eps,
                          const std::vector<std::string>& readers, bool plus_one) const {
  const Tensor stored = tensor(tensor_of(name), {width});
  Norm norm(plus_one ? 1.0 + stored : stored, eps);
  if (norms_ && !readers.empty()) {
    const std::string full = prefix_ + tensor_of(name);
    norms_->push_back({full, norm, plus_one, source_->files.info(full).dtype, {}});
    for (const std::string& reader : readers) norms_->back().readers.push_back(prefix_ + reader);
  }
  return norm;
}

Embedding Weights::embedding(const std::string& name, int64_t rows, int64_t width) const {
  Tensor table = take(tensor_of(prefix_ + name));
  expect_shape(tensor_of(prefix_ + name), table.sizes(), {rows, width});
  return Embedding(std::move(table));
}

bool Weights::is_packed(const std::string& module) const {
  return quant::is_packed(module,
                          [&](const std::string& name) { return source_->files.has(name); });
}

void Weights::take_packed(const std::string& module, const Whole& whole) const {
  if (!source_->quantization)
    fail("{}: it has packed tensors, but config.json has no quantization_config", module);
  const quant::QuantizationConfig& config = *source_->quantization;
  const auto scheme = config.scheme_of(module);
  if (!scheme)
    fail("{}: it has packed tensors, but quantization_config states that it is not quantized",
         module);
  for (std::string_view part : config.format().parts)
    taken_->insert(fmt::format("{}.{}", module, part));
  if (has_zero_bias(source_->files, module)) taken_->insert(module + ".bias");
}

quant::QuantWeight Weights::read_packed(const std::string& module, const Whole& whole) const {
  const quant::QuantizationConfig& config = *source_->quantization;
  quant::QuantWeight weight = quant::from_disk(
      module, *config.scheme_of(module), config.format(), [&](const std::string& tensor) {
        return source_->files.has(tensor) ? source_->files.tensor(tensor) : Tensor();
      });
  expect_shape(module, {weight.rows(), weight.columns}, whole.shape());
  return mine(weight, whole, module);
}

Weight Weights::packed_stack(const std::string& name, const std::vector<std::string>& modules,
                             const Whole& whole) const {
  for (const std::string& module : modules) take_packed(module, whole);
  auto read = [&](const std::string& module) { return read_packed(module, whole); };
  quant::QuantWeight first = read(modules[0]);
  auto stack =
      ops::packed_stack(name, std::ssize(modules), first.rows(), first.columns, first.scheme);
  stack->set(0, first);
  parallel_for(static_cast<int64_t>(modules.size()) - 1, [&](int64_t i) {
    quant::QuantWeight weight = read(modules[i + 1]);
    if (weight.scheme != first.scheme) {
      fail("{}: stored as {}, but {} as {}; all experts of a block must be stored alike",
           modules[i + 1], weight.scheme.text(), modules[0], first.scheme.text());
    }
    stack->set(i + 1, weight);
  });
  return Weight(name, std::move(stack));
}

Weight Weights::load(const std::string& module, const Whole& whole) const {
  if (is_packed(module)) return packed_stack(module, {module}, whole);
  const Tensor stored = take(tensor_of(module));
  expect_shape(tensor_of(module), stored.sizes(), whole.shape());
  return dense_weight(module, {mine(stored, whole, module)});
}

Weight Weights::load_stack(const std::string& place, const std::string& projection, int64_t count,
                           const Whole& whole) const {
  const int64_t rows = whole.rows.size();
  const std::string name = place + "." + projection;
  auto module = [&](int64_t expert) { return fmt::format("{}.{}.{}", place, expert, projection); };
  std::vector<Tensor> matrices;
  const FusedPlace fused = fused_place(projection, rows);
  if (const std::string tensor = place + "." + fused.tensor; source_->files.has(tensor)) {
    Tensor all = take(tensor);
    expect_shape(tensor, all.sizes(), {count, fused.all_rows, whole.columns.size()});
    for (int64_t e = 0; e < count; ++e)
      matrices.push_back(mine(all.select(0, e).narrow(0, fused.first_row, rows), whole, name));
    return dense_weight(name, std::move(matrices));
  }
  if (is_packed(module(0))) {
    std::vector<std::string> modules;
    for (int64_t e = 0; e < count; ++e) modules.push_back(module(e));
    return packed_stack(name, modules, whole);
  }
  for (int64_t e = 0; e < count; ++e) {
    const Tensor stored = take(tensor_of(module(e)));
    expect_shape(tensor_of(module(e)), stored.sizes(), whole.shape());
    matrices.push_back(mine(stored, whole, name));
  }
  return dense_weight(name, std::move(matrices));
}

void Weights::list(const LinearSite& site) const {
  if (!sites_) return;
  sites_->push_back(site);
  if (block_ > 0) sites_->back().in_block = site.name.substr(block_);
  if (draft_ && site.role == Role::ordinary) sites_->back().role = Role::draft;
}

Tensor Weights::bias_of(const std::string& name, const Axis& rows, Bias bias, Split split) const {
  if (bias == Bias::none) return Tensor();
  if (split == Split::rows) return tensor(name + ".bias", {rows.size()}, rows);
  return tensor(name + ".bias", {rows.size()});
}

Linear Weights::linear(const std::string& name, const Axis& rows, const Axis& columns, Role role,
                       Bias bias, Split split) const {
  const std::string module = prefix_ + name;
  Weight weight = load(module, {rows, columns, split});
  list({module, weight, 0, tensor_of(module), module, "", role});
  return Linear(std::move(weight), bias_of(name, rows, bias, split));
}

Linear Weights::closing(const std::string& name, int64_t rows, const Axis& columns,
                        const std::string& producer) const {
  const Linear made = linear(name, rows, columns, Role::ordinary, Bias::none, Split::columns);
  if (sites_ && !producer.empty()) sites_->back().producer = prefix_ + producer;
  return made;
}

Linear Weights::tied_head(const std::string& name, const std::string& embedding, int64_t rows,
                          int64_t columns) const {
  const std::string module = prefix_ + name;
  Weight weight = load(embedding, {rows, columns, Split::none});
  list({module, weight, 0, tensor_of(embedding), module, "", Role::lm_head});
  return Linear(std::move(weight));
}

Linear Weights::linear_rows(const std::string& name, int64_t rows, int64_t columns, int64_t first,
                            int64_t count) const {
  const std::string module = prefix_ + name;
  const Whole whole{rows, columns, Split::none};
  Weight weight;
  if (is_packed(module)) {
    take_packed(module, whole);
    const quant::QuantWeight some = pick(read_packed(module, whole), 0, {{first, count}}, module);
    auto stack = ops::packed_stack(module, 1, count, columns, some.scheme);
    stack->set(0, some);
    weight = Weight(module, std::move(stack));
  } else {
    const Tensor stored = take(tensor_of(module));
    expect_shape(tensor_of(module), stored.sizes(), whole.shape());
    weight = dense_weight(module, {stored.narrow(0, first, count)});
  }
  if (slices_)
    slices_->push_back({module, weight, 0, tensor_of(module), module, "", Role::ordinary});
  return Linear(std::move(weight));
}

Weight Weights::part(const std::string& fused, const Part& part, int64_t columns) const {
  const std::string module = prefix_ + part.name, unit = prefix_ + fused;
  Weight weight = load(module, {part.rows, columns, Split::rows});
  list({module, weight, 0, tensor_of(module), unit, unit, Role::ordinary});
  return weight;
}

Linear Weights::merged(const std::string& fused, const std::vector<Part>& parts, int64_t columns,
                       Bias bias, const std::vector<std::string>& absent) const {
  Axis all(0);
  std::vector<int64_t> rows;
  for (const Part& one : parts) {
    all.append(one.rows);
    rows.push_back(local_rows(one.rows, prefix_ + one.name));
  }
  if (has_linear(fused)) {
    const std::string module = prefix_ + fused;
    Weight weight = load(module, {all, columns, Split::rows});
    list({module, weight, 0, tensor_of(module), module, "", Role::ordinary});
    return Linear({std::move(weight)}, std::move(rows), bias_of(fused, all, bias, Split::rows));
  }
  std::vector<Weight> weights;
  std::vector<Tensor> biases;
  for (const Part& one : parts) {
    weights.push_back(part(fused, one, columns));
    biases.push_back(bias_of(one.name, one.rows, bias, Split::rows));
  }
  for (const std::string& name : absent)
    if (sites_) sites_->back().absent.push_back(prefix_ + name);
  return Linear(std::move(weights), std::move(rows),
                bias == Bias::none ? Tensor() : at::cat(biases));
}

void Weights::unread(const std::string& fused, const Part& one, int64_t columns) const {
  part(fused, one, columns);
}

Mlp Weights::mlp(const std::string& name, int64_t hidden, int64_t inner,
                 Activation activation) const {
  const Weights here = *this / name;
  Linear gate_up = here.merged("gate_up_proj", {{"gate_proj", inner}, {"up_proj", inner}}, hidden);
  return Mlp(std::move(gate_up), here.closing("down_proj", hidden, inner, "up_proj"), activation);
}

Experts Weights::experts(const std::string& name, int64_t count, int64_t hidden, int64_t inner,
                         Activation activation) const {
  const std::string place = prefix_ + name;
  const Whole in{inner, hidden, Split::rows}, out{hidden, inner, Split::columns};
  Weight gate = load_stack(place, "gate_proj", count, in);
  Weight up = load_stack(place, "up_proj", count, in);
  Weight down = load_stack(place, "down_proj", count, out);
  if (sites_) {
    const bool fused = source_->files.has(place + ".gate_up_proj");
    for (int64_t e = 0; e < count; ++e) {
      for (const auto& [projection, weight] :
           {std::pair{"gate_proj", gate}, {"up_proj", up}, {"down_proj", down}}) {
        const std::string module = fmt::format("{}.{}.{}", place, e, projection);
        const std::string source =
            fused ? place + "." + fused_place(projection, 0).tensor : tensor_of(module);
        const bool last = projection == std::string_view("down_proj");
        const std::string input = last ? place + ".down_proj" : place;
        list({module, weight, e, source, input, place, Role::ordinary, {}, {}, /*expert=*/true});
        if (last) sites_->back().producer = fmt::format("{}.{}.up_proj", place, e);
      }
    }
  }
  return Experts(std::move(gate), std::move(up), std::move(down), activation);
}

bool is_cache_scale(const std::string& tensor) {
  return tensor.ends_with(".k_scale") || tensor.ends_with(".v_scale");
}

std::vector<std::string> Weights::untaken() const {
  std::vector<std::string> names;
  for (const std::string& name : source_->files.names()) {
    if (name.starts_with(prefix_) && !taken_->contains(name)) names.push_back(name);
  }
  return names;
}

void Weights::expect_all_taken() const {
  std::vector<std::string> names = untaken();
  std::erase_if(names, is_cache_scale);
  if (names.empty()) return;
  fail("{}: config.json describes a model without this tensor{}", names.front(),
       names.size() == 1 ? std::string() : fmt::format(" (and {} more here)", names.size() - 1));
}

}  // namespace quern::nn
