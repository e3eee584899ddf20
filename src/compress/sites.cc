#include "compress/sites.h"

#include <algorithm>

#include "base/error.h"

namespace quern::compress {

Tensor stored_tensor(const Sites& sites, const std::string& name) {
  const auto norm = std::ranges::find(sites.norms, name, &nn::NormSite::tensor);
  if (norm != sites.norms.end()) return norm->stored().to(norm->dtype);
  const auto linear = std::ranges::find(sites.linears, name, &nn::LinearSite::source);
  QUERN_CHECK(linear != sites.linears.end() && linear->weight.dense());
  return linear->weight.dense()->matrix(linear->matrix);
}

}  // namespace quern::compress
