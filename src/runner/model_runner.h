// A model on this machine's processor: all weights are loaded once and stay packed.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "engine/options.h"
#include "engine/runner.h"
#include "nn/model.h"
#include "nn/weights.h"
#include "runner/probe.h"
#include "runner/sequence_images.h"

namespace quern::runner {

class ModelRunner : public engine::Runner {
 public:
  // Loads the whole model. Fails when the architecture is not known, a tensor is missing, or the
  // options do not fit the model.
  ModelRunner(std::shared_ptr<const nn::Source> source, const engine::EngineOptions& options);
  ~ModelRunner() override;

  int64_t vocabulary() const override { return model_->vocabulary(); }
  engine::MemoryNeeds needs() const override;
  void make_caches(const engine::MemoryPlan& plan) override;
  Ticket launch(const engine::Batch& batch) override;
  void collect(Ticket ticket, const Reader& read) override;
  void add_pictures(int64_t request, std::vector<prompt::ImagePrompt::Image> images) override;
  void see_pictures(int64_t request) override;
  void drop_pictures(int64_t request) override { pictures_.erase(request); }

 private:
  // From ids int64 [tokens] to the states before the head's norm, and from some rows of these to
  // logits.
  Tensor forward(const Tensor& ids, nn::Pass& pass) const;
  Tensor logits_of(const Tensor& hidden, std::span<const int64_t> rows) const;
  void read_scales();
  // Fails for a model that sees no pictures.
  const nn::Vision& vision();
  void copy_states(std::span<const engine::StateCopy> copies);
  nn::Pass pass_of(const engine::Batch& batch);
  void place_pictures(const engine::Batch& batch, nn::Pass& pass) const;

  std::shared_ptr<const nn::Source> source_;
  engine::EngineOptions options_;
  std::unique_ptr<nn::Model> model_;
  nn::Weights root_;
  std::unique_ptr<nn::Stem> stem_;
  std::vector<std::unique_ptr<nn::Block>> blocks_;
  std::unique_ptr<nn::Head> head_;
  std::unique_ptr<nn::Vision> vision_;  // loaded for the first picture
  nn::KvType kv_type_ = nn::KvType::bf16;
  std::optional<Probe> probe_;
  std::unique_ptr<nn::Caches> caches_;
  std::map<int64_t, SequenceImages> pictures_;  // by request
  int64_t launched_ = 0;
  Tensor hidden_;              // of the pass that is not collected yet
  std::vector<int64_t> rows_;  // of it
};

}  // namespace quern::runner
