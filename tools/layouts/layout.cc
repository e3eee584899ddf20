#include "layouts/layout.h"

#include "base/error.h"

namespace quern::layouts {

void Layout::add_with_bias(const std::string& name, std::vector<int64_t> shape, Fill fill) {
  const int64_t out = shape.front();
  add(name + ".weight", std::move(shape), fill);
  add(name + ".bias", {out}, Fill::bias);
}

void Layout::add_mlp(const std::string& name, int64_t hidden, int64_t inner, DType dtype) {
  add(name + ".gate_proj.weight", {inner, hidden}, Fill::matrix, dtype);
  add(name + ".up_proj.weight", {inner, hidden}, Fill::matrix, dtype);
  add(name + ".down_proj.weight", {hidden, inner}, Fill::matrix, dtype);
}

Layout layout_of(const Json& config, const LayoutOptions& options) {
  Layout layout;
  const std::string name = config.at("architectures").at(0).as<std::string>();
  if (name == "Qwen3_5MoeForConditionalGeneration")
    add_qwen3_6(layout, config, options);
  else if (name == "Glm4MoeForCausalLM")
    add_glm4_5(layout, config, options);
  else if (name == "Gemma4ForConditionalGeneration")
    add_gemma4(layout, config);
  else if (name == "SarvamMoEForCausalLM")
    add_sarvam(layout, config);
  else
    fail("{}: there is no layout for the architecture {}", config.path(), name);
  return layout;
}

}  // namespace quern::layouts
