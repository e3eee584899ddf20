// make_synthetic: writes a checkpoint in Qwen3.6's layout with random weights, of any size, one
// tensor in memory at a time. For tests and benchmarks of memory and speed; what it says is noise.
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
#include "checkpoint/config_patch.h"
#include "checkpoint/output_folder.h"
#include "checkpoint/shard_writer.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

// Fills a tensor in place; each kind of weight has values of a plausible size.
using Fill = std::function<void(Tensor&, at::Generator&)>;

Fill normal(double mean, double deviation) {
  return [=](Tensor& x, at::Generator& g) { x.normal_(mean, deviation, g); };
}
const Fill kMatrix = normal(0, 0.02), kBias = normal(0, 0.02), kNorm = normal(1, 0.05);
const Fill kNormMinusOne = normal(0, 0.05);  // Qwen3.6 stores 1 + w as w
// Decay exp(-exp(A_log) softplus(dt + dt_bias)): A in 1..16 and softplus(dt_bias) in 0.001..0.1, as
// such layers begin.
const Fill kDecay = [](Tensor& x, at::Generator& g) {
  x.copy_(at::empty(x.sizes(), at::kFloat).uniform_(1, 16, g).log());
};
const Fill kStep = [](Tensor& x, at::Generator& g) {
  Tensor step = at::empty(x.sizes(), at::kFloat).uniform_(std::log(0.001), std::log(0.1), g).exp();
  x.copy_(step.expm1().log());
};

struct Layout {
  std::vector<PlannedTensor> plan;
  std::vector<Fill> fills;

  void add(const std::string& name, std::vector<int64_t> shape, const Fill& fill) {
    plan.push_back({.name = name,
                    .dtype = at::kBFloat16,
                    .shape = std::move(shape),
                    .fate = Fate::added,
                    .source = ""});
    fills.push_back(fill);
  }
};

void add_experts(Layout& layout, const std::string& prefix, const Json& text, bool split) {
  const int64_t experts = text.get<int64_t>("num_experts"),
                hidden = text.get<int64_t>("hidden_size"),
                width = text.get<int64_t>("moe_intermediate_size");
  if (!split) {
    layout.add(prefix + "gate_up_proj", {experts, 2 * width, hidden}, kMatrix);
    layout.add(prefix + "down_proj", {experts, hidden, width}, kMatrix);
    return;
  }
  for (int64_t i = 0; i < experts; ++i) {
    const std::string expert = fmt::format("{}{}.", prefix, i);
    layout.add(expert + "gate_proj.weight", {width, hidden}, kMatrix);
    layout.add(expert + "up_proj.weight", {width, hidden}, kMatrix);
    layout.add(expert + "down_proj.weight", {hidden, width}, kMatrix);
  }
}

void add_delta_net(Layout& layout, const std::string& prefix, const Json& text) {
  const int64_t hidden = text.get<int64_t>("hidden_size"),
                value_heads = text.get<int64_t>("linear_num_value_heads"),
                keys = text.get<int64_t>("linear_num_key_heads") *
                       text.get<int64_t>("linear_key_head_dim"),
                value_dim = text.get<int64_t>("linear_value_head_dim"),
                values = value_heads * value_dim;
  layout.add(prefix + "in_proj_qkv.weight", {2 * keys + values, hidden}, kMatrix);
  layout.add(prefix + "in_proj_z.weight", {values, hidden}, kMatrix);
  layout.add(prefix + "in_proj_b.weight", {value_heads, hidden}, kMatrix);
  layout.add(prefix + "in_proj_a.weight", {value_heads, hidden}, kMatrix);
  layout.add(prefix + "conv1d.weight",
             {2 * keys + values, 1, text.get<int64_t>("linear_conv_kernel_dim")}, normal(0, 0.3));
  layout.add(prefix + "A_log", {value_heads}, kDecay);
  layout.add(prefix + "dt_bias", {value_heads}, kStep);
  layout.add(prefix + "norm.weight", {value_dim}, kNorm);
  layout.add(prefix + "out_proj.weight", {hidden, values}, kMatrix);
}

void add_attention(Layout& layout, const std::string& prefix, const Json& text) {
  const int64_t hidden = text.get<int64_t>("hidden_size"), dim = text.get<int64_t>("head_dim"),
                queries = text.get<int64_t>("num_attention_heads") * dim,
                keys = text.get<int64_t>("num_key_value_heads") * dim;
  layout.add(prefix + "q_proj.weight", {2 * queries, hidden}, kMatrix);  // queries and their gates
  layout.add(prefix + "k_proj.weight", {keys, hidden}, kMatrix);
  layout.add(prefix + "v_proj.weight", {keys, hidden}, kMatrix);
  layout.add(prefix + "o_proj.weight", {hidden, queries}, kMatrix);
  layout.add(prefix + "q_norm.weight", {dim}, kNormMinusOne);
  layout.add(prefix + "k_norm.weight", {dim}, kNormMinusOne);
}

