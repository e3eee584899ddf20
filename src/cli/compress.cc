// quern compress: makes a verified folder of 4-bit weights from a checkpoint, or fails.
#include "compress/compress.h"

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/output_folder.h"
#include "cli/calibration_pictures.h"
#include "cli/compress_progress.h"
#include "cli/compress_summary.h"
#include "cli/interrupt.h"
#include "cli/method_options.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "cli/verify.h"
#include "compress/calibration_rows.h"
#include "compress/plan.h"
#include "data/mixture.h"
#include "models/models.h"

namespace quern::cli {
namespace {

struct CompressCommand {
  std::string source, output;
  bool force = false, drop_unused = false;

  MethodOptions method;
  compress::AutoRoundOptions tuning;
  std::string max_shard_size = "5GB";

  std::vector<std::string> data;
  compress::CalibrationOptions calibration = {.samples = 128};
  std::string packing = "concat";
  uint64_t seed = 42;
  bool shuffle = true, no_tools = false;

  GateOptions gates;
  bool no_verify = false;
  bool json_lines = false;
};

size_t parse_size(const std::string& text) {
  constexpr std::array<std::pair<const char*, double>, 7> kUnits = {{{"GiB", 0x1p30},
                                                                     {"MiB", 0x1p20},
                                                                     {"KiB", 0x1p10},
                                                                     {"GB", 1e9},
                                                                     {"MB", 1e6},
                                                                     {"KB", 1e3},
                                                                     {"", 1}}};
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  for (const auto& [unit, bytes] : kUnits)
    if (end != text.c_str() && std::string_view(end) == unit && value * bytes >= 1 &&
        value * bytes < 1e15)
      return static_cast<size_t>(value * bytes);
  fail(Exit::usage, "--max-shard-size {}: give a number with a unit, as in 5GB, 500MB or 2GiB",
       text);
}

JsonValue manifest(const CompressCommand& command, const compress::CalibrationReport& report) {
  JsonValue sources = JsonValue::array();
  for (const std::string& text : command.data) {
    const data::RowSource source = data::parse_source(text);
    JsonValue entry = {{"file", source.file.filename().string()},
                       {"sha256", sha256_of_file(source.file)}};
    if (source.count) entry["rows"] = *source.count;
    if (source.share) entry["share"] = *source.share;
    sources.push_back(entry);
  }
  return {{"sources", sources},
          {"packing", command.packing},
          {"shuffle", command.shuffle},
          {"seed", command.seed},
          {"seqlen", command.calibration.seqlen},
          {"windows", report.windows},
          {"rows", report.rows},
          {"rows_read", report.rows_read},
          {"rows_dropped", report.rows_dropped},
          {"short_windows", report.short_windows},
          {"images", report.images},
          {"tokens_used", report.tokens_used},
          {"tokens_dropped", report.tokens_dropped}};
}

// Made at the first request, from any thread.
template <class T>
class Lazy {
 public:
  explicit Lazy(std::function<T()> make) : make_(std::move(make)) {}
  const T& operator()() {
    std::call_once(once_, [&] { made_.reset(new T(make_())); });
    return *made_;
  }

