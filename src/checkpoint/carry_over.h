// Copies all files of a model folder except weights to the output unchanged: tokenizer, templates,
// processors, remote code, licence, card.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/files.h"

namespace quern::checkpoint {

struct CarriedOver {
  std::vector<std::filesystem::path> copied;
  std::vector<std::filesystem::path>
      weights;  // weight files of any format and their indexes, which are not copied
};

// Copies every other file of `source` into `folder`, byte for byte, subfolders included, except
// those in `except` (relative paths, for instance "config.json"). Fails when a link leads out of
// the source's folder.
CarriedOver copy_other_files(const Files& source, const std::filesystem::path& folder,
                             const std::vector<std::filesystem::path>& except = {});

// The files that copy_other_files() copies if `except` is empty.
std::vector<std::filesystem::path> other_files(const Files& source);

// Whether a file holds weights or their index, judged by its name.
bool is_weight_file(const std::filesystem::path& file);

}  // namespace quern::checkpoint
