// The rules of one step of a recipe, with llm-compressor's or auto-round's meaning.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compress/matcher.h"

namespace quern::compress {

// Decides one linear after another.
class StepRules {
 public:
  virtual ~StepRules() = default;
  // None: the step does not mention this linear, and an earlier verdict stays.
  virtual std::optional<Verdict> decide(const LinearInfo& linear) = 0;
  virtual void report_unmatched(const std::vector<LinearInfo>& linears,
                                std::vector<std::string>& warnings) const = 0;
};

// Both keep references to `names` and to the step.
std::unique_ptr<StepRules> llm_compressor_rules(const Step& step, const Names& names);
std::unique_ptr<StepRules> auto_round_rules(const Step& step, const Names& names);

// Whether the rule may apply to the linear: a pattern for the trunk must not reach some roles by
// accident.
bool reaches(const LinearInfo& linear, Hit hit, const std::string& rule);

Verdict kept(const LinearInfo& linear, std::string reason);
Verdict kept_for_role(const LinearInfo& linear);

}  // namespace quern::compress
