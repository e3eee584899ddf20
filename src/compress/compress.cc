#include "compress/compress.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "base/yaml.h"
#include "compress/calibrate.h"
#include "compress/configuration.h"
#include "compress/draft.h"
#include "compress/plan.h"
#include "compress/provenance.h"
#include "compress/recipe_yaml.h"
#include "compress/task.h"
#include "compress/write.h"
#include "models/models.h"
#include "ops/rounding_stack.h"
#include "tensor/memory.h"

namespace quern::compress {
namespace {

size_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

class Run {
 public:
  Run(const std::shared_ptr<const nn::Source>& source, const Recipe& recipe,
      const Calibration& calibration, const CompressOptions& options, const Progress& progress)
      : source_(source),
        recipe_(recipe),
        calibration_(calibration),
        options_(options),
        progress_(progress),
        model_(models::make_model(source->files.config())),
        weights_(source),
        unused_(model_->unused(weights_)),
        plan_(make_plan(source, *model_, recipe, options.format, options.drop_unused)),
        writer_(options.output, *source, plan_, options.format, options.max_shard_bytes),
        random_(options.tuning.seed) {
    report_.verdicts = plan_.verdicts;
    if (options.drop_unused) report_.dropped = unused_;
    report_.warnings = plan_.warnings;
    report_.source_bytes = plan_.source_bytes;
    report_.output_bytes = plan_.output_bytes;
  }

  CompressReport run() {
    const auto start = std::chrono::steady_clock::now();
    if (tunes() && calibration_.windows.empty()) {
      fail(Exit::usage, "AutoRound needs calibration data: give --data FILE, or use --method rtn");
    }
    if (tunes()) begin_calibration();
    for (int block = 0; block < model_->blocks(); ++block) {
      stop_if_asked();
      do_block(block);
    }
    do_rest();
    finish(start);
    return std::move(report_);
  }

 private:
  bool tunes() const {
    return std::any_of(plan_.verdicts.begin(), plan_.verdicts.end(),
                       [&](const Verdict& verdict) { return tuned(verdict); });
  }
  bool tuned(const Verdict& verdict) const {
    return verdict.scheme && recipe_.steps[verdict.step].method == Method::auto_round;
  }
  // No gradient reaches a matrix that no pass reads.
  bool tuned(const Task& task) const {
    return tuned(*task.verdict) && std::ranges::find(unused_, task.source) == unused_.end();
  }

  void stop_if_asked() const {
    if (options_.stop && *options_.stop)
      fail(Exit::interrupted, "interrupted; nothing was left behind");
  }

  void begin_calibration() {
    const auto media = model_->image_tokens();
    original_ = embed(*model_->stem(weights_), calibration_.windows, calibration_.images,
                      media && media->by_grid);
    quantized_ = original_;
  }

  // Blocks that are worked on one after another; a draft that is tuned counts as one.
  int blocks_to_do() const { return model_->blocks() + (tunes_draft() ? 1 : 0); }

  bool of_draft(const Verdict& verdict) const {
    return verdict.name.starts_with(model_->draft_path(weights_) + ".");
  }
  bool tunes_draft() const {
    return std::ranges::any_of(plan_.verdicts, [&](const Verdict& verdict) {
      return tuned(verdict) && of_draft(verdict);
    });
  }

  void do_block(int index) {
    std::vector<nn::LinearSite> sites, slices;
    auto block = model_->block(weights_.listing(&sites, &slices), index);
    const std::vector<Task> list = tasks_of(sites, plan_);
    report_block(index, fmt::format("{}.{}", model_->blocks_path(weights_), index), list,
                 [&](BlockReport& report) {
                   if (tunes())
                     tune_block(*block, list, tasks_of(slices, plan_), report);
                   else
                     write_nearest(list);
                   block.reset();
                 });
  }

  void report_block(int index, const std::string& name, const std::vector<Task>& list,
                    const std::function<void(BlockReport&)>& work) {
    const auto start = std::chrono::steady_clock::now();
    BlockReport report;
    report.block = index;
    report.blocks = blocks_to_do();
    report.name = name;
    for (const Task& task : list) report.linears += task.weight.matrices();
    if (progress_.block_begins) progress_.block_begins(index, report.blocks, report.name);
    work(report);
    source_->files.release_all();
    release_memory();
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    report.peak_memory_bytes = peak_memory_bytes();
    report_.blocks.push_back(report);
    if (progress_.block_done) progress_.block_done(report);
  }

  // Reference outputs, tuning, writing; then what the packed block makes of the packed prefix goes
  // to the next block.
  void tune_block(const nn::Block& block, const std::vector<Task>& list,
                  const std::vector<Task>& slices, BlockReport& report) {
    const Samples target = reference(block, original_, report);
    // A block's part of a linear outside of the blocks becomes what do_rest() will write: rows are
    // rounded to nearest one by one.
    for (const Task& slice : slices) become_packed(nearest(slice));
    quantize({report.name, block, list, quantized_, target, {}}, report);
    quantized_ = run_block(block, quantized_);
    original_ = target;
  }

  // The draft reads what the last block leaves.
  void tune_draft(const nn::Draft& draft, const nn::Head& head, const std::vector<Task>& list,
                  BlockReport& report) {
    const auto stem = model_->stem(weights_);
    const DraftBlock block(draft);
    auto input = [&](const Samples& last) {
      return draft_input(draft, *stem, head, calibration_.windows, calibration_.images, last);
    };
    const Samples target = reference(block, input(original_), report);
    const Samples quantized = input(quantized_);
    quantize({report.name, block, list, quantized, target, {}}, report);
  }

