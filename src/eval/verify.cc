#include "eval/verify.h"

#include <algorithm>

#include "base/error.h"
#include "eval/checks.h"

namespace quern::eval {
namespace {

// Null, and a finding, when there is no reading it: a shard cut short, an index that lies.
SourcePointer open_artifact(const std::filesystem::path& folder, VerifyReport& report) {
  try {
    return std::make_shared<nn::Source>(folder);
  } catch (const Error& error) {
    if (error.code() == Exit::internal) throw;
    found(report, "", "the artifact cannot be read: {}", error.what());
    return nullptr;
  }
}

}  // namespace

bool VerifyReport::passed() const {
  return std::ranges::none_of(
      findings, [](const Finding& finding) { return finding.severity == Severity::error; });
}

VerifyReport verify(const std::filesystem::path& artifact, const std::filesystem::path& source,
                    const VerifyOptions& options) {
  auto begin = [&](const char* part) {
    if (options.part_begins) options.part_begins(part);
  };
  VerifyReport report;
  Pair pair;
  pair.source = std::make_shared<nn::Source>(source);
  pair.modules = modules_of(pair.source);
  begin("tensors");
  pair.artifact = open_artifact(artifact, report);
  if (!pair.artifact) return report;
  check_tensors(pair, report);
  check_files(pair, report);
  check_config(pair, report);
  if (options.matrices) {
    begin("matrices");
    check_matrices(pair, options.limits, report);
  }
  if (options.quality) {
    begin("quality");
    check_quality(pair, options, report);
  }
  return report;
}

}  // namespace quern::eval
