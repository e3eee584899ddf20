// Verification for two verbs: `verify`, and `compress` at its end.
#pragma once

#include <filesystem>
#include <string>

#include "cli/program.h"
#include "eval/verify.h"

namespace quern::cli {

struct GateOptions {
  std::string text;  // a file; empty: eval::sample_text()
  double max_kld = 0.05;
  double min_top1 = 0.90;
  bool no_quality = false;
};

// `group` is the heading of the options in the help text.
void add_gate_options(CLI::App& verb, GateOptions& options, const std::string& group = "Options");

// Reports progress on standard error.
eval::VerifyReport run_verify(const std::filesystem::path& artifact,
                              const std::filesystem::path& source, const GateOptions& options);

// The first error of a report that did not pass.
const eval::Finding& first_error(const eval::VerifyReport& report);

}  // namespace quern::cli
