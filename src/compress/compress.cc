#include "compress/compress.h"

#include <malloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "base/yaml.h"
#include "checkpoint/carry_over.h"
#include "checkpoint/config_patch.h"
#include "compress/calibrate.h"
#include "compress/draft.h"
#include "compress/plan.h"
#include "compress/provenance.h"
#include "models/models.h"
#include "ops/int4_stack.h"
#include "ops/rounding_stack.h"
#include "quant/record.h"

namespace quern::compress {
namespace {

namespace fs = std::filesystem;

size_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

ExpertTokens summary(std::vector<int64_t> pairs_per_expert) {
  if (pairs_per_expert.empty()) return {};
  std::sort(pairs_per_expert.begin(), pairs_per_expert.end());
  return {pairs_per_expert.front(), pairs_per_expert[pairs_per_expert.size() / 2],
          std::count(pairs_per_expert.begin(), pairs_per_expert.end(), 0)};
}

// The weights of some sites, each once, in the order of the sites. All matrices of a stack have one
// verdict, because vLLM loads the experts of a block as one.
struct WeightToDo {
  nn::Weight weight;
  quant::Scheme scheme;
  const Verdict* verdict;
  std::string source;                // the tensor that holds it, or one of them
  std::vector<std::string> modules;  // of each matrix
};

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
        writer_(options.output, plan_.tensors, &source->files,
                {.max_shard_bytes = options.max_shard_bytes}),
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
  bool tuned(const WeightToDo& entry) const {
    return tuned(*entry.verdict) && std::ranges::find(unused_, entry.source) == unused_.end();
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

  std::vector<WeightToDo> to_do(const std::vector<nn::LinearSite>& sites) const {
    std::vector<WeightToDo> list;
    for (const nn::LinearSite& site : sites) {
      const Verdict* verdict = plan_.quantized(site.name);
      if (!verdict) continue;
      auto known = std::find_if(list.begin(), list.end(), [&](const WeightToDo& entry) {
        return entry.weight.is(site.weight);
      });
      if (known == list.end()) {
        list.push_back({site.weight, *verdict->scheme, verdict, site.source,
                        std::vector<std::string>(site.weight.matrices())});
        known = list.end() - 1;
      }
      known->modules[site.matrix] = site.name;
    }
    return list;
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
    const std::vector<WeightToDo> list = to_do(sites);
    report_block(index, fmt::format("{}.{}", model_->blocks_path(weights_), index), list,
                 [&](BlockReport& report) {
                   if (tunes()) {
                     tune_block(*block, list, to_do(slices), report);
                   } else {
                     for (const WeightToDo& entry : list) write_nearest(entry);
                   }
                   block.reset();
                 });
  }

  void report_block(int index, const std::string& name, const std::vector<WeightToDo>& list,
                    const std::function<void(BlockReport&)>& work) {
    const auto start = std::chrono::steady_clock::now();
    BlockReport report;
    report.block = index;
    report.blocks = blocks_to_do();
    report.name = name;
    for (const WeightToDo& entry : list) report.linears += entry.weight.matrices();
    if (progress_.block_begins) progress_.block_begins(index, report.blocks, report.name);
    work(report);
    source_->files.release_all();
    malloc_trim(0);
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    report.peak_memory_bytes = peak_memory_bytes();
    report_.blocks.push_back(report);
    if (progress_.block_done) progress_.block_done(report);
  }

  // Reference outputs, tuning, writing; then what the packed block makes of the packed prefix goes
  // to the next block.
  void tune_block(const nn::Block& block, const std::vector<WeightToDo>& list,
                  const std::vector<WeightToDo>& slices, BlockReport& report) {
    const Samples target = reference(block, original_, report);
    for (const WeightToDo& slice : slices) quantize_slice(slice);
    tune(block, list, quantized_, target, report);
    quantized_ = run_block(block, quantized_);
    original_ = target;
  }

  // The draft reads what the last block leaves.
  void tune_draft(const nn::Draft& draft, const nn::Head& head, const std::vector<WeightToDo>& list,
                  BlockReport& report) {
    const auto stem = model_->stem(weights_);
    const DraftBlock block(draft);
    auto input = [&](const Samples& last) {
      return draft_input(draft, *stem, head, calibration_.windows, calibration_.images, last);
    };
    const Samples target = reference(block, input(original_), report);
    tune(block, list, input(quantized_), target, report);
  }

  Samples reference(const nn::Block& block, const Samples& input, BlockReport& report) const {
    std::vector<int64_t> pairs_per_expert;
    Samples output = run_block(block, input, &pairs_per_expert);
    report.expert_tokens = summary(std::move(pairs_per_expert));
    return output;
  }

  // Tunes and writes; the weights are packed afterwards.
  void tune(const nn::Block& block, const std::vector<WeightToDo>& list, const Samples& input,
            const Samples& target, BlockReport& report) {
    std::vector<std::pair<nn::Weight, quant::Scheme>> together;
    const Step* step = nullptr;
    for (const WeightToDo& entry : list) {
      if (!tuned(entry)) continue;
      together.emplace_back(entry.weight, entry.scheme);
      step = &recipe_.steps[entry.verdict->step];
    }
    std::vector<std::shared_ptr<ops::DenseStack>> originals;
    for (const WeightToDo& entry : list) originals.push_back(entry.weight.dense());
    if (step) {
      AutoRoundOptions tuning = options_.tuning;
      tuning.iterations = step->iters;
      tuning.lr = step->lr;
      tuning.batch_size = step->batch_size;
      const Tuned result =
          auto_round(block, together, input, target, tuning, random_, [&](int iteration) {
            if (progress_.iteration_done) progress_.iteration_done(iteration, step->iters);
          });
      report.loss_before = result.loss_before;
      report.loss_after = result.loss_after;
      report.best_iteration = result.best_iteration;
    }
    for (size_t i = 0; i < list.size(); ++i) {
      if (!tuned(list[i])) {
        pack(list[i], *originals[i],
             [&](int64_t matrix) { return nearest(list[i], originals[i]->matrix(matrix)); });
        continue;
      }
      const auto rounding = list[i].weight.as<ops::RoundingStack>();
      pack(list[i], *originals[i], [&](int64_t matrix) { return rounding->best(matrix); });
    }
  }

  quant::QuantWeight nearest(const WeightToDo& entry, const Tensor& matrix) const {
    quant::RtnOptions rtn;
    rtn.grid = options_.format == quant::Format::compressed_tensors && !tuned(*entry.verdict)
                   ? quant::Grid::compressed_tensors
                   : quant::Grid::auto_round;
    rtn.observer = entry.verdict->observer;
    rtn.shrink = entry.verdict->shrink;
    rtn.name = entry.weight.name();
    return quant::round_to_nearest(matrix, entry.scheme, rtn);
  }

  // Writes every matrix and turns the weight into its packed form, which the next forward pass
  // multiplies by.
  void pack(const WeightToDo& entry, const ops::DenseStack& original,
            const std::function<quant::QuantWeight(int64_t matrix)>& made) {
    const nn::Weight& weight = entry.weight;
    auto stack = std::make_shared<ops::Int4Stack>(weight.name(), weight.matrices(), weight.rows(),
                                                  weight.columns(), entry.scheme);
    parallel_for(weight.matrices(), [&](int64_t matrix) {
      const quant::QuantWeight packed = made(matrix);
      write(entry.modules[matrix], original.matrix(matrix), packed);
      stack->set(matrix, packed);
    });
    weight.become(std::move(stack));
  }

  // A block's part of a linear outside of the blocks becomes what do_rest() will write: rows are
  // rounded to nearest one by one.
  void quantize_slice(const WeightToDo& slice) const {
    const nn::Weight& weight = slice.weight;
    auto stack = std::make_shared<ops::Int4Stack>(weight.name(), 1, weight.rows(), weight.columns(),
                                                  slice.scheme);
    stack->set(0, nearest(slice, weight.dense()->matrix(0)));
    weight.become(std::move(stack));
  }

  void write_nearest(const WeightToDo& entry) {
    const auto dense = entry.weight.dense();
    auto one = [&](int64_t matrix) {
      write(entry.modules[matrix], dense->matrix(matrix), nearest(entry, dense->matrix(matrix)));
    };
    // A single matrix is rounded by all threads, because a loop of one item leaves them free.
    parallel_for(entry.weight.matrices(), one);
  }

  void write(const std::string& module, const Tensor& original, const quant::QuantWeight& packed) {
    quant::MatrixRecord record = quant::record_of(original, packed);
    {
      const std::lock_guard lock(records_mutex_);
      records_[module] = std::move(record);
    }
    for (const auto& [name, tensor] : quant::to_disk(module, packed, options_.format))
      writer_.write(name, tensor);
  }

  // Linears outside of the blocks that the recipe names. Those of the head are rounded to nearest,
  // because no block's output judges them.
  void do_rest() {
    std::vector<nn::LinearSite> of_ends, of_draft;
    const auto stem = model_->stem(weights_.listing(&of_ends));
    const auto head = model_->head(weights_.listing(&of_ends));
    for (const WeightToDo& entry : to_do(of_ends)) write_nearest(entry);
    const auto draft = model_->draft(weights_.listing(&of_draft));
    const std::vector<WeightToDo> list = to_do(of_draft);
    if (!tunes_draft()) {
      for (const WeightToDo& entry : list) write_nearest(entry);
      return;
    }
    stop_if_asked();
    report_block(model_->blocks(), model_->draft_path(weights_), list,
                 [&](BlockReport& report) { tune_draft(*draft, *head, list, report); });
  }

  void finish(std::chrono::steady_clock::time_point start) {
    stop_if_asked();
    writer_.finish();
    write_configuration();
    checkpoint::copy_other_files(source_->files, options_.output,
                                 {"config.json", "quantization_config.json", "recipe.yaml"});
    const std::string recipe = recipe_yaml(recipe_, {plan_.verdicts, plan_.warnings});
    write_file(options_.output / "recipe.yaml", recipe);
    write_file(options_.output / quant::kRecordFile, to_text(quant::to_json(records_)));
    report_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    write_file(
        options_.output / "quantization.yaml",
        to_yaml(provenance(*source_, options_.output, recipe, calibration_, options_, report_)));
    sync_folder(options_.output);
  }

  void write_configuration() const {
    quant::ConfigDetails details;
    details.blocks = {model_->blocks_path(weights_)};
    details.draft = model_->draft_path(weights_);
    // AutoRound's readers take nothing outside of these places to be quantized.
    for (const Verdict& verdict : plan_.verdicts) {
      const bool listed = std::ranges::any_of(details.blocks, [&](const std::string& place) {
        return verdict.name.starts_with(place);
      });
      if (!verdict.scheme || listed) continue;
      details.blocks.push_back(of_draft(verdict) ? details.draft : verdict.name);
    }
    const Step& step = recipe_.steps.back();
    details.iters = tunes() ? step.iters : 0;
    if (!calibration_.windows.empty()) {
      details.samples = static_cast<int64_t>(calibration_.windows.size());
      details.sequence_length = static_cast<int64_t>(calibration_.windows[0].size());
    }
    details.batch_size = step.batch_size;
    details.learning_rate = step.lr;
    details.fp8_kv_cache = std::any_of(recipe_.steps.begin(), recipe_.steps.end(),
                                       [](const Step& entry) { return entry.fp8_kv_cache; });
    const JsonValue config = quant::quantization_config(options_.format, plan_.modules, details);
    const fs::path file = source_->files.folder() / "config.json";
    write_file(options_.output / "config.json",
               checkpoint::with_key(read_file(file), "quantization_config", config, file.string()));
    if (options_.format != quant::Format::compressed_tensors) {
      write_file(options_.output / "quantization_config.json", to_text(config));
    }
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
  checkpoint::ShardWriter writer_;
  PythonRandom random_;
  std::mutex records_mutex_;
  quant::MatrixRecords records_;
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
