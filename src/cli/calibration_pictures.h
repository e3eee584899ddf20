// The pictures of calibration rows: read from below the folder of the row's file, and encoded by
// the vision tower of the compressed model.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "checkpoint/folder.h"
#include "compress/calibration_rows.h"
#include "data/mixture.h"
#include "nn/weights.h"

namespace quern::cli {

class CalibrationPictures {
 public:
  // `rows` are the rows of `sources`; keeps a reference.
  CalibrationPictures(const std::shared_ptr<const nn::Source>& model,
                      const std::vector<data::RowSource>& sources, const data::Mixture& rows);

  CalibrationPictures(const CalibrationPictures&) = delete;
  CalibrationPictures& operator=(const CalibrationPictures&) = delete;

  // Null for a model without pictures. Lives as long as this object.
  const compress::CalibrationImages* images() const { return images_ ? &*images_ : nullptr; }

 private:
  std::string read(int64_t row, const std::string& name) const;

  std::vector<checkpoint::Folder> folders_;  // one for each source
  const data::Mixture& rows_;
  std::optional<prompt::ImageReader> reader_;
  std::unique_ptr<nn::Vision> tower_;
  std::optional<compress::CalibrationImages> images_;
};

}  // namespace quern::cli
