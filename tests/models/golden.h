// Shared by the tests of architectures: fixtures, and a model as a whole.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "checkpoint/safetensors.h"
#include "models/models.h"
#include "nn/model.h"

namespace quern::models {

inline std::filesystem::path test_data(const std::string& name) {
  return std::filesystem::path(QUERN_SOURCE_DIR) / "tests" / "data" / name;
}

// A model with all its parts.
struct Whole {
  explicit Whole(const std::filesystem::path& folder)
      : source(std::make_shared<nn::Source>(folder)),
        weights(source),
        model(make_model(source->files.config())) {
    stem = model->stem(weights);
    for (int i = 0; i < model->blocks(); ++i) blocks.push_back(model->block(weights, i));
    head = model->head(weights);
    draft = model->draft(weights);
  }

  // The input of block 0, then the output of every block.
  std::vector<Tensor> hidden_states(const Tensor& tokens, nn::Pass& pass) const {
    at::NoGradGuard no_grad;
    std::vector<Tensor> states = {(*stem)(tokens, pass)};
    for (const auto& block : blocks) states.push_back((*block)(states.back(), pass));
    return states;
  }

  Tensor logits(const Tensor& tokens, nn::Pass& pass) const {
    return head->logits(head->norm(hidden_states(tokens, pass).back()));
  }

  std::shared_ptr<nn::Source> source;
  nn::Weights weights;
  std::unique_ptr<nn::Model> model;
  std::unique_ptr<nn::Stem> stem;
  std::vector<std::unique_ptr<nn::Block>> blocks;
  std::unique_ptr<nn::Head> head;
  std::unique_ptr<nn::Draft> draft;
};

inline double distance(const Tensor& a, const Tensor& b) {
  return (a - b).abs().max().item<double>();
}

}  // namespace quern::models
