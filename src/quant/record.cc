#include "quant/record.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_objects.h"
#include "quant/dequantize.h"

namespace quern::quant {

namespace {

constexpr const char* kCodeDistance = "code_distance";

// Fails on an unknown kind: a reader that ignored it would check less than the record promises.
Bound read_bound(const Json& json) {
  for (const std::string& kind : json.keys())
    if (kind != kCodeDistance)
      fail("{}: this version of quern does not know the bound \"{}\"; use a newer version",
           json.path(), kind);
  return {Bound::Kind::code_distance, json.get<double>(kCodeDistance)};
}

}  // namespace

MatrixRecord record_of(const Tensor& original, const QuantWeight& weight, const Bound& bound) {
  return {relative_error(original, weight), digest(weight), bound};
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
  for (const auto& [module, record] : records) {
    JsonValue entry = {{"relative_error", record.relative_error}, {"sha256", record.sha256}};
    if (record.bound.kind == Bound::Kind::code_distance)
      entry["bound"] = {{kCodeDistance, record.bound.limit}};
    append(list, module, std::move(entry));
  }
  return list;
}

std::optional<MatrixRecords> read_records(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kRecordFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const JsonValue document = read_json(file);
  const Json json(document, file.string());
  MatrixRecords records;
  for (const auto& [module, entry] : entries(json)) {
    MatrixRecord& record = records[module];
    record = {entry.get<double>("relative_error"), entry.get<std::string>("sha256")};
    if (entry.has("bound")) record.bound = read_bound(entry.at("bound"));
  }
  return records;
}

}  // namespace quern::quant
