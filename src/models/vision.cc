#include "models/vision.h"

#include "base/error.h"

namespace quern::models {

void check_patches(const prompt::Patches& patches, int64_t values, int64_t merge) {
  if (patches.values.size(1) == values && patches.merge == merge) return;
  fail(
      "the model's image processor makes patches of {} values in squares of {}, its vision tower "
      "takes {} values in squares of {}: preprocessor_config.json does not belong to config.json",
      patches.values.size(1), patches.merge, values, merge);
}

}  // namespace quern::models
