// Writes the weights of a model: safetensors shards and their index. All tensors are planned
// beforehand and put in place in any order; at the end every tensor of the source is proved to be
// there: byte-identical, changed on purpose, or quantized. One that is left out has to be planned
// so.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoint/files.h"
#include "checkpoint/safetensors_writer.h"
#include "tensor/tensor.h"

namespace quern::checkpoint {

// What becomes of a tensor of the source in the output.
enum class Fate {
  copied,     // byte for byte, under its own name; the writer does it
  changed,    // other values under its own name
  quantized,  // one of several tensors that hold its quantized form
  added,      // stands for no tensor of the source
  dropped,    // left out on purpose: nothing is written
};

struct PlannedTensor {
  std::string name;
  DType dtype = at::kBFloat16;
  std::vector<int64_t> shape;
  Fate fate = Fate::copied;
  std::string source;  // the tensor of the source it stands for; empty if added

  static PlannedTensor copy_of(const TensorInfo& tensor);
  static PlannedTensor without(const TensorInfo& tensor);
  size_t bytes() const { return bytes_of(shape, dtype, name); }
};

struct ShardOptions {
  size_t max_shard_bytes = 5'000'000'000;
  bool resume = false;  // take up shards that an earlier run with the same plan left in the folder
};

// Cuts a plan as transformers does: in its order, a new shard when the next tensor would not fit; a
// tensor that is larger than the limit is a shard of its own and does not end the one that is being
// filled. Returns indexes into the plan.
std::vector<std::vector<size_t>> split_into_shards(std::span<const PlannedTensor> plan,
                                                   size_t max_shard_bytes);

// "model.safetensors", or "model-00002-of-00005.safetensors" for index 1 of 5.
std::string shard_name(size_t index, size_t shards);

// Bytes of all files that a ShardWriter makes for this plan, within a few kilobytes.
size_t planned_bytes(std::span<const PlannedTensor> plan);

class ShardWriter {
 public:
  // Fails, before anything is written, when the plan leaves out a tensor of `source` or does not
  // fit it; nullptr: there is no source. The source must outlive the writer. Thread-safe after
  // construction.
  ShardWriter(std::filesystem::path folder, std::vector<PlannedTensor> plan, const Files* source,
              const ShardOptions& options = {});

  // CPU tensor of the planned dtype and shape, contiguous or not; each name once. Not for those
  // with Fate::copied.
  void write(std::string_view name, const Tensor& tensor);
  // For a resumed run: an earlier one wrote it.
  void assume_written(std::string_view name);

  // Copies what is to be copied, makes everything durable, reads the shards back (headers, and
  // every copied byte against the source), and writes the index last. Fails naming the first tensor
  // that is missing or differs.
  void finish();

  std::vector<std::filesystem::path> files() const;  // names within the folder, the index included
  size_t total_bytes() const { return total_bytes_; }  // of all tensors

 private:
  struct Place {
    size_t planned;
    SafetensorsWriter* shard;
  };

  void check_plan() const;
  void copy_from_source();
  void verify_shards() const;
  void write_index() const;
  const Place& place_of(std::string_view name) const;

  std::filesystem::path folder_;
  std::vector<PlannedTensor> plan_;
  const Files* source_;
  std::vector<std::unique_ptr<SafetensorsWriter>> shards_;
  std::unordered_map<std::string_view, Place> places_;
  size_t total_bytes_ = 0;
};

}  // namespace quern::checkpoint
