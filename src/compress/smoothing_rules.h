// Which scales of a model the mappings of a recipe move.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compress/method.h"
#include "compress/smoothing.h"

namespace quern::compress {

// The output of the modules that smooth_layer matches (norms or linears) is divided by a scale for
// each channel, and the columns of the linears that read it are multiplied by the same scale.
// balance_layers: at least one of the readers. Patterns have the syntax of targets.
struct SmoothingMapping {
  std::string smooth_layer;
  std::vector<std::string> balance_layers;
};

class SmoothingRules {
 public:
  // method: its name in messages. usual: what is smoothed without mappings. index: of the step in
  // the recipe; a place is smoothed if this step or a later one quantizes one of its readers, and
  // no earlier step quantizes any. Step::ignore excepts norms and linears that would give scale.
  SmoothingRules(std::string method, const Step& step, size_t index,
                 const std::vector<SmoothingMapping>& mappings,
                 const std::function<bool(const Smoothing&)>& usual, const Sites& sites,
                 const Plan& plan);

  // In the order of the mappings.
  const std::vector<Smoothing>& smoothings() const { return chosen_; }
  // The scheme of a linear; null if it is kept.
  const quant::Scheme* scheme(const nn::LinearSite& site) const;
  // The kept tensors that change when the scale of the smoothing moves.
  std::vector<std::string> kept_tensors(const Smoothing& smoothing) const;
  // Of all smoothings, with warnings. Fails with Exit::infeasible if there is none.
  Changes changes() const;

 private:
  void apply(const SmoothingMapping& mapping, const std::vector<Smoothing>& all);
  bool is_useful(const Smoothing& smoothing) const;
  bool is_fixed(const nn::LinearSite& site) const;
  void take(const Smoothing& smoothing);
  std::vector<std::string> warnings() const;

  std::string method_;
  size_t index_;
  const Plan& plan_;
  std::map<std::string, int64_t> matrices_;  // by tensor
  std::vector<Smoothing> chosen_;
  std::set<std::string> names_;                                  // of those and of `fixed_`
  std::vector<std::pair<std::string, std::string>> incomplete_;  // smoothed module, omitted reader
  std::vector<std::string> fixed_, unmatched_;
};

}  // namespace quern::compress
