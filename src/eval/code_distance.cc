#include "eval/code_distance.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/yaml.h"

namespace quern::eval {
namespace {

constexpr double kDefaultIters = 200;

double distance_of(const JsonValue& modifier, double usual) {
  const Json fields(modifier, "AutoRoundModifier");
  if (!fields.has("lr")) return usual;
  const double lr = fields.get<double>("lr"), iters = fields.get<double>("iters", kDefaultIters);
  return std::max(usual, 0.5 + lr * (iters + 1) / 2);
}

// Modifiers stand in groups, which stand in stages.
double largest_distance(const JsonValue& place, double usual) {
  double largest = usual;
  if (!place.is_object()) return largest;
  for (const auto& [key, value] : place.items()) {
    largest = std::max(largest, key == "AutoRoundModifier" ? distance_of(value, usual)
                                                           : largest_distance(value, usual));
  }
  return largest;
}

}  // namespace

double code_distance(const checkpoint::Checkpoint& artifact, double usual) {
  const std::filesystem::path file = artifact.folder() / "recipe.yaml";
  return std::filesystem::exists(file) ? largest_distance(read_yaml(file), usual) : usual;
}

}  // namespace quern::eval
