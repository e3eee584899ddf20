#include "base/error.h"

namespace quern::detail {

void check_failed(const char* condition, const char* file, int line) {
  throw Error(
      Exit::internal,
      fmt::format(
          "internal error at {}:{}: {} does not hold; this is a bug in quern, please report it "
          "with the command that caused it",
          file, line, condition));
}

}  // namespace quern::detail
