// The C++ side of the interface to the Rust crate: results become std::string, statuses other than
// OK become exceptions. Only the .cc files of this folder include it.
#pragma once

#include <quern_text_ffi.h>

#include <string>

#include "base/error.h"

namespace quern::prompt {

// Owns the bytes that a call returned.
class FfiBytes {
 public:
  FfiBytes() = default;
  ~FfiBytes() { qt_free(bytes_); }
  FfiBytes(const FfiBytes&) = delete;
  FfiBytes& operator=(const FfiBytes&) = delete;

  QtBytes* out() { return &bytes_; }
  const uint8_t* data() const { return bytes_.data; }
  size_t size() const { return bytes_.size; }
  std::string text() const {
    return size() == 0 ? std::string() : std::string(reinterpret_cast<const char*>(data()), size());
  }

 private:
  QtBytes bytes_{};
};

// Fails unless `status` is OK; `origin` names the input in messages.
inline void require(int32_t status, const FfiBytes& message, const std::string& origin) {
  if (status == QT_OK) return;
  if (status == QT_PANIC) {
    fail(Exit::internal, "{}: internal error in the text library: {}; please report it", origin,
         message.text());
  }
  fail("{}: {}", origin, message.text());
}

}  // namespace quern::prompt
