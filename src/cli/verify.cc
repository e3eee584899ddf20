// quern verify: checks that an artifact is its source, quantized and otherwise unchanged.
#include "cli/verify.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/terminal.h"
#include "cli/work_line.h"

namespace quern::cli {

void add_gate_options(CLI::App& verb, GateOptions& options, const std::string& group) {
  auto declare = [&](CLI::Option* option) { option->group(group); };
  declare(verb.add_option("--text", options.text,
                          "Text for the comparison (default: a short built-in text)"));
  declare(
      verb.add_option("--max-kld", options.max_kld, "Largest mean KL divergence, nats per token")
          ->capture_default_str());
  declare(
      verb.add_option("--min-top1", options.min_top1, "Smallest share of equal most likely tokens")
          ->capture_default_str());
  declare(verb.add_flag("--no-quality-gate", options.no_quality,
                        "Do not compare predictions, for untrained models"));
}

eval::VerifyReport run_verify(const std::filesystem::path& artifact,
                              const std::filesystem::path& source, const GateOptions& options) {
  eval::VerifyOptions verify;
  verify.quality = !options.no_quality;
  verify.max_kld = options.max_kld;
  verify.min_top1 = options.min_top1;
  if (!options.text.empty()) verify.text = read_file(options.text);
  WorkLine line("verifying");
  verify.score.progress = [&](int64_t done, int64_t total) { line.show(done, total); };
  verify.part_begins = [&](const std::string& part) {
    line.clear();
    log_info("verify: {}", part);
  };
  return eval::verify(artifact, source, verify);
}

const eval::Finding& first_error(const eval::VerifyReport& report) {
  for (const eval::Finding& finding : report.findings)
    if (finding.severity == eval::Severity::error) return finding;
  QUERN_CHECK(false);
}

namespace {

struct VerifyCommand {
  std::string artifact, source;
  GateOptions gates;
};

void run(const VerifyCommand& command, bool json) {
  const eval::VerifyReport report = run_verify(command.artifact, command.source, command.gates);
  print(json ? to_text(eval::to_json(report)) : eval::to_text(report));
  if (report.passed()) return;
  fail(Exit::verification_failed, "{}: verification failed: {}", command.artifact,
       eval::to_text(first_error(report)));
}

}  // namespace

void add_verify(CLI::App& app, Program& program) {
  auto command = std::make_shared<VerifyCommand>();
  CLI::App* verb = app.add_subcommand("verify", "Check a compressed model against its source");
  verb->footer(R"(
Examples:
  quern verify OUT --source MODEL
  quern verify OUT --source MODEL --text validation.txt --max-kld 0.02

Exit code 5 when a check fails; the message names the tensor.)");
  verb->add_option("MODEL", command->artifact, "Folder of the compressed model")->required();
  verb->add_option("--source", command->source, "Folder of the original model")->required();
  add_gate_options(*verb, command->gates);
  verb->callback(
      [&program, command] { program.run = [&program, command] { run(*command, program.json); }; });
}

}  // namespace quern::cli
