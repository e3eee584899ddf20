#include "cli/compress_progress.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "cli/terminal.h"

namespace quern::cli {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void print_event(const char* name, JsonValue fields) {
  JsonValue event = {{"event", name}, {"ts", now_seconds()}};
  event.update(fields);
  print(event.dump() + "\n");
}

}  // namespace

compress::Progress CompressProgress::callbacks() {
  return {
      .block_begins = [this](int block, int blocks,
                             const std::string& name) { begin_block(block, blocks, name); },
      .iteration_done = [this](int iteration,
                               int iterations) { end_iteration(iteration, iterations); },
      .block_done = [this](const compress::BlockReport& report) { end_block(report); },
  };
}

void CompressProgress::begin_block(int block, int blocks, const std::string& name) {
  block_ = block;
  blocks_ = blocks;
  if (style_ == ProgressStyle::json_lines)
    return print_event("block_begins", {{"block", block}, {"blocks", blocks}, {"name", name}});
  line_.show(static_cast<double>(block) / blocks, fmt::format("block {}/{}", block + 1, blocks));
}

void CompressProgress::end_iteration(int iteration, int iterations) {
  if (style_ != ProgressStyle::people || iterations <= 0) return;
  const double part = block_ + (iteration + 1.0) / iterations;
  line_.show(part / blocks_, fmt::format("block {}/{}  iteration {}/{}", block_ + 1, blocks_,
                                         iteration + 1, iterations));
}

double CompressProgress::seconds_left(int blocks_left) const {
  std::vector<double> sorted = block_seconds_;
  std::sort(sorted.begin(), sorted.end());
  return sorted[sorted.size() / 2] * blocks_left;
}

void CompressProgress::end_block(const compress::BlockReport& report) {
  block_seconds_.push_back(report.seconds);
  const double left = seconds_left(report.blocks - report.block - 1);
  if (style_ == ProgressStyle::json_lines) {
    JsonValue fields = to_json(report);
    fields["eta_s"] = left;
    return print_event("block_done", fields);
  }
  line_.clear();
  log_info("{}{}", to_text(report),
           report.block + 1 < report.blocks ? ", " + time_text(left) + " left" : "");
}

std::string to_text(const compress::BlockReport& report) {
  std::string text = fmt::format("block {}/{}: {} linears", report.block + 1, report.blocks,
                                 count_text(report.linears));
  if (report.loss_before > 0)
    text += fmt::format(", loss {:.4g} -> {:.4g} (iteration {})", report.loss_before,
                        report.loss_after, report.best_iteration);
  const compress::ExpertTokens& tokens = report.expert_tokens;
  if (tokens.median > 0 || tokens.dead > 0)
    text += fmt::format(", tokens per expert min {} median {} dead {}", count_text(tokens.least),
                        count_text(tokens.median), tokens.dead);
  return text + fmt::format(", {}, peak RAM {}", time_text(report.seconds),
                            bytes_text(report.peak_memory_bytes));
}

JsonValue to_json(const compress::BlockReport& report) {
  return {{"block", report.block},
          {"blocks", report.blocks},
          {"name", report.name},
          {"linears", report.linears},
          {"loss_before", report.loss_before},
          {"loss_after", report.loss_after},
          {"best_iteration", report.best_iteration},
          {"tokens_per_expert",
           {{"min", report.expert_tokens.least},
            {"median", report.expert_tokens.median},
            {"dead", report.expert_tokens.dead}}},
          {"seconds", report.seconds},
          {"peak_memory_bytes", report.peak_memory_bytes}};
}

}  // namespace quern::cli
