#include "compress/resolve.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "compress/limits.h"
#include "compress/method.h"
#include "compress/rules.h"

namespace quern::compress {
namespace {

void apply(StepRules& rules, size_t step, const std::vector<LinearInfo>& linears,
           Resolution& resolution) {
  for (size_t i = 0; i < linears.size(); ++i) {
    auto verdict = rules.decide(linears[i]);
    Verdict& before = resolution.verdicts[i];
    // A linear that an earlier step quantizes keeps its verdict, unless this step quantizes it too.
    if (!verdict || (!verdict->scheme && before.scheme)) continue;
    verdict->step = step;
    verdict->pruned_by = before.pruned_by;
    before = *std::move(verdict);
  }
  rules.report_unmatched(linears, resolution.warnings);
}

// A method without schemes has targets with the same syntax.
void apply_pruning(const Step& step, size_t index, const Names& names,
                   const std::vector<LinearInfo>& linears, Resolution& resolution) {
  Step rules_of = step;
  rules_of.groups = {{.name = "", .targets = step.targets, .scheme = {}}};
  const auto rules = llm_compressor_rules(rules_of, names);
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto verdict = rules->decide(linears[i]);
    if (verdict && verdict->scheme) resolution.verdicts[i].pruned_by = index;
  }
  rules->report_unmatched(linears, resolution.warnings);
}

std::string described(const Verdict& verdict) {
  std::string form = verdict.scheme ? verdict.scheme->text() : "unquantized";
  return fmt::format("{} is {} ({})", verdict.name, form, verdict.reason);
}

void check_units(const std::vector<LinearInfo>& linears, const Resolution& resolution) {
  std::unordered_map<std::string, size_t> first;
  for (size_t i = 0; i < linears.size(); ++i) {
    const std::string& unit = linears[i].unit;
    if (unit.empty()) continue;
    size_t other = first.emplace(unit, i).first->second;
    const Verdict &a = resolution.verdicts[other], &b = resolution.verdicts[i];
    if (a.scheme == b.scheme) continue;
    fail(
        "recipe: vLLM loads {} as one module, so its parts must be stored alike, but {} and {}; "
        "name both or neither",
        unit, described(a), described(b));
  }
}

// A tensor of the output holds codes or the source's bytes.
void check_pruned(const std::vector<Verdict>& verdicts) {
  for (const Verdict& verdict : verdicts)
    if (verdict.pruned_by && !verdict.scheme)
      fail(Exit::infeasible,
           "recipe: {} would be pruned and then kept in 16 bits ({}), which quern does not write; "
           "quantize it too, or leave it out of the pruning's targets",
           verdict.name, verdict.reason);
}

bool is_draft(const LinearInfo& linear) { return linear.role == Role::draft; }

// With Recipe::drafts, rules treat the linears of a draft layer as ordinary ones.
std::vector<LinearInfo> as_rules_see(const Recipe& recipe, std::vector<LinearInfo> linears) {
  for (LinearInfo& linear : linears)
    if (recipe.drafts && is_draft(linear)) linear.role = Role::ordinary;
  return linears;
}

void mark_drafts(const std::vector<LinearInfo>& linears, Resolution& resolution) {
  bool any = false;
  for (size_t i = 0; i < linears.size(); ++i) {
    Verdict& verdict = resolution.verdicts[i];
    verdict.draft = is_draft(linears[i]) && verdict.scheme;
    any |= verdict.draft;
  }
  if (!any)
    fail(
        "recipe: no linear of a draft layer is quantized: the checkpoint has no draft layer, or "
        "rules keep it");
}

}  // namespace

int64_t Resolution::quantized() const {
  return std::ranges::count_if(verdicts, [](const Verdict& v) { return v.scheme.has_value(); });
}

Resolution resolve(const Recipe& recipe, const std::vector<LinearInfo>& listed) {
  const std::vector<LinearInfo> linears = as_rules_see(recipe, listed);
  Names names(linears);
  Resolution resolution;
  for (const LinearInfo& linear : linears) {
    resolution.verdicts.push_back(kept(linear, "no target matches"));
  }
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    const Step& step = recipe.steps[i];
    if (step.method->schemes == Schemes::none) {
      apply_pruning(step, i, names, linears, resolution);
    } else if (step.groups.empty()) {
      // Otherwise the step prepares weights, or only concerns the cache.
      if (step.method->schemes != Schemes::earlier) continue;
      for (Verdict& verdict : resolution.verdicts) verdict.step = i;  // chosen by earlier steps
    } else if (recipe.style == RuleStyle::auto_round) {
      apply(*auto_round_rules(step, names), i, linears, resolution);
    } else {
      apply(*llm_compressor_rules(step, names), i, linears, resolution);
    }
  }
  if (resolution.quantized() == 0) {
    fail("recipe: nothing to quantize; rules keep all {} linears", linears.size());
  }
  if (recipe.drafts) mark_drafts(listed, resolution);
  check_pruned(resolution.verdicts);
  check_limits(recipe, linears, resolution.verdicts);
  check_units(linears, resolution);
  return resolution;
}

}  // namespace quern::compress
