#include <algorithm>

#include "base/error.h"
#include "quant/format.h"

namespace quern::quant {

extern const Format kAutoRound, kCompressedTensors, kGptq;

namespace {

const Format* const kTable[] = {&kAutoRound, &kCompressedTensors, &kGptq};

std::string tensor_of(const std::string& module, std::string_view part) {
  return fmt::format("{}.{}", module, part);
}

}  // namespace

std::span<const Format* const> formats() { return kTable; }

const Format* format_named(std::string_view name) {
  const auto found = std::ranges::find(kTable, name, &Format::name);
  return found == std::end(kTable) ? nullptr : *found;
}

const Format* format_of_method(std::string_view quant_method) {
  const auto found = std::ranges::find_if(kTable, [&](const Format* format) {
    return std::ranges::find(format->quant_methods, quant_method) != format->quant_methods.end();
  });
  return found == std::end(kTable) ? nullptr : *found;
}

bool is_packed(const std::string& module, const std::function<bool(const std::string&)>& has) {
  return std::ranges::any_of(
      kTable, [&](const Format* format) { return has(tensor_of(module, format->codes())); });
}

std::optional<std::string> packed_module(std::string_view tensor) {
  for (const Format* format : kTable) {
    if (tensor.size() <= format->codes().size() + 1 || !tensor.ends_with(format->codes())) continue;
    const std::string_view rest = tensor.substr(0, tensor.size() - format->codes().size());
    if (rest.ends_with('.')) return std::string(rest.substr(0, rest.size() - 1));
  }
  return std::nullopt;
}

std::vector<DiskTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                const Scheme& scheme, const Format& format) {
  if (scheme.group_size != -1 && columns % scheme.group_size != 0) {
    fail(Exit::infeasible, "{}: {} input columns do not divide into groups of {}", module, columns,
         scheme.group_size);
  }
  if (const std::string why = format.refusal(scheme, rows, columns); !why.empty())
    fail(Exit::infeasible, "{}: {}; leave it unquantized", module, why);
  return format.planned(module, rows, columns, scheme);
}

NamedTensors to_disk(const std::string& module, const QuantWeight& weight, const Format& format) {
  QUERN_CHECK(!weight.stacked());
  const auto plan = planned(module, weight.rows(), weight.columns, weight.scheme, format);
  std::vector<Tensor> tensors = format.to_disk(weight);
  QUERN_CHECK(plan.size() == tensors.size());
  NamedTensors named;
  for (size_t i = 0; i < plan.size(); ++i) {
    QUERN_CHECK(tensors[i].sizes() == at::IntArrayRef(plan[i].shape));
    QUERN_CHECK(tensors[i].scalar_type() == plan[i].dtype);
    named.emplace_back(plan[i].name, std::move(tensors[i]));
  }
  return named;
}

QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Format& format,
                      const Lookup& lookup) {
  QuantWeight weight = format.from_disk(module, scheme, lookup);
  weight.scheme.scale_dtype = weight.scales.scalar_type();
  return weight;
}

}  // namespace quern::quant
