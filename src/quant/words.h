// Codes in 32-bit words, the first code in the lowest bits, as compressed-tensors and GPTQ store
// them. The number of bits of the element divides 32.
#pragma once

#include "quant/element.h"
#include "tensor/tensor.h"

namespace quern::quant {

inline int64_t codes_in_word(const Element& element) { return 32 / element.bits; }

inline int64_t words(const Element& element, int64_t codes) {
  return (codes + codes_in_word(element) - 1) / codes_in_word(element);
}

// Packed codes uint8 [rows, element.bytes(columns)] <-> int32 [rows, words(columns)]: equal bytes,
// except for the padding of the last word.
Tensor words_of_codes(const Tensor& codes);
Tensor codes_of_words(const Element& element, const Tensor& words, int64_t columns);

// uint8 [n, m], one code each, <-> int32 [words(n), m], packed along the first dimension.
Tensor words_down(const Element& element, const Tensor& numbers);
Tensor numbers_down(const Element& element, const Tensor& words, int64_t n);

}  // namespace quern::quant
