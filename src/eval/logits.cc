#include "eval/logits.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "checkpoint/byte_ranges.h"
#include "checkpoint/folder.h"
#include "checkpoint/header.h"
#include "eval/stream.h"

namespace quern::eval {
namespace {

namespace fs = std::filesystem;

std::string tensor_name(size_t list) { return fmt::format("logits.{}", list); }

// A file that gets its name when complete, and is removed after an exception.
class PartFile {
 public:
  explicit PartFile(fs::path file)
      : file_(std::move(file)),
        part_(file_.string() + ".part"),
        open_(::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
    if (!open_.open()) fail_on_disk(errno, "create", part_.string());
  }
  ~PartFile() {
    std::error_code ignored;
    if (!finished_) fs::remove(part_, ignored);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void write(size_t offset, const void* data, size_t size) const {
    const auto* bytes = static_cast<const std::byte*>(data);
    checkpoint::write_range({open_.get(), offset, part_.string()}, {bytes, size});
  }

  void finish() {
    if (::fsync(open_.get()) != 0) fail_on_disk(errno, "write", part_.string());
    fs::rename(part_, file_);
    finished_ = true;
    sync_folder(file_.has_parent_path() ? file_.parent_path() : fs::path("."));
  }

 private:
  fs::path file_, part_;
  Descriptor open_;
  bool finished_ = false;
};

std::vector<Window> as_windows(const std::vector<std::vector<int32_t>>& lists) {
  if (lists.empty()) fail(Exit::invalid_input, "no token ids are given");
  std::vector<Window> windows;
  for (size_t i = 0; i < lists.size(); ++i) {
    if (lists[i].empty()) fail("token ids: list {} is empty", i);
    windows.push_back({.tokens = lists[i]});
  }
  return windows;
}

// Writes the logits of all tokens of one list to the place of its tensor.
void write_tensor(const Stream& stream, const Tensor& states, size_t offset, const PartFile& out) {
  const size_t row_bytes = static_cast<size_t>(stream.vocabulary()) * sizeof(float);
  for (int64_t begin = 0; begin < states.size(0); begin += stream.states_at_once()) {
    const int64_t count = std::min(stream.states_at_once(), states.size(0) - begin);
    const Tensor logits = stream.logits(states.narrow(0, begin, count)).contiguous();
    out.write(offset + static_cast<size_t>(begin) * row_bytes, logits.const_data_ptr(),
              logits.nbytes());
  }
}

}  // namespace

std::vector<std::vector<int32_t>> read_token_lists(const fs::path& file) {
  const JsonValue document = read_json(file);
  const Json json(document, file.string());
  if (!json.is_array()) fail("{}: must be a list of lists of token ids", file.string());
  std::vector<std::vector<int32_t>> lists;
  for (size_t i = 0; i < json.size(); ++i) {
    if (!json.at(i).is_array())
      fail("{}: must be a list of lists of token ids, [[1, 2, 3]]", json.at(i).path());
    auto& list = lists.emplace_back();
    for (size_t j = 0; j < json.at(i).size(); ++j) {
      list.push_back(static_cast<int32_t>(json.at(i).at(j).as<int>()));
    }
  }
  return lists;
}

void write_logits(std::shared_ptr<const nn::Source> model,
                  const std::vector<std::vector<int32_t>>& lists, const fs::path& file,
                  const ScoreOptions& options) {
  const std::vector<Window> windows = as_windows(lists);
  const Stream stream(std::move(model));
  std::vector<checkpoint::TensorInfo> tensors;
  for (size_t i = 0; i < lists.size(); ++i) {
    tensors.push_back({.name = tensor_name(i),
                       .dtype = at::kFloat,
                       .shape = {std::ssize(lists[i]), stream.vocabulary()}});
  }
  const std::string header = checkpoint::make_header(tensors, {{"format", "pt"}});
  std::map<std::string, size_t> offsets;
  for (const auto& tensor : tensors) offsets[tensor.name] = tensor.begin;

  PartFile out(file);
  out.write(0, header.data(), header.size());
  const auto groups = group_windows(windows, stream.state_bytes(), options.state_bytes);
  int64_t blocks_done = 0;
  auto block_done = [&] {
    ++blocks_done;
    if (options.progress) options.progress(blocks_done, std::ssize(groups) * stream.blocks());
  };
  size_t list = 0;
  for (std::span<const Window> group : groups) {
    const Tensor states = stream.states(group, block_done);
    int64_t begin = 0;
    for (const Window& window : group) {
      const int64_t tokens = std::ssize(window.tokens);
      write_tensor(stream, states.narrow(0, begin, tokens), offsets.at(tensor_name(list++)), out);
      begin += tokens;
    }
  }
  out.finish();
}

}  // namespace quern::eval
