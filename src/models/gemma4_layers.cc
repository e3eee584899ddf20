#include "models/gemma4_layers.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::models {
namespace {

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";
constexpr const char* kRope = R"({
  "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
  "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
})";

std::vector<std::string> types_of(const Settings& c, int layers) {
  std::vector<std::string> types = c.get<std::vector<std::string>>("layer_types", {});
  if (!c.has("layer_types"))
    for (int i = 0; i < layers; ++i) types.emplace_back((i + 1) % 6 ? kSliding : kFull);
  check_layer_types(c.path(), types, layers, {kSliding, kFull});
  if (layers > 0) types.back() = kFull;  // as in transformers, whatever the config states
  return types;
}

// The heads of one layer. Blocks with full attention have different heads, stated in Google's keys
// (global_head_dim) or in those of transformers 5, which lists layers with their own settings by
// number.
struct Heads {
  Heads(const Settings& c, int layer, bool full)
      : width(c.get("head_dim", 256)), kv(c.get("num_key_value_heads", 4)) {
    const int global_width = c.get("global_head_dim", 512),
              global_kv = c.get("num_global_key_value_heads", kv);
    if (!c.has("per_layer_config")) {
      if (full) width = global_width;
      if (full && c.get("attention_k_eq_v", false)) kv = global_kv;
      return;
    }
    const Json all = c.json().at("per_layer_config");
    for (const std::string& key : all.keys())
      if (is_number(key, layer)) read_own(all.at(key));
  }

  // "3", or "03" in files with keys sorted as text.
  static bool is_number(const std::string& key, int layer) {
    const std::string text = std::to_string(layer);
    return key.ends_with(text) && key.find_first_not_of('0') >= key.size() - text.size();
  }

  void read_own(const Json& own) {
    for (const std::string& setting : own.keys())
      if (setting != "head_dim" && setting != "num_key_value_heads")
        fail("{}: \"{}\" is not implemented", own.path(), setting);
    width = own.get<int>("head_dim", width);
    kv = own.get<int>("num_key_value_heads", kv);
  }

  int width, kv;
};

// The last layer of the same type that makes keys and values.
int kv_layer_of(int layer, int owners, const std::vector<std::string>& types,
                const std::string& path) {
  if (layer < owners) return layer;
  for (int i = owners - 1; i >= 0; --i)
    if (types[i] == types[layer]) return i;
  fail("{}: layer {} reads shared keys and values, but no earlier layer has its type", path, layer);
}

}  // namespace

std::vector<Gemma4Layer> gemma4_layers(const Settings& c, int heads) {
  const int count = c.get("num_hidden_layers", 30), window = c.get("sliding_window", 512),
            inner = c.get("intermediate_size", 9216),
            owners = count - c.get("num_kv_shared_layers", 0);
  const bool key_is_value = c.get("attention_k_eq_v", false),
             wide = c.get("use_double_wide_mlp", false);
  if (window <= 0) fail("{}: sliding_window must be positive", c.path());
  const std::vector<std::string> types = types_of(c, count);
  const JsonValue ropes = {{"rope_parameters", c.has("rope_parameters")
                                                   ? c.json().at("rope_parameters").value()
                                                   : parse_json(kRope, "defaults")}};
  std::vector<Gemma4Layer> layers;
  for (int i = 0; i < count; ++i) {
    const bool full = types[i] == kFull;
    const Heads own(c, i, full);
    check_heads(fmt::format("{}: layer {}", c.path(), i), heads, own.kv, own.width);
    const int kv_layer = kv_layer_of(i, owners, types, c.path());
    if (kv_layer != i) layers[kv_layer].shared = true;
    layers.push_back({.head_dim = own.width,
                      .kv_heads = own.kv,
                      .window = full ? 0 : window,
                      .key_is_value = full && key_is_value,
                      .inner = wide && i >= owners ? 2 * inner : inner,
                      .kv_layer = kv_layer,
                      .shared = false,
                      .rope = ops::Rope(Json(ropes, c.path()), types[i], own.width)});
  }
  return layers;
}

}  // namespace quern::models
