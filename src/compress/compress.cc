#include "compress/compress.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/file.h"
#include "base/yaml.h"
#include "compress/calibrate.h"
#include "compress/configuration.h"
#include "compress/draft.h"
#include "compress/memory.h"
#include "compress/plan.h"
#include "compress/provenance.h"
#include "compress/recipe_yaml.h"
#include "compress/rtn.h"
#include "compress/steps.h"
#include "compress/write.h"
#include "models/models.h"
#include "tensor/machine_memory.h"

namespace quern::compress {
namespace {

// Fails when the machine does not have enough memory for it.
Plan feasible_plan(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
                   const Recipe& recipe, const Calibration& calibration,
                   const CompressOptions& options) {
  const nn::Weights weights(source);
  std::vector<std::string> dropped;
  if (options.drop_unused) dropped = model.unused(weights);
  const Sites sites = list_sites(source, model, dropped);
  Plan plan = make_plan(*source, sites, recipe, options.format, dropped);
  check_memory(memory_need(model, weights, sites.linears, plan, recipe,
                           WindowSizes::of(calibration), options),
               options.memory_bytes ? *options.memory_bytes : machine_memory().total);
  return plan;
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
        plan_(feasible_plan(source, *model_, recipe, calibration, options)),
        writer_(options.output, *source, plan_, options.format, options.max_shard_bytes),
        random_(options.tuning.seed) {
    report_.verdicts = plan_.verdicts;
    if (options.drop_unused) report_.dropped = unused_;
    report_.warnings = plan_.warnings;
    report_.source_bytes = plan_.source_bytes;
    report_.output_bytes = plan_.output_bytes;
    calibrates_ = std::ranges::any_of(plan_.verdicts,
                                      [&](const Verdict& verdict) { return calibrated(verdict); });
    tunes_draft_ = std::ranges::any_of(plan_.verdicts, [&](const Verdict& verdict) {
      return calibrated(verdict) && verdict.name.starts_with(model_->draft_path(weights_) + ".");
    });
  }

  CompressReport run() {
    const auto start = std::chrono::steady_clock::now();
    if (calibrates_) begin_calibration();
    for (int block = 0; block < model_->blocks(); ++block) {
      stop_if_asked();
      do_block(block);
    }
    do_rest();
    stop_if_asked();
    finish(start);
    return std::move(report_);
  }

 private:
  const Step& step_of(const Verdict& verdict) const { return recipe_.steps[verdict.step]; }
  // Whether a step that works on the linear needs data.
  bool calibrated(const Verdict& verdict) const {
    if (!verdict.scheme) return false;
    for (size_t i = 0; i < recipe_.steps.size(); ++i) {
      const Step& step = recipe_.steps[i];
      if (step.method->needs_data && works_on(step, i, verdict)) return true;
    }
    return false;
  }

  void stop_if_asked() const {
    if (options_.stop && *options_.stop)
      fail(Exit::interrupted, "interrupted; nothing was left behind");
  }

  void begin_calibration() {
    if (calibration_.windows.empty())
      fail(Exit::usage, "the recipe needs calibration data: give --data FILE, or use --method rtn");
    const auto media = model_->image_tokens();
    original_ = embed(*model_->stem(weights_), calibration_.windows, calibration_.images,
                      media && media->by_grid);
    quantized_ = original_;
  }

  void do_block(int index) {
    Sites sites;
    std::vector<nn::LinearSite> slices;
    auto block = model_->block(weights_.listing(&sites.linears, &slices, &sites.norms), index);
    const std::vector<Task> tasks = tasks_of(sites.linears, plan_);
    const std::string name = fmt::format("{}.{}", model_->blocks_path(weights_), index);
    report(index, name, tasks, [&](BlockReport& report) {
      if (calibrates_)
        calibrate(*block, sites, tasks, tasks_of(slices, plan_), report);
      else
        write(run(*block, sites, tasks, report), sites);
      block.reset();
    });
  }

  // A calibrated draft layer counts as one more block.
  void report(int index, const std::string& name, const std::vector<Task>& tasks,
              const std::function<void(BlockReport&)>& work) {
    BlockReport begun{.block = index,
                      .blocks = model_->blocks() + (tunes_draft_ ? 1 : 0),
                      .name = name,
                      .linears = matrices_of(tasks)};
    report_.blocks.push_back(timed(std::move(begun), progress_, [&](BlockReport& report) {
      work(report);
      source_->files.release_all();
    }));
    std::ranges::copy(report_.blocks.back().warnings, std::back_inserter(report_.warnings));
  }

  // The original block's output replaces its input. Then the packed block runs on the output of the
  // packed blocks before it, for the next block.
  void calibrate(const nn::Block& block, const Sites& sites, const std::vector<Task>& tasks,
                 const std::vector<Task>& slices, BlockReport& report) {
    count_experts(block, original_, report);
    // A block's part of a linear outside the blocks gets the values that do_rest() will write,
    // because each row is rounded to nearest independently.
    for (const Task& slice : slices)
      become_packed(nearest(slice, step_of(*slice.verdict), options_.format));
    // If the recipe keeps the first half, it is computed once for each sample, not in every
    // iteration.
    if (!tasks.empty() && !first_half_reads(block, weights_of(tasks), quantized_)) {
      run_block(FirstHalf(block), quantized_);
      quantize_and_run(SecondHalf(block), sites, tasks, report);
    } else {
      quantize_and_run(block, sites, tasks, report);
    }
  }

  void quantize_and_run(const nn::Block& block, const Sites& sites, const std::vector<Task>& tasks,
                        BlockReport& report) {
    quantize(block, sites, tasks, report);
    run_block(block, quantized_);
  }

  // The draft layer reads the output of the last block.
  void calibrate_draft(const nn::Draft& draft, const nn::Head& head, const Sites& sites,
                       const std::vector<Task>& tasks, BlockReport& report) {
    const auto stem = model_->stem(weights_);
    const DraftBlock block(draft);
    for (Samples* last : {&original_, &quantized_})
      *last = draft_input(draft, *stem, head, calibration_.windows, calibration_.images, *last);
    count_experts(block, original_, report);
    quantize(block, sites, tasks, report);
  }

  static void count_experts(const nn::Block& block, Samples& samples, BlockReport& report) {
    std::vector<int64_t> pairs_per_expert;
    run_block(block, samples, &pairs_per_expert);
    report.expert_tokens = expert_tokens(std::move(pairs_per_expert));
  }

  // Writes the weights; afterwards they are packed in memory too.
  void quantize(const nn::Block& block, const Sites& sites, const std::vector<Task>& tasks,
                BlockReport& report) {
    const BlockResults results = run(block, sites, tasks, report);
    write(results, sites);
    for (const Outcome& outcome : results.outcomes) become_packed(outcome);
  }

  BlockResults run(const nn::Block& block, const Sites& sites, const std::vector<Task>& tasks,
                   BlockReport& report) {
    const BlockWork work = {.name = report.name,
                            .block = block,
                            .sites = sites,
                            .plan = plan_,
                            .tasks = tasks,
                            .input = quantized_,
                            .target = original_,
                            .options = options_,
                            .random = random_,
                            .iteration_done = progress_.iteration_done};
    // No output depends on an unused matrix.
    auto judged = [&](const Task& task) {
      return std::ranges::find(unused_, task.source) == unused_.end();
    };
    return run_steps(recipe_, work, judged, report);
  }

  void write(const BlockResults& results, const Sites& sites) {
    for (const Outcome& outcome : results.outcomes) writer_.write(outcome);
    for (const std::string& tensor : results.changed)
      writer_.write_changed(tensor, stored_tensor(sites, tensor));
  }

  void write_nearest(const std::vector<Task>& tasks) {
    for (const Task& task : tasks)
      writer_.write(nearest(task, step_of(*task.verdict), options_.format));
  }

  // Quantizes the linears outside the blocks that the recipe names. The head is rounded to nearest,
  // because no block's output depends on it.
  void do_rest() {
    std::vector<nn::LinearSite> of_ends;
    Sites of_draft;
    const auto stem = model_->stem(weights_.listing(&of_ends));
    const auto head = model_->head(weights_.listing(&of_ends));
    write_nearest(tasks_of(of_ends, plan_));
    const auto draft = model_->draft(weights_.listing(&of_draft.linears, nullptr, &of_draft.norms));
    const std::vector<Task> tasks = tasks_of(of_draft.linears, plan_);
    if (!tunes_draft_) return write_nearest(tasks);
    stop_if_asked();
    report(model_->blocks(), model_->draft_path(weights_), tasks,
           [&](BlockReport& report) { calibrate_draft(*draft, *head, of_draft, tasks, report); });
  }

  void finish(std::chrono::steady_clock::time_point start) {
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
  std::vector<std::string> unused_;  // tensors that the model never reads
  Plan plan_;
  Writer writer_;
  PythonRandom random_;
  bool calibrates_ = false, tunes_draft_ = false;
  // Inputs of the next block: from the original blocks, and from the packed blocks.
  Samples original_, quantized_;
  CompressReport report_;
};

}  // namespace

bool needs_data(const Recipe& recipe) {
  return std::ranges::any_of(recipe.steps,
                             [](const Step& step) { return step.method->needs_data; });
}

CompressReport compress(const std::shared_ptr<const nn::Source>& source, const Recipe& recipe,
                        const Calibration& calibration, const CompressOptions& options,
                        const Progress& progress) {
  return Run(source, recipe, calibration, options, progress).run();
}

}  // namespace quern::compress
