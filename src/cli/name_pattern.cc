#include "cli/name_pattern.h"

namespace quern::cli {

std::string name_pattern(const std::string& name) {
  std::string pattern;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool starts_part = i == 0 || name[i - 1] == '.';
    size_t end = i;
    while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
    if (starts_part && end > i && (end == name.size() || name[end] == '.')) {
      pattern += '*';
      i = end - 1;
    } else {
      pattern += name[i];
    }
  }
  return pattern;
}

}  // namespace quern::cli
