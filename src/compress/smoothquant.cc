// SmoothQuant (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for
// Large Language Models", 2022): moves scale from activations to weights, by the ranges of both.
// Formulas after llm-compressor's SmoothQuantModifier.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/threads.h"
#include "compress/calibrate.h"
#include "compress/compress.h"
#include "compress/method.h"
#include "compress/recipe_fields.h"
#include "compress/smoothing_rules.h"
#include "nn/tap.h"
#include "quant/matrix_rows.h"
#include "quant/rows.h"

namespace quern::compress {
namespace {

constexpr float kLeastScale = 1e-5f;

struct SmoothQuantSettings {
  std::vector<SmoothingMapping> mappings = {};  // none: every norm that no expert reads
  double strength = 0.5;
  bool equalizes_logarithms = false;  // the scale depends on activations alone
};

// ---- settings

// [[balance layers], smooth layer] each.
std::vector<SmoothingMapping> read_mappings(const Json& mappings) {
  std::vector<SmoothingMapping> read;
  for (size_t i = 0; i < mappings.size(); ++i) {
    const Json pair = mappings.at(i);
    if (!pair.value().is_array() || pair.size() != 2)
      fail("{}: expected [[balance layers], smooth layer]", pair.path());
    const Json balance = pair.at(0);
    read.push_back({pair.at(1).as<std::string>(),
                    balance.is_string() ? std::vector<std::string>{balance.as<std::string>()}
                                        : balance.as<std::vector<std::string>>()});
    if (read.back().balance_layers.empty()) fail("{}: the balance layers are missing", pair.path());
  }
  return read;
}

void read(const Json& json, Step& step) {
  SmoothQuantSettings settings;
  if (json.has("mappings")) settings.mappings = read_mappings(json.at("mappings"));
  settings.strength = json.get<double>("smoothing_strength", settings.strength);
  if (!(settings.strength >= 0 && settings.strength <= 1))
    fail("{}: expected 0 <= smoothing_strength <= 1", json.path());
  const auto algorithm = json.get<std::string>("algorithm", "smoothquant");
  if (algorithm != "smoothquant" && algorithm != "log_equalization")
    fail("{}: algorithm is {}; expected smoothquant or log_equalization", json.path(), algorithm);
  settings.equalizes_logarithms = algorithm == "log_equalization";
  step.settings = settings;
}

void write(const Step& step, JsonValue& fields) {
  const auto& settings = step.as<SmoothQuantSettings>();
  fields["smoothing_strength"] = settings.strength;
  for (const SmoothingMapping& mapping : settings.mappings)
    fields["mappings"].push_back({mapping.balance_layers, mapping.smooth_layer});
  if (!step.ignore.empty()) fields["ignore"] = step.ignore;
  fields["algorithm"] = settings.equalizes_logarithms ? "log_equalization" : "smoothquant";
}

std::string text(const Step& step) {
  return fmt::format("strength {:g}", step.as<SmoothQuantSettings>().strength);
}

SmoothingRules rules_of(const Step& step, size_t index, const Sites& sites, const Plan& plan) {
  const auto usual = [](const Smoothing& smoothing) {
    return smoothing.norm && std::ranges::none_of(smoothing.readers, &nn::LinearSite::expert);
  };
  return {"SmoothQuant", step, index, step.as<SmoothQuantSettings>().mappings, usual, sites, plan};
}

Changes changes(const Step& step, size_t index, const Sites& sites, const Plan& plan) {
  return rules_of(step, index, sites, plan).changes();
}

// ---- the scales

// The extremes of each channel; of experts, over all of them.
class Ranges : public ops::InputTap {
 public:
  Ranges(int64_t matrices, int64_t columns)
      : columns_(columns), ranges_(static_cast<size_t>(matrices)) {}

  void see(int64_t matrix, const Tensor& x, const Tensor& /*factors*/) override {
    auto& ranges = ranges_[static_cast<size_t>(matrix)];
    const float* rows = x.const_data_ptr<float>();
    if (ranges.empty())
      for (int64_t i = 0; i < columns_; ++i) ranges.push_back({rows[i], rows[i]});
    for (int64_t token = 0; token < x.size(0); ++token)
      for (int64_t i = 0; i < columns_; ++i) {
        Extremes& range = ranges[static_cast<size_t>(i)];
        range.low = std::min(range.low, rows[token * columns_ + i]);
        range.high = std::max(range.high, rows[token * columns_ + i]);
        range.finite &= std::isfinite(rows[token * columns_ + i]);
      }
  }

