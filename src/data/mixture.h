// Rows of several files in given numbers or proportions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/row_file.h"

namespace quern::data {

struct RowSource {
  std::filesystem::path file;
  std::optional<int64_t> count = {};  // the most rows to take
  std::optional<double> share = {};   // its weight among all files with a share
};

// "a.jsonl", "a.jsonl=200" (a count) or "a.jsonl=0.5" (a share, written with a decimal point).
RowSource parse_source(const std::string& text);

constexpr size_t kHeldBytes = size_t{2} << 30;

// The rows of all sources, in the given order. Files with shares contribute rows in these
// proportions, as many as the smallest file allows. If only a part of a source is taken, it is the
// first rows, or, with a seed, the rows that datasets.shuffle(seed) would put first. Fails when
// rows that must be held in memory (of parquet files) take more than `held_bytes`.
class Mixture : public Rows {
 public:
  Mixture(const std::vector<RowSource>& sources, std::optional<uint64_t> seed,
          size_t held_bytes = kHeldBytes);

  int64_t size() const override;
  Row row(int64_t i) const override;
  std::string where(int64_t i) const override;
  size_t source(int64_t i) const;  // the index of the source of row i

 private:
  struct Part {
    std::unique_ptr<RowFile> file;
    std::vector<int64_t> places;  // of the taken rows, ascending
    int64_t begin = 0;            // the number of its first row in the mixture
  };

  std::vector<Part> parts_;
};

}  // namespace quern::data
