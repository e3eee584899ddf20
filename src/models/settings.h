// What model files ask of a config.json: values, with the defaults of the reference where a key is
// absent. A setting that changes the arithmetic and is not implemented, and one that contradicts
// another setting or the tensors, is refused.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "nn/weights.h"
#include "ops/rope.h"
#include "ops/routing.h"

namespace quern::models {

// An object of config.json that remembers which of its keys were read, so that the rest can be
// refused. A key that is null counts as absent.
class Settings {
 public:
  // The document must outlive this.
  explicit Settings(const Json& json) : json_(json) {}

  bool has(const std::string& key) const {
    read_.insert(key);
    return json_.has(key);
  }
  // `otherwise` is what the reference's configuration class takes for an absent key.
  template <class T>
  T get(const std::string& key, T otherwise) const {
    return has(key) ? json_.get<T>(key) : otherwise;
  }
  // The only implemented value; the key may be absent. `wanted` is JSON: "true", "1", "\"silu\"".
  void only(const std::string& key, const std::vector<std::string>& wanted) const;
  ops::Rope rope(int64_t head_dim, const ops::RopeDefaults& defaults = {}) const;

  // Fails on a key that was not read and whose name speaks of arithmetic (scale, norm, bias,
  // router, window, ...), unless its value says "nothing": null, false, 0 or empty. Other keys are
  // about tokens, training and storage, and any program may add some; so are private keys (a
  // leading underscore), dropout rates and settings of generation.
  void refuse_unread() const;

  const Json& json() const { return json_; }
  const std::string& path() const { return json_.path(); }

 private:
  Json json_;
  mutable std::set<std::string> read_;
};

// In the checks below `path` names the configuration.

// Fails unless there are positive numbers of heads, and each key/value head serves as many others.
void check_heads(const std::string& path, int heads, int kv_heads, int head_dim);

// Fails if this many experts cannot be chosen from like this.
void check_experts_per_token(const std::string& path, const char* key, int64_t chosen,
                             int64_t experts);
void check_routing(const ops::SigmoidTopK& rule, int64_t experts, const std::string& path);

// Fails unless there is one of the known types for each layer.
void check_layer_types(const std::string& path, const std::vector<std::string>& types, int layers,
                       const std::vector<std::string>& known);

// Fails if the checkpoint has a block after the last of `layers`, which it lists at `place`.
void expect_last_block(const nn::Weights& place, int layers);

}  // namespace quern::models
