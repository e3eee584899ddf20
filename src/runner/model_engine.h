// The engine on a model: sequences share its passes and the memory of its caches.
#pragma once

#include <memory>

#include "engine/batching_engine.h"
#include "runner/model_runner.h"

namespace quern::runner {

class ModelEngine : public engine::BatchingEngine {
 public:
  // Fails as ModelRunner and engine::BatchingEngine do.
  explicit ModelEngine(std::shared_ptr<const nn::Source> source,
                       const engine::EngineOptions& options = {})
      : engine::BatchingEngine(std::make_unique<ModelRunner>(std::move(source), options), options) {
  }
};

}  // namespace quern::runner
