#include "models/vision.h"

#include "base/error.h"

namespace quern::models {

Json text_config(const Json& config) {
  if (!config.has("text_config")) return config;
  Settings(config).refuse_unread();
  return config.at("text_config");
}

nn::Weights text_model(const nn::Weights& root) {
  const nn::Weights nested = root / "model" / "language_model";
  return nested.has("embed_tokens.weight") ? nested : root / "model";
}

double axial_theta(const Settings& c, double otherwise) {
  if (!c.has("rope_parameters")) return otherwise;
  const Settings rope(c.json().at("rope_parameters"));
  // Older files use "default" for it.
  rope.only("rope_type", {R"("axial")", R"("default")"});
  const double theta = rope.get("rope_theta", otherwise);
  rope.refuse_unread();
  return theta;
}

void check_patches(const prompt::Patches& patches, int64_t values, int64_t merge) {
  if (patches.values.size(1) == values && patches.merge == merge) return;
  fail(
      "the model's image processor makes patches of {} values in squares of {}, but its vision "
      "tower takes {} values in squares of {}: preprocessor_config.json does not fit config.json",
      patches.values.size(1), patches.merge, values, merge);
}

}  // namespace quern::models
