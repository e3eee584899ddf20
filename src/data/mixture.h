// Rows of several files in stated numbers or proportions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/row_reader.h"

namespace quern::data {

struct Source {
  std::filesystem::path file;
  std::optional<int64_t> count = {};  // at most so many rows
  std::optional<double> share = {};   // its weight among all files that have one
};

// "a.jsonl", "a.jsonl=200" (a count) or "a.jsonl=0.5" (a share, written with a point).
Source parse_source(const std::string& text);

constexpr size_t kRowBytes = size_t{2} << 30;

// The rows of all sources, in the order given. Files with shares stand in these proportions to each
// other, with as many rows as the scarcest of them allows. Of a source that does not give all its
// rows, the first ones are taken, or with a seed those that datasets.shuffle(seed) would put first.
// Fails when the rows take more than `bytes` as text. `origins` gets the index of each row's
// source.
std::vector<Row> read_mixture(const std::vector<Source>& sources, std::optional<uint64_t> seed,
                              size_t bytes = kRowBytes, std::vector<size_t>* origins = nullptr);

}  // namespace quern::data
