// The final summary of `compress`: quantized linears, kept linears with reasons, sizes, time,
// losses.
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
// The last event of --json-lines.
JsonValue finished_event(const CompressSummary& summary);

}  // namespace quern::cli
