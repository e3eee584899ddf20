// quern logits: writes a model's logits to a file, for comparison with other programs.
#include "eval/logits.h"

#include <memory>

#include "base/log.h"
#include "cli/program.h"
#include "cli/terminal.h"

namespace quern::cli {
namespace {

struct LogitsOptions {
  std::string model, tokens, output, dtype = "float32";
};

void run(const LogitsOptions& options) {
  const auto lists = eval::read_token_lists(options.tokens);
  eval::write_logits(std::make_shared<nn::Source>(options.model), lists, options.output);
  log_info("{}: logits of {} lists", options.output, lists.size());
}

}  // namespace

void add_logits(CLI::App& app, Program& program) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* verb = app.add_subcommand("logits", "Write a model's logits to a safetensors file");
  verb->footer(R"(
Example:
  echo '[[1, 2, 3], [4, 5]]' > ids.json
  quern logits MODEL --tokens ids.json -o out.safetensors

out.safetensors then contains logits.0 [3, vocabulary] and logits.1 [2, vocabulary].)");
  verb->add_option("MODEL", options->model, "Model folder")->required();
  verb->add_option("--tokens", options->tokens, "JSON file with lists of token ids")->required();
  verb->add_option("-o,--output", options->output, "File to write")->required();
  verb->add_option("--dtype", options->dtype, "float32")->check(CLI::IsMember({"float32"}));
  verb->callback([&program, options] { program.run = [options] { run(*options); }; });
}

}  // namespace quern::cli
