// Whether this is a build under AddressSanitizer or ThreadSanitizer. Freed memory then stays with
// the process for a while, and all is slower.
#pragma once

namespace quern {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QUERN_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define QUERN_SANITIZED 1
#endif
#endif

#ifdef QUERN_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

}  // namespace quern
