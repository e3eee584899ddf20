// From the rules of a recipe to one verdict for each linear.
#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/nearest.h"
#include "compress/auto_round_rules.h"
#include "compress/recipe.h"
#include "prompt/pattern.h"

namespace quern::compress {
namespace {

// How a rule came to match; names come before classes.
enum class Hit { none, name, expression, class_name };

// One entry of `targets`, `ignore` or the layer rules.
class Matcher {
 public:
  // llm-compressor's: full name, "re:" expression from the start, or class.
  static Matcher target(const std::string& text) {
    Matcher matcher(text);
    if (text.starts_with("re:")) matcher.expression_.emplace(text.substr(3));
    matcher.by_class_ = true;
    return matcher;
  }

  // auto-round's ignore entry: the linear of that name if there is one, else every name that
  // contains it. Ours as well: an "re:" expression.
  static Matcher substring(std::string text, const std::unordered_set<std::string_view>& names) {
    if (text.starts_with("re:")) return target(text);
    std::erase(text, ' ');
    Matcher matcher(text);
    if (!names.contains(text)) matcher.part_ = ignored_part(text);
    return matcher;
  }

  // auto-round's layer rule: the linear of that name if there is one, else a search.
  static Matcher layer(const std::string& text, const std::unordered_set<std::string_view>& names) {
    Matcher matcher(text);
    if (!names.contains(text)) matcher.expression_.emplace(search_expression(text));
    return matcher;
  }

  Hit hit(const LinearInfo& linear) const {
    if (expression_) return expression_->match(linear.name) ? Hit::expression : Hit::none;
    if (linear.name == text_) return Hit::name;
    if (!part_.empty() && linear.name.find(part_) != std::string::npos) return Hit::expression;
    bool its_class = by_class_ && (linear.class_name == text_ || text_ == "Module");
    return its_class ? Hit::class_name : Hit::none;
  }

  bool is_expression() const { return expression_.has_value(); }
  const std::string& text() const { return text_; }

  mutable bool matched = false;  // something, so far

 private:
  explicit Matcher(std::string text) : text_(std::move(text)) {}

  std::string text_, part_;
  std::optional<prompt::Pattern> expression_;
  bool by_class_ = false;
};

struct Names {
  explicit Names(const std::vector<LinearInfo>& linears) {
    for (const LinearInfo& linear : linears) {
      set.insert(linear.name);
      list.push_back(linear.name);
    }
  }
  std::unordered_set<std::string_view> set;
  std::vector<std::string> list;
};

std::string_view role_name(Role role) {
  switch (role) {
    case Role::ordinary:
      return "linear";
    case Role::stem:
      return "linear before the blocks";
    case Role::router:
      return "router";
    case Role::shared_expert_gate:
      return "shared expert gate";
    case Role::lm_head:
      return "output head";
    case Role::draft:
      return "draft layer";
    case Role::draft_input:
      return "input of the draft layer";
    case Role::vision:
      return "vision tower";
    case Role::audio:
      return "audio tower";
  }
  return "";
}

// Roles that a pattern for the trunk must not reach by accident.
bool reaches(const LinearInfo& linear, Hit hit, const std::string& rule) {
  if (linear.role == Role::ordinary || linear.role == Role::stem || hit == Hit::name) return true;
  return linear.role == Role::lm_head && hit == Hit::expression &&
         rule.find("lm_head") != std::string::npos;
}

Verdict kept(const LinearInfo& linear, std::string reason) {
  return {.name = linear.name, .scheme = std::nullopt, .reason = std::move(reason)};
}

Verdict kept_for_role(const LinearInfo& linear) {
  return kept(linear, fmt::format("{}, kept unless named in full", role_name(linear.role)));
}

// Whether the rule matches something, asked only of rules that no linear got to.
bool matches_any(const Matcher& rule, const std::vector<LinearInfo>& linears) {
  return rule.matched || std::ranges::any_of(linears, [&](const LinearInfo& linear) {
           return rule.hit(linear) != Hit::none;
         });
}

// The letters of a rule, for comparing it with names.
std::string literal_of(std::string text) {
  if (text.starts_with("re:")) text = text.substr(3);
  std::erase_if(text, [](char c) {
    return std::string_view("\\^$*+?()[]{}|").find(c) != std::string_view::npos;
  });
  return text;
}

std::string unmatched(const std::string& what, const Matcher& rule, const Names& names) {
  return fmt::format("{} \"{}\" matches no linear; the nearest: {}", what, rule.text(),
                     fmt::join(names_like(literal_of(rule.text()), names.list), ", "));
}

// One step of a recipe, applied to one linear after the other.
class StepRules {
 public:
  virtual ~StepRules() = default;
  // None: the step says nothing about this linear, an earlier verdict stays.
  virtual std::optional<Verdict> decide(const LinearInfo& linear) = 0;
  virtual void report_unmatched(const std::vector<LinearInfo>& linears,
                                std::vector<std::string>& warnings) const = 0;
};

// llm-compressor's: among the targets of all groups, full names come first, then expressions in the
// order of their text, then classes. The order of groups does not matter; of equal targets the last
// one counts.
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
    // A recipe lists what models of several kinds have: embeddings, a head that may be tied.
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

// auto-round's: ignored, then layer rules (full names before expressions), then what its kernels
// cannot hold, then the scheme for all.
class AutoRoundRules : public StepRules {
 public:
  AutoRoundRules(const Step& step, const Names& names)
      : names_(names), usual_(step.groups.front().scheme) {
    for (const std::string& entry : step.ignore) {
      ignore_.push_back(Matcher::substring(entry, names.set));
    }
    for (const LayerRule& rule : step.layers) {
      layers_.push_back({Matcher::layer(rule.pattern, names.set), rule});
    }
    std::ranges::stable_partition(
        layers_, [](const Layer& layer) { return !layer.matcher.is_expression(); });
  }

