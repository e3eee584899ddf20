#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "eval/verify.h"

namespace quern::eval {
namespace {

// The JSON has all findings.
constexpr size_t kFindingsShown = 25;

std::string_view severity_name(Severity severity) {
  switch (severity) {
    case Severity::note:
      return "note";
    case Severity::warning:
      return "warning";
    case Severity::error:
      return "error";
  }
  return "";
}

struct Extremes {
  double least = 0, most = 0;
};

Extremes extremes_of(const std::vector<MatrixCheck>& matrices, double MatrixCheck::* number) {
  auto [least, most] = std::ranges::minmax(matrices, {}, number);
  return {least.*number, most.*number};
}

std::string matrices_text(const VerifyReport& report) {
  std::vector<MatrixCheck> comparable;
  std::ranges::copy_if(report.matrices, std::back_inserter(comparable),
                       [](const MatrixCheck& matrix) { return !matrix.rescaled; });
  std::string text = fmt::format("matrices   {}", report.matrices.size());
  if (comparable.size() < report.matrices.size())
    text += fmt::format(", {} of them rescaled", report.matrices.size() - comparable.size());
  if (!comparable.empty()) {
    const Extremes error = extremes_of(comparable, &MatrixCheck::relative_error);
    text += fmt::format(", relative error {:.4f} to {:.4f}", error.least, error.most);
  }
  if (!report.has_record)
    return text + "; none was compared with its weight, because there is no record\n";
  std::vector<MatrixCheck> bounded;
  std::ranges::copy_if(report.matrices, std::back_inserter(bounded), &MatrixCheck::bounded);
  if (!bounded.empty()) {
    const Extremes ratio = extremes_of(bounded, &MatrixCheck::error_ratio);
    text += fmt::format(", {:.2f} to {:.2f} times round-to-nearest", ratio.least, ratio.most);
  }
  const auto recorded = std::ranges::count_if(report.matrices, &MatrixCheck::recorded);
  return text + fmt::format("; {} as compress recorded, {} within the bound of their method\n",
                            recorded, bounded.size());
}

std::string quality_text(const Comparison& c) {
  return fmt::format(
      "quality    perplexity {:.5f} (source {:.5f}) over {} tokens\n"
      "           KL divergence {:.5f} +- {:.5f} nats per token, {:.2f} at most; same likeliest "
      "token {:.2f}%\n",
      c.artifact.perplexity, c.reference.perplexity, c.artifact.tokens, c.mean_kld, c.kld_error,
      c.max_kld, 100 * c.top1_agreement);
}

std::string on_one_line(std::string text) {
  std::ranges::replace(text, '\n', ' ');
  return text;
}

std::string findings_text(const VerifyReport& report) {
  std::string text;
  for (size_t i = 0; i < std::min(report.findings.size(), kFindingsShown); ++i) {
    const Finding& finding = report.findings[i];
    text += fmt::format("{:<10} {}\n", severity_name(finding.severity), to_text(finding));
  }
  if (report.findings.size() > kFindingsShown)
    text += fmt::format("           and {} more\n", report.findings.size() - kFindingsShown);
  return text;
}

}  // namespace

std::string to_text(const Finding& finding) {
  return finding.tensor.empty() ? finding.message : finding.tensor + ": " + finding.message;
}

std::string to_text(const VerifyReport& report) {
  std::string text;
  if (report.tensors > 0) {
    text += fmt::format("tensors    {} in the source, {} of them unchanged", report.tensors,
                        report.copied);
    if (report.changed > 0) text += fmt::format(", {} changed by the method", report.changed);
    if (report.dropped > 0) text += fmt::format(", {} unused ones omitted", report.dropped);
    text += "\n";
  }
  if (!report.matrices.empty()) text += matrices_text(report);
  if (report.quality) text += quality_text(*report.quality);
  if (report.sample) text += fmt::format("sample     {}\n", on_one_line(report.sample->answer));
  text += findings_text(report);
  const auto errors = std::ranges::count(report.findings, Severity::error, &Finding::severity);
  text += errors == 0 ? "passed\n"
                      : fmt::format("FAILED     {} error{}\n", errors, errors == 1 ? "" : "s");
  return text;
}

JsonValue to_json(const VerifyReport& report) {
  JsonValue json = {{"passed", report.passed()},
                    {"tensors", report.tensors},
                    {"copied", report.copied},
                    {"changed", report.changed},
                    {"dropped", report.dropped},
                    {"findings", JsonValue::array()},
                    {"matrices_compared", report.has_record},
                    {"matrices", JsonValue::array()}};
  for (const Finding& finding : report.findings) {
    json["findings"].push_back({{"severity", severity_name(finding.severity)},
                                {"tensor", finding.tensor},
                                {"message", finding.message}});
  }
  for (const MatrixCheck& matrix : report.matrices) {
    JsonValue entry = {{"module", matrix.module},
                       {"scheme", matrix.scheme},
                       {"relative_error", matrix.relative_error}};
    if (report.has_record) entry["recorded"] = matrix.recorded;
    if (matrix.bounded) entry["error_ratio"] = matrix.error_ratio;
    if (matrix.rescaled) entry["rescaled"] = true;
    json["matrices"].push_back(std::move(entry));
  }
  if (report.quality) json["quality"] = to_json(*report.quality);
  if (report.sample) {
    json["sample"] = {{"prompt", report.sample->prompt},
                      {"answer", report.sample->answer},
                      {"degenerate", report.sample->degenerate}};
  }
  return json;
}

}  // namespace quern::eval
