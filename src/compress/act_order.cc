#include "compress/act_order.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace quern::compress {

ActOrder act_order_of(const Json& json) {
  if (!json.has("actorder") || json.at("actorder").value() == false) return ActOrder::none;
  const Json value = json.at("actorder");
  auto name = value.is_string() ? value.as<std::string>() : "GROUP";
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::toupper(c); });
  if (name == "STATIC" || name == "WEIGHT") return ActOrder::by_activation;
  fail(
      "{}: the actorder {} is not supported, because it stores the columns in another order; use "
      "static, which rounds in the same order and stores the columns in place",
      json.path(), value.value().dump());
}

}  // namespace quern::compress
