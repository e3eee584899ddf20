// The version of the program, as quantization.yaml and --version show it. CMake takes it from
// project().
#pragma once

namespace quern {

inline constexpr const char* kVersion = QUERN_VERSION;

}  // namespace quern
