// make_synthetic: writes a checkpoint in the layout of a published model with random weights, of
// any size, one tensor in memory at a time. For tests and benchmarks of memory and speed; its
// output is noise.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/threads.h"
#include "checkpoint/carry_over.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/output_folder.h"
#include "checkpoint/shard_writer.h"
#include "layouts/headers.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

// Fills a tensor in place; each kind of weight has values of a plausible size.
using Fill = std::function<void(Tensor&, at::Generator&)>;

Fill normal(double mean, double deviation) {
  return [=](Tensor& x, at::Generator& g) { x.normal_(mean, deviation, g); };
}
// Decay exp(-exp(A_log) softplus(dt + dt_bias)): A in 1..16 and softplus(dt_bias) in 0.001..0.1,
// the initialization of such layers.
const Fill kDecay = [](Tensor& x, at::Generator& g) {
  x.copy_(at::empty(x.sizes(), at::kFloat).uniform_(1, 16, g).log());
};
const Fill kStep = [](Tensor& x, at::Generator& g) {
  Tensor step = at::empty(x.sizes(), at::kFloat).uniform_(std::log(0.001), std::log(0.1), g).exp();
  x.copy_(step.expm1().log());
};

Fill fill_of(layouts::Fill kind) {
  switch (kind) {
    case layouts::Fill::norm:
      return normal(1, 0.05);
    case layouts::Fill::norm_minus_one:
      return normal(0, 0.05);
    case layouts::Fill::convolution:
      return normal(0, 0.3);
    case layouts::Fill::decay:
      return kDecay;
    case layouts::Fill::step:
      return kStep;
    case layouts::Fill::one:
      return normal(1, 0);
    case layouts::Fill::low:
      return normal(-1000, 0);
    case layouts::Fill::high:
      return normal(1000, 0);
    case layouts::Fill::matrix:
    case layouts::Fill::bias:
      break;
  }
  return normal(0, 0.02);
}

std::vector<PlannedTensor> plan_of(const layouts::Layout& layout) {
  std::vector<PlannedTensor> plan;
  for (const layouts::LayoutTensor& tensor : layout.tensors())
    plan.push_back({tensor.name, tensor.dtype, tensor.shape, Fate::added, /*source=*/""});
  return plan;
}

// Dimensions that follow from others are kept consistent.
JsonValue scaled(JsonValue config, const std::map<std::string, int64_t>& dimensions) {
  JsonValue& text = config.at("text_config");
  for (const auto& [key, value] : dimensions)
    if (value > 0) text[key] = value;
  JsonValue types = JsonValue::array();
  const int64_t interval = text.at("full_attention_interval");
  for (int64_t i = 0; i < text.at("num_hidden_layers"); ++i)
    types.push_back((i + 1) % interval == 0 ? "full_attention" : "linear_attention");
  text["layer_types"] = types;
  JsonValue& rope = text.at("rope_parameters");
  const int64_t pairs = std::llround(text.at("head_dim").get<double>() *
                                     rope.at("partial_rotary_factor").get<double>() / 2);
  rope["mrope_section"] = {(pairs + 2) / 3, (pairs + 1) / 3, pairs / 3};
  if (config.contains("vision_config"))
    config["vision_config"]["out_hidden_size"] = text.at("hidden_size");
  return config;
}

// Every piece of every tensor has its own seed, so the values do not depend on the number of
// threads.
void fill(Tensor& x, const Fill& values, uint64_t seed) {
  constexpr int64_t kPiece = 1 << 20;
  Tensor flat = x.view(-1);
  parallel_pieces(flat.size(0), kPiece, [&](int64_t begin, int64_t end) {
    at::Generator generator =
        at::detail::createCPUGenerator(seed + static_cast<uint64_t>(begin / kPiece));
    Tensor piece = flat.slice(0, begin, end);
    values(piece, generator);
  });
}

void write_weights(const layouts::Layout& layout, const fs::path& folder, size_t max_shard_bytes,
                   uint64_t seed) {
  ShardWriter writer(folder, plan_of(layout), nullptr, {.max_shard_bytes = max_shard_bytes});
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const layouts::LayoutTensor& tensor = layout.tensors()[i];
    Tensor x = at::empty(tensor.shape, tensor.dtype);
    fill(x, fill_of(tensor.fill), (seed << 48) + (i << 24));
    writer.write(tensor.name, x);
  }
  writer.finish();
}

void write_other_files(const Checkpoint& like, const fs::path& folder) {
  const std::set<fs::path> wanted = {
      "chat_template.jinja", "generation_config.json", "merges.txt", "preprocessor_config.json",
      "tokenizer.json",      "tokenizer_config.json",  "vocab.json"};
  std::vector<fs::path> except;
  for (const fs::path& file : like.files())
    if (!wanted.contains(file)) except.push_back(file);
  copy_other_files(like, folder, except);
}

// Checks that the layout derived from a checkpoint's config is the layout of its weights.
void check(const layouts::Layout& layout, const Checkpoint& like) {
  std::set<std::string> names;
  for (const layouts::LayoutTensor& tensor : layout.tensors()) {
    names.insert(tensor.name);
    const TensorInfo& found = like.info(tensor.name);
    if (found.shape != tensor.shape)
      fail("tensor {} has the shape {}, expected {}", tensor.name, shape_text(found.shape),
           shape_text(tensor.shape));
  }
  for (const std::string& name : like.names())
    if (!names.contains(name)) fail("tensor {} is not expected", name);
  fmt::print("{} tensors as expected\n", names.size());
}