  std::optional<Verdict> decide(const LinearInfo& linear) override {
    for (const Matcher& rule : ignore_) {
      if (rule.hit(linear) == Hit::none) continue;
      rule.matched = true;
      return kept(linear, fmt::format("ignored by \"{}\"", rule.text()));
    }
    for (const Layer& layer : layers_) {
      Hit hit = layer.matcher.hit(linear);
      if (hit == Hit::none) continue;
      layer.matcher.matched = true;
      return by_layer_rule(linear, hit, layer);
    }
    if (linear.role != Role::ordinary) return kept_for_role(linear);
    if (too_narrow(linear)) return kept_for_shape(linear);
    return Verdict{.name = linear.name, .scheme = usual_, .reason = "the scheme for all linears"};
  }

  void report_unmatched(const std::vector<LinearInfo>& linears,
                        std::vector<std::string>&) const override {
    for (const Matcher& rule : ignore_) {
      if (!matches_any(rule, linears)) fail("recipe: {}", unmatched("--ignore", rule, names_));
    }
    for (const Layer& layer : layers_) {
      if (matches_any(layer.matcher, linears)) continue;
      fail("recipe: {}", unmatched("the layer rule", layer.matcher, names_));
    }
  }

 private:
  struct Layer {
    Matcher matcher;
    LayerRule rule;
  };

  static bool too_narrow(const LinearInfo& linear) {
    return linear.rows % 32 != 0 || linear.columns % 32 != 0;
  }

  static Verdict kept_for_shape(const LinearInfo& linear) {
    Verdict verdict =
        kept(linear, fmt::format("[{}, {}] is no multiple of 32", linear.rows, linear.columns));
    verdict.too_narrow = true;
    return verdict;
  }

  Verdict by_layer_rule(const LinearInfo& linear, Hit hit, const Layer& layer) const {
    std::string reason = fmt::format("layer rule \"{}\"", layer.matcher.text());
    if (layer.rule.keep) return kept(linear, reason);
    if (!reaches(linear, hit, layer.matcher.text())) return kept_for_role(linear);
    if (hit != Hit::name && too_narrow(linear)) return kept_for_shape(linear);
    quant::Scheme scheme = usual_;
    if (layer.rule.group_size) scheme.group_size = *layer.rule.group_size;
    if (layer.rule.symmetric) scheme.symmetric = *layer.rule.symmetric;
    return {.name = linear.name, .scheme = scheme, .reason = reason};
  }

