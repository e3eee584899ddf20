#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "compress/rules.h"

namespace quern::compress {
namespace {

// auto-round's precedence: ignore entries, layer rules (full names before expressions), shapes that
// its kernels cannot hold, then the scheme for all.
class AutoRoundRules : public StepRules {
 public:
  AutoRoundRules(const Step& step, const Names& names)
      : names_(names),
        usual_(step.groups.front().scheme),
        act_order_(step.groups.front().act_order) {
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
    return quantized(linear, usual_, "the scheme for all linears");
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
        kept(linear, fmt::format("[{}, {}] is not a multiple of 32", linear.rows, linear.columns));
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
    return quantized(linear, scheme, reason);
  }

  Verdict quantized(const LinearInfo& linear, const quant::Scheme& scheme,
                    const std::string& reason) const {
    Verdict verdict{.name = linear.name, .scheme = scheme, .reason = reason};
    verdict.act_order = act_order_;
    return verdict;
  }

  const Names& names_;
  quant::Scheme usual_;
  ActOrder act_order_;
  std::vector<Matcher> ignore_;
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<StepRules> auto_round_rules(const Step& step, const Names& names) {
  return std::make_unique<AutoRoundRules>(step, names);
}

}  // namespace quern::compress
