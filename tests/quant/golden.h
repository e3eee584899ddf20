// The peers' results in tests/data/peers: a safetensors file of tensors and a JSON file of cases.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "tensor/tensor.h"

namespace quern::quant {

inline const std::filesystem::path kTestData =
    std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data";

// Name -> tensor. The files are ours and complete, so only checks that the copy needs are made.
inline std::map<std::string, Tensor> read_tensors(const std::filesystem::path& file) {
  static const std::map<std::string, DType> kTypes = {
      {"BF16", at::kBFloat16}, {"F16", at::kHalf}, {"F32", at::kFloat}, {"F64", at::kDouble},
      {"I8", at::kChar},       {"U8", at::kByte},  {"I32", at::kInt},   {"I64", at::kLong}};
  std::string bytes = read_file(file);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  std::map<std::string, Tensor> tensors;
  JsonValue entries = parse_json(std::string_view(bytes).substr(8, header), file.string());
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    auto shape = entry["shape"].get<std::vector<int64_t>>();
    Tensor x = at::empty(shape, kTypes.at(entry["dtype"].get<std::string>()));
    std::memcpy(x.mutable_data_ptr(),
                bytes.data() + 8 + header + entry["data_offsets"][0].get<size_t>(), x.nbytes());
    tensors.emplace(name, x);
  }
  return tensors;
}

// The cases of one topic.
class Golden {
 public:
  explicit Golden(const std::string& topic)
      : json_(read_json(kTestData / "peers" / (topic + ".json"))),
        tensors_(read_tensors(kTestData / "peers" / (topic + ".safetensors"))) {}

  const JsonValue& cases() const { return json_["cases"]; }
  Tensor tensor(const JsonValue& one, const std::string& role) const {
    return tensors_.at(one["id"].get<std::string>() + "." + role);
  }
  bool has(const JsonValue& one, const std::string& role) const {
    return one["tensors"].contains(role);
  }
  // The case's "input", which names another case's tensor.
  Tensor input(const JsonValue& one) const {
    return tensors_.at(one["params"]["input"].get<std::string>());
  }

 private:
  JsonValue json_;
  std::map<std::string, Tensor> tensors_;
};

// Bits, not values: -0 and 0 differ.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  Tensor x = a.contiguous(), y = b.contiguous();
  return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

inline std::string hash_of(const Tensor& x) {
  Tensor whole = x.contiguous();
  return sha256({static_cast<const char*>(whole.const_data_ptr()), whole.nbytes()}).substr(0, 16);
}

}  // namespace quern::quant
