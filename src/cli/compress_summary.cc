#include "cli/compress_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/compress_progress.h"
#include "cli/name_pattern.h"
#include "cli/terminal.h"

namespace quern::cli {
namespace {

// Linears with equal fate and reason whose names differ only in numbers.
struct VerdictGroup {
  std::string pattern, scheme, reason;  // scheme: empty if kept
  int64_t linears = 0;
};

std::vector<VerdictGroup> group(const std::vector<compress::Verdict>& verdicts) {
  std::vector<VerdictGroup> groups;
  for (const compress::Verdict& verdict : verdicts) {
    VerdictGroup wanted{name_pattern(verdict.name), verdict.scheme ? verdict.scheme->text() : "",
                        verdict.reason};
    auto known = std::find_if(groups.begin(), groups.end(), [&](const VerdictGroup& entry) {
      return entry.pattern == wanted.pattern && entry.scheme == wanted.scheme &&
             entry.reason == wanted.reason;
    });
    if (known == groups.end()) known = groups.insert(known, wanted);
    ++known->linears;
  }
  return groups;
}

int64_t quantized(const compress::CompressReport& report) {
  return std::count_if(report.verdicts.begin(), report.verdicts.end(),
                       [](const compress::Verdict& verdict) { return verdict.scheme.has_value(); });
}

size_t peak_memory(const compress::CompressReport& report) {
  return report.blocks.empty() ? 0 : report.blocks.back().peak_memory_bytes;
}

}  // namespace

std::string to_text(const CompressSummary& summary) {
  const compress::CompressReport& report = summary.report;
  Table table({"linears", "stored as", "name", "why"});
  for (const VerdictGroup& entry : group(report.verdicts))
    table.add({count_text(entry.linears), entry.scheme.empty() ? "kept" : entry.scheme,
               entry.pattern, entry.reason});
  std::string text = table.text(standard_output());
  text += fmt::format("\n{} of {} linears quantized; {} -> {} ({:.1f}%) in {}, peak RAM {}\n",
                      count_text(quantized(report)),
                      count_text(static_cast<int64_t>(report.verdicts.size())),
                      bytes_text(report.source_bytes), bytes_text(report.output_bytes),
                      100.0 * static_cast<double>(report.output_bytes) /
                          static_cast<double>(std::max<size_t>(report.source_bytes, 1)),
                      time_text(report.seconds), bytes_text(peak_memory(report)));
  if (!report.blocks.empty() && report.blocks[0].loss_before > 0) {
    const auto& first = report.blocks.front();
    const auto& last = report.blocks.back();
    text += fmt::format(
        "loss of the first block {:.4g} -> {:.4g}, of the last block {:.4g} -> {:.4g}\n",
        first.loss_before, first.loss_after, last.loss_before, last.loss_after);
  }
  if (summary.verification) text.append("\n").append(eval::to_text(*summary.verification));
  return text + fmt::format("\n{}\n", standard_output().bold(summary.output));
}

JsonValue to_json(const CompressSummary& summary) {
  const compress::CompressReport& report = summary.report;
  JsonValue groups = JsonValue::array(), blocks = JsonValue::array();
  for (const VerdictGroup& entry : group(report.verdicts)) {
    JsonValue json = {{"pattern", entry.pattern},
                      {"linears", entry.linears},
                      {"scheme", nullptr},
                      {"reason", entry.reason}};
    if (!entry.scheme.empty()) json["scheme"] = entry.scheme;
    groups.push_back(json);
  }
  for (const compress::BlockReport& block : report.blocks) blocks.push_back(to_json(block));
  JsonValue json = {{"output", summary.output},
                    {"linears", report.verdicts.size()},
                    {"quantized", quantized(report)},
                    {"groups", groups},
                    {"source_bytes", report.source_bytes},
                    {"output_bytes", report.output_bytes},
                    {"seconds", report.seconds},
                    {"peak_memory_bytes", peak_memory(report)},
                    {"blocks", blocks},
                    {"verification", nullptr}};
  if (summary.verification) json["verification"] = eval::to_json(*summary.verification);
  return json;
}

JsonValue finished_event(const CompressSummary& summary) {
  JsonValue event = {{"event", "finished"}};
  event.update(to_json(summary));
  return event;
}

}  // namespace quern::cli
