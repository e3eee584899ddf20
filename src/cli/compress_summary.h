// What `compress` says at its end: what was quantized, what was kept and why, sizes, time, losses.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "compress/compress.h"
#include "eval/verify.h"

namespace quern::cli {

struct CompressSummary {
  std::string output;  // the folder's final name
  compress::CompressReport report;
  std::optional<eval::VerifyReport> verification;
};

std::string to_text(const CompressSummary& summary);
JsonValue to_json(const CompressSummary& summary);
// The last of the events of --json-lines.
JsonValue finished_event(const CompressSummary& summary);

}  // namespace quern::cli
