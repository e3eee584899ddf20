#include "checkpoint/shard_writer.h"

#include <map>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_objects.h"
#include "base/threads.h"
#include "checkpoint/dtype.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

// The source's shards, each opened once.
class SourceFiles {
 public:
  explicit SourceFiles(const Files& source) : source_(source) {
    for (const fs::path& shard : source.shards()) files_.emplace(shard, source.open(shard));
  }

  ByteRange range(const std::string& name) const {
    const fs::path shard = source_.shard(name);
    return {files_.at(shard).get(), source_.info(name).begin, (source_.folder() / shard).string()};
  }

 private:
  const Files& source_;
  std::map<fs::path, Descriptor> files_;
};

}  // namespace

PlannedTensor PlannedTensor::copy_of(const TensorInfo& tensor) {
  return {.name = tensor.name,
          .dtype = tensor.dtype,
          .shape = tensor.shape,
          .fate = Fate::copied,
          .source = tensor.name};
}

PlannedTensor PlannedTensor::without(const TensorInfo& tensor) {
  PlannedTensor planned = copy_of(tensor);
  planned.fate = Fate::dropped;
  return planned;
}

std::vector<std::vector<size_t>> split_into_shards(std::span<const PlannedTensor> plan,
                                                   size_t max_shard_bytes) {
  std::vector<std::vector<size_t>> shards;
  std::vector<size_t> current;
  size_t current_bytes = 0;
  for (size_t i = 0; i < plan.size(); ++i) {
    const size_t bytes = plan[i].bytes();
    if (bytes > max_shard_bytes) {
      shards.push_back({i});
      continue;
    }
    if (current_bytes + bytes > max_shard_bytes) {
      shards.push_back(std::move(current));
      current.clear();
      current_bytes = 0;
    }
    current.push_back(i);
    current_bytes += bytes;
  }
  if (!current.empty()) shards.push_back(std::move(current));
  return shards;
}

std::string shard_name(size_t index, size_t shards) {
  return shards == 1 ? "model.safetensors"
                     : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, shards);
}

size_t planned_bytes(std::span<const PlannedTensor> plan) {
  // The text for one tensor in the header and in the index, without its name.
  constexpr size_t kTextPerTensor = 160;
  size_t bytes = 0;
  for (const PlannedTensor& tensor : plan) {
    if (tensor.fate == Fate::dropped) continue;
    bytes += tensor.bytes() + 2 * tensor.name.size() + kTextPerTensor;
  }
  return bytes;
}

ShardWriter::ShardWriter(fs::path folder, std::vector<PlannedTensor> plan, const Files* source,
                         const ShardOptions& options)
    : folder_(std::move(folder)), plan_(std::move(plan)), source_(source) {
  check_plan();
  std::erase_if(plan_, [](const PlannedTensor& tensor) { return tensor.fate == Fate::dropped; });
  const std::vector<std::vector<size_t>> split = split_into_shards(plan_, options.max_shard_bytes);
  for (size_t i = 0; i < split.size(); ++i) {
    std::vector<TensorInfo> tensors;
    for (size_t index : split[i]) {
      const PlannedTensor& planned = plan_[index];
      tensors.push_back({.name = planned.name,
                         .dtype = planned.dtype,
                         .shape = planned.shape,
                         .begin = 0,
                         .end = 0});
    }
    shards_.push_back(std::make_unique<SafetensorsWriter>(
        folder_ / shard_name(i, split.size()), std::move(tensors),
        SafetensorsWriter::Metadata{{"format", "pt"}}, options.resume));
    for (size_t index : split[i]) {
      places_.emplace(plan_[index].name, Place{index, shards_.back().get()});
      total_bytes_ += plan_[index].bytes();
    }
  }
}

