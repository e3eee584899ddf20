#include "compress/rules.h"

#include <fmt/format.h>

#include <string_view>

namespace quern::compress {
namespace {

std::string_view role_name(Role role) {
  switch (role) {
    case Role::ordinary:
      return "linear";
    case Role::stem:
      return "linear before the blocks";
    case Role::router:
      return "router";
    case Role::shared_expert_gate:
      return "shared expert gate";
    case Role::lm_head:
      return "output head";
    case Role::draft:
      return "draft layer";
    case Role::draft_input:
      return "input of the draft layer";
    case Role::vision:
      return "vision tower";
    case Role::audio:
      return "audio tower";
  }
  return "";
}

}  // namespace

bool reaches(const LinearInfo& linear, Hit hit, const std::string& rule) {
  if (linear.role == Role::ordinary || linear.role == Role::stem || hit == Hit::name) return true;
  return linear.role == Role::lm_head && hit == Hit::expression &&
         rule.find(linear.name.substr(linear.name.rfind('.') + 1)) != std::string::npos;
}

Verdict kept(const LinearInfo& linear, std::string reason) {
  return {.name = linear.name, .scheme = std::nullopt, .reason = std::move(reason)};
}

Verdict kept_for_role(const LinearInfo& linear) {
  return kept(linear,
              fmt::format("{}, kept unless its full name is a target", role_name(linear.role)));
}

}  // namespace quern::compress
