// quern inspect: shows the tensors of a model folder and how its weights are stored.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/dtype.h"
#include "cli/program.h"
#include "cli/tensor_tree.h"
#include "cli/terminal.h"
#include "nn/weights.h"

namespace quern::cli {
namespace {

// Packed modules, counted by scheme.
std::map<std::string, int64_t> count_schemes(const nn::Source& source) {
  std::map<std::string, int64_t> counts;
  if (!source.quantization) return counts;
  for (const std::string& name : source.files.names()) {
    const auto module = quant::packed_module(name);
    if (!module) continue;
    const auto scheme = source.quantization->scheme_of(*module);
    ++counts[scheme ? scheme->text() : "packed, but not in quantization_config"];
  }
  return counts;
}

JsonValue json_of(const nn::Source& source, const TensorTree& tree) {
  JsonValue schemes = JsonValue::array();
  for (const auto& [scheme, modules] : count_schemes(source))
    schemes.push_back({{"scheme", scheme}, {"modules", modules}});
  JsonValue json = {{"folder", source.files.folder().string()},
                    {"architecture", source.files.architecture()},
                    {"format", nullptr},
                    {"schemes", schemes},
                    {"shards", JsonValue::array()},
                    {"tensors", source.files.names().size()},
                    {"bytes", source.files.total_bytes()},
                    {"groups", tree.json()}};
  if (source.quantization) json["format"] = std::string(source.quantization->format().name);
  for (const auto& shard : source.files.shards()) json["shards"].push_back(shard.string());
  return json;
}

std::string text_of(const nn::Source& source, const TensorTree& tree) {
  const checkpoint::Files& files = source.files;
  std::string text = fmt::format(
      "{}\n  architecture  {}\n  tensors       {} in {} shard{}\n  size          {} ({}, {} "
      "bytes)\n",
      standard_output().bold(files.folder().string()), files.architecture(),
      count_text(static_cast<int64_t>(files.names().size())), files.shards().size(),
      files.shards().size() == 1 ? "" : "s", bytes_text(files.total_bytes()),
      gib_text(files.total_bytes()), count_text(static_cast<int64_t>(files.total_bytes())));
  if (source.quantization)
    text += fmt::format("  format        {}\n", std::string(source.quantization->format().name));
  for (const auto& [scheme, modules] : count_schemes(source))
    text += fmt::format("  quantized     {} linears as {}\n", count_text(modules), scheme);
  return text + "\n" + tree.text(standard_output());
}

void run(const std::string& model, bool json) {
  const nn::Source source(model);
  TensorTree tree;
  for (const std::string& name : source.files.names()) tree.add(source.files.info(name));
  print(json ? to_text(json_of(source, tree)) : text_of(source, tree));
}

}  // namespace

void add_inspect(CLI::App& app, Program& program) {
  auto model = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("inspect", "Show a model's tensors, schemes and sizes");
  verb->footer(R"(
Examples:
  quern inspect MODEL
  quern inspect MODEL --json | jq .bytes)");
  verb->add_option("MODEL", *model, "Model folder")->required();
  verb->callback(
      [&program, model] { program.run = [&program, model] { run(*model, program.json); }; });
}

}  // namespace quern::cli