 private:
  std::function<T()> make_;
  std::once_flag once_;
  std::unique_ptr<const T> made_;
};

// Makes windows of token ids from the rows of all --data files.
compress::Calibration read_calibration(const CompressCommand& command,
                                       const std::shared_ptr<const nn::Source>& source) {
  compress::CalibrationOptions options = command.calibration;
  options.packing = compress::parse_packing(command.packing);
  options.tools = command.no_tools ? compress::Tools::ignore : compress::Tools::use;
  options.shuffle_seed.reset();
  if (command.shuffle) options.shuffle_seed = command.seed;
  options.vocabulary = models::make_model(source->files.config())->vocabulary();

  std::vector<data::RowSource> sources;
  for (const std::string& text : command.data) sources.push_back(data::parse_source(text));
  const data::Mixture rows(sources, options.shuffle_seed);
  const prompt::Tokenizer tokenizer(command.source);
  Lazy<prompt::ChatTemplate> chat([&] { return prompt::ChatTemplate::of_folder(command.source); });
  Lazy<CalibrationPictures> pictures([&] { return CalibrationPictures(source, sources, rows); });
  compress::CalibrationWindows made = compress::calibration_windows(
      rows, tokenizer, {[&] { return &chat(); }, [&] { return pictures().images(); }}, options);
  log_info("{}", compress::to_text(made.report));
  return {std::move(made.windows), std::move(made.images), manifest(command, made.report)};
}

// Checks that run before long reads or writes.
void check(const CompressCommand& command, const compress::Recipe& recipe) {
  if (compress::needs_data(recipe) && command.data.empty())
    fail(Exit::usage,
         "the method needs calibration texts: add --data FILE (jsonl, json, csv, txt or parquet), "
         "or choose --method rtn, which needs none");
  if (!compress::needs_data(recipe) && !command.data.empty())
    log_warning("round-to-nearest uses no data; --data is ignored");
}

compress::CompressOptions options_of(const CompressCommand& command) {
  compress::CompressOptions options = {.format = format_of(command.method),
                                       .max_shard_bytes = parse_size(command.max_shard_size),
                                       .tuning = command.tuning};
  options.tuning.seed = command.seed;
  options.drop_unused = command.drop_unused;
  return options;
}

// Checked before hours of work.
size_t needed_bytes(const std::shared_ptr<const nn::Source>& source, const compress::Recipe& recipe,
                    const compress::CompressOptions& options) {
  const auto model = models::make_model(source->files.config());
  return compress::folder_bytes(
      *source, compress::make_plan(source, *model, recipe, options.format, options.drop_unused));
}

// Everything except verification. `source` is the model at command.source.
compress::CompressReport compress_model(const std::shared_ptr<const nn::Source>& source,
                                        const compress::Recipe& recipe,
                                        const CompressCommand& command,
                                        compress::CompressOptions options) {
  compress::Calibration calibration;
  if (compress::needs_data(recipe)) calibration = read_calibration(command, source);
  CompressProgress progress(command.json_lines ? ProgressStyle::json_lines : ProgressStyle::people);
  const FinishFirst finish(
      "interrupted: finishing the current block; interrupt again to stop at once");
  options.stop = &finish.asked();
  return compress::compress(source, recipe, calibration, options, progress.callbacks());
}

void run(CompressCommand& command, bool json) {
  const compress::Recipe recipe = recipe_of(command.method);
  check(command, recipe);
  compress::CompressOptions options = options_of(command);
  const auto source = std::make_shared<const nn::Source>(command.source);
  checkpoint::OutputFolder output(command.output,
                                  {.source = command.source,
                                   .needed_bytes = needed_bytes(source, recipe, options),
                                   .force = command.force});
  const RemovedOnInterrupt removed(output.path());
  CompressSummary summary;
  options.output = output.path();
  summary.report = compress_model(source, recipe, command, options);
  for (const std::string& warning : summary.report.warnings) log_warning("{}", warning);
  if (!command.no_verify)
    summary.verification = run_verify(output.path(), command.source, command.gates);
  const bool passed = !summary.verification || summary.verification->passed();
  summary.output = passed ? command.output : output.reject().string();
  if (passed) output.publish();

  if (command.json_lines)
    print(finished_event(summary).dump() + "\n");
  else
    print(json ? quern::to_text(to_json(summary)) : to_text(summary));
  if (passed) return;
  fail(Exit::verification_failed, "verification failed: {}; the output is in {}",
       eval::to_text(first_error(*summary.verification)), summary.output);
}

void declare_tuning(CLI::App& verb, CompressCommand& command) {
  verb.add_option("--minmax-lr", command.tuning.minmax_lr,
                  "Learning rate of the clipping (default: --lr)")
      ->group("Method");
  verb.add_option("--gradient-accumulate-steps", command.tuning.gradient_accumulation,
                  "Batches per step")
      ->capture_default_str()
      ->group("Method");
  verb.add_option("--momentum", command.tuning.momentum, "Momentum of the sign steps")
      ->capture_default_str()
      ->group("Method");
}

void declare_data(CLI::App& verb, CompressCommand& command) {
  auto declare = [&](CLI::Option* option) { option->group("Calibration data"); };
  declare(verb.add_option("--data", command.data,
                          "FILE, FILE=200 (rows) or FILE=0.5 (share): jsonl, json, csv, txt or "
                          "parquet; may be repeated")
              ->allow_extra_args(false));
  declare(verb.add_option("--nsamples", command.calibration.samples, "Largest number of windows")
              ->capture_default_str());
  declare(verb.add_option("--seqlen", command.calibration.seqlen, "Tokens per window")
              ->capture_default_str());
  declare(verb.add_option("--packing", command.packing,
                          "concat: join rows and cut; truncate: one window per row; drop: only "
                          "rows that fill a window")
              ->check(CLI::IsMember({"concat", "truncate", "drop"}))
              ->capture_default_str());
  declare(verb.add_flag("--shuffle,!--no-shuffle", command.shuffle,
                        "Rows in random order (default), or in the order of the files"));
  declare(verb.add_flag("--no-tools", command.no_tools, "Ignore the rows' tools column"));
  declare(verb.add_option("--seed", command.seed, "Seed of the shuffle and of AutoRound's batches")
              ->capture_default_str());
}

void declare_output(CLI::App& verb, CompressCommand& command) {
  auto declare = [&](CLI::Option* option) { option->group("Output"); };
  declare(verb.add_option("-o,--output", command.output, "Folder to make")->required());
  declare_format(verb, command.method);
  declare(verb.add_option("--max-shard-size", command.max_shard_size,
                          "Largest size of a safetensors file")
              ->capture_default_str());
  declare(verb.add_flag("--drop-unused", command.drop_unused,
                        "Omit tensors that the model never reads (Gemma 4 has some)"));
  declare(verb.add_flag("--force", command.force, "Replace a model folder of this name"));
  verb.add_flag("--no-verify", command.no_verify, "Do not check the result")->group("Verification");
  declare(verb.add_flag("--json-lines", command.json_lines,
                        "Print events during the work, one JSON object per line"));
}

}  // namespace

void add_compress(CLI::App& app, Program& program) {
  auto command = std::make_shared<CompressCommand>();
  CLI::App* verb = app.add_subcommand("compress", "Make 4-bit weights of a model, and verify them");
  verb->footer(R"(
Examples:
  quern compress MODEL -o OUT --data chats.jsonl
  quern compress MODEL -o OUT --data a.jsonl=0.7 --data b.parquet=0.3 --nsamples 256 --iters 400
  quern compress MODEL -o OUT --data chats.jsonl --ignore shared_expert --group-size 32
  quern compress MODEL -o OUT --recipe recipe.yaml --data chats.jsonl
  quern compress MODEL -o OUT --method rtn --format compressed-tensors

OUT appears when it is complete and verified. An output that fails verification is named
OUT.rejected, with exit code 5. Ctrl-C finishes the current block, a second Ctrl-C stops at once;
both leave nothing behind.)");
  verb->add_option("MODEL", command->source, "Model folder; it is only read")->required();
  declare_output(*verb, *command);
  declare_method(*verb, command->method);
  declare_tuning(*verb, *command);
  declare_data(*verb, *command);
  add_gate_options(*verb, command->gates, "Verification");
  verb->callback(
      [&program, command] { program.run = [&program, command] { run(*command, program.json); }; });
}

}  // namespace quern::cli
