#include "quant/record.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json_objects.h"
#include "quant/dequantize.h"

namespace quern::quant {

namespace {

constexpr const char *kCodeDistance = "code_distance", *kRescaled = "rescaled";

// Fails on an unknown kind: a reader that ignored it would check less than the record promises.
Bound read_bound(const Json& json) {
  for (const std::string& kind : json.keys())
    if (kind != kCodeDistance && kind != kRescaled)
      fail("{}: this version of quern does not know the bound \"{}\"; use a newer version",
           json.path(), kind);
  if (json.has(kRescaled)) return {Bound::Kind::rescaled};
  return {Bound::Kind::code_distance, json.get<double>(kCodeDistance)};
}

void append_bytes(const Tensor& tensor, std::string& bytes) {
  const Tensor packed = tensor.contiguous();
  bytes.append(static_cast<const char*>(packed.const_data_ptr()), packed.nbytes());
}

}  // namespace

MatrixRecord record_of(const Tensor& original, const QuantWeight& weight, const Bound& bound) {
  return {relative_error(original, weight), digest(weight), bound};
}

std::string digest(const QuantWeight& weight) {
  std::string bytes;
  for (const Tensor& part : {weight.codes, weight.scales, weight.zeros})
    if (part.defined()) append_bytes(part, bytes);
  return sha256(bytes);
}

std::string digest(const Tensor& tensor) {
  std::string bytes;
  append_bytes(tensor, bytes);
  return sha256(bytes);
}

JsonValue to_json(const Records& records) {
  JsonValue list = JsonValue::object();
  for (const auto& [module, record] : records.matrices) {
    JsonValue entry = {{"relative_error", record.relative_error}, {"sha256", record.sha256}};
    if (record.bound.kind == Bound::Kind::code_distance)
      entry["bound"] = {{kCodeDistance, record.bound.limit}};
    if (record.bound.kind == Bound::Kind::rescaled) entry["bound"] = {{kRescaled, true}};
    append(list, module, std::move(entry));
  }
  for (const auto& [tensor, sha256] : records.changed) append(list, tensor, {{"sha256", sha256}});
  return list;
}

std::optional<Records> read_records(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kRecordFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const JsonValue document = read_json(file);
  const Json json(document, file.string());
  Records records;
  for (const auto& [name, entry] : entries(json)) {
    const auto sha256 = entry.get<std::string>("sha256");
    if (!entry.has("relative_error")) {
      records.changed[name] = sha256;
      continue;
    }
    MatrixRecord& record = records.matrices[name];
    record = {entry.get<double>("relative_error"), sha256};
    if (entry.has("bound")) record.bound = read_bound(entry.at("bound"));
  }
  return records;
}

}  // namespace quern::quant
