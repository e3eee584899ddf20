#include "cli/plan_report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "checkpoint/dtype.h"
#include "cli/name_pattern.h"
#include "cli/terminal.h"
#include "compress/method.h"

namespace quern::cli {
namespace {

using checkpoint::Fate;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string step_text(const compress::Step& step) {
  const std::string text = step.modifier + ": " + step.method->text(step);
  return step.fp8_kv_cache ? text + "; servers store keys and values in FP8" : text;
}

// The tensors of one quantized matrix, with names relative to the module.
std::vector<quant::DiskTensor> tensors_of(const nn::LinearSite& site, const quant::Scheme& scheme,
                                          const quant::Format& format) {
  auto tensors =
      quant::planned(site.name, site.weight.rows(), site.weight.columns(), scheme, format);
  for (quant::DiskTensor& tensor : tensors) tensor.name.erase(0, site.name.size() + 1);
  return tensors;
}

size_t bytes_of(const std::vector<quant::DiskTensor>& tensors) {
  size_t bytes = 0;
  for (const quant::DiskTensor& tensor : tensors)
    bytes += checkpoint::bytes_of(tensor.shape, tensor.dtype, tensor.name);
  return bytes;
}

void add(Totals& totals, int64_t linears, size_t source_bytes, size_t output_bytes) {
  totals.linears += linears;
  totals.source_bytes += source_bytes;
  totals.output_bytes += output_bytes;
}

void group_linears(const std::vector<nn::LinearSite>& sites, const compress::Plan& plan,
                   const quant::Format& format, PlanReport& report) {
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < sites.size(); ++i) {
    const nn::LinearSite& site = sites[i];
    const compress::Verdict& verdict = plan.verdicts[i];
    const DType dtype = site.weight.dense()->matrix(site.matrix).scalar_type();
    const int64_t rows = site.weight.rows(), columns = site.weight.columns();
    const std::string pattern = name_pattern(site.name),
                      stored = verdict.scheme ? verdict.scheme->text()
                                              : std::string(checkpoint::dtype_name(dtype));
    const std::string key = fmt::format("{}\n{}\n{}\n{}\n{}\n{}", pattern, stored, verdict.reason,
                                        rows, columns, verdict.pruned_by.has_value());
    const auto [found, fresh] = places.try_emplace(key, report.linears.size());
    if (fresh) {
      report.linears.push_back({.pattern = pattern,
                                .reason = verdict.reason,
                                .stored = stored,
                                .quantized = verdict.scheme.has_value(),
                                .pruned = verdict.pruned_by.has_value(),
                                .rows = rows,
                                .columns = columns});
      if (verdict.scheme) report.linears.back().tensors = tensors_of(site, *verdict.scheme, format);
    }
    LinearGroup& group = report.linears[found->second];
    const size_t source_bytes = checkpoint::bytes_of({rows, columns}, dtype, site.name),
                 output_bytes = group.quantized ? bytes_of(group.tensors) : source_bytes;
    ++group.linears;
    group.source_bytes += source_bytes;
    group.output_bytes += output_bytes;
    add(group.quantized ? report.quantized : report.kept, 1, source_bytes, output_bytes);
  }
}

// There are only dozens of groups, and equal tensors are usually adjacent.
void group_tensor(const checkpoint::PlannedTensor& tensor, std::vector<TensorGroup>& groups) {
  const std::string pattern = name_pattern(tensor.name),
                    dtype(checkpoint::dtype_name(tensor.dtype));
  auto known = std::ranges::find_if(groups, [&](const TensorGroup& group) {
    return group.pattern == pattern && group.dtype == dtype && group.shape == tensor.shape;
  });
  if (known == groups.end())
    known = groups.insert(known, {.pattern = pattern, .dtype = dtype, .shape = tensor.shape});
  ++known->tensors;
  known->bytes += tensor.bytes();
}

void group_others(const nn::Source& source, const std::vector<nn::LinearSite>& sites,
                  const compress::Plan& plan, PlanReport& report) {
  std::unordered_set<std::string_view> linears;
  for (const nn::LinearSite& site : sites) linears.insert(site.source);
  for (const checkpoint::PlannedTensor& tensor : plan.tensors) {
    if (tensor.fate == Fate::dropped) {
      group_tensor(tensor, report.dropped);
    } else if (tensor.fate == Fate::copied && !linears.contains(tensor.source)) {
      group_tensor(tensor, report.others);
      add(report.copied, 0, tensor.bytes(), tensor.bytes());
    }
  }
  for (const std::string& name : source.files.names()) {
    int64_t numbers = 1;
    for (int64_t size : source.files.info(name).shape) numbers *= size;
    report.parameters += numbers;
  }
}

void count_other_files(const nn::Source& source, PlanReport& report) {
  for (const std::filesystem::path& file : checkpoint::other_files(source.files)) {
    ++report.other_files;
    report.other_bytes += std::filesystem::file_size(source.files.folder() / file);
  }
}

std::string becomes(const LinearGroup& group) {
  std::string text;
  for (const quant::DiskTensor& tensor : group.tensors)
    text += fmt::format("{}{} {} {}", text.empty() ? "" : ", ", tensor.name,
                        checkpoint::dtype_name(tensor.dtype), shape_text(tensor.shape));
  return group.pruned ? text + "; pruned first" : text;
}

// Lists groups with equal fate and reason together, in the order of their first linear in the
// model.
std::vector<std::pair<std::string, std::vector<const LinearGroup*>>> by_rule(
    const PlanReport& report, bool quantized) {
  std::vector<std::pair<std::string, std::vector<const LinearGroup*>>> rules;
  for (const LinearGroup& group : report.linears) {
    if (group.quantized != quantized) continue;
    const std::string rule =
        quantized ? fmt::format("{}: {}", group.stored, group.reason) : group.reason;
    auto known = std::find_if(rules.begin(), rules.end(),
                              [&](const auto& entry) { return entry.first == rule; });
    if (known == rules.end()) known = rules.insert(known, {rule, {}});
    known->second.push_back(&group);
  }
  return rules;
}

size_t name_width(const PlanReport& report) {
  size_t width = 0;
  for (const LinearGroup& group : report.linears) width = std::max(width, group.pattern.size());
  for (const TensorGroup& group : report.others) width = std::max(width, group.pattern.size());
  return std::min<size_t>(width, 72);
}

std::string linears_text(const PlanReport& report, bool quantized) {
  const Terminal& terminal = standard_output();
  const size_t width = name_width(report);
  std::string text;
  for (const auto& [rule, groups] : by_rule(report, quantized)) {
    text += "  " + rule + "\n";
    for (const LinearGroup* group : groups) {
      text += fmt::format("  {:>8}  {:<{}}  {:<16}  {:>9}", count_text(group->linears),
                          group->pattern, width, shape_text({group->rows, group->columns}),
                          bytes_text(group->source_bytes));
      if (quantized) {
        text += fmt::format(" -> {}\n            ", bytes_text(group->output_bytes));
        text += terminal.dim(becomes(*group));
      } else {
        text += "  " + terminal.dim(group->stored + (group->pruned ? ", pruned" : ""));
      }
      text += "\n";
    }
  }
  return text;
}

// Lists the largest tensors by name, the others as a sum.
std::string others_text(const PlanReport& report, const std::vector<TensorGroup>& groups) {
  constexpr size_t kShown = 6;
  std::vector<TensorGroup> sorted = groups;
  std::ranges::stable_sort(sorted, std::ranges::greater(), &TensorGroup::bytes);
  std::string text;
  TensorGroup rest;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const TensorGroup& group = sorted[i];
    if (i >= kShown && sorted.size() > kShown + 1) {
      rest.tensors += group.tensors;
      rest.bytes += group.bytes;
      continue;
    }
    text += fmt::format("  {:>8}  {:<{}}  {:<16}  {:>9}  {}\n", count_text(group.tensors),
                        group.pattern, name_width(report), shape_text(group.shape),
                        bytes_text(group.bytes), standard_output().dim(group.dtype));
  }
  if (rest.tensors > 0)
    text += fmt::format("  {:>8}  {:<{}}  {:<16}  {:>9}\n", count_text(rest.tensors), "others",
                        name_width(report), "", bytes_text(rest.bytes));
  return text;
}

