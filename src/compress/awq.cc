#include "compress/awq.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/threads.h"
#include "compress/awq_loss.h"
#include "compress/awq_search.h"
#include "compress/calibrate.h"
#include "compress/channel_sums.h"
#include "compress/compress.h"
#include "compress/method.h"
#include "compress/recipe_fields.h"
#include "compress/rtn.h"
#include "nn/tap.h"

namespace quern::compress {
namespace {

// ---- settings

std::vector<SmoothingMapping> read_mappings(const Json& mappings) {
  std::vector<SmoothingMapping> read;
  for (size_t i = 0; i < mappings.size(); ++i) {
    const Json entry = mappings.at(i);
    check_fields(entry, {"smooth_layer", "balance_layers", "activation_hook_target"});
    read.push_back({entry.get<std::string>("smooth_layer"), words(entry, "balance_layers", {})});
    if (read.back().balance_layers.empty()) fail("{}: balance_layers is missing", entry.path());
  }
  return read;
}

void read(const Json& json, Step& step) {
  AwqSettings settings;
  if (json.has("mappings")) settings.mappings = read_mappings(json.at("mappings"));
  if (json.has("duo_scaling")) {
    const JsonValue& duo = json.at("duo_scaling").value();
    if (!duo.is_boolean() && duo != "both")
      fail("{}: duo_scaling is {}; expected true, false or both", json.path(), duo.dump());
    settings.duo_scaling = duo == "both" ? DuoScaling::both
                           : duo == true ? DuoScaling::on
                                         : DuoScaling::off;
  }
  settings.grid = json.get<int>("n_grid", settings.grid);
  if (settings.grid < 1 || settings.grid > 10000)
    fail("{}: expected 1 <= n_grid <= 10000", json.path());
  // Since 0.11 another modifier quantizes.
  if (!step.groups.empty()) settings.rules = AwqRules::until_0_10;
  step.settings = settings;
}

void write(const Step& step, JsonValue& fields) {
  const auto& settings = step.as<AwqSettings>();
  for (const SmoothingMapping& mapping : settings.mappings)
    fields["mappings"].push_back(
        {{"smooth_layer", mapping.smooth_layer}, {"balance_layers", mapping.balance_layers}});
  fields["duo_scaling"] = settings.duo_scaling == DuoScaling::on;
  if (settings.duo_scaling == DuoScaling::both) fields["duo_scaling"] = "both";
  fields["n_grid"] = settings.grid;
}

std::string text(const Step& step) {
  const auto& settings = step.as<AwqSettings>();
  std::string text = fmt::format("{} scales tried for each mapping", settings.grid);
  if (!settings.mappings.empty()) text += fmt::format(", {} mappings", settings.mappings.size());
  return text;
}

// ---- where scale moves

SmoothingRules rules_of(const Step& step, size_t index, const Sites& sites, const Plan& plan) {
  const auto any = [](const Smoothing&) { return true; };
  return {"AWQ", step, index, step.as<AwqSettings>().mappings, any, sites, plan};
}

Changes changes(const Step& step, size_t index, const Sites& sites, const Plan& plan) {
  return rules_of(step, index, sites, plan).changes();
}

// ---- the search

class Smoother {
 public:
  Smoother(const Step& step, const BlockWork& work)
      : settings_(step.as<AwqSettings>()),
        work_(work),
        rules_(rules_of(step, work.step, work.sites, work.plan)),
        tries_(awq_tries(settings_)) {}

  void run() {
    at::NoGradGuard no_grad;
    look_at_inputs();
    const std::vector<Smoothing>& all = rules_.smoothings();
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      // Linears do not depend on each other; norms are searched by all outputs of the block.
      for (end = begin + 1; all[begin].linear && end < all.size() && all[end].linear;) ++end;
      smooth({all.begin() + static_cast<std::ptrdiff_t>(begin),
              all.begin() + static_cast<std::ptrdiff_t>(end)});
    }
  }

  // Kept tensors that have new values, and what could not be smoothed.
  std::vector<std::string> changed() const { return {changed_.begin(), changed_.end()}; }
  std::vector<std::string> warnings() const {
    std::vector<std::string> texts;
    for (const auto& [reason, modules] : unsmoothed_)
      texts.push_back(fmt::format(
          "AWQ: {}{} not smoothed: {}", modules[0],
          modules.size() > 1 ? fmt::format(" and {} more are", modules.size() - 1) : " is",
          reason));
    return texts;
  }

 private:
  void look_at_inputs() {
    std::vector<std::unique_ptr<nn::Tapped>> taps;
    for (const Smoothing& smoothing : rules_.smoothings()) {
      const nn::LinearSite& site = probe(smoothing);
      auto& sums = inputs_[site.input];
      if (sums) continue;
      sums = std::make_unique<ChannelSums>(site.weight.matrices(), site.weight.columns(),
                                           smoothing.linear != nullptr);
      taps.push_back(
          std::make_unique<nn::Tapped>(weights_that_read(work_.sites, site.input), *sums));
    }
    look_at_block(work_.block, work_.input);
  }

