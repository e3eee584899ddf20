// The layer types of Gemma 4: blocks with sliding and with full attention alternate, with different
// head sizes and rotations, and the last blocks read the keys and values of earlier ones.
#pragma once

#include <string>
#include <vector>

#include "models/settings.h"

namespace quern::models {

struct Gemma4Layer {
  int head_dim, kv_heads;
  int64_t window;  // keys that a query sees; 0: all earlier ones
  bool key_is_value;
  int inner;     // of its MLP
  int kv_layer;  // the layer that makes the keys and values: this one, or an earlier one of its
                 // type
  bool shared;   // later blocks read the keys and values of this one
  ops::Rope rope;
};

// Defaults after transformers' configuration_gemma4.py. Fails on settings that contradict each
// other or are not implemented, and names them.
std::vector<Gemma4Layer> gemma4_layers(const Settings& c, int heads);

}  // namespace quern::models
