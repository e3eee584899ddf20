// UTF-8 validation.
#pragma once

#include <string_view>

namespace quern {

// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

}  // namespace quern