struct Command {
  fs::path like, out;
  std::string family;
  int blocks = 0;
  bool headers = false, check = false;
  layouts::LayoutOptions layout;
  uint64_t seed = 1;
  double shard_gigabytes = 5;
  std::map<std::string, int64_t> dimensions;  // of text_config, by key; 0: as they are
};

void declare(CLI::App& app, Command& command) {
  CLI::Option* family =
      app.add_option("--family", command.family, "the dimensions of a published model")
          ->check(CLI::IsMember(layouts::families()));
  app.add_option("--blocks", command.blocks, "of the family (default: all)")
      ->check(CLI::Range(2, 1000));
  app.add_option("--like", command.like,
                 "folder of the tokenizer and, without --family, of the config.json");
  app.add_option("-o,--out", command.out, "folder to write");
  app.add_flag("--headers", command.headers, "files of the real size without data");
  app.add_flag("--check", command.check,
               "write nothing; compare the layout with the weights in --like");
  app.add_flag("--split-experts", command.layout.split_experts,
               "one 2-D tensor for each expert instead of stacks");
  app.add_flag("!--no-draft", command.layout.draft, "omit the draft layer (GLM-4.5)");
  app.add_option("--max-shard-size", command.shard_gigabytes, "in GB")->check(CLI::PositiveNumber);
  app.add_option("--seed", command.seed);
  for (const auto& [flag, key] : std::vector<std::pair<std::string, std::string>>{
           {"--hidden", "hidden_size"},
           {"--layers", "num_hidden_layers"},
           {"--vocab", "vocab_size"},
           {"--experts", "num_experts"},
           {"--experts-per-token", "num_experts_per_tok"},
           {"--full-attention-interval", "full_attention_interval"},
           {"--expert-width", "moe_intermediate_size"},
           {"--shared-width", "shared_expert_intermediate_size"},
           {"--heads", "num_attention_heads"},
           {"--kv-heads", "num_key_value_heads"},
           {"--head-dim", "head_dim"},
           {"--key-heads", "linear_num_key_heads"},
           {"--value-heads", "linear_num_value_heads"},
           {"--key-dim", "linear_key_head_dim"},
           {"--value-dim", "linear_value_head_dim"}})
    app.add_option(flag, command.dimensions[key], "Qwen3.6, text_config." + key)
        ->check(CLI::Range(1, 1 << 24))
        ->excludes(family);
}

JsonValue config_of(const Command& command) {
  if (!command.family.empty()) return layouts::published_config(command.family, command.blocks);
  if (command.like.empty()) fail(Exit::usage, "give --family or --like");
  const JsonValue config = read_json(command.like / "config.json");
  const bool changed = std::any_of(command.dimensions.begin(), command.dimensions.end(),
                                   [](const auto& entry) { return entry.second > 0; });
  return changed ? scaled(config, command.dimensions) : config;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Write a checkpoint in the layout of a published model with random weights.\n\n"
      "Examples:\n  make_synthetic --family glm4.5 --blocks 2 --like tests/data/qwen36 -o big\n"
      "  make_synthetic --family sarvam --headers -o sarvam-30b\n"
      "  make_synthetic --like tests/data/tiny-qwen3.6 -o 4gb --hidden 2048 --experts 64 "
      "--expert-width 512 --shared-width 512 --layers 8 --vocab 32768");
  Command command;
  declare(app, command);
  CLI11_PARSE(app, argc, argv);

  prepare_torch();
  const JsonValue config = config_of(command);
  const layouts::Layout layout = layouts::layout_of(Json(config, "config.json"), command.layout);
  if (command.check) return check(layout, Checkpoint(command.like)), 0;
  if (command.out.empty()) fail(Exit::usage, "give the folder to write with -o");
  const auto plan = plan_of(layout);
  const auto shard_bytes = static_cast<size_t>(command.shard_gigabytes * 1e9);
  OutputFolder output(command.out, {.source = command.like,
                                    .needed_bytes = command.headers ? 0 : planned_bytes(plan)});
  if (command.headers) {
    layouts::write_headers(layout, config, output.path(), shard_bytes);
  } else {
    if (!command.like.empty()) write_other_files(Checkpoint(command.like), output.path());
    write_file(output.path() / "config.json", to_text(config));
    if (const auto [name, content] = layouts::published_processor(command.family); !name.empty())
      write_file(output.path() / name, to_text(content));
    write_weights(layout, output.path(), shard_bytes, command.seed);
  }
  output.publish();
  fmt::print("{}: {} tensors, {:.3f} GB\n", command.out.string(), plan.size(),
             static_cast<double>(planned_bytes(plan)) / 1e9);
  return 0;
}

}  // namespace
}  // namespace quern::checkpoint

int main(int argc, char** argv) {
  try {
    return quern::checkpoint::run(argc, argv);
  } catch (const quern::Error& error) {
    std::fprintf(stderr, "make_synthetic: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
