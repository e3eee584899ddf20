// The version of the program for quantization.yaml and --version. CMake takes it from project().
#pragma once

namespace quern {

inline constexpr const char* kVersion = QUERN_VERSION;

}  // namespace quern
