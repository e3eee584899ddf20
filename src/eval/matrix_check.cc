#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/threads.h"
#include "checkpoint/dtype.h"
#include "eval/checks.h"
#include "quant/dequantize.h"
#include "quant/grid.h"
#include "quant/matrix_rows.h"
#include "quant/record.h"
#include "quant/rows.h"

namespace quern::eval {
namespace {

using quant::QuantWeight;

// Peers round the quotient to bf16 before they round it to a code, and AutoRound rounds its scale
// after the search; both change the distance of a code by less.
constexpr double kDistanceSlack = 0.05;
// For one matrix, recomputed from the same bytes in the same order.
constexpr double kRecordSlack = 1e-9;

constexpr int64_t kBytesAtOnce = 256 << 20;  // of the source's weights

// The distances of codes from weight / scale, after clamping to the range of their group.
struct Distances {
  int64_t far = 0;  // codes beyond the limit
  double worst = 0;
  int64_t row = 0, column = 0;  // of the worst code
};

void add_row(Distances& distances, int64_t row, const float* weight, const uint8_t* codes,
             const float* scales, const uint8_t* zeros, const quant::Element& element,
             int64_t groups, int64_t group, double limit) {
  const double highest = element.codes() - 1;
  for (int64_t g = 0; g < groups; ++g) {
    if (scales[g] == 0) continue;  // check_scales() reports it
    const double zero = zeros ? zeros[g] : element.middle();
    for (int64_t column = g * group; column < (g + 1) * group; ++column) {
      const double wanted = std::clamp(weight[column] / scales[g] + zero, 0.0, highest);
      const double distance = std::abs(wanted - codes[column]);
      if (distance > limit + kDistanceSlack) ++distances.far;
      if (distance <= distances.worst) continue;
      distances.worst = distance;
      distances.row = row;
      distances.column = column;
    }
  }
}

// Runs on the calling thread, because matrices are checked in parallel.
Distances distances_of(const Tensor& weight, const QuantWeight& quantized, double limit) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const int64_t groups = quantized.scales.size(1);
  const quant::Element& element = *quantized.scheme.element;
  const quant::MatrixRows originals(weight, "weight"), codes(quantized.codes, "codes"),
      scales(quantized.scales, "scales");
  std::vector<float> original(columns), scale(groups);
  std::vector<uint8_t> code(columns);
  Distances distances;
  for (int64_t row = 0; row < rows; ++row) {
    quant::widen(originals[row], weight.scalar_type(), columns, original.data());
    quant::widen(scales[row], quantized.scales.scalar_type(), groups, scale.data());
    element.unpack(static_cast<const uint8_t*>(codes[row]), columns, code.data());
    const uint8_t* zeros = quantized.zeros.defined()
                               ? quantized.zeros.const_data_ptr<uint8_t>() + row * groups
                               : nullptr;
    add_row(distances, row, original.data(), code.data(), scale.data(), zeros, element, groups,
            columns / groups, limit);
  }
  return distances;
}

// Checks one matrix; keeps its findings separate, because several matrices are checked in parallel.
class MatrixChecker {
 public:
  MatrixChecker(const nn::Source& artifact, const Module& module, const MatrixLimits& limits,
                const quant::MatrixRecord* record)
      : artifact_(artifact),
        module_(module),
        limits_(limits),
        record_(record),
        format_(artifact.quantization->format()) {
    check_.module = module.name;
  }

  void run() {
    try {
      const auto scheme = artifact_.quantization->scheme_of(module_.name);
      if (!scheme) return;  // check_config() reports it
      const QuantWeight weight =
          quant::from_disk(module_.name, *scheme, format_, [&](const std::string& name) {
            return artifact_.files.has(name) ? artifact_.files.tensor(name) : Tensor();
          });
      check_.scheme = weight.scheme.text();
      if (!same_shape(weight)) return;
      check_scale_dtype(weight);
      check_scales(weight);
      check_.relative_error = quant::relative_error(module_.weight, weight);
      if (!std::isfinite(check_.relative_error))
        add(name(format_.codes()), "dequantizes to numbers that are not finite");
      if (record_) compare(weight);
      complete_ = true;
    } catch (const Error& error) {
      add(module_.name, error.what());
    }
  }

  void report(VerifyReport& report) const {
    report.findings.insert(report.findings.end(), findings_.begin(), findings_.end());
    if (complete_) report.matrices.push_back(check_);
  }

 private:
  void add(const std::string& tensor, const std::string& message) {
    findings_.push_back({Severity::error, tensor, message});
  }
  std::string name(std::string_view part) const { return fmt::format("{}.{}", module_.name, part); }

  bool same_shape(const QuantWeight& weight) {
    const int64_t rows = module_.weight.size(0), columns = module_.weight.size(1);
    if (weight.rows() == rows && weight.columns == columns) return true;
    add(name(format_.codes()), fmt::format("is [{}, {}], but [{}, {}] in the source", weight.rows(),
                                           weight.columns, rows, columns));
    return false;
  }

  void check_scale_dtype(const QuantWeight& weight) {
    const DType wanted = format_.scale_dtype(module_.weight.scalar_type());
    const DType found = weight.scales.scalar_type();
    if (found == wanted) return;
    add(name(format_.scales()),
        fmt::format("is {}, but readers of {} use {} and would round it",
                    checkpoint::dtype_name(found), std::string(format_.name),
                    checkpoint::dtype_name(wanted)));
  }

