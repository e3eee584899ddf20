// The table of packed stacks. A new element is a class next to Int4Stack, an include and a line.
#include "ops/packed_stack.h"

#include <algorithm>

#include "base/error.h"
#include "ops/int4_stack.h"

namespace quern::ops {
namespace {

struct Row {
  const quant::Element* element;
  std::string (*refusal)(const quant::Scheme& scheme, int64_t rows, int64_t columns);
  std::shared_ptr<PackedStack> (*make)(int64_t matrices, int64_t rows, int64_t columns,
                                       const quant::Scheme& scheme);
};

template <typename T>
constexpr Row row_of(const quant::Element& element) {
  return {&element, T::refusal,
          [](int64_t matrices, int64_t rows, int64_t columns,
             const quant::Scheme& scheme) -> std::shared_ptr<PackedStack> {
            return std::make_shared<T>(matrices, rows, columns, scheme);
          }};
}

constexpr Row kTable[] = {row_of<Int4Stack>(quant::kInt4)};

const Row* find(const quant::Scheme& scheme) {
  const auto found = std::ranges::find(kTable, scheme.element, &Row::element);
  return found == std::end(kTable) ? nullptr : found;
}

}  // namespace

std::string packed_refusal(const quant::Scheme& scheme, int64_t rows, int64_t columns) {
  const Row* row = find(scheme);
  return row ? row->refusal(scheme, rows, columns)
             : fmt::format("no kernel multiplies by {} weights", scheme.element->name);
}

std::shared_ptr<PackedStack> packed_stack(const std::string& name, int64_t matrices, int64_t rows,
                                          int64_t columns, const quant::Scheme& scheme) {
  if (const std::string why = packed_refusal(scheme, rows, columns); !why.empty())
    fail("{}: the kernels cannot multiply it packed: {}", name, why);
  return find(scheme)->make(matrices, rows, columns, scheme);
}

}  // namespace quern::ops
