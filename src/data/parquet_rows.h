// Rows of a parquet file. The file can only be read from front to back, so the needed rows are read
// once and held as JSON.
#pragma once

#include <map>

#include "data/row_file.h"

namespace quern::data {

class ParquetRows : public RowFile {
 public:
  ParquetRows(const std::filesystem::path& file, const RowLimits& limits);

  int64_t size() const override { return size_; }
  size_t prepare(const std::vector<int64_t>& places, size_t most) override;
  Row row(int64_t i) const override;
  std::string where(int64_t i) const override;

 private:
  std::string name_;
  RowLimits limits_;
  int64_t size_ = 0;
  std::map<int64_t, std::string> held_;  // by place
};

}  // namespace quern::data
