#include "cli/calibration_pictures.h"

#include "base/error.h"
#include "models/models.h"

namespace quern::cli {
namespace {

constexpr size_t kMostBytes = 64u << 20;

}  // namespace

CalibrationPictures::CalibrationPictures(const std::shared_ptr<const nn::Source>& model,
                                         const std::vector<data::RowSource>& sources,
                                         const data::Mixture& rows)
    : rows_(rows) {
  for (const data::RowSource& source : sources) {
    const std::filesystem::path folder = source.file.parent_path();
    folders_.emplace_back(folder.empty() ? "." : folder);
  }
  const auto architecture = models::make_model(model->files.config());
  at::NoGradGuard no_grad;
  tower_ = architecture->vision(nn::Weights(model));
  if (!tower_) return;
  reader_.emplace(prompt::image_processor(model->files.folder()), *architecture->image_tokens());
  images_ = {&*reader_, tower_.get(),
             [this](int64_t row, const std::string& name) { return read(row, name); }};
}

std::string CalibrationPictures::read(int64_t row, const std::string& name) const {
  const checkpoint::Folder& folder = folders_.at(rows_.source(row));
  const Descriptor file = folder.open(name);
  const std::filesystem::path path = folder.path() / name;
  const MappedFile mapped(file.get(), path);
  const auto bytes = mapped.bytes();
  if (bytes.size() > kMostBytes)
    fail("{}: a picture of {} MiB exceeds the limit of {}", path.string(), bytes.size() >> 20,
         kMostBytes >> 20);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace quern::cli
