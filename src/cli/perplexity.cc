// quern perplexity: measures how well a model predicts a text, and its divergence from another
// model.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "cli/work_line.h"
#include "eval/score.h"
#include "models/models.h"

namespace quern::cli {
namespace {

struct PerplexityOptions {
  std::string model, text, reference;
  eval::WindowOptions windows;
  bool no_bos = false;
};

std::string scores_text(const eval::Scores& scores) {
  return fmt::format("perplexity {:.5f} over {} tokens in {} windows\n", scores.perplexity,
                     count_text(scores.tokens), count_text(scores.windows));
}

std::string comparison_text(const eval::Comparison& comparison) {
  return fmt::format(
      "reference: {}model:     {}KL divergence {:.6f} +- {:.6f} nats per token, at most {:.4f}\n"
      "top-1 agreement {:.3f}%\n",
      scores_text(comparison.reference), scores_text(comparison.artifact), comparison.mean_kld,
      comparison.kld_error, comparison.max_kld, 100 * comparison.top1_agreement);
}

void run(PerplexityOptions& options, bool json) {
  const auto model = std::make_shared<nn::Source>(options.model);
  if (!options.no_bos) options.windows.bos = models::make_model(model->files.config())->bos();
  const prompt::Tokenizer tokenizer(options.model);
  const auto windows = eval::text_windows(read_file(options.text), tokenizer, options.windows);
  WorkLine line("scoring");
  const eval::ScoreOptions score = {
      .progress = [&](int64_t done, int64_t total) { line.show(done, total); }};
  if (options.reference.empty()) {
    const eval::Scores scores = eval::score(model, windows, score);
    line.clear();
    print(json ? to_text(eval::to_json(scores)) : scores_text(scores));
    return;
  }
  const eval::Comparison comparison =
      eval::compare(std::make_shared<nn::Source>(options.reference), model, windows, score);
  line.clear();
  print(json ? to_text(eval::to_json(comparison)) : comparison_text(comparison));
}

}  // namespace

void add_perplexity(CLI::App& app, Program& program) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* verb = app.add_subcommand("perplexity", "Measure how well a model predicts a text");
  verb->footer(R"(
Examples:
  quern perplexity MODEL --text validation.txt
  quern perplexity OUT --text validation.txt --reference MODEL    adds the KL divergence)");
  verb->add_option("MODEL", options->model, "Model folder")->required();
  verb->add_option("--text", options->text, "UTF-8 text file")->required();
  verb->add_option("--window", options->windows.length, "Tokens per window")->capture_default_str();
  verb->add_option("--stride", options->windows.stride,
                   "Tokens between window starts (default: a window)");
  verb->add_option("--max-windows", options->windows.max_windows, "Largest number of windows");
  verb->add_flag("--no-bos", options->no_bos, "Do not prepend <bos>, even if the model expects it");
  verb->add_option("--reference", options->reference, "Model folder to compare with");
  verb->callback(
      [&program, options] { program.run = [&program, options] { run(*options, program.json); }; });
}

}  // namespace quern::cli
