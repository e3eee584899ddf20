#include "serve/stop_strings.h"

#include <algorithm>

namespace quern::serve {

StopStrings::StopStrings(std::vector<std::string> stops, Keep keep)
    : stops_(std::move(stops)), keep_(keep) {
  for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
}

std::string StopStrings::push(std::string_view text) {
  if (stops_.empty()) return std::string(text);
  if (found_) return {};
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    found_ = stop;
  }
  if (found_) {
    std::string shown = held_.substr(0, first + (keep_ == Keep::stop ? found_->size() : 0));
    held_.clear();
    return shown;
  }
  size_t ready = held_.size() - std::min(held_.size(), longest_ - 1);
  while (ready < held_.size() && !may_begin(std::string_view(held_).substr(ready))) ++ready;
  std::string shown = held_.substr(0, ready);
  held_.erase(0, ready);
  return shown;
}

bool StopStrings::may_begin(std::string_view text) const {
  return std::any_of(stops_.begin(), stops_.end(),
                     [&](const std::string& stop) { return stop.starts_with(text); });
}

std::string StopStrings::flush() {
  std::string rest;
  rest.swap(held_);
  return rest;
}

}  // namespace quern::serve
