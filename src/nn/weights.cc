#include "nn/weights.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/threads.h"
#include "prompt/pattern.h"

namespace quern::nn {
namespace {

std::string tensor_of(const std::string& module) { return module + ".weight"; }

// Fused experts hold gate and up rows one after the other in one tensor (Qwen3.6:
// experts.gate_up_proj [E, 2 I, H]).
struct FusedPlace {
  std::string tensor;
  int64_t first_row, all_rows;
};

// quantization_config of config.json, or of a file of its own, where AutoRound writes it too.
std::optional<quant::QuantizationConfig> read_quantization(const checkpoint::Checkpoint& files) {
  auto compile = [](const std::string& pattern) -> quant::Match {
    return [compiled = std::make_shared<prompt::Pattern>(pattern)](std::string_view text) {
      return compiled->match(text);
    };
  };
  if (files.config().has("quantization_config")) {
    return quant::QuantizationConfig(files.config().at("quantization_config"), compile);
  }
  const std::filesystem::path own = files.folder() / "quantization_config.json";
  if (!std::filesystem::exists(own)) return std::nullopt;
  const JsonValue value = read_json(own);
  return quant::QuantizationConfig(Json(value, own.string()), compile);
}

// Sizes come from config.json, so a tensor of another shape contradicts it.
void expect_shape(const std::string& name, at::IntArrayRef found, at::IntArrayRef wanted) {
  if (found == wanted) return;
  fail("{}: shape {}, but by config.json it has to be {}; they are of different models", name,
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

Source::Source(const std::filesystem::path& folder)
    : files(folder), quantization(read_quantization(files)) {}

Weights::Weights(std::shared_ptr<const Source> source)
    : source_(std::move(source)), taken_(std::make_shared<std::set<std::string>>()) {}

Weights Weights::operator/(const std::string& name) const {
  Weights below = *this;
  below.prefix_ += name + ".";
  return below;
}

Weights Weights::listing(std::vector<LinearSite>* sites, std::vector<LinearSite>* slices) const {
  Weights here = *this;
  here.sites_ = sites;
  here.slices_ = slices;
  return here;
}

Weights Weights::drafting() const {
  Weights here = *this;
  here.draft_ = true;
  return here;
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

Norm Weights::norm(const std::string& name, int64_t width, double eps) const {
  return Norm(tensor(tensor_of(name), {width}), eps);
}

Norm Weights::norm_plus_one(const std::string& name, int64_t width, double eps) const {
  return Norm(1.0 + tensor(tensor_of(name), {width}), eps);
}

Embedding Weights::embedding(const std::string& name, int64_t rows, int64_t width) const {
  Tensor table = take(tensor_of(prefix_ + name));
  expect_shape(tensor_of(prefix_ + name), table.sizes(), {rows, width});
  return Embedding(std::move(table));
}

bool Weights::is_packed(const std::string& module) const {
  return source_->files.has(module + ".weight_packed") || source_->files.has(module + ".qweight");
}

void Weights::take_packed(const std::string& module, int64_t rows, int64_t columns) const {
  if (!source_->quantization)
    fail("{}: has packed tensors, but config.json has no quantization_config", module);
  const quant::QuantizationConfig& config = *source_->quantization;
  const auto scheme = config.scheme_of(module);
  if (!scheme)
    fail("{}: has packed tensors, but quantization_config says that it is not quantized", module);
  for (const auto& planned : quant::planned(module, rows, columns, *scheme, config.format()))
    taken_->insert(planned.name);
}

quant::QuantWeight Weights::read_packed(const std::string& module, int64_t rows,
                                        int64_t columns) const {
  const quant::QuantizationConfig& config = *source_->quantization;
  quant::QuantWeight weight = quant::from_disk(
      module, *config.scheme_of(module), config.format(), [&](const std::string& tensor) {
        return source_->files.has(tensor) ? source_->files.tensor(tensor) : Tensor();
      });
  expect_shape(module, {weight.rows(), weight.columns}, {rows, columns});
  return weight;
}

Weight Weights::packed_stack(const std::string& name, const std::vector<std::string>& modules,
                             int64_t rows, int64_t columns) const {
  for (const std::string& module : modules) take_packed(module, rows, columns);
  auto read = [&](const std::string& module) { return read_packed(module, rows, columns); };
  quant::QuantWeight first = read(modules[0]);
  auto stack = std::make_shared<ops::Int4Stack>(name, static_cast<int64_t>(modules.size()), rows,
                                                columns, first.scheme);
  stack->set(0, first);
  parallel_for(static_cast<int64_t>(modules.size()) - 1, [&](int64_t i) {
    quant::QuantWeight weight = read(modules[i + 1]);
    if (weight.scheme != first.scheme) {
      fail("{}: is stored as {}, but {} as {}; experts of a block must be equal", modules[i + 1],
           weight.scheme.text(), modules[0], first.scheme.text());
    }
    stack->set(i + 1, weight);
  });
  return Weight(name, rows, columns, Packed(std::move(stack)));
}

Weight Weights::load(const std::string& module, int64_t rows, int64_t columns) const {
  if (is_packed(module)) return packed_stack(module, {module}, rows, columns);
  Tensor stored = take(tensor_of(module));
  expect_shape(tensor_of(module), stored.sizes(), {rows, columns});
  return Weight(module, rows, columns, Dense{{std::move(stored)}});
}

Weight Weights::load_stack(const std::string& place, const std::string& projection, int64_t count,
                           int64_t rows, int64_t columns) const {
  const std::string name = place + "." + projection;
  auto module = [&](int64_t expert) { return fmt::format("{}.{}.{}", place, expert, projection); };
  Dense dense;
  const FusedPlace fused = fused_place(projection, rows);
  if (const std::string tensor = place + "." + fused.tensor; source_->files.has(tensor)) {
    Tensor all = take(tensor);
    expect_shape(tensor, all.sizes(), {count, fused.all_rows, columns});
    for (int64_t e = 0; e < count; ++e)
      dense.matrices.push_back(all.select(0, e).narrow(0, fused.first_row, rows));
    return Weight(name, rows, columns, std::move(dense));
  }
  if (is_packed(module(0))) {
    std::vector<std::string> modules;
    for (int64_t e = 0; e < count; ++e) modules.push_back(module(e));
    return packed_stack(name, modules, rows, columns);
  }
  for (int64_t e = 0; e < count; ++e) {
    Tensor stored = take(tensor_of(module(e)));
    expect_shape(tensor_of(module(e)), stored.sizes(), {rows, columns});
    dense.matrices.push_back(std::move(stored));
  }
  return Weight(name, rows, columns, std::move(dense));
}

void Weights::list(const LinearSite& site) const {
  if (!sites_) return;
  sites_->push_back(site);
  if (draft_ && site.role == Role::ordinary) sites_->back().role = Role::draft;
}

Linear Weights::with_bias(const std::string& name, Weight weight, Bias bias) const {
  if (bias == Bias::none) return Linear(std::move(weight));
  const int64_t rows = weight.rows();
  return Linear(std::move(weight), tensor(name + ".bias", {rows}));
}

Linear Weights::linear(const std::string& name, int64_t rows, int64_t columns, Role role,
                       Bias bias) const {
  Weight weight = load(prefix_ + name, rows, columns);
  list({prefix_ + name, weight, 0, tensor_of(prefix_ + name), "", role});
  return with_bias(name, std::move(weight), bias);
}

Linear Weights::linear_rows(const std::string& name, int64_t rows, int64_t columns, int64_t first,
                            int64_t count) const {
  const std::string module = prefix_ + name;
  std::variant<Dense, Rounding, Packed> form;
  if (is_packed(module)) {
    take_packed(module, rows, columns);
    quant::QuantWeight some = read_packed(module, rows, columns);
    for (Tensor* part : {&some.codes, &some.scales, &some.zeros})
      if (part->defined()) *part = part->narrow(0, first, count);
    auto stack = std::make_shared<ops::Int4Stack>(module, 1, count, columns, some.scheme);
    stack->set(0, some);
    form = Packed(std::move(stack));
  } else {
    Tensor stored = take(tensor_of(module));
    expect_shape(tensor_of(module), stored.sizes(), {rows, columns});
    form = Dense{{stored.narrow(0, first, count)}};
  }
  Weight weight(module, count, columns, std::move(form));
  if (slices_) slices_->push_back({module, weight, 0, tensor_of(module), "", Role::ordinary});
  return Linear(std::move(weight));
}

Linear Weights::part(const std::string& name, const std::string& fused, int64_t rows,
                     int64_t columns, Bias bias) const {
  Weight weight = load(prefix_ + name, rows, columns);
  list({prefix_ + name, weight, 0, tensor_of(prefix_ + name), prefix_ + fused, Role::ordinary});
  return with_bias(name, std::move(weight), bias);
}

Mlp Weights::mlp(const std::string& name, int64_t hidden, int64_t inner,
                 Activation activation) const {
  const Weights here = *this / name;
  auto gate_up = here.merged<2>("gate_up_proj", {"gate_proj", "up_proj"}, {inner, inner}, hidden);
  return Mlp(std::move(gate_up), here.linear("down_proj", hidden, inner), activation);
}

Experts Weights::experts(const std::string& name, int64_t count, int64_t hidden, int64_t inner,
                         Activation activation) const {
  const std::string place = prefix_ + name;
  Weight gate = load_stack(place, "gate_proj", count, inner, hidden);
  Weight up = load_stack(place, "up_proj", count, inner, hidden);
  Weight down = load_stack(place, "down_proj", count, hidden, inner);
  if (sites_) {
    const bool fused = source_->files.has(place + ".gate_up_proj");
    for (int64_t e = 0; e < count; ++e) {
      for (const auto& [projection, weight] :
           {std::pair{"gate_proj", gate}, {"up_proj", up}, {"down_proj", down}}) {
        const std::string module = fmt::format("{}.{}.{}", place, e, projection);
        const std::string source =
            fused ? place + "." + fused_place(projection, 0).tensor : tensor_of(module);
        list({module, weight, e, source, place, Role::ordinary});
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
