// The type in which one number of a weight is stored. An element is a row of element.cc: its codes,
// and the loops over a row of numbers (quant/rows.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace quern::quant {

struct Encoding;

struct Element {
  std::string_view name;  // "int4"
  std::string_view type;  // its type in quantization_config: "int"
  int bits;

  // A number is scale * (code - zero) with 0 <= code, zero < codes(). zero is middle() if
  // symmetric.
  int codes() const { return 1 << bits; }
  int middle() const { return codes() / 2; }
  // Bytes of `count` packed codes of a row.
  int64_t bytes(int64_t count) const { return (count * bits + 7) / 8; }

  // Encodes x, one code per byte.
  void (*encode)(const Element& element, const float* x, int64_t count, const Encoding& encoding,
                 uint8_t* codes);
  // out = scale * (code - zero) in fp32.
  void (*decode)(const uint8_t* codes, int64_t count, float scale, int zero, float* out);
  // Convert between one code per byte and bytes(count) packed bytes, with the first code in the
  // lowest bits.
  void (*pack)(const uint8_t* codes, int64_t count, uint8_t* bytes);
  void (*unpack)(const uint8_t* bytes, int64_t count, uint8_t* codes);
};

extern const Element kInt4;

std::span<const Element* const> elements();
// Null if there is no such element.
const Element* element_of(std::string_view type, int bits);
// The names of all elements, separated by commas, for messages: "int4".
std::string element_names();

}  // namespace quern::quant