  const Names& names_;
  quant::Scheme usual_;
  std::vector<Matcher> ignore_;
  std::vector<Layer> layers_;
};

void apply(StepRules& rules, size_t step, const std::vector<LinearInfo>& linears,
           Resolution& resolution) {
  for (size_t i = 0; i < linears.size(); ++i) {
    auto verdict = rules.decide(linears[i]);
    Verdict& before = resolution.verdicts[i];
    // What an earlier step quantizes stays so, unless this one quantizes it too.
    if (!verdict || (!verdict->scheme && before.scheme)) continue;
    verdict->step = step;
    verdict->pruned_by = before.pruned_by;
    before = *std::move(verdict);
  }
  rules.report_unmatched(linears, resolution.warnings);
}

// SparseGPT has targets as others have, and no scheme.
void apply_pruning(const Step& step, size_t index, const Names& names,
                   const std::vector<LinearInfo>& linears, Resolution& resolution) {
  Step rules_of = step;
  rules_of.groups = {{.name = "", .targets = step.sparsity.targets, .scheme = {}}};
  LlmCompressorRules rules(rules_of, names);
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto verdict = rules.decide(linears[i]);
    if (verdict && verdict->scheme) resolution.verdicts[i].pruned_by = index;
  }
  rules.report_unmatched(linears, resolution.warnings);
}

std::string group_sizes_that_divide(int64_t columns) {
  std::vector<std::string> sizes;
  for (int64_t size : {16, 32, 64, 128, 256}) {
    if (columns % size == 0) sizes.push_back(std::to_string(size));
  }
  sizes.push_back(fmt::format("the whole row ({})", columns));
  return fmt::format("{}", fmt::join(sizes, ", "));
}

void check_groups(const std::vector<LinearInfo>& linears, const Resolution& resolution) {
  const LinearInfo* first = nullptr;
  int64_t group = 0;
  int more = -1;
  for (size_t i = 0; i < linears.size(); ++i) {
    const auto& scheme = resolution.verdicts[i].scheme;
    if (!scheme || scheme->group_size == -1 || linears[i].columns % scheme->group_size == 0) {
      continue;
    }
    if (!first) {
      first = &linears[i];
      group = scheme->group_size;
    }
    ++more;
  }
  if (!first) return;
  fail(
      "recipe: {} has {} input columns, which do not divide into groups of {}{}; ignore it or "
      "choose a group size that works: {}",
      first->name, first->columns, group, more > 0 ? fmt::format(" (and {} more)", more) : "",
      group_sizes_that_divide(first->columns));
}

// The experts of a block are one module in vLLM.
std::string expert_unit(const std::string& name) {
  size_t experts = name.find(".experts.");
  return experts == std::string::npos ? "" : name.substr(0, experts + 8);
}

std::string described(const Verdict& verdict) {
  std::string form = verdict.scheme ? verdict.scheme->text() : "unquantized";
  return fmt::format("{} is {} ({})", verdict.name, form, verdict.reason);
}

void check_units(const std::vector<LinearInfo>& linears, const Resolution& resolution) {
  std::unordered_map<std::string, size_t> first;
  for (size_t i = 0; i < linears.size(); ++i) {
    for (const std::string& unit : {linears[i].unit, expert_unit(linears[i].name)}) {
      if (unit.empty()) continue;
      size_t other = first.emplace(unit, i).first->second;
      const Verdict &a = resolution.verdicts[other], &b = resolution.verdicts[i];
      if (a.scheme == b.scheme) continue;
      fail(
          "recipe: vLLM loads {} as one, so its parts must be stored alike, but {} and {}; name "
          "both or neither",
          unit, described(a), described(b));
    }
  }
}

bool is_draft(const LinearInfo& linear) { return linear.role == Role::draft; }

// With Recipe::drafts the linears of a draft layer are like any others.
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
        "recipe: nothing of a draft layer is quantized: the checkpoint has none, or rules keep it");
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
    if (step.method == Method::sparse_gpt) {
      apply_pruning(step, i, names, linears, resolution);
    } else if (step.groups.empty()) {
      const bool rounds = step.method == Method::auto_round || step.method == Method::gptq;
      if (!rounds) continue;  // prepares weights, or is for the cache alone
      for (Verdict& verdict : resolution.verdicts) verdict.step = i;  // what earlier steps chose
    } else if (recipe.style == RuleStyle::auto_round) {
      AutoRoundRules rules(step, names);
      apply(rules, i, linears, resolution);
    } else {
      LlmCompressorRules rules(step, names);
      apply(rules, i, linears, resolution);
    }
  }
  if (resolution.quantized() == 0) {
    fail("recipe: nothing is left to quantize; all {} linears are kept", linears.size());
  }
  if (recipe.drafts) mark_drafts(listed, resolution);
  check_groups(linears, resolution);
  check_units(linears, resolution);
  return resolution;
}

}  // namespace quern::compress
