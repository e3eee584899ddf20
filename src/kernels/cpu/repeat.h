// Loops unrolled at compile time. Arrays with only such indexes stay in registers, which neither
// compiler guarantees for an ordinary loop.
#pragma once

#include <utility>

namespace quern::kernels {

template <class Body, int... kIndex>
[[gnu::always_inline]] inline void repeat(std::integer_sequence<int, kIndex...>, Body& body) {
  (body(std::integral_constant<int, kIndex>()), ...);
}

// Calls body(0), ..., body(kTimes - 1); each index is a compile-time constant.
template <int kTimes, class Body>
[[gnu::always_inline]] inline void repeat(Body body) {
  repeat(std::make_integer_sequence<int, kTimes>(), body);
}

}  // namespace quern::kernels
