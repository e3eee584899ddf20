#include "compress/configuration.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/config_patch.h"
#include "compress/method.h"
#include "quant/config.h"

namespace quern::compress {
namespace {

// AutoRound's readers treat everything outside these places as unquantized.
std::vector<std::string> places_of(const Plan& plan, const std::string& blocks,
                                   const std::string& draft) {
  std::vector<std::string> places = {blocks};
  for (const Verdict& verdict : plan.verdicts) {
    const bool listed = std::ranges::any_of(
        places, [&](const std::string& place) { return verdict.name.starts_with(place); });
    if (!verdict.scheme || listed) continue;
    places.push_back(verdict.name.starts_with(draft + ".") ? draft : verdict.name);
  }
  return places;
}

// The last step that quantized something and that the configuration describes; null if there is
// none.
const Step* last_described(const Plan& plan, const Recipe& recipe) {
  const Step* last = nullptr;
  for (const Verdict& verdict : plan.verdicts) {
    const Step& step = recipe.steps[verdict.step];
    if (verdict.scheme && step.method->describe && (!last || last < &step)) last = &step;
  }
  return last;
}

quant::ConfigDetails details_of(const std::shared_ptr<const nn::Source>& source,
                                const nn::Model& model, const Plan& plan, const Recipe& recipe,
                                const Calibration& calibration) {
  const nn::Weights weights(source);
  quant::ConfigDetails details;
  details.draft = model.draft_path(weights);
  details.blocks = places_of(plan, model.blocks_path(weights), details.draft);
  if (const Step* step = last_described(plan, recipe)) step->method->describe(*step, details);
  if (!calibration.windows.empty()) {
    details.samples = static_cast<int64_t>(calibration.windows.size());
    details.sequence_length = static_cast<int64_t>(calibration.windows[0].size());
  }
  details.fp8_kv_cache =
      std::ranges::any_of(recipe.steps, [](const Step& entry) { return entry.fp8_kv_cache; });
  return details;
}

}  // namespace

void write_configuration(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
                         const Plan& plan, const Recipe& recipe, const Calibration& calibration,
                         const CompressOptions& options) {
  const JsonValue config = quant::quantization_config(
      options.format, plan.modules, details_of(source, model, plan, recipe, calibration));
  const std::filesystem::path file = source->files.folder() / "config.json";
  write_file(options.output / "config.json",
             checkpoint::with_key(source->files.text("config.json"), "quantization_config", config,
                                  file.string()));
  if (options.format.own_config_file)
    write_file(options.output / "quantization_config.json", to_text(config));
}

}  // namespace quern::compress
