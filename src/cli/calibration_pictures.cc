#include "cli/calibration_pictures.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/models.h"
#include "prompt/chat_images.h"

namespace quern::cli {
namespace {

constexpr size_t kMostBytes = 64u << 20;

}  // namespace

bool have_pictures(const std::vector<data::Row>& rows) {
  return std::any_of(rows.begin(), rows.end(), [](const data::Row& row) {
    auto has = [&](const char* column) {
      return row.contains(column) && prompt::has_images(row[column]);
    };
    return has("messages") || has("conversations") || has("prompt") || has("completion");
  });
}

CalibrationPictures::CalibrationPictures(const std::shared_ptr<const nn::Source>& model,
                                         const std::vector<data::Source>& sources,
                                         std::vector<size_t> origins)
    : origins_(std::move(origins)) {
  for (const data::Source& source : sources) {
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
  const checkpoint::Folder& folder = folders_.at(origins_.at(row));
  const Descriptor file = folder.open(name);
  const std::filesystem::path path = folder.path() / name;
  const MappedFile mapped(file.get(), path);
  const auto bytes = mapped.bytes();
  if (bytes.size() > kMostBytes)
    fail("{}: is {} MiB, a picture may have {}", path.string(), bytes.size() >> 20,
         kMostBytes >> 20);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace quern::cli
