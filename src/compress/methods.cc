// The table of methods. A new method is a file with its row, an include and a line here.
#include <algorithm>

#include "compress/method.h"

namespace quern::compress {

const Method& auto_round_method();
const Method& awq_method();
const Method& gptq_method();
const Method& rtn_method();
const Method& smooth_quant_method();
const Method& sparse_gpt_method();

const std::vector<const Method*>& methods() {
  static const std::vector<const Method*> kMethods = {&auto_round_method(),   &awq_method(),
                                                      &gptq_method(),         &rtn_method(),
                                                      &smooth_quant_method(), &sparse_gpt_method()};
  return kMethods;
}

const Method* method_of_modifier(std::string_view modifier) {
  const auto found = std::ranges::find(methods(), modifier, &Method::modifier);
  return found == methods().end() ? nullptr : *found;
}

const Method* method_of_option(std::string_view option) {
  const auto found = std::ranges::find(methods(), option, &Method::option);
  return option.empty() || found == methods().end() ? nullptr : *found;
}

std::vector<std::string> method_options() {
  std::vector<std::string> options;
  for (const Method* method : methods())
    if (!method->option.empty()) options.emplace_back(method->option);
  return options;
}

}  // namespace quern::compress
