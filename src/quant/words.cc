#include "quant/words.h"

namespace quern::quant {

Tensor words_of_codes(const Tensor& codes) {
  int64_t bytes = codes.size(1), padded = (bytes + 3) / 4 * 4;
  Tensor whole = codes;
  if (padded != bytes) {
    whole = at::zeros({codes.size(0), padded}, at::kByte);
    whole.narrow(1, 0, bytes).copy_(codes);
  }
  return whole.contiguous().view(at::kInt);
}

Tensor codes_of_words(const Element& element, const Tensor& words, int64_t columns) {
  Tensor bytes = words.contiguous().view(at::kByte);
  return bytes.narrow(1, 0, element.bytes(columns)).contiguous();
}

Tensor words_down(const Element& element, const Tensor& numbers) {
  const int64_t n = numbers.size(0), m = numbers.size(1), in_word = codes_in_word(element);
  Tensor packed = at::zeros({words(element, n), m}, at::kInt);
  auto* out = reinterpret_cast<uint32_t*>(packed.mutable_data_ptr<int32_t>());
  Tensor rows = numbers.contiguous();
  const auto* in = rows.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      out[i / in_word * m + j] |= uint32_t{in[i * m + j]} << (element.bits * (i % in_word));
    }
  }
  return packed;
}

Tensor numbers_down(const Element& element, const Tensor& packed, int64_t n) {
  const int64_t m = packed.size(1), in_word = codes_in_word(element);
  const uint32_t mask = element.codes() - 1;
  Tensor numbers = at::empty({n, m}, at::kByte), rows = packed.contiguous();
  const auto* in = reinterpret_cast<const uint32_t*>(rows.const_data_ptr<int32_t>());
  auto* out = numbers.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      uint32_t word = in[i / in_word * m + j];
      out[i * m + j] = static_cast<uint8_t>((word >> (element.bits * (i % in_word))) & mask);
    }
  }
  return numbers;
}

}  // namespace quern::quant