std::string total_line(const std::string& what, const std::string& count, size_t source,
                       size_t output) {
  return fmt::format("  {:<22} {:>8}   {:>10} {:>13}   {:>10} {:>13}\n", what, count,
                     bytes_text(source), gib_text(source), bytes_text(output), gib_text(output));
}

std::string totals_text(const PlanReport& report) {
  size_t dropped = 0;
  int64_t dropped_tensors = 0;
  for (const TensorGroup& group : report.dropped) {
    dropped += group.bytes;
    dropped_tensors += group.tensors;
  }
  std::string text = standard_output().bold(
      fmt::format("  {:<22} {:>8}   {:>24}   {:>24}", "", "", "source", "output"));
  text += "\n";
  auto line = [&](const char* what, const Totals& totals) {
    text += total_line(what, totals.linears > 0 ? count_text(totals.linears) : "",
                       totals.source_bytes, totals.output_bytes);
  };
  line("linears, quantized", report.quantized);
  line("linears, kept", report.kept);
  line("other tensors, copied", report.copied);
  if (!report.dropped.empty())
    text += total_line("tensors, dropped", count_text(dropped_tensors), dropped, 0);
  text += standard_output().bold(
      total_line("all tensors", "", report.source_bytes, report.output_bytes));
  text += total_line("with the other files", count_text(static_cast<int64_t>(report.other_files)),
                     report.source_bytes + report.other_bytes,
                     report.output_bytes + report.other_bytes);
  return text + fmt::format("\n  {} -> {} bytes ({:.1f}%) in {} -> {} tensors\n",
                            count_text(static_cast<int64_t>(report.source_bytes)),
                            count_text(static_cast<int64_t>(report.output_bytes)),
                            100.0 * static_cast<double>(report.output_bytes) /
                                static_cast<double>(std::max<size_t>(report.source_bytes, 1)),
                            count_text(report.source_tensors), count_text(report.output_tensors));
}

