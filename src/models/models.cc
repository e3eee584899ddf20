#include "models/models.h"

#include <fmt/ranges.h>

#include "base/error.h"

namespace quern::models {

std::unique_ptr<nn::Model> make_gemma4(const Json& config);
std::unique_ptr<nn::Model> make_glm4_moe(const Json& config);
std::unique_ptr<nn::Model> make_llama(const Json& config);
std::unique_ptr<nn::Model> make_qwen3(const Json& config);
std::unique_ptr<nn::Model> make_qwen3_6(const Json& config);
std::unique_ptr<nn::Model> make_sarvam_moe(const Json& config);

namespace {

struct Row {
  const char* architecture;
  std::unique_ptr<nn::Model> (*make)(const Json& config);
};

constexpr Row kTable[] = {
    {"Gemma4ForCausalLM", make_gemma4},        {"Gemma4ForConditionalGeneration", make_gemma4},
    {"Glm4MoeForCausalLM", make_glm4_moe},     {"LlamaForCausalLM", make_llama},
    {"Qwen3ForCausalLM", make_qwen3},          {"Qwen3_5MoeForConditionalGeneration", make_qwen3_6},
    {"Qwen3_5MoeForCausalLM", make_qwen3_6},   {"SarvamMoEForCausalLM", make_sarvam_moe},
    {"SarvamMoeForCausalLM", make_sarvam_moe},
};

}  // namespace

std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const Row& row : kTable) names.emplace_back(row.architecture);
  return names;
}

std::unique_ptr<nn::Model> make_model(const Json& config) {
  const auto wanted = config.get<std::vector<std::string>>("architectures");
  for (const Row& row : kTable) {
    for (const std::string& name : wanted) {
      if (name == row.architecture) return row.make(config);
    }
  }
  fail("{}: architecture {} is not supported; supported: {}", config.path(),
       fmt::join(wanted, ", "), fmt::join(architectures(), ", "));
}

}  // namespace quern::models
