#include "compress/plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "checkpoint/carry_over.h"
#include "compress/method.h"

namespace quern::compress {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string module_of(const std::string& tensor) {
  return tensor.substr(0, tensor.size() - kWeight.size());
}

// Whether the tensor is a matrix of a tower, which the text model does not run.
bool is_tower_linear(const std::string& name, const checkpoint::TensorInfo& tensor) {
  return tensor.shape.size() == 2 && name.ends_with(kWeight) &&
         !nn::is_embedding_table(module_of(name));
}

bool contains(const std::string& text, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(),
                     [&](const char* word) { return text.find(word) != std::string::npos; });
}

void list_towers(const nn::Source& source, const std::vector<std::string>& untaken,
                 std::vector<nn::LinearSite>& sites) {
  for (const std::string& name : untaken) {
    const checkpoint::TensorInfo& tensor = source.files.info(name);
    if (!is_tower_linear(name, tensor)) continue;
    nn::Role role;
    if (contains(name, {"visual", "vision"})) {
      role = nn::Role::vision;
    } else if (contains(name, {"audio"})) {
      role = nn::Role::audio;
    } else {
      continue;  // unknown to this program: copied, never quantized
    }
    const std::string module = module_of(name);
    const nn::Weight weight(
        module, std::make_shared<ops::DenseStack>(std::vector<Tensor>{source.files.tensor(name)}));
    sites.push_back({module, weight, 0, name, module, "", role});
  }
}

// The modules that each tensor of the source holds. A tensor of several modules (fused experts) is
// replaced as a whole or kept as a whole.
std::map<std::string, std::vector<const nn::LinearSite*>> by_source(
    const std::vector<nn::LinearSite>& sites, const Plan& plan) {
  std::map<std::string, std::vector<const nn::LinearSite*>> found;
  for (const nn::LinearSite& site : sites) found[site.source].push_back(&site);
  for (const auto& [tensor, parts] : found) {
    const auto quantized = std::count_if(
        parts.begin(), parts.end(),
        [&](const nn::LinearSite* site) { return plan.quantized(site->name) != nullptr; });
    if (quantized == 0 || quantized == static_cast<std::ptrdiff_t>(parts.size())) continue;
    auto kept = std::find_if(parts.begin(), parts.end(), [&](const nn::LinearSite* site) {
      return plan.quantized(site->name) == nullptr;
    });
    fail(
        "recipe: {} of the {} matrices in {} are quantized, but not {}; one tensor stores them, so "
        "quantize all or none",
        quantized, parts.size(), tensor, (*kept)->name);
  }
  return found;
}

std::vector<LinearInfo> linears_of(const std::vector<nn::LinearSite>& sites) {
  std::vector<LinearInfo> linears;
  for (const nn::LinearSite& site : sites) {
    linears.push_back(
        {site.name, site.weight.rows(), site.weight.columns(), site.role, site.fused});
  }
  return linears;
}

// Kept tensors that steps of the recipe change.
std::set<std::string> changed_tensors(const Recipe& recipe, const Sites& sites, Plan& plan) {
  std::set<std::string> tensors;
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    const Step& step = recipe.steps[i];
    if (!step.method->changes) continue;
    Changes changes = step.method->changes(step, i, sites, plan);
    tensors.insert(changes.tensors.begin(), changes.tensors.end());
    std::ranges::move(changes.warnings, std::back_inserter(plan.warnings));
  }
  return tensors;
}

// Every tensor of the source in order, either unchanged or as the tensors of its quantized
// matrices.
std::vector<checkpoint::PlannedTensor> plan_tensors(const nn::Source& source,
                                                    const std::vector<nn::LinearSite>& sites,
                                                    const Plan& plan,
                                                    const std::set<std::string>& changed,
                                                    const quant::Format& format,
                                                    const std::vector<std::string>& dropped) {
  const std::set<std::string> without(dropped.begin(), dropped.end());
  const auto parts_of = by_source(sites, plan);
  std::vector<checkpoint::PlannedTensor> tensors;
  for (const std::string& name : source.files.names()) {
    if (without.contains(name)) {
      tensors.push_back(checkpoint::PlannedTensor::without(source.files.info(name)));
      continue;
    }
    const auto parts = parts_of.find(name);
    if (parts == parts_of.end() || !plan.quantized(parts->second[0]->name)) {
      tensors.push_back(checkpoint::PlannedTensor::copy_of(source.files.info(name)));
      if (changed.contains(name)) tensors.back().fate = checkpoint::Fate::changed;
      continue;
    }
    for (const nn::LinearSite* site : parts->second) {
      const quant::Scheme& scheme = *plan.quantized(site->name)->scheme;
      for (quant::DiskTensor& made : quant::planned(site->name, site->weight.rows(),
                                                    site->weight.columns(), scheme, format)) {
        tensors.push_back({std::move(made.name), made.dtype, std::move(made.shape),
                           checkpoint::Fate::quantized, name});
      }
    }
  }
  return tensors;
}

}  // namespace

