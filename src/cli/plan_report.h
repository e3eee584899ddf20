// The report of `plan`: quantized linears, kept linears with reasons, the fate of all other
// tensors, and sizes. Names that differ only in numbers share one line.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/carry_over.h"
#include "compress/memory.h"
#include "compress/plan.h"

namespace quern::cli {

// Linears with equal shape, fate and rule.
struct LinearGroup {
  std::string pattern, reason;
  std::string stored;  // "int4 symmetric, groups of 128", or the original dtype
  bool quantized = false, pruned = false;
  int64_t rows = 0, columns = 0, linears = 0;
  size_t source_bytes = 0, output_bytes = 0;
  // The tensors of the first quantized linear, with names relative to the module. Empty if kept.
  std::vector<quant::DiskTensor> tensors;
};

// Tensors other than linears: embeddings, norms, biases.
struct TensorGroup {
  std::string pattern, dtype;
  std::vector<int64_t> shape;
  int64_t tensors = 0;
  size_t bytes = 0;
};

struct Totals {
  int64_t linears = 0;
  size_t source_bytes = 0, output_bytes = 0;
};

struct PlanReport {
  std::string folder, architecture, format;
  std::vector<std::string> steps;     // "AutoRoundModifier, 200 iterations, 8 samples each"
  std::vector<std::string> warnings;  // about the recipe and the build
  int64_t parameters = 0;
  int64_t source_tensors = 0, output_tensors = 0;
  std::vector<LinearGroup> linears;  // in the order of the model
  std::vector<TensorGroup> others;   // copied, in the order of the source
  std::vector<TensorGroup> dropped;
  Totals quantized, kept, copied;              // copied: no linears
  size_t source_bytes = 0;                     // of all tensors
  size_t output_bytes = 0;                     // of all tensors
  size_t other_files = 0, other_bytes = 0;     // tokenizer, templates, ...: copied
  std::optional<compress::MemoryNeed> memory;  // for recipes that calibrate
};

PlanReport report_plan(const nn::Source& source, const std::vector<nn::LinearSite>& sites,
                       const compress::Recipe& recipe, const compress::Plan& plan,
                       const quant::Format& format);

std::string to_text(const PlanReport& report);
JsonValue to_json(const PlanReport& report);

// All linears with their verdicts, and all tensors of the output.
std::string listing_text(const compress::Plan& plan);
JsonValue listing_json(const compress::Plan& plan);

}  // namespace quern::cli
