// What a run will do, before any weight is touched: the verdict of every linear, and every tensor
// of the output.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/shard_writer.h"
#include "compress/resolve.h"
#include "compress/sites.h"
#include "nn/model.h"
#include "quant/config.h"
#include "quant/format.h"

namespace quern::compress {

struct Plan {
  // One for each linear of the sites, in their order; scale dtypes are those of the format.
  std::vector<Verdict> verdicts;
  std::vector<std::string> warnings;
  std::vector<checkpoint::PlannedTensor> tensors;  // of the output, in the order of the source
  std::vector<quant::ModuleScheme> modules;        // for quantization_config
  size_t source_bytes = 0, output_bytes = 0;

  // Null if the module is kept.
  const Verdict* quantized(const std::string& module) const;

 private:
  friend Plan make_plan(const nn::Source&, const Sites&, const Recipe&, const quant::Format&,
                        const std::vector<std::string>&);
  std::unordered_map<std::string, size_t> place_;
};

// Every linear of the blocks, the head and the draft layer, then those that the text model does not
// use (vision, audio); without those in `dropped` tensors. Reads names and shapes, and the norms.
Sites list_sites(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
                 const std::vector<std::string>& dropped = {});

// `dropped`: tensors of the source to omit. Fails when the checkpoint is already quantized, and
// where resolve() fails.
Plan make_plan(const nn::Source& source, const Sites& sites, const Recipe& recipe,
               const quant::Format& format, const std::vector<std::string>& dropped = {});
// The plan of all linears of a model, with or without the tensors that the model never reads.
Plan make_plan(const std::shared_ptr<const nn::Source>& source, const nn::Model& model,
               const Recipe& recipe, const quant::Format& format, bool drop_unused);

// An upper bound on the bytes of the finished folder: the planned tensors, the source's other
// files, and the records of every matrix.
size_t folder_bytes(const nn::Source& source, const Plan& plan);

}  // namespace quern::compress
