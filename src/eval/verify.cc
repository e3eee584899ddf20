#include "eval/verify.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "eval/checks.h"

namespace quern::eval {
namespace {

// An unreadable artifact is a finding: a truncated shard, a wrong index, invalid JSON.
void guarded(VerifyReport& report, const std::function<void()>& check) {
  try {
    check();
  } catch (const Error& error) {
    if (error.code() != Exit::invalid_input) throw;
    found(report, "", "the artifact cannot be read: {}", error.what());
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
  if (!std::filesystem::is_directory(artifact))
    fail("{}: the folder does not exist", artifact.string());
  VerifyReport report;
  Pair pair;
  pair.source = std::make_shared<nn::Source>(source);
  pair.modules = modules_of(pair.source);
  begin("tensors");
  guarded(report, [&] { pair.artifact = std::make_shared<nn::Source>(artifact); });
  if (!pair.artifact) return report;
  guarded(report, [&] { pair.records = quant::read_records(artifact); });
  report.has_record = pair.records.has_value();
  pair.unused = unused_tensors(pair.source);
  std::erase_if(pair.modules, [&](const Module& module) {
    const checkpoint::Files& files = pair.artifact->files;
    return pair.unused.contains(module.source) && !files.has(module.source) &&
           !is_packed(files, module.name);
  });
  check_tensors(pair, report);
  guarded(report, [&] { check_files(pair, report); });
  guarded(report, [&] { check_config(pair, report); });
  if (options.matrices) {
    begin("matrices");
    guarded(report, [&] { check_matrices(pair, options.limits, report); });
  }
  if (options.quality) {
    begin("quality");
    check_quality(pair, options, report);
  }
  return report;
}

}  // namespace quern::eval