void add_layer(Layout& layout, const std::string& prefix, const Json& text, bool full_attention,
               bool split) {
  const int64_t hidden = text.get<int64_t>("hidden_size"),
                shared = text.get<int64_t>("shared_expert_intermediate_size");
  layout.add(prefix + "input_layernorm.weight", {hidden}, kNormMinusOne);
  if (full_attention) {
    add_attention(layout, prefix + "self_attn.", text);
  } else {
    add_delta_net(layout, prefix + "linear_attn.", text);
  }
  layout.add(prefix + "post_attention_layernorm.weight", {hidden}, kNormMinusOne);
  layout.add(prefix + "mlp.gate.weight", {text.get<int64_t>("num_experts"), hidden}, kMatrix);
  add_experts(layout, prefix + "mlp.experts.", text, split);
  layout.add(prefix + "mlp.shared_expert.gate_proj.weight", {shared, hidden}, kMatrix);
  layout.add(prefix + "mlp.shared_expert.up_proj.weight", {shared, hidden}, kMatrix);
  layout.add(prefix + "mlp.shared_expert.down_proj.weight", {hidden, shared}, kMatrix);
  layout.add(prefix + "mlp.shared_expert_gate.weight", {1, hidden}, kMatrix);
}

void add_with_bias(Layout& layout, const std::string& name, std::vector<int64_t> shape,
                   const Fill& fill) {
  const int64_t out = shape.front();
  layout.add(name + ".weight", std::move(shape), fill);
  layout.add(name + ".bias", {out}, kBias);
}

void add_vision(Layout& layout, const Json& vision) {
  const int64_t hidden = vision.get<int64_t>("hidden_size"),
                inner = vision.get<int64_t>("intermediate_size"),
                patch = vision.get<int64_t>("patch_size"),
                merge = vision.get<int64_t>("spatial_merge_size"), merged = hidden * merge * merge;
  const std::string prefix = "model.visual.";
  add_with_bias(layout, prefix + "patch_embed.proj",
                {hidden, vision.get<int64_t>("in_channels"),
                 vision.get<int64_t>("temporal_patch_size"), patch, patch},
                kMatrix);
  layout.add(prefix + "pos_embed.weight", {vision.get<int64_t>("num_position_embeddings"), hidden},
             kMatrix);
  for (int64_t i = 0; i < vision.get<int64_t>("depth"); ++i) {
    const std::string block = fmt::format("{}blocks.{}.", prefix, i);
    add_with_bias(layout, block + "norm1", {hidden}, kNorm);
    add_with_bias(layout, block + "norm2", {hidden}, kNorm);
    add_with_bias(layout, block + "attn.qkv", {3 * hidden, hidden}, kMatrix);
    add_with_bias(layout, block + "attn.proj", {hidden, hidden}, kMatrix);
    add_with_bias(layout, block + "mlp.linear_fc1", {inner, hidden}, kMatrix);
    add_with_bias(layout, block + "mlp.linear_fc2", {hidden, inner}, kMatrix);
  }
  add_with_bias(layout, prefix + "merger.norm", {hidden}, kNorm);
  add_with_bias(layout, prefix + "merger.linear_fc1", {merged, merged}, kMatrix);
  add_with_bias(layout, prefix + "merger.linear_fc2",
                {vision.get<int64_t>("out_hidden_size"), merged}, kMatrix);
}

void add_draft(Layout& layout, const Json& text, bool split) {
  const int64_t hidden = text.get<int64_t>("hidden_size");
  layout.add("mtp.fc.weight", {hidden, 2 * hidden}, kMatrix);
  for (const char* norm : {"norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"})
    layout.add(fmt::format("mtp.{}.weight", norm), {hidden}, kNormMinusOne);
  add_layer(layout, "mtp.layers.0.", text, /*full_attention=*/true, split);
}