const Verdict* Plan::quantized(const std::string& module) const {
  const auto found = place_.find(module);
  if (found == place_.end() || !verdicts[found->second].scheme) return nullptr;
  return &verdicts[found->second];
}

Sites list_sites(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
                 const std::vector<std::string>& dropped) {
  Sites all;
  std::vector<nn::LinearSite>& sites = all.linears;
  const nn::Weights weights = nn::Weights(source).listing(&sites, nullptr, &all.norms);
  model.stem(weights);
  for (int i = 0; i < model.blocks(); ++i) model.block(weights, i);
  model.head(weights);
  model.draft(weights);
  list_towers(*source, weights.untaken(), sites);
  const std::set<std::string> without(dropped.begin(), dropped.end());
  std::map<std::string, std::vector<std::string>> absent;  // by unit
  for (const nn::LinearSite& site : sites)
    if (without.contains(site.source)) absent[site.fused].push_back(site.name);
  std::erase_if(sites, [&](const nn::LinearSite& site) { return without.contains(site.source); });
  for (nn::LinearSite& site : sites) {
    auto parts = absent.extract(site.fused);
    if (site.fused.empty() || !parts) continue;
    site.absent.insert(site.absent.end(), parts.mapped().begin(), parts.mapped().end());
  }
  return all;
}

Plan make_plan(const nn::Source& source, const Sites& all, const Recipe& recipe,
               const quant::Format& format, const std::vector<std::string>& dropped) {
  const std::vector<nn::LinearSite>& sites = all.linears;
  if (source.quantization) {
    fail(
        "{}: already quantized (config.json has a quantization_config); compress the original "
        "checkpoint",
        source.files.folder().string());
  }
  Resolution resolution = resolve(recipe, linears_of(sites));
  Plan plan;
  plan.verdicts = std::move(resolution.verdicts);
  plan.warnings = std::move(resolution.warnings);
  for (size_t i = 0; i < sites.size(); ++i) {
    Verdict& verdict = plan.verdicts[i];
    if (verdict.scheme && nn::is_tied(sites[i])) {
      fail(
          Exit::infeasible,
          "recipe: {} would be quantized ({}), but it is tied to the embedding {}, which is looked "
          "up row by row; remove it from the targets",
          verdict.name, verdict.reason, sites[i].source);
    }
    if (verdict.scheme) {
      verdict.scheme->scale_dtype =
          format.scale_dtype(sites[i].weight.dense()->matrix(0).scalar_type());
    }
    plan.place_[verdict.name] = i;
    plan.modules.push_back(nn::module_scheme(sites[i], verdict.scheme));
  }
  const std::set<std::string> changed = changed_tensors(recipe, all, plan);
  plan.tensors = plan_tensors(source, sites, plan, changed, format, dropped);
  plan.source_bytes = source.files.total_bytes();
  plan.output_bytes = checkpoint::planned_bytes(plan.tensors);
  return plan;
}

Plan make_plan(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
               const Recipe& recipe, const quant::Format& format, bool drop_unused) {
  std::vector<std::string> dropped;
  if (drop_unused) dropped = model.unused(nn::Weights(source));
  return make_plan(*source, list_sites(source, model, dropped), recipe, format, dropped);
}

size_t folder_bytes(const nn::Source& source, const Plan& plan) {
  // quantization_config, quantization_errors.json and recipe.yaml, which name modules.
  constexpr size_t kBytesOfModule = 600, kBytesOfRun = 64 << 10;
  size_t bytes = plan.output_bytes + kBytesOfRun + kBytesOfModule * plan.verdicts.size();
  for (const std::filesystem::path& file : checkpoint::other_files(source.files))
    bytes += std::filesystem::file_size(source.files.folder() / file);
  return bytes;
}

}  // namespace quern::compress
