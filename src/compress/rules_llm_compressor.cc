#include <fmt/format.h>

#include <map>

#include "base/error.h"
#include "compress/rules.h"

namespace quern::compress {
namespace {

// llm-compressor's precedence: among the targets of all groups, full names, then expressions in
// alphabetical order, then classes. The order of groups does not matter; among equal targets the
// last one counts.
class LlmCompressorRules : public StepRules {
 public:
  LlmCompressorRules(const Step& step, const Names& names) : names_(names) {
    std::map<std::pair<bool, std::string>, const SchemeGroup*> targets;
    for (const SchemeGroup& group : step.groups) {
      for (const std::string& target : group.targets) {
        targets[{target.find("re:") != std::string::npos, target}] = &group;
      }
    }
    for (const auto& [key, group] : targets) {
      targets_.push_back({Matcher::target(key.second), group});
    }
    for (const std::string& entry : step.ignore) ignore_.push_back(Matcher::target(entry));
  }

  std::optional<Verdict> decide(const LinearInfo& linear) override {
    for (const Matcher& rule : ignore_) {
      if (rule.hit(linear) == Hit::none) continue;
      rule.matched = true;
      return kept(linear, fmt::format("ignored by \"{}\"", rule.text()));
    }
    const Target* by_class = nullptr;
    for (const Target& target : targets_) {
      Hit hit = target.rule.hit(linear);
      if (hit == Hit::none) continue;
      target.rule.matched = true;
      if (hit != Hit::class_name) return verdict(linear, hit, target);
      if (!by_class) by_class = &target;
    }
    if (by_class) return verdict(linear, Hit::class_name, *by_class);
    return std::nullopt;
  }

  void report_unmatched(const std::vector<LinearInfo>& linears,
                        std::vector<std::string>& warnings) const override {
    for (const Target& target : targets_) {
      if (matches_any(target.rule, linears)) continue;
      fail("recipe: {}", unmatched("the target", target.rule, names_));
    }
    // A recipe may list modules that only some models have: embeddings, a head that may be tied.
    for (const Matcher& rule : ignore_)
      if (!matches_any(rule, linears))
        warnings.push_back(unmatched("the ignore entry", rule, names_));
  }

 private:
  struct Target {
    Matcher rule;
    const SchemeGroup* group;
  };

  static Verdict verdict(const LinearInfo& linear, Hit hit, const Target& target) {
    if (!reaches(linear, hit, target.rule.text())) return kept_for_role(linear);
    return {.name = linear.name,
            .scheme = target.group->scheme,
            .reason = fmt::format("target \"{}\"", target.rule.text()),
            .observer = target.group->observer,
            .shrink = target.group->shrink,
            .act_order = target.group->act_order};
  }

  const Names& names_;
  std::vector<Target> targets_;
  std::vector<Matcher> ignore_;
};

}  // namespace

std::unique_ptr<StepRules> llm_compressor_rules(const Step& step, const Names& names) {
  return std::make_unique<LlmCompressorRules>(step, names);
}

}  // namespace quern::compress