  // A group with the scale zero dequantizes to zeros, whatever its codes.
  void check_scales(const QuantWeight& weight) {
    const int64_t zeros = weight.scales.eq(0).sum().item<int64_t>();
    if (zeros > 0)
      add(name(format_.scales()),
          fmt::format("{} of {} scales are zero", zeros, weight.scales.numel()));
  }

  void check_codes(const QuantWeight& weight, double limit) {
    const Distances d = distances_of(module_.weight, weight, limit);
    if (d.far == 0) return;
    add(name(format_.codes()),
        fmt::format("{} of {} codes are more than {} from weight / scale, the worst by {:.1f} in "
                    "row {}, column {} (group {}): codes or {} do not belong to this weight",
                    d.far, module_.weight.numel(), limit, d.worst, d.row, d.column,
                    d.column * weight.scales.size(1) / weight.columns, format_.scales()));
  }

  // Compares with the record of compress, and with the bound of the method if it has one.
  void compare(const QuantWeight& weight) {
    check_.rescaled = record_->bound.kind == quant::Bound::Kind::rescaled;
    if (record_->bound.kind == quant::Bound::Kind::code_distance) {
      check_.bounded = true;
      check_codes(weight, record_->bound.limit);
      check_error(weight);
    }
    check_record(weight);
  }

  void check_error(const QuantWeight& weight) {
    const QuantWeight nearest = quant::round_to_nearest(
        module_.weight, weight.scheme, {.grid = format_.grid, .name = module_.source});
    const double least = quant::relative_error(module_.weight, nearest);
    check_.error_ratio = check_.relative_error == least ? 1 : check_.relative_error / least;
    if (check_.error_ratio <= limits_.error_ratio) return;
    add(name(format_.codes()),
        fmt::format("the relative error is {:.4f}, {:.1f} times that of round-to-nearest ({:.4f}); "
                    "the limit is {} times",
                    check_.relative_error, check_.error_ratio, least, limits_.error_ratio));
  }

  void check_record(const QuantWeight& weight) {
    const bool same_bytes = quant::digest(weight) == record_->sha256;
    const double distance = std::abs(check_.relative_error - record_->relative_error);
    const bool same_error = distance <= kRecordSlack * record_->relative_error;
    check_.recorded = same_bytes && same_error;
    if (!same_bytes) {
      add(name(format_.codes()),
          fmt::format("is not what compress wrote: its hash differs from the one in {} (relative "
                      "error then {:.6f}, now {:.6f})",
                      quant::kRecordFile, record_->relative_error, check_.relative_error));
    } else if (!same_error) {
      add(module_.source,
          fmt::format(
              "{} was not made from this: its relative error is {:.6f}, but {} states {:.6f}; "
              "check that this is the right source",
              module_.name, check_.relative_error, quant::kRecordFile, record_->relative_error));
    }
  }

  const nn::Source& artifact_;
  const Module& module_;
  const MatrixLimits& limits_;
  const quant::MatrixRecord* record_;
  const quant::Format& format_;
  MatrixCheck check_;
  std::vector<Finding> findings_;
  bool complete_ = false;
};

// Releases the pages of checked matrices.
void release(const Pair& pair, std::span<const Module* const> modules) {
  pair.artifact->files.release_all();
  for (const Module* module : modules) pair.source->files.release(module->source);
}

std::vector<const Module*> packed_modules(const Pair& pair) {
  std::vector<const Module*> packed;
  for (const Module& module : pair.modules) {
    if (is_packed(pair.artifact->files, module.name)) packed.push_back(&module);
  }
  return packed;
}

}  // namespace

void check_matrices(const Pair& pair, const MatrixLimits& limits, VerifyReport& report) {
  if (!pair.artifact->quantization) return;
  const quant::MatrixRecords* record = pair.records ? &pair.records->matrices : nullptr;
  const std::vector<const Module*> modules = packed_modules(pair);
  quant::MatrixRecords unseen = record ? *record : quant::MatrixRecords();
  for (size_t first = 0; first < modules.size();) {
    size_t end = first;
    for (size_t bytes = 0; end < modules.size() && bytes < kBytesAtOnce; ++end)
      bytes += modules[end]->weight.nbytes();
    const auto part = std::span(modules).subspan(first, end - first);
    std::vector<MatrixChecker> checkers;
    for (const Module* module : part) {
      const quant::MatrixRecord* its = nullptr;
      if (record && record->contains(module->name)) its = &record->at(module->name);
      if (record && !its)
        found(report, module->name, "is quantized, but {} has no record of it", quant::kRecordFile);
      checkers.emplace_back(*pair.artifact, *module, limits, its);
      unseen.erase(module->name);
    }
    parallel_for(std::ssize(checkers), [&](int64_t i) { checkers[i].run(); });
    for (const MatrixChecker& checker : checkers) checker.report(report);
    release(pair, part);
    first = end;
  }
  for (const auto& [module, entry] : unseen)
    found(report, module, "was quantized by compress according to {}, but is not quantized now",
          quant::kRecordFile);
}

}  // namespace quern::eval