JsonValue shape_json(const std::vector<int64_t>& shape) { return JsonValue(shape); }

JsonValue group_json(const LinearGroup& group) {
  JsonValue json = {{"pattern", group.pattern},
                    {"linears", group.linears},
                    {"shape", {group.rows, group.columns}},
                    {"quantized", group.quantized},
                    {"pruned", group.pruned},
                    {"stored", group.stored},
                    {"reason", group.reason},
                    {"source_bytes", group.source_bytes},
                    {"output_bytes", group.output_bytes},
                    {"tensors", JsonValue::array()}};
  for (const quant::DiskTensor& tensor : group.tensors)
    json["tensors"].push_back({{"name", tensor.name},
                               {"dtype", checkpoint::dtype_name(tensor.dtype)},
                               {"shape", shape_json(tensor.shape)}});
  return json;
}

JsonValue groups_json(const std::vector<TensorGroup>& groups) {
  JsonValue list = JsonValue::array();
  for (const TensorGroup& group : groups)
    list.push_back({{"pattern", group.pattern},
                    {"tensors", group.tensors},
                    {"dtype", group.dtype},
                    {"shape", shape_json(group.shape)},
                    {"bytes", group.bytes}});
  return list;
}

JsonValue totals_json(const Totals& totals) {
  return {{"linears", totals.linears},
          {"source_bytes", totals.source_bytes},
          {"output_bytes", totals.output_bytes}};
}

}  // namespace

PlanReport report_plan(const nn::Source& source, const std::vector<nn::LinearSite>& sites,
                       const compress::Recipe& recipe, const compress::Plan& plan,
                       const quant::Format& format) {
  PlanReport report;
  report.folder = source.files.folder().string();
  report.architecture = source.files.architecture();
  report.format = std::string(format.name);
  for (const compress::Step& step : recipe.steps) report.steps.push_back(step_text(step));
  report.warnings = plan.warnings;
  group_linears(sites, plan, format, report);
  group_others(source, sites, plan, report);
  count_other_files(source, report);
  report.source_tensors = static_cast<int64_t>(source.files.names().size());
  report.source_bytes = source.files.total_bytes();
  for (const checkpoint::PlannedTensor& tensor : plan.tensors) {
    if (tensor.fate == Fate::dropped) continue;
    ++report.output_tensors;
    report.output_bytes += tensor.bytes();
  }
  return report;
}

