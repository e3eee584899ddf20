// Writes the quantized matrices of a run: packs them into shards and records each.
#pragma once

#include <filesystem>
#include <mutex>

#include "checkpoint/shard_writer.h"
#include "compress/plan.h"
#include "compress/task.h"
#include "quant/record.h"

namespace quern::compress {

class Writer {
 public:
  // `output`: an existing, empty folder.
  Writer(const std::filesystem::path& output, const nn::Source& source, const Plan& plan,
         const quant::Format& format, size_t max_shard_bytes);

  // Every matrix of a weight.
  void write(const Outcome& outcome);
  // A kept tensor with new values, in its dtype.
  void write_changed(const std::string& name, const Tensor& tensor);

  // Copies the kept tensors, and writes the index, the records and the source's other files. Fails
  // when a planned tensor is missing.
  void finish();

 private:
  void write(const std::string& module, const Tensor& original, const quant::QuantWeight& packed,
             const quant::Bound& bound);

  std::filesystem::path output_;
  const nn::Source& source_;
  quant::Format format_;
  checkpoint::ShardWriter shards_;
  std::mutex records_mutex_;
  quant::Records records_;
};

// From now on the weight multiplies by the quantized matrices: packed, as in a loaded artifact; or
// dense in fp32 with the same values, which lets gradients pass.
void become_packed(const Outcome& outcome);
void become_dequantized(const Outcome& outcome);

}  // namespace quern::compress