  void smooth(const std::vector<Smoothing>& smoothings) {
    std::vector<Tensor> scales(smoothings.size());
    if (smoothings[0].norm)
      scales[0] = scale_of_norm(smoothings[0]);
    else
      parallel_for(std::ssize(smoothings), [&](int64_t i) {
        at::NoGradGuard no_grad;
        scales[static_cast<size_t>(i)] = scale_of_linear(smoothings[static_cast<size_t>(i)]);
      });
    for (size_t i = 0; i < smoothings.size(); ++i) note(smoothings[i], scales[i].defined());
    move_scales(smoothings, scales);
  }

  Tensor scale_of_norm(const Smoothing& smoothing) {
    const nn::LinearSite& site = probe(smoothing);
    const std::vector<double> x = inputs_.at(site.input)->mean_of_all(site.name);
    if (x.empty()) return Tensor();
    const bool first = first_half_reads(work_.block, {site.weight}, work_.input);
    const FirstHalf mixer(work_.block);
    const SecondHalf rest(work_.block);
    if (!first && !second_input_) {
      second_input_ = work_.input;
      run_block(mixer, *second_input_);
    }
    const nn::Block& half = first ? static_cast<const nn::Block&>(mixer) : rest;
    const OutputLoss loss(
        smoothing, [&](const auto& reader) { return rules_.scheme(reader); }, settings_.rules, half,
        first ? work_.input : *second_input_);
    return awq_search(tries_, x, relative_sizes(loss.quantized()), std::cref(loss)).scale;
  }

  Tensor scale_of_linear(const Smoothing& smoothing) {
    const nn::LinearSite& site = *smoothing.readers[0];
    ChannelSums& sums = *inputs_.at(site.input);
    const int64_t tokens = sums.tokens(site.matrix);
    if (tokens == 0) return Tensor();
    const Tensor matrix = site.weight.dense()->matrix(site.matrix);
    const quant::Scheme& scheme = *rules_.scheme(site);
    const Tensor gram = sums.grams()->take(site.matrix, site.name);
    const GramLoss loss(matrix, gram, tokens, scheme, settings_.rules);
    return awq_search(tries_, sums.mean(site.matrix, site.name), relative_sizes({{matrix, scheme}}),
                      std::cref(loss))
        .scale;
  }

  void note(const Smoothing& smoothing, bool smoothed) {
    if (!smoothed) {
      const nn::LinearSite& site = probe(smoothing);
      const ChannelSums& sums = *inputs_.at(site.input);
      const bool seen =
          smoothing.norm ? !sums.mean_of_all(site.name).empty() : sums.tokens(site.matrix) > 0;
      unsmoothed_[seen ? "no scale gives finite outputs" : "no calibration token reached it"]
          .push_back(smoothing.name());
    }
    // Every planned tensor is written, changed or not.
    for (std::string& tensor : rules_.kept_tensors(smoothing)) changed_.insert(std::move(tensor));
  }

  const AwqSettings& settings_;
  const BlockWork& work_;
  SmoothingRules rules_;
  std::vector<AwqTry> tries_;
  std::map<std::string, std::unique_ptr<ChannelSums>> inputs_;  // by LinearSite::input
  std::optional<Samples> second_input_;  // of the second half; scales in the first do not change it
  std::set<std::string> changed_;
  std::map<std::string, std::vector<std::string>> unsmoothed_;  // by reason
};

Results run(const Step& step, const BlockWork& work) {
  Smoother smoother(step, work);
  smoother.run();
  Results results{.changed = smoother.changed(), .warnings = smoother.warnings()};
  if (step.groups.empty()) return results;
  for (const Task& task : work.tasks)
    results.outcomes.push_back(nearest(task, step, work.options.format));
  return results;
}

// In the block: scaled copies of the weights, and the codes that are tried. Of the activations: the
// input of the second half in bf16, and the outputs to compare with in fp32.
Footprint footprint(const Step&, const CompressOptions&) {
  return {.bytes_of_weight = 2.5, .grams = GramsOf::produced, .bytes_of_activation = 6};
}

}  // namespace

const Method& awq_method() {
  static const Method kMethod = {.modifier = "AWQModifier",
                                 .schemes = Schemes::later,
                                 .needs_data = true,
                                 .fields = {"mappings", "offload_device", "duo_scaling", "n_grid"},
                                 .read = read,
                                 .write = write,
                                 .text = text,
                                 .changes = changes,
                                 .footprint = footprint,
                                 .run = run};
  return kMethod;
}

}  // namespace quern::compress