  Samples reference(const nn::Block& block, const Samples& input, BlockReport& report) const {
    std::vector<int64_t> pairs_per_expert;
    Samples output = run_block(block, input, &pairs_per_expert);
    report.expert_tokens = expert_tokens(std::move(pairs_per_expert));
    return output;
  }

  // Quantizes and writes; the weights are packed afterwards. Steps of the recipe come in their
  // order, and each sees what those before it made of their weights.
  void quantize(const BlockWork& block, BlockReport& report) {
    std::map<size_t, std::vector<Task>> by_step;
    for (const Task& task : block.tasks) by_step[task.verdict->step].push_back(task);
    std::vector<Outcome> outcomes;
    size_t packed = 0;
    for (const auto& [step, tasks] : by_step) {
      for (; packed < outcomes.size(); ++packed) become_dequantized(outcomes[packed]);
      BlockWork work = {block.name, block.block, {}, block.input, block.target, {}};
      for (const Task& task : tasks) {
        if (tuned(task))
          work.tasks.push_back(task);
        else
          outcomes.push_back(nearest(task));
      }
      if (!work.tasks.empty()) tune(recipe_.steps[step], work, outcomes, report);
    }
    for (const Outcome& outcome : outcomes) {
      writer_.write(outcome);
      become_packed(outcome);
    }
  }

  void tune(const Step& step, BlockWork& work, std::vector<Outcome>& outcomes,
            BlockReport& report) {
    AutoRoundOptions options = options_.tuning;
    options.iterations = step.iters;
    options.lr = step.lr;
    options.batch_size = step.batch_size;
    work.iteration_done = [&](int iteration) {
      if (progress_.iteration_done) progress_.iteration_done(iteration, step.iters);
    };
    const Tuned tuned = auto_round(work, options, random_);
    if (report.loss_before == 0) report.loss_before = tuned.loss_before;
    report.loss_after = tuned.loss_after;
    report.best_iteration = tuned.best_iteration;
    for (const Task& task : work.tasks) {
      Outcome outcome{task, {}};
      for (int64_t i = 0; i < task.weight.matrices(); ++i)
        outcome.matrices.push_back(task.weight.as<ops::RoundingStack>()->best(i));
      outcomes.push_back(std::move(outcome));
    }
  }

  Outcome nearest(const Task& task) const {
    quant::RtnOptions rtn;
    rtn.grid = options_.format == quant::Format::compressed_tensors && !tuned(*task.verdict)
                   ? quant::Grid::compressed_tensors
                   : quant::Grid::auto_round;
    rtn.observer = task.verdict->observer;
    rtn.shrink = task.verdict->shrink;
    rtn.name = task.weight.name();
    Outcome outcome{task, std::vector<quant::QuantWeight>(task.originals.size())};
    // A single matrix is rounded by all threads, because a loop of one item leaves them free.
    parallel_for(std::ssize(task.originals), [&](int64_t matrix) {
      outcome.matrices[matrix] = quant::round_to_nearest(task.originals[matrix], task.scheme, rtn);
    });
    return outcome;
  }

  void write_nearest(const std::vector<Task>& tasks) {
    for (const Task& task : tasks) writer_.write(nearest(task));
  }

  // Linears outside of the blocks that the recipe names. Those of the head are rounded to nearest,
  // because no block's output judges them.
  void do_rest() {
    std::vector<nn::LinearSite> of_ends, of_draft;
    const auto stem = model_->stem(weights_.listing(&of_ends));
    const auto head = model_->head(weights_.listing(&of_ends));
    write_nearest(tasks_of(of_ends, plan_));
    const auto draft = model_->draft(weights_.listing(&of_draft));
    const std::vector<Task> list = tasks_of(of_draft, plan_);
    if (!tunes_draft()) return write_nearest(list);
    stop_if_asked();
    report_block(model_->blocks(), model_->draft_path(weights_), list,
                 [&](BlockReport& report) { tune_draft(*draft, *head, list, report); });
  }

  void finish(std::chrono::steady_clock::time_point start) {
    stop_if_asked();
    writer_.finish();
    write_configuration(source_, *model_, plan_, recipe_, calibration_, options_);
    const std::string recipe = recipe_yaml(recipe_, {plan_.verdicts, plan_.warnings});
    write_file(options_.output / "recipe.yaml", recipe);
    report_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    write_file(
        options_.output / "quantization.yaml",
        to_yaml(provenance(*source_, options_.output, recipe, calibration_, options_, report_)));
    sync_folder(options_.output);
  }

  std::shared_ptr<const nn::Source> source_;
  const Recipe& recipe_;
  const Calibration& calibration_;
  const CompressOptions& options_;
  const Progress& progress_;
  std::unique_ptr<nn::Model> model_;
  nn::Weights weights_;
  std::vector<std::string> unused_;  // tensors that no pass reads
  Plan plan_;
  Writer writer_;
  PythonRandom random_;
  // Inputs of the next block: of the original model, and after packed blocks.
  Samples original_, quantized_;
  CompressReport report_;
};

}  // namespace

void check_methods(const Recipe& recipe) {
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    const Step& step = recipe.steps[i];
    if (step.method == Method::round_to_nearest || step.method == Method::auto_round) continue;
    fail(Exit::infeasible,
         "recipe: step {} of {}, {}, cannot be carried out by this version of quern, which has "
         "AutoRoundModifier and QuantizationModifier; `quern plan` shows what it would make",
         i + 1, recipe.steps.size(), step.modifier);
  }
}

CompressReport compress(const std::shared_ptr<const nn::Source>& source, const Recipe& recipe,
                        const Calibration& calibration, const CompressOptions& options,
                        const Progress& progress) {
  check_methods(recipe);
  return Run(source, recipe, calibration, options, progress).run();
}

}  // namespace quern::compress