void ShardWriter::check_plan() const {
  std::unordered_set<std::string_view> names, sources;
  for (const PlannedTensor& tensor : plan_) {
    if (!names.insert(tensor.name).second) fail("tensor {} is planned twice", tensor.name);
    if (tensor.fate == Fate::added) continue;
    if (!source_ || !source_->has(tensor.source))
      fail("tensor {} is planned from {}, but the source has no such tensor", tensor.name,
           tensor.source);
    sources.insert(tensor.source);
    if (tensor.fate == Fate::quantized) continue;
    if (tensor.name != tensor.source)
      fail("tensor {} would be renamed to {}", tensor.source, tensor.name);
    const TensorInfo& original = source_->info(tensor.source);
    if (tensor.fate == Fate::copied &&
        (tensor.dtype != original.dtype || tensor.shape != original.shape))
      fail("tensor {} is to be copied, but planned as {} {}; the source has {} {}", tensor.name,
           dtype_name(tensor.dtype), shape_text(tensor.shape), dtype_name(original.dtype),
           shape_text(original.shape));
  }
  if (!source_) return;
  for (const std::string& name : source_->names())
    if (!sources.contains(name))
      fail("tensor {} of the source would be lost: the plan does not mention it", name);
}

const ShardWriter::Place& ShardWriter::place_of(std::string_view name) const {
  auto found = places_.find(name);
  if (found == places_.end()) fail("tensor {} was not planned", printable(name));
  return found->second;
}

void ShardWriter::write(std::string_view name, const Tensor& tensor) {
  const Place& place = place_of(name);
  if (plan_[place.planned].fate == Fate::copied)
    fail("tensor {} is to be copied from the source; it cannot be written", printable(name));
  place.shard->write(name, tensor);
}

void ShardWriter::assume_written(std::string_view name) {
  place_of(name).shard->assume_written(name);
}

void ShardWriter::finish() {
  copy_from_source();
  parallel_for(static_cast<int64_t>(shards_.size()), [&](int64_t i) { shards_[i]->sync(); });
  verify_shards();
  if (shards_.size() > 1) write_index();
  sync_folder(folder_);
}

void ShardWriter::copy_from_source() {
  if (!source_) return;
  const SourceFiles files(*source_);
  parallel_for(static_cast<int64_t>(plan_.size()), [&](int64_t i) {
    const PlannedTensor& planned = plan_[i];
    SafetensorsWriter& shard = *places_.at(planned.name).shard;
    if (planned.fate == Fate::copied && !shard.written(planned.name))
      shard.copy(planned.name, files.range(planned.source));
  });
}

void ShardWriter::verify_shards() const {
  std::vector<SafetensorsFile> files;
  std::vector<Descriptor> descriptors;
  const Folder folder(folder_);
  for (const auto& shard : shards_) {
    descriptors.push_back(folder.open(shard->path().filename()));
    files.emplace_back(descriptors.back().get(), shard->path());
  }
  std::unordered_map<const SafetensorsWriter*, size_t> number;
  for (size_t i = 0; i < shards_.size(); ++i) number.emplace(shards_[i].get(), i);
  std::unique_ptr<SourceFiles> source = source_ ? std::make_unique<SourceFiles>(*source_) : nullptr;
  parallel_for(static_cast<int64_t>(plan_.size()), [&](int64_t i) {
    const PlannedTensor& planned = plan_[i];
    const size_t shard = number.at(places_.at(planned.name).shard);
    const TensorInfo& found = files[shard].info(planned.name);
    if (found.dtype != planned.dtype || found.shape != planned.shape)
      fail(Exit::verification_failed, "{}: tensor {} was read back as {} {}",
           files[shard].path().string(), planned.name, dtype_name(found.dtype),
           shape_text(found.shape));
    if (planned.fate != Fate::copied) return;
    ByteRange written{descriptors[shard].get(), found.begin, files[shard].path().string()};
    if (!equal_ranges(source->range(planned.source), written, found.bytes()))
      fail(Exit::verification_failed,
           "{}: tensor {} differs from the source though it was copied; check the disk",
           files[shard].path().string(), planned.name);
  });
}

void ShardWriter::write_index() const {
  std::map<std::string, std::string> files;
  for (const auto& [name, place] : places_)
    files.emplace(name, place.shard->path().filename().string());
  JsonValue map = JsonValue::object();
  for (const auto& [name, file] : files) append(map, name, file);
  JsonValue index;
  index["metadata"]["total_size"] = total_bytes_;
  index["weight_map"] = std::move(map);
  write_file(folder_ / kIndex, to_text(index));
}

std::vector<fs::path> ShardWriter::files() const {
  std::vector<fs::path> names;
  for (const auto& shard : shards_) names.push_back(shard->path().filename());
  if (shards_.size() > 1) names.push_back(kIndex);
  return names;
}

}  // namespace quern::checkpoint
