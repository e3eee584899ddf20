// The engine on a model: sequences share its passes and the memory of its caches.
#pragma once

#include <memory>

#include "engine/batching_engine.h"
#include "engine/model_runner.h"

namespace quern::engine {

class ModelEngine : public BatchingEngine {
 public:
  // Fails as ModelRunner and BatchingEngine do.
  explicit ModelEngine(std::shared_ptr<const nn::Source> source, const EngineOptions& options = {})
      : BatchingEngine(std::make_unique<ModelRunner>(std::move(source), options), options) {}
};

}  // namespace quern::engine
