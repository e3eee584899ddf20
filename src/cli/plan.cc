// quern plan: shows what `compress` would do with a checkpoint, from its headers alone.
#include "compress/plan.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "cli/method_options.h"
#include "cli/plan_report.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "compress/compress.h"
#include "compress/method.h"
#include "models/models.h"

namespace quern::cli {
namespace {

struct PlanCommand {
  std::string source;
  MethodOptions method;
  bool drop_unused = false, all = false;
  int64_t samples = 128, seqlen = 2048;
};

void run(const PlanCommand& command, bool json) {
  const compress::Recipe recipe = recipe_of(command.method);
  const quant::Format& format = format_of(command.method);
  const auto source = std::make_shared<const nn::Source>(command.source);
  const auto model = models::make_model(source->files.config());
  std::vector<std::string> dropped;
  if (command.drop_unused) dropped = model->unused(nn::Weights(source));
  const compress::Sites sites = compress::list_sites(source, *model, dropped);
  const compress::Plan plan = compress::make_plan(*source, sites, recipe, format, dropped);
  PlanReport report = report_plan(*source, sites.linears, recipe, plan, format);
  if (compress::needs_data(recipe)) {
    const compress::WindowSizes sizes = {command.samples, command.samples * command.seqlen,
                                         command.seqlen};
    report.memory = compress::memory_need(*model, nn::Weights(source), sites.linears, plan, recipe,
                                          sizes, {.format = format});
  }
  if (json) {
    JsonValue document = to_json(report);
    if (command.all) document.update(listing_json(plan));
    print(quern::to_text(document));
    return;
  }
  print(to_text(report) + (command.all ? listing_text(plan) : ""));
  for (const std::string& warning : report.warnings) log_warning("{}", warning);
}

}  // namespace

void add_plan(CLI::App& app, Program& program) {
  auto command = std::make_shared<PlanCommand>();
  CLI::App* verb =
      app.add_subcommand("plan", "Show what compress would do with a model, with sizes");
  verb->footer(R"(
Examples:
  quern plan MODEL
  quern plan MODEL --recipe recipe.yaml
  quern plan MODEL --calibrate-draft
  quern plan MODEL --ignore shared_expert --group-size 32 --json | jq .output_bytes

Reads only headers, which takes seconds for a model of any size. Lists every linear under its
deciding rule; --all lists every linear and every tensor of the output.)");
  verb->add_option("MODEL", command->source, "Model folder; it is only read")->required();
  declare_method(*verb, command->method);
  declare_format(*verb, command->method);
  verb->add_flag("--drop-unused", command->drop_unused,
                 "Omit tensors that the model never reads (Gemma 4 has some)")
      ->group("Output");
  verb->add_option("--nsamples", command->samples, "Calibration windows, for the memory estimate")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group("Calibration data");
  verb->add_option("--seqlen", command->seqlen, "Tokens per window")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str()
      ->group("Calibration data");
  verb->add_flag("--all", command->all, "List every linear and every tensor")->group("Output");
  verb->callback(
      [&program, command] { program.run = [&program, command] { run(*command, program.json); }; });
}

}  // namespace quern::cli
