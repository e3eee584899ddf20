#include "nn/experts.h"

#include "base/error.h"
#include "ops/experts.h"

namespace quern::nn {

Tensor Experts::operator()(const Tensor& x, const ops::Routing& routing,
                           std::vector<int64_t>* pairs_per_expert) const {
  const int64_t count = gate_proj_.matrices();
  const ops::ExpertLists lists = ops::sort_by_expert(routing.experts, count);
  if (pairs_per_expert) {
    pairs_per_expert->resize(count, 0);
    for (int64_t e = 0; e < count; ++e) (*pairs_per_expert)[e] += lists.pairs(e);
  }
  ops::InputTap* in = gate_proj_.tap() ? gate_proj_.tap() : up_proj_.tap();
  QUERN_CHECK(!up_proj_.tap() || up_proj_.tap() == in);
  return ops::experts(x, routing, lists,
                      {gate_proj_.stack(), up_proj_.stack(), down_proj_.stack(), activation_},
                      {in, down_proj_.tap()});
}

}  // namespace quern::nn
