// Rows of several files in stated numbers or proportions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/row_file.h"

namespace quern::data {

struct Source {
  std::filesystem::path file;
  std::optional<int64_t> count = {};  // at most so many rows
  std::optional<double> share = {};   // its weight among all files that have one
};

// "a.jsonl", "a.jsonl=200" (a count) or "a.jsonl=0.5" (a share, written with a point).
Source parse_source(const std::string& text);

constexpr size_t kHeldBytes = size_t{2} << 30;

// The rows of all sources, in the order given. Files with shares stand in these proportions to each
// other, with as many rows as the scarcest of them allows. Of a source that does not give all its
// rows, the first ones are taken, or with a seed those that datasets.shuffle(seed) would put first.
// Fails when rows that have to be held (of parquet files) take more than `held_bytes`.
class Mixture : public Rows {
 public:
  Mixture(const std::vector<Source>& sources, std::optional<uint64_t> seed,
          size_t held_bytes = kHeldBytes);

  int64_t size() const override;
  Row row(int64_t i) const override;
  std::string where(int64_t i) const override;
  size_t source(int64_t i) const;  // the index of the source that row i is from

 private:
  struct Part {
    std::unique_ptr<RowFile> file;
    std::vector<int64_t> places;  // of the rows that are taken, ascending
    int64_t begin = 0;            // the number of the first of them in the mixture
  };

  std::vector<Part> parts_;
};

}  // namespace quern::data
