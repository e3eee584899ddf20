#include "layouts/headers.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/shard_writer.h"

namespace quern::layouts {

namespace fs = std::filesystem;

void write_headers(const Layout& layout, const JsonValue& config, const fs::path& folder,
                   size_t max_shard_bytes) {
  std::vector<checkpoint::PlannedTensor> plan;
  for (const LayoutTensor& tensor : layout.tensors())
    plan.push_back(
        {tensor.name, tensor.dtype, tensor.shape, checkpoint::Fate::added, /*source=*/""});
  const auto shards = checkpoint::split_into_shards(plan, max_shard_bytes);
  JsonValue weight_map = JsonValue::object();
  size_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = checkpoint::shard_name(i, shards.size());
    std::vector<checkpoint::TensorInfo> tensors;
    for (const size_t index : shards[i]) {
      tensors.push_back(
          {.name = plan[index].name, .dtype = plan[index].dtype, .shape = plan[index].shape});
      weight_map[plan[index].name] = name;
      total += plan[index].bytes();
    }
    write_file(folder / name, checkpoint::make_header(tensors, {{"format", "pt"}}));
    fs::resize_file(folder / name, tensors.back().end);
  }
  if (shards.size() > 1)
    write_file(folder / "model.safetensors.index.json",
               to_text({{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}));
  write_file(folder / "config.json", to_text(config));
}

}  // namespace quern::layouts
