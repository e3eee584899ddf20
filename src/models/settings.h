// How model files read a config.json: values, with the reference's defaults for absent keys. A
// setting is refused if it affects the arithmetic but is not implemented, or if it contradicts
// another setting or the tensors.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "nn/weights.h"
#include "ops/rope.h"
#include "ops/routing.h"

namespace quern::models {

// An object of config.json that records which keys were read, to refuse the others. A null value
// counts as absent.
class Settings {
 public:
  // Keeps a reference to the document.
  explicit Settings(const Json& json) : json_(json) {}

  bool has(const std::string& key) const {
    read_.insert(key);
    return json_.has(key);
  }
  // `otherwise` is the default of the reference's configuration class.
  template <class T>
  T get(const std::string& key, T otherwise) const {
    return has(key) ? json_.get<T>(key) : otherwise;
  }
  // Fails unless the value is one of `wanted` or the key is absent. `wanted` contains JSON: "true",
  // "1", "\"silu\"".
  void only(const std::string& key, const std::vector<std::string>& wanted) const;
  ops::Rope rope(int64_t head_dim, const ops::RopeDefaults& defaults = {}) const;

  // Fails on an unread key with a word of arithmetic in its name (scale, norm, bias, router,
  // window, ...), unless its value is null, false, 0 or empty. Other keys concern tokens, training
  // and storage, and any program may add some; the same holds for private keys (a leading
  // underscore), dropout rates and settings of generation.
  void refuse_unread() const;

  const Json& json() const { return json_; }
  const std::string& path() const { return json_.path(); }

 private:
  Json json_;
  mutable std::set<std::string> read_;
};

// In the checks below `path` names the configuration.

// Fails unless the numbers of heads are positive and kv_heads divides heads.
void check_heads(const std::string& path, int heads, int kv_heads, int head_dim);

// Fails if so many experts cannot be chosen from `experts`.
void check_experts_per_token(const std::string& path, const char* key, int64_t chosen,
                             int64_t experts);
void check_routing(const ops::SigmoidTopK& rule, int64_t experts, const std::string& path);

// Fails unless `types` has a known type for each layer.
void check_layer_types(const std::string& path, const std::vector<std::string>& types, int layers,
                       const std::vector<std::string>& known);

// Fails if the checkpoint has more than `layers` blocks at `place`.
void expect_last_block(const nn::Weights& place, int layers);

}  // namespace quern::models
