// Writes the weights of a model: safetensors shards and their index. All tensors are planned first
// and written in any order; at the end every tensor of the source is accounted for: byte-identical,
// changed on purpose, or quantized. The plan must state which tensors are dropped.
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

// The fate of a tensor of the source in the output.
enum class Fate {
  copied,     // byte for byte, under its own name, by the writer
  changed,    // other values under its own name
  quantized,  // one of several tensors that hold its quantized form
  added,      // corresponds to no tensor of the source
  dropped,    // omitted on purpose: nothing is written
};

struct PlannedTensor {
  std::string name;
  DType dtype = at::kBFloat16;
  std::vector<int64_t> shape;
  Fate fate = Fate::copied;
  std::string source;  // the corresponding tensor of the source; empty if added

  static PlannedTensor copy_of(const TensorInfo& tensor);
  static PlannedTensor without(const TensorInfo& tensor);
  size_t bytes() const { return bytes_of(shape, dtype, name); }
};

struct ShardOptions {
  size_t max_shard_bytes = 5'000'000'000;
  bool resume =
      false;  // continue with shards that an earlier run with the same plan left in the folder
};

// Cuts a plan as transformers does: in order, with a new shard when the next tensor does not fit; a
// tensor larger than the limit becomes a separate shard and does not end the current one. Returns
// indexes into the plan.
std::vector<std::vector<size_t>> split_into_shards(std::span<const PlannedTensor> plan,
                                                   size_t max_shard_bytes);

// "model.safetensors", or "model-00002-of-00005.safetensors" for index 1 of 5.
std::string shard_name(size_t index, size_t shards);

// Bytes of all files that a ShardWriter makes for this plan, accurate to a few kilobytes.
size_t planned_bytes(std::span<const PlannedTensor> plan);

class ShardWriter {
 public:
  // Fails, before anything is written, when the plan misses a tensor of `source` or contradicts it;
  // nullptr: no source. Keeps a reference to the source. Thread-safe after construction.
  ShardWriter(std::filesystem::path folder, std::vector<PlannedTensor> plan, const Files* source,
              const ShardOptions& options = {});

  // Writes a CPU tensor of the planned dtype and shape, contiguous or not; each name once. Not for
  // tensors with Fate::copied.
  void write(std::string_view name, const Tensor& tensor);
  // For a resumed run: an earlier run wrote the tensor.
  void assume_written(std::string_view name);

  // Copies the tensors with Fate::copied, syncs, reads the shards back (headers, and every copied
  // byte against the source), and writes the index last. Fails on the first tensor that is missing
  // or differs, and names it.
  void finish();

  std::vector<std::filesystem::path> files() const;    // names in the folder, including the index
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