  // high - low; empty if no token was seen. Fails, naming the module, if an input was not finite.
  std::vector<float> spans(const std::string& module) const {
    std::vector<float> spans;
    for (int64_t i = 0; i < columns_; ++i) {
      std::optional<Extremes> all;
      for (const auto& ranges : ranges_) {
        if (ranges.empty()) continue;
        const Extremes& one = ranges[static_cast<size_t>(i)];
        if (!one.finite)
          fail(
              "{}: its inputs are not finite: the checkpoint or the calibration data hold NaN or "
              "infinity",
              module);
        if (!all) all = one;
        all->low = std::min(all->low, one.low);
        all->high = std::max(all->high, one.high);
      }
      if (all) spans.push_back(all->high - all->low);
    }
    return spans;
  }

 private:
  struct Extremes {
    float low, high;
    bool finite = true;
  };
  int64_t columns_;
  std::vector<std::vector<Extremes>> ranges_;
};

// The largest |w| of each column over all readers.
std::vector<float> column_sizes(const Smoothing& smoothing) {
  std::vector<std::vector<float>> sizes(smoothing.readers.size());
  parallel_for(std::ssize(sizes), [&](int64_t i) {
    const nn::LinearSite& site = *smoothing.readers[static_cast<size_t>(i)];
    const Tensor matrix = site.weight.dense()->matrix(site.matrix);
    const quant::MatrixRows rows(matrix, site.name);
    std::vector<float>& most = sizes[static_cast<size_t>(i)];
    most.resize(static_cast<size_t>(rows.columns()));
    std::vector<float> x(most.size());
    for (int64_t row = 0; row < rows.count(); ++row) {
      quant::widen(rows[row], matrix.scalar_type(), rows.columns(), x.data());
      for (size_t column = 0; column < x.size(); ++column)
        most[column] = std::max(most[column], std::abs(x[column]));
    }
  });
  for (size_t i = 1; i < sizes.size(); ++i)
    for (size_t column = 0; column < sizes[0].size(); ++column)
      sizes[0][column] = std::max(sizes[0][column], sizes[i][column]);
  return sizes[0];
}

Tensor scale_of(const SmoothQuantSettings& settings, const std::vector<float>& spans,
                const std::vector<float>& sizes) {
  Tensor scale = at::empty({std::ssize(spans)}, at::kFloat);
  float* out = scale.data_ptr<float>();
  for (size_t i = 0; i < spans.size(); ++i) {
    double s = spans[i];
    if (settings.equalizes_logarithms)
      s /= std::log2(2 + s);
    else if (sizes[i] > 0)
      s = std::pow(s, settings.strength) / std::pow(2.0 * sizes[i], 1 - settings.strength);
    out[i] = std::max(static_cast<float>(s), kLeastScale);
  }
  return scale;
}

Results run(const Step& step, const BlockWork& work) {
  const SmoothingRules rules = rules_of(step, work.step, work.sites, work.plan);
  std::map<std::string, Ranges> inputs;  // by LinearSite::input
  {
    std::vector<std::unique_ptr<nn::Tapped>> taps;
    for (const Smoothing& smoothing : rules.smoothings()) {
      const nn::LinearSite& site = probe(smoothing);
      const auto [ranges, added] =
          inputs.try_emplace(site.input, site.weight.matrices(), site.weight.columns());
      if (added)
        taps.push_back(std::make_unique<nn::Tapped>(weights_that_read(work.sites, site.input),
                                                    ranges->second));
    }
    look_at_block(work.block, work.input);
  }
  std::set<std::string> changed;
  std::vector<Tensor> scales;
  for (const Smoothing& smoothing : rules.smoothings()) {
    const nn::LinearSite& site = probe(smoothing);
    const std::vector<float> spans = inputs.at(site.input).spans(site.name);
    scales.push_back(
        spans.empty() ? Tensor()
                      : scale_of(step.as<SmoothQuantSettings>(), spans, column_sizes(smoothing)));
    for (std::string& tensor : rules.kept_tensors(smoothing)) changed.insert(std::move(tensor));
  }
  move_scales(rules.smoothings(), scales);
  return {.changed = {changed.begin(), changed.end()}};
}

// Scaled copies of the weights.
Footprint footprint(const Step&, const CompressOptions&) { return {.bytes_of_weight = 2}; }

}  // namespace

const Method& smooth_quant_method() {
  static const Method kMethod = {
      .modifier = "SmoothQuantModifier",
      .schemes = Schemes::all,
      .needs_data = true,
      .fields = {"smoothing_strength", "mappings", "ignore", "num_calibration_steps",
                 "calibration_function", "algorithm"},
      .read = read,
      .write = write,
      .text = text,
      .changes = changes,
      .footprint = footprint,
      .run = run};
  return kMethod;
}

}  // namespace quern::compress
