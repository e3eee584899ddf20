#include "compress/write.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/threads.h"
#include "checkpoint/carry_over.h"
#include "ops/int4_stack.h"

namespace quern::compress {

Writer::Writer(const std::filesystem::path& output, const nn::Source& source, const Plan& plan,
               quant::Format format, size_t max_shard_bytes)
    : output_(output),
      source_(source),
      format_(format),
      shards_(output, plan.tensors, &source.files, {.max_shard_bytes = max_shard_bytes}) {}

void Writer::write(const std::string& module, const Tensor& original,
                   const quant::QuantWeight& packed) {
  quant::MatrixRecord record = quant::record_of(original, packed);
  {
    const std::lock_guard lock(records_mutex_);
    records_[module] = std::move(record);
  }
  for (const auto& [name, tensor] : quant::to_disk(module, packed, format_))
    shards_.write(name, tensor);
}

void Writer::write(const Task& task, const Quantized& quantized) {
  // A single matrix is rounded by all threads, because a loop of one item leaves them free.
  parallel_for(task.weight.matrices(), [&](int64_t matrix) {
    write(task.modules[matrix], task.originals[matrix], quantized(matrix));
  });
}

void Writer::pack(const Task& task, const Quantized& quantized) {
  become_packed(task, [&](int64_t matrix) {
    quant::QuantWeight packed = quantized(matrix);
    write(task.modules[matrix], task.originals[matrix], packed);
    return packed;
  });
}

void Writer::finish() {
  shards_.finish();
  checkpoint::copy_other_files(source_.files, output_,
                               {"config.json", "quantization_config.json", "recipe.yaml"});
  write_file(output_ / quant::kRecordFile, to_text(quant::to_json(records_)));
}

void become_packed(const Task& task, const Quantized& quantized) {
  const nn::Weight& weight = task.weight;
  auto stack = std::make_shared<ops::Int4Stack>(weight.name(), weight.matrices(), weight.rows(),
                                                weight.columns(), task.scheme);
  parallel_for(weight.matrices(), [&](int64_t matrix) { stack->set(matrix, quantized(matrix)); });
  weight.become(std::move(stack));
}

}  // namespace quern::compress
