#include "compress/smoothing_rules.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "compress/matcher.h"

namespace quern::compress {

SmoothingRules::SmoothingRules(std::string method, const Step& step, size_t index,
                               const std::vector<SmoothingMapping>& mappings,
                               const std::function<bool(const Smoothing&)>& usual,
                               const Sites& sites, const Plan& plan)
    : method_(std::move(method)), index_(index), plan_(plan) {
  for (const nn::LinearSite& site : sites.linears) ++matrices_[site.source];
  std::vector<Smoothing> all = smoothings_of(sites);
  for (const std::string& pattern : step.ignore) {
    const Matcher ignored = Matcher::target(pattern);
    std::erase_if(all, [&](const Smoothing& smoothing) {
      return ignored.hit({.name = smoothing.name()}) != Hit::none;
    });
  }
  for (const SmoothingMapping& mapping : mappings) apply(mapping, all);
  if (!mappings.empty()) return;
  for (const Smoothing& smoothing : all)
    if (usual(smoothing) && is_useful(smoothing)) take(smoothing);
}

const quant::Scheme* SmoothingRules::scheme(const nn::LinearSite& site) const {
  const Verdict* verdict = plan_.quantized(site.name);
  return verdict ? &*verdict->scheme : nullptr;
}

std::vector<std::string> SmoothingRules::kept_tensors(const Smoothing& smoothing) const {
  std::vector<std::string> tensors;
  if (smoothing.norm) tensors.push_back(smoothing.norm->tensor);
  if (smoothing.linear && !scheme(*smoothing.linear)) tensors.push_back(smoothing.linear->source);
  for (const nn::LinearSite* reader : smoothing.readers)
    if (!scheme(*reader)) tensors.push_back(reader->source);
  return tensors;
}

Changes SmoothingRules::changes() const {
  Changes changes{.warnings = warnings()};
  if (chosen_.empty())
    fail(Exit::infeasible,
         "recipe: {} finds no place where scale can move to a quantized linear{}{}", method_,
         changes.warnings.empty() ? "" : ": ", fmt::join(changes.warnings, "; "));
  for (const Smoothing& smoothing : chosen_)
    std::ranges::move(kept_tensors(smoothing), std::back_inserter(changes.tensors));
  return changes;
}

void SmoothingRules::apply(const SmoothingMapping& mapping, const std::vector<Smoothing>& all) {
  const Matcher from = Matcher::target(mapping.smooth_layer);
  std::vector<Matcher> to;
  for (const std::string& pattern : mapping.balance_layers) to.push_back(Matcher::target(pattern));
  const auto named = [&](const nn::LinearSite* reader) {
    return std::ranges::any_of(to, [&](const Matcher& pattern) {
      return pattern.hit({.name = reader->name}) != Hit::none;
    });
  };
  bool matched = false;
  for (const Smoothing& smoothing : all) {
    if (from.hit({.name = smoothing.name()}) == Hit::none) continue;
    const auto listed = std::ranges::count_if(smoothing.readers, named);
    if (listed == 0) continue;
    matched = true;
    if (!is_useful(smoothing)) continue;
    if (listed < std::ssize(smoothing.readers)) {
      const auto other = std::ranges::find_if_not(smoothing.readers, named);
      incomplete_.push_back({smoothing.name(), (*other)->name});
    }
    take(smoothing);
  }
  if (!matched) unmatched_.push_back(mapping.smooth_layer);
}

// Whether a reader is quantized by this step or a later one, and none before.
bool SmoothingRules::is_useful(const Smoothing& smoothing) const {
  bool any = false;
  const auto earlier = [&](const nn::LinearSite& site) {
    const Verdict* verdict = plan_.quantized(site.name);
    any |= verdict && &site != smoothing.linear;
    return verdict && verdict->step < index_;
  };
  if (smoothing.linear && earlier(*smoothing.linear)) return false;
  for (const nn::LinearSite* reader : smoothing.readers)
    if (earlier(*reader)) return false;
  return any;
}

// A kept matrix that shares its tensor with others is written as a part of the tensor, which the
// writer copies as a whole.
bool SmoothingRules::is_fixed(const nn::LinearSite& site) const {
  return !scheme(site) && matrices_.at(site.source) > 1;
}

void SmoothingRules::take(const Smoothing& smoothing) {
  if (!names_.insert(smoothing.name()).second) return;
  if ((smoothing.linear && is_fixed(*smoothing.linear)) ||
      std::ranges::any_of(smoothing.readers, [&](const auto* r) { return is_fixed(*r); })) {
    fixed_.push_back(smoothing.name());
    return;
  }
  chosen_.push_back(smoothing);
}

std::vector<std::string> SmoothingRules::warnings() const {
  std::vector<std::string> texts;
  if (!incomplete_.empty())
    texts.push_back(fmt::format(
        "{}: the mapping of {} omits {}{}, which read it too; all readers are scaled, because "
        "the results of the model would change otherwise",
        method_, incomplete_[0].first, incomplete_[0].second,
        incomplete_.size() > 1 ? fmt::format(" (and {} more)", incomplete_.size() - 1) : ""));
  if (!fixed_.empty())
    texts.push_back(fmt::format(
        "{}: {}{} not smoothed, because a kept reader is stored in one tensor with others", method_,
        fixed_[0], fixed_.size() > 1 ? fmt::format(" and {} more are", fixed_.size() - 1) : " is"));
  for (const std::string& pattern : unmatched_)
    texts.push_back(fmt::format(
        "{}: the mapping of \"{}\" matches no norm or linear that the balance_layers read", method_,
        pattern));
  return texts;
}

}  // namespace quern::compress
