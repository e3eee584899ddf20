// The rules of one step of a recipe, in the two meanings that they may have.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compress/matcher.h"

namespace quern::compress {

// Asked of one linear after the other.
class StepRules {
 public:
  virtual ~StepRules() = default;
  // None: the step says nothing about this linear, an earlier verdict stays.
  virtual std::optional<Verdict> decide(const LinearInfo& linear) = 0;
  virtual void report_unmatched(const std::vector<LinearInfo>& linears,
                                std::vector<std::string>& warnings) const = 0;
};

// Both refer to `names` and to the step, which must outlive them.
std::unique_ptr<StepRules> llm_compressor_rules(const Step& step, const Names& names);
std::unique_ptr<StepRules> auto_round_rules(const Step& step, const Names& names);

// Roles that a pattern for the trunk must not reach by accident.
bool reaches(const LinearInfo& linear, Hit hit, const std::string& rule);

Verdict kept(const LinearInfo& linear, std::string reason);
Verdict kept_for_role(const LinearInfo& linear);

}  // namespace quern::compress