std::string to_text(const PlanReport& report) {
  const Terminal& terminal = standard_output();
  std::string text = fmt::format("{}\n  {}, {} parameters\n", terminal.bold(report.folder),
                                 report.architecture, count_text(report.parameters));
  for (const std::string& step : report.steps) text += "  " + step + "\n";
  text += "  format " + report.format + "\n";
  if (report.memory) text += "  memory " + compress::to_text(*report.memory) + "\n";
  text += "\n" + totals_text(report);
  text += "\n" + terminal.bold("quantized") + "\n" + linears_text(report, true);
  text += "\n" + terminal.bold("kept") + "\n" + linears_text(report, false);
  if (!report.others.empty())
    text += "\n" + terminal.bold("copied") + "\n" + others_text(report, report.others);
  if (!report.dropped.empty())
    text += "\n" + terminal.bold("dropped") + "\n" + others_text(report, report.dropped);
  return text;
}

JsonValue to_json(const PlanReport& report) {
  JsonValue linears = JsonValue::array();
  for (const LinearGroup& group : report.linears) linears.push_back(group_json(group));
  JsonValue json = {{"source", report.folder},
                    {"architecture", report.architecture},
                    {"parameters", report.parameters},
                    {"steps", report.steps},
                    {"format", report.format},
                    {"warnings", report.warnings},
                    {"source_tensors", report.source_tensors},
                    {"source_bytes", report.source_bytes},
                    {"output_tensors", report.output_tensors},
                    {"output_bytes", report.output_bytes},
                    {"other_files", report.other_files},
                    {"other_bytes", report.other_bytes},
                    {"quantized", totals_json(report.quantized)},
                    {"kept", totals_json(report.kept)},
                    {"copied", totals_json(report.copied)},
                    {"linears", linears},
                    {"others", groups_json(report.others)},
                    {"dropped", groups_json(report.dropped)}};
  if (report.memory)
    json["memory"] = {{"bytes", report.memory->total()},
                      {"activations", report.memory->activations},
                      {"weights", report.memory->weights},
                      {"pass", report.memory->pass}};
  return json;
}

std::string listing_text(const compress::Plan& plan) {
  std::string text = standard_output().bold("\nevery linear") + "\n";
  for (const compress::Verdict& verdict : plan.verdicts)
    text += fmt::format("  {}  {}: {}\n", verdict.name,
                        verdict.scheme ? verdict.scheme->text() : "kept", verdict.reason);
  text += standard_output().bold("\nevery tensor of the output") + "\n";
  for (const checkpoint::PlannedTensor& tensor : plan.tensors) {
    if (tensor.fate == Fate::dropped) continue;
    text +=
        fmt::format("  {}  {} {}  {} bytes\n", tensor.name, checkpoint::dtype_name(tensor.dtype),
                    shape_text(tensor.shape), tensor.bytes());
  }
  return text;
}

JsonValue listing_json(const compress::Plan& plan) {
  JsonValue verdicts = JsonValue::array(), tensors = JsonValue::array();
  for (const compress::Verdict& verdict : plan.verdicts) {
    verdicts.push_back({{"name", verdict.name}, {"scheme", nullptr}, {"reason", verdict.reason}});
    if (verdict.scheme) verdicts.back()["scheme"] = verdict.scheme->text();
  }
  for (const checkpoint::PlannedTensor& tensor : plan.tensors) {
    if (tensor.fate == Fate::dropped) continue;
    tensors.push_back({{"name", tensor.name},
                       {"dtype", checkpoint::dtype_name(tensor.dtype)},
                       {"shape", shape_json(tensor.shape)},
                       {"bytes", tensor.bytes()},
                       {"source", tensor.source}});
  }
  return {{"all_linears", verdicts}, {"all_tensors", tensors}};
}

}  // namespace quern::cli
