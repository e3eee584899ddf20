// Where the quantized matrices of a run go: packed into shards, with a record of each.
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
  // `output`: a folder that exists and is empty.
  Writer(const std::filesystem::path& output, const nn::Source& source, const Plan& plan,
         const quant::Format& format, size_t max_shard_bytes);

  // Every matrix of a weight.
  void write(const Outcome& outcome);

  // Copies what was kept, and writes the index, the records and the source's other files. Fails
  // when a planned tensor was not written.
  void finish();

 private:
  void write(const std::string& module, const Tensor& original, const quant::QuantWeight& packed,
             const quant::Bound& bound);

  std::filesystem::path output_;
  const nn::Source& source_;
  quant::Format format_;
  checkpoint::ShardWriter shards_;
  std::mutex records_mutex_;
  quant::MatrixRecords records_;
};

// The weight multiplies by the quantized matrices from now on: packed, as when the artifact is
// loaded; or dense in fp32, with the same values, through which gradients pass.
void become_packed(const Outcome& outcome);
void become_dequantized(const Outcome& outcome);

}  // namespace quern::compress
