#include "engine/mock_script.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::engine {
namespace {

std::vector<int32_t> step_of(const Json& step, const MockScript::Words& words) {
  std::vector<int32_t> ids;
  if (step.is_string()) {
    ids = words.encode(step.as<std::string>());
  } else {
    const auto given = step.as<std::vector<int>>();
    ids.assign(given.begin(), given.end());
  }
  if (ids.empty()) fail("{}: a step makes one token at least", step.path());
  return ids;
}

MockScript::Answer answer_of(const Json& rule, const MockScript::Words& words) {
  MockScript::Answer answer{.steps = {}, .ends = rule.get("ends", true)};
  if (rule.has("says") == rule.has("steps"))
    fail("{}: needs \"says\" or \"steps\", and not both", rule.path());
  if (rule.has("steps")) {
    const Json steps = rule.at("steps");
    for (size_t i = 0; i < steps.size(); ++i) answer.steps.push_back(step_of(steps.at(i), words));
    return answer;
  }
  const int64_t each = rule.get<int64_t>("tokens_per_step", 1);
  if (each < 1) fail("{}: tokens_per_step is {}, it must be 1 or more", rule.path(), each);
  const std::vector<int32_t> ids = words.encode(rule.get<std::string>("says"));
  for (size_t i = 0; i < ids.size(); i += static_cast<size_t>(each))
    answer.steps.emplace_back(
        ids.begin() + static_cast<int64_t>(i),
        ids.begin() + std::min(static_cast<int64_t>(i) + each, std::ssize(ids)));
  return answer;
}

void check_keys(const Json& rule) {
  if (!rule.is_object()) fail("{}: must be an object", rule.path());
  constexpr std::string_view kKeys[] = {"when", "says", "steps", "tokens_per_step", "ends"};
  for (const std::string& key : rule.keys())
    if (std::ranges::find(kKeys, key) == std::end(kKeys))
      fail("{}: there is no \"{}\"; it knows when, says, steps, tokens_per_step and ends",
           rule.path(), key);
}

}  // namespace

MockScript::MockScript(const JsonValue& document, const std::string& origin, Words words)
    : words_(std::move(words)) {
  const Json all(document, origin);
  if (!all.is_array()) fail("{}: must be a list of answers", origin);
  for (size_t i = 0; i < all.size(); ++i) {
    const Json rule = all.at(i);
    check_keys(rule);
    rules_.push_back({rule.get<std::string>("when", ""), answer_of(rule, words_)});
  }
}

MockScript MockScript::read(const std::filesystem::path& file, Words words) {
  return {read_json(file), file.string(), std::move(words)};
}

const MockScript::Answer* MockScript::answer_to(std::span<const int32_t> prompt) const {
  const std::string text = words_.decode(prompt);
  const auto found = std::ranges::find_if(
      rules_, [&](const Rule& rule) { return text.find(rule.when) != std::string::npos; });
  return found == rules_.end() ? nullptr : &found->answer;
}

}  // namespace quern::engine
