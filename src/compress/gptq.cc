// GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers", 2022): rounds one column after another and adjusts the remaining columns to
// compensate for the error.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "compress/act_order.h"
#include "compress/hessian_settings.h"
#include "compress/method.h"

namespace quern::compress {
namespace {

// The modifier's actorder applies to groups without one; its default is static.
void read(const Json& json, Step& step) {
  step.settings = read_hessian(json);
  const bool written = json.value().contains("actorder");
  const ActOrder order = written ? act_order_of(json) : ActOrder::by_activation;
  for (SchemeGroup& group : step.groups) {
    if (json.has("actorder") && group.act_order != ActOrder::none && group.act_order != order)
      fail("{}: the actorder differs from that of {}; state one of them", json.path(), group.name);
    if (group.act_order == ActOrder::none) group.act_order = order;
  }
}

void write(const Step& step, JsonValue& fields) {
  write_hessian(step.as<HessianSettings>(), fields);
  // Groups of one modifier may differ, so each states its own. Without this null, GPTQ would apply
  // static to the groups that state none.
  fields["actorder"] = nullptr;
}

std::string text(const Step& step) {
  const auto& settings = step.as<HessianSettings>();
  return fmt::format("blocks of {} columns, dampening {}", settings.block_size, settings.dampening);
}

}  // namespace

const Method& gptq_method() {
  static const Method kMethod = {.modifier = "GPTQModifier",
                                 .schemes = Schemes::earlier,
                                 .needs_data = true,
                                 .act_order = true,
                                 .fields = {"block_size", "dampening_frac", "actorder"},
                                 .read = read,
                                 .write = write,
                                 .text = text};
  return kMethod;
}

}  // namespace quern::compress
