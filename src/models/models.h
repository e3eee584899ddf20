// The table of architectures, which makes a Model from config.json.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/model.h"

namespace quern::models {

// Fails on an architecture that is not in the table, and lists the table.
std::unique_ptr<nn::Model> make_model(const Json& config);

std::vector<std::string> architectures();

}  // namespace quern::models
