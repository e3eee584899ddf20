#include "compress/write.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/threads.h"
#include "checkpoint/carry_over.h"
#include "ops/packed_stack.h"
#include "quant/dequantize.h"

namespace quern::compress {

Writer::Writer(const std::filesystem::path& output, const nn::Source& source, const Plan& plan,
               const quant::Format& format, size_t max_shard_bytes)
    : output_(output),
      source_(source),
      format_(format),
      shards_(output, plan.tensors, &source.files, {.max_shard_bytes = max_shard_bytes}) {}

void Writer::write(const std::string& module, const Tensor& original,
                   const quant::QuantWeight& packed, const quant::Bound& bound) {
  quant::MatrixRecord record = quant::record_of(original, packed, bound);
  {
    const std::lock_guard lock(records_mutex_);
    records_.matrices[module] = std::move(record);
  }
  for (const auto& [name, tensor] : quant::to_disk(module, packed, format_))
    shards_.write(name, tensor);
}

void Writer::write(const Outcome& outcome) {
  parallel_for(std::ssize(outcome.matrices), [&](int64_t matrix) {
    write(outcome.task.modules[matrix], outcome.task.originals[matrix], outcome.matrices[matrix],
          outcome.bound);
  });
}

void Writer::write_changed(const std::string& name, const Tensor& tensor) {
  records_.changed[name] = quant::digest(tensor);
  shards_.write(name, tensor);
}

void Writer::finish() {
  shards_.finish();
  checkpoint::copy_other_files(source_.files, output_,
                               {"config.json", "quantization_config.json", "recipe.yaml"});
  write_file(output_ / quant::kRecordFile, to_text(quant::to_json(records_)));
}

void become_packed(const Outcome& outcome) {
  const nn::Weight& weight = outcome.task.weight;
  auto stack = ops::packed_stack(weight.name(), weight.matrices(), weight.rows(), weight.columns(),
                                 outcome.task.scheme);
  parallel_for(std::ssize(outcome.matrices),
               [&](int64_t matrix) { stack->set(matrix, outcome.matrices[matrix]); });
  weight.become(std::move(stack));
}

void become_dequantized(const Outcome& outcome) {
  std::vector<Tensor> matrices(outcome.matrices.size());
  parallel_for(std::ssize(outcome.matrices), [&](int64_t matrix) {
    matrices[matrix] = quant::dequantize(outcome.matrices[matrix], at::kFloat);
  });
  outcome.task.weight.become(std::make_shared<ops::DenseStack>(std::move(matrices)));
}

}  // namespace quern::compress
