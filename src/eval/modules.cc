#include "eval/modules.h"

#include <set>

#include "base/error.h"
#include "models/models.h"

namespace quern::eval {
namespace {

constexpr std::string_view kWeight = ".weight";

std::vector<nn::LinearSite> sites_of(const std::shared_ptr<const nn::Source>& source) {
  std::vector<nn::LinearSite> sites;
  const nn::Weights weights = nn::Weights(source).listing(&sites);
  const auto model = models::make_model(source->files.config());
  for (int i = 0; i < model->blocks(); ++i) model->block(weights, i);
  model->head(weights);
  model->draft(weights);
  return sites;
}

bool is_other_matrix(const checkpoint::TensorInfo& tensor) {
  return tensor.shape.size() == 2 && tensor.name.ends_with(kWeight) &&
         !nn::is_embedding_table(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
}

}  // namespace

std::vector<Module> modules_of(const std::shared_ptr<const nn::Source>& source) {
  std::vector<Module> modules;
  std::set<std::string> seen;
  for (const nn::LinearSite& site : sites_of(source)) {
    if (nn::is_tied(site)) continue;  // not a separate matrix
    const auto dense = site.weight.dense();
    if (!dense) {
      fail("{}: {} is already packed; give the unquantized checkpoint as the source",
           source->files.folder().string(), site.name);
    }
    modules.push_back({.name = site.name,
                       .source = site.source,
                       .weight = dense->matrix(site.matrix),
                       .fused = site.fused,
                       .role = site.role});
    seen.insert(site.source);
  }
  for (const std::string& name : source->files.names()) {
    if (seen.contains(name) || !is_other_matrix(source->files.info(name))) continue;
    modules.push_back({.name = name.substr(0, name.size() - kWeight.size()),
                       .source = name,
                       .weight = source->files.tensor(name),
                       .fused = "",
                       .role = std::nullopt});
  }
  return modules;
}

std::set<std::string> unused_tensors(const std::shared_ptr<const nn::Source>& source) {
  const auto names = models::make_model(source->files.config())->unused(nn::Weights(source));
  return {names.begin(), names.end()};
}

}  // namespace quern::eval