// Source of the names and shapes: the table of Qwen3.6-35B-A3B's checkpoint, checked against the
// fixtures by --check.
Layout layout_of(const Json& config, bool split) {
  Layout layout;
  const Json text = config.at("text_config");
  const int64_t hidden = text.get<int64_t>("hidden_size"),
                vocabulary = text.get<int64_t>("vocab_size");
  layout.add("model.language_model.embed_tokens.weight", {vocabulary, hidden}, kMatrix);
  const auto types = text.get<std::vector<std::string>>("layer_types");
  for (size_t i = 0; i < types.size(); ++i)
    add_layer(layout, fmt::format("model.language_model.layers.{}.", i), text,
              types[i] == "full_attention", split);
  layout.add("model.language_model.norm.weight", {hidden}, kNormMinusOne);
  layout.add("lm_head.weight", {vocabulary, hidden}, kMatrix);
  if (config.has("vision_config")) add_vision(layout, config.at("vision_config"));
  if (text.get<int64_t>("mtp_num_hidden_layers", 0) > 0) add_draft(layout, text, split);
  return layout;
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

// Every piece of every tensor has its own seed, so that the values do not depend on the number of
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

void write_weights(const Layout& layout, const fs::path& folder, size_t max_shard_bytes,
                   uint64_t seed) {
  ShardWriter writer(folder, layout.plan, nullptr, {.max_shard_bytes = max_shard_bytes});
  for (size_t i = 0; i < layout.plan.size(); ++i) {
    Tensor x = at::empty(layout.plan[i].shape, layout.plan[i].dtype);
    fill(x, layout.fills[i], (seed << 48) + (i << 24));
    writer.write(layout.plan[i].name, x);
  }
  writer.finish();
}

void write_other_files(const Checkpoint& like, const JsonValue& config, const fs::path& folder) {
  const std::set<fs::path> wanted = {
      "chat_template.jinja", "generation_config.json", "merges.txt", "preprocessor_config.json",
      "tokenizer.json",      "tokenizer_config.json",  "vocab.json"};
  std::vector<fs::path> except;
  for (const fs::path& file : like.files())
    if (!wanted.contains(file)) except.push_back(file);
  copy_other_files(like, folder, except);
  std::string text = read_file(like.folder() / "config.json");
  for (const char* key : {"text_config", "vision_config"})
    if (config.contains(key)) text = with_key(text, key, config.at(key), "config.json");
  write_file(folder / "config.json", text);
}

// The layout that is derived from a real checkpoint's config must be the layout of its weights.
void check(const Layout& layout, const Checkpoint& like) {
  std::set<std::string> names;
  for (const PlannedTensor& tensor : layout.plan) {
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

int run(int argc, char** argv) {
  CLI::App app(
      "Write a checkpoint in Qwen3.6's layout with random weights.\n\n"
      "Example, about 4 GB:\n  make_synthetic --like tests/data/tiny-qwen3.6 -o /tmp/big --hidden "
      "2048 --experts 64 "
      "--expert-width 512 --shared-width 512 --layers 8 --vocab 32768");
  fs::path like, out;
  bool split = false, check_only = false;
  uint64_t seed = 1;
  double shard_gigabytes = 5;
  app.add_option("--like", like, "folder whose config.json and tokenizer are taken")->required();
  app.add_option("-o,--out", out, "folder to write");
  const std::vector<std::pair<std::string, std::string>> flags = {
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
      {"--value-dim", "linear_value_head_dim"}};
  std::map<std::string, int64_t> dimensions;
  for (const auto& [flag, key] : flags)
    app.add_option(flag, dimensions[key], "text_config." + key)->check(CLI::Range(1, 1 << 24));
  app.add_flag("--split-experts", split, "one 2-D tensor for each expert instead of stacks");
  app.add_option("--max-shard-size", shard_gigabytes, "in GB")->check(CLI::PositiveNumber);
  app.add_option("--seed", seed);
  app.add_flag("--check", check_only,
               "write nothing; compare the layout with the weights in --like");
  CLI11_PARSE(app, argc, argv);

  prepare_torch();
  const Checkpoint source(like);
  const JsonValue config = scaled(source.config().value(), dimensions);
  const Layout layout = layout_of(Json(config, "config.json"), split);
  if (check_only) return check(layout, source), 0;
  if (out.empty()) fail(Exit::usage, "say with -o where to write");
  OutputFolder output(out, {.source = like, .needed_bytes = planned_bytes(layout.plan)});
  write_other_files(source, config, output.path());
  write_weights(layout, output.path(), static_cast<size_t>(shard_gigabytes * 1e9), seed);
  output.publish();
  fmt::print("{}: {} tensors, {:.3f} GB\n", out.string(), layout.plan.size(),
             static_cast<double>(planned_bytes(layout.plan)) / 1e9);
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
