#include "quant/element.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "quant/rows.h"

namespace quern::quant {

constinit const Element kInt4 = {.name = "int4",
                                 .type = "int",
                                 .bits = 4,
                                 .encode = encode_integers,
                                 .decode = decode_integers,
                                 .pack = pack_nibbles,
                                 .unpack = unpack_nibbles};

namespace {

constexpr const Element* kElements[] = {&kInt4};

}  // namespace

std::span<const Element* const> elements() { return kElements; }

const Element* element_of(std::string_view type, int bits) {
  const auto found = std::ranges::find_if(elements(), [&](const Element* element) {
    return element->type == type && element->bits == bits;
  });
  return found == elements().end() ? nullptr : *found;
}

std::string element_names() {
  std::vector<std::string_view> names;
  for (const Element* element : elements()) names.push_back(element->name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace quern::quant
