#include "quant/record.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json_objects.h"
#include "quant/dequantize.h"

namespace quern::quant {

MatrixRecord record_of(const Tensor& original, const QuantWeight& weight) {
  return {relative_error(original, weight), digest(weight)};
}

std::string digest(const QuantWeight& weight) {
  std::string bytes;
  for (const Tensor& part : {weight.codes, weight.scales, weight.zeros}) {
    if (!part.defined()) continue;
    const Tensor packed = part.contiguous();
    bytes.append(static_cast<const char*>(packed.const_data_ptr()), packed.nbytes());
  }
  return sha256(bytes);
}

JsonValue to_json(const MatrixRecords& records) {
  JsonValue list = JsonValue::object();
  for (const auto& [module, record] : records)
    append(list, module, {{"relative_error", record.relative_error}, {"sha256", record.sha256}});
  return list;
}

std::optional<MatrixRecords> read_records(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kRecordFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const JsonValue document = read_json(file);
  const Json json(document, file.string());
  MatrixRecords records;
  for (const auto& [module, entry] : entries(json))
    records[module] = {entry.get<double>("relative_error"), entry.get<std::string>("sha256")};
  return records;
}

}  // namespace quern::quant
