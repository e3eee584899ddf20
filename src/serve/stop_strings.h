// Text that ends an answer, found although it comes in pieces.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quern::serve {

class StopStrings {
 public:
  enum class Keep { none, stop };  // of the stop string itself, in the text

  StopStrings(std::vector<std::string> stops, Keep keep);

  // The text that may be shown now: what could be the begin of a stop string is held back. After
  // found() it is empty.
  std::string push(std::string_view text);
  // What was held back, when nothing more will come.
  std::string flush();

  // The stop string that ended the text.
  const std::optional<std::string>& found() const { return found_; }

 private:
  // A stop string may begin with it.
  bool may_begin(std::string_view text) const;

  std::vector<std::string> stops_;
  Keep keep_;
  size_t longest_ = 0;
  std::string held_;
  std::optional<std::string> found_;
};

}  // namespace quern::serve
