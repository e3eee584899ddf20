// Everything of a model's folder that is not weights goes into the output as it is: tokenizer,
// templates, processors, remote code, licence, card.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/files.h"

namespace quern::checkpoint {

struct CarriedOver {
  std::vector<std::filesystem::path> copied;
  std::vector<std::filesystem::path> weights;  // left out, with their indexes; of any format
};

// Copies every other file of `source` into `folder`, byte for byte, subfolders included, except
// those named in `except` (relative paths, for instance "config.json"). Fails when a link leads out
// of the source's folder.
CarriedOver copy_other_files(const Files& source, const std::filesystem::path& folder,
                             const std::vector<std::filesystem::path>& except = {});

// The files that a copy takes over, if nothing is excepted.
std::vector<std::filesystem::path> other_files(const Files& source);

// Whether a file holds weights, or says where they are, going by its name.
bool is_weight_file(const std::filesystem::path& file);

}  // namespace quern::checkpoint
