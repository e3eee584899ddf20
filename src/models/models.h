// The table of architectures: from config.json to a Model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/model.h"

namespace quern::models {

// Fails on an architecture that is not in the table, listing those that are.
std::unique_ptr<nn::Model> make_model(const Json& config);

std::vector<std::string> architectures();

}  // namespace quern::models
