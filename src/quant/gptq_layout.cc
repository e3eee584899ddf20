#include "quant/gptq_layout.h"

#include "base/error.h"
#include "quant/module_tensors.h"
#include "quant/words.h"

namespace quern::quant::gptq_layout {
namespace {

// GPTQ's first format stores zero - 1, modulo the number of codes.
Tensor qzeros_of(const QuantWeight& weight) {
  const Element& element = *weight.scheme.element;
  const Tensor zeros = weight.zeros.defined()
                           ? weight.zeros
                           : at::full(weight.scales.sizes(), element.middle(), at::kByte);
  const Tensor less = zeros.to(at::kInt).sub(1).bitwise_and(element.codes() - 1).to(at::kByte);
  return words_down(element, less).t().contiguous();
}

}  // namespace

DType scale_dtype(DType) { return at::kHalf; }

std::string refusal(const Scheme& scheme, int64_t rows, int64_t columns) {
  const Element& element = *scheme.element;
  if (element.type != "int" || 32 % element.bits != 0)
    return fmt::format("GPTQ's layout cannot hold {}", element.name);
  const int64_t in_word = codes_in_word(element);
  if (rows % in_word == 0 && columns % in_word == 0) return "";
  return fmt::format(
      "[{}, {}] does not fit GPTQ's layout, which packs {} rows and {} columns in a "
      "word",
      rows, columns, in_word, in_word);
}

std::vector<DiskTensor> planned(const std::string& module, int64_t rows, int64_t columns,
                                const Scheme& scheme) {
  const Element& element = *scheme.element;
  const int64_t groups = scheme.groups(columns);
  return {{module + ".qweight", at::kInt, {words(element, columns), rows}},
          {module + ".qzeros", at::kInt, {groups, words(element, rows)}},
          {module + ".scales", scheme.scale_dtype, {groups, rows}}};
}

std::vector<Tensor> to_disk(const QuantWeight& weight) {
  QUERN_CHECK(weight.scales.scalar_type() == at::kHalf);
  return {words_of_codes(weight.codes).t().contiguous(), qzeros_of(weight),
          weight.scales.t().contiguous()};
}

QuantWeight from_disk(const std::string& module, const Scheme& scheme, const Lookup& lookup) {
  const ModuleTensors tensors(module, lookup);
  const Element& element = *scheme.element;
  Tensor qweight = tensors.take("qweight", at::kInt, {-1, -1});
  int64_t columns = qweight.size(0) * codes_in_word(element), rows = qweight.size(1);
  int64_t groups = tensors.groups(scheme, columns);
  Tensor qzeros = tensors.take("qzeros", at::kInt, {groups, words(element, rows)});
  QuantWeight weight{.scheme = scheme,
                     .columns = columns,
                     .codes = codes_of_words(element, qweight.t(), columns),
                     .scales = tensors.take_scales("scales", {groups, rows}).t().contiguous(),
                     .zeros = {}};
  Tensor zeros = numbers_down(element, qzeros.t(), rows).add_(1).bitwise_and_(element.codes() - 1);
  if (!scheme.symmetric) {
    weight.zeros = zeros;
  } else if (!zeros.eq(element.middle()).all().item<bool>()) {
    fail("{} contains zeros other than {} although the scheme is symmetric", tensors.name("qzeros"),
         element.middle());
  }
  tensors.check_column_groups("g_idx", columns, groups);
  return weight;
}

}  // namespace quern::quant::gptq_layout
