#include "eval/record.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"

namespace quern::eval {

std::optional<std::map<std::string, MatrixRecord>> read_record(
    const checkpoint::Checkpoint& artifact) {
  const std::filesystem::path file = artifact.folder() / kRecordFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const JsonValue document = read_json(file);
  const Json json(document, file.string());
  std::map<std::string, MatrixRecord> record;
  for (const std::string& module : json.keys()) {
    const Json entry = json.at(module);
    record[module] = {entry.get<double>("relative_error"), entry.get<std::string>("sha256")};
  }
  return record;
}

std::string digest(const quant::QuantWeight& weight) {
  std::string bytes;
  for (const Tensor& part : {weight.codes, weight.scales, weight.zeros}) {
    if (!part.defined()) continue;
    const Tensor packed = part.contiguous();
    bytes.append(static_cast<const char*>(packed.const_data_ptr()), packed.nbytes());
  }
  return sha256(bytes);
}

}  // namespace quern::eval
