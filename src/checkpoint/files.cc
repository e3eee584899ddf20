#include "checkpoint/files.h"

#include "checkpoint/checkpoint.h"

namespace quern::checkpoint {

std::string Files::architecture() const {
  return config().at("architectures").at(0).as<std::string>();
}

std::unique_ptr<const Files> open_model(const std::filesystem::path& path) {
  return std::make_unique<const Checkpoint>(path);
}

}  // namespace quern::checkpoint
