#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"

namespace quern::checkpoint {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Reads a file through the folder, so no link leads out of it.
std::string read_in(const Folder& folder, const fs::path& name) {
  const Descriptor file = folder.open(name);
  const MappedFile mapped(file.get(), folder.path() / name);
  const std::span<const std::byte> bytes = mapped.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

JsonValue read_json_in(const Folder& folder, const fs::path& name) {
  return parse_json(read_in(folder, name), (folder.path() / name).string());
}

// The number of letters that two names share at the beginning and at the end: tensor names differ
// in a layer or in a word.
size_t likeness(std::string_view a, std::string_view b) {
  size_t shorter = std::min(a.size(), b.size()), head = 0, tail = 0;
  while (head < shorter && a[head] == b[head]) ++head;
  while (tail < shorter - head && a[a.size() - 1 - tail] == b[b.size() - 1 - tail]) ++tail;
  return head + tail;
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  if (!folder_.has("config.json"))
    fail("{}: there is no config.json; give a model folder in Hugging Face's layout",
         folder.string());
  config_ = std::make_shared<const JsonValue>(read_json_in(folder_, "config.json"));
  if (!config_->is_object()) fail("{}: must be an object", (folder / "config.json").string());
  const bool single = folder_.has(kSingle), index = folder_.has(kIndex);
  if (index) {
    open_index();
  } else if (single) {
    open_single();
  } else {
    fail(
        "{}: there is neither {} nor {}; convert other weight formats with transformers' "
        "save_pretrained",
        folder.string(), kSingle, kIndex);
  }
  if (index && single && std::none_of(shards_.begin(), shards_.end(), [](const auto& s) {
        return s->path().filename() == kSingle;
      }))
    fail(
        "{}: {} and {} describe different weights, and programs may read either; remove the stale "
        "one",
        folder.string(), kSingle, kIndex);
}

Json Checkpoint::config() const { return Json(*config_, (folder() / "config.json").string()); }

void Checkpoint::open_single() {
  Descriptor file = folder_.open(kSingle);
  shards_.push_back(std::make_unique<const SafetensorsFile>(file.get(), folder() / kSingle));
  add(*shards_.back());
}

void Checkpoint::open_index() {
  JsonValue document = read_json_in(folder_, kIndex);
  Json index(document, (folder() / kIndex).string());
  Json map = index.at("weight_map");
  // File -> its tensors according to the index.
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, file] : map.value().items()) {
    if (!file.is_string()) fail("{}: the file of {} must be a string", map.path(), printable(name));
    shards[file.get<std::string>()].push_back(name);
  }
  for (auto& [file, tensors] : shards) {
    if (!is_shard_name(file))
      fail(
          "{}: {} refers to \"{}\", which is not a valid shard name in this folder; do not trust "
          "this checkpoint",
          map.path(), printable(tensors.front()), printable(file));
    if (!folder_.has(file))
      fail("{}: this shard is missing (with {} and {} other tensors); download it again",
           (folder() / file).string(), printable(tensors.front()), tensors.size() - 1);
    Descriptor opened = folder_.open(file);
    shards_.push_back(std::make_unique<const SafetensorsFile>(opened.get(), folder() / file));
    add(*shards_.back());
    for (const std::string& name : tensors)
      if (!shards_.back()->has(name))
        fail("{}: tensor {} is missing, though the index lists it here; download both again",
             (folder() / file).string(), printable(name));
    if (shards_.back()->tensors().size() == tensors.size()) continue;
    std::sort(tensors.begin(), tensors.end());
    for (const TensorInfo& tensor : shards_.back()->tensors())
      if (!std::binary_search(tensors.begin(), tensors.end(), tensor.name))
        fail("{}: the index does not list tensor {} under this shard; download both again",
             (folder() / file).string(), printable(tensor.name));
  }
  if (index.has("metadata") && index.at("metadata").has("total_size")) {
    const int64_t promised = index.at("metadata").get<int64_t>("total_size");
    if (promised != static_cast<int64_t>(total_bytes_))
      log_warning("{}: total_size is {}, but the tensors have {} bytes", index.path(), promised,
                  total_bytes_);
  }
}

void Checkpoint::add(const SafetensorsFile& shard) {
  for (const TensorInfo& tensor : shard.tensors()) {
    auto [place, added] = places_.emplace(tensor.name, &shard);
    if (!added)
      fail("{}: tensor {} is also in {}; keep only one of them", shard.path().string(),
           printable(tensor.name), place->second->path().filename().string());
    names_.push_back(tensor.name);
    total_bytes_ += tensor.bytes();
  }
}

JsonValue Checkpoint::json(const fs::path& file) const { return read_json_in(folder_, file); }

std::string Checkpoint::text(const fs::path& file) const { return read_in(folder_, file); }

bool Checkpoint::has(std::string_view name) const { return places_.contains(name); }

const SafetensorsFile& Checkpoint::shard_of(std::string_view name) const {
  auto found = places_.find(name);
  if (found != places_.end()) return *found->second;
  auto nearest = std::max_element(names_.begin(), names_.end(),
                                  [&](const std::string& a, const std::string& b) {
                                    return likeness(a, name) < likeness(b, name);
                                  });
  fail("{}: there is no tensor {}{}", folder().string(), printable(name),
       nearest == names_.end() ? "" : "; the nearest name is " + printable(*nearest));
}

const TensorInfo& Checkpoint::info(std::string_view name) const {
  return shard_of(name).info(name);
}

Tensor Checkpoint::tensor(std::string_view name) const { return shard_of(name).tensor(name); }

std::span<const std::byte> Checkpoint::bytes(std::string_view name) const {
  const SafetensorsFile& shard = shard_of(name);
  return shard.bytes(shard.info(name));
}

void Checkpoint::release(std::string_view name) const {
  const SafetensorsFile& shard = shard_of(name);
  shard.release(shard.info(name));
}

void Checkpoint::release_all() const {
  for (const auto& shard : shards_) shard->release_all();
}

std::vector<fs::path> Checkpoint::shards() const {
  std::vector<fs::path> files;
  for (const auto& shard : shards_) files.push_back(shard->path().filename());
  return files;
}

fs::path Checkpoint::shard(std::string_view name) const { return shard_of(name).path().filename(); }

}  // namespace quern::checkpoint
