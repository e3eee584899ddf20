#include "checkpoint/header.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/dtype.h"

namespace quern::checkpoint {
namespace {

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};
constexpr const char* kDamaged = "the file is damaged or not a safetensors file; download it again";

// Fills a Header while reading the JSON, without building a document from a hostile file: memory is
// proportional to the part accepted so far.
class HeaderReader : public nlohmann::json_sax<JsonValue> {
 public:
  explicit HeaderReader(const std::string& origin) : origin_(origin) {}

  Header take() { return std::move(header_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t& text) override {
    unexpected("the number " + text);
  }
  bool binary(binary_t&) override { return false; }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::shape) {
      if (tensor_.shape.size() == kMaxRank) refuse("has more than {} dimensions", kMaxRank);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        refuse("has a dimension of {}", value);
      tensor_.shape.push_back(static_cast<int64_t>(value));
    } else if (state_ == State::offsets) {
      if (offsets_ == 2) refuse("has more than two data_offsets");
      (offsets_++ == 0 ? tensor_.begin : tensor_.end) = value;
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::metadata) {
      header_.metadata.emplace_back(key_, std::move(value));
    } else if (state_ == State::tensor && key_ == "dtype") {
      std::optional<DType> dtype = dtype_of(value);
      if (!dtype)
        refuse("has the dtype {}, which is not supported; supported dtypes: {}", printable(value),
               dtype_names());
      tensor_.dtype = *dtype;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    switch (state_) {
      case State::before:
        state_ = State::top;
        break;
      case State::top:
        state_ = key_ == kMetadata ? State::metadata : State::tensor;
        break;
      default:
        unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::tensor) add();
    state_ = state_ == State::top ? State::before : State::top;
    return true;
  }

  bool start_array(size_t) override {
    if (state_ != State::tensor) unexpected("a list");
    if (key_ == "shape") {
      state_ = State::shape;
    } else if (key_ == "data_offsets") {
      state_ = State::offsets;
    } else {
      unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    if (state_ == State::offsets && offsets_ != 2)
      refuse("has {} data_offsets, but two are needed", offsets_);
    state_ = State::tensor;
    return true;
  }

  bool key(string_t& value) override {
    if (state_ == State::top) {
      start_tensor(value);
    } else if (state_ == State::tensor) {
      start_field(value);
    } else if (!metadata_keys_.insert(value).second) {
      refuse("has the key {} twice", printable(value));
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail("{}: the header is not valid JSON at byte {}; {}", origin_, position, kDamaged);
  }

 private:
  enum class State { before, top, metadata, tensor, shape, offsets };

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
    fail("{}: tensor {} {}; {}", origin_, printable(tensor_.name),
         fmt::format(format, std::forward<Args>(args)...), kDamaged);
  }

  [[noreturn]] void unexpected(const std::string& found) {
    if (state_ == State::before)
      fail("{}: the header is {}, not an object; {}", origin_, found, kDamaged);
    if (state_ == State::top)
      fail("{}: the header has {} for {}, but an object is needed; {}", origin_, found,
           printable(key_), kDamaged);
    refuse("has {} as {}", found, printable(key_));
  }

  void start_tensor(const std::string& name) {
    tensor_ = {};
    tensor_.name = name;
    offsets_ = 0;
    fields_seen_ = {};
    if (!names_.insert(name).second) refuse("appears twice");
    if (name.size() > kMaxNameBytes)
      refuse("has a name of {} bytes, more than {}", name.size(), kMaxNameBytes);
    if (name.empty() || name.find('\0') != std::string::npos)
      refuse("has an empty name or a zero byte in it");
  }

  void start_field(const std::string& name) {
    auto field = std::find(kFields.begin(), kFields.end(), name);
    if (field == kFields.end()) refuse("has the unknown field {}", printable(name));
    bool& seen = fields_seen_[field - kFields.begin()];
    if (seen) refuse("has the key {} twice", name);
    seen = true;
  }

  void add() {
    for (size_t i = 0; i < kFields.size(); ++i)
      if (!fields_seen_[i]) refuse("has no {}", kFields[i]);
    if (header_.tensors.size() == kMaxTensors)
      fail("{}: more than {} tensors; {}", origin_, kMaxTensors, kDamaged);
    header_.tensors.push_back(std::move(tensor_));
  }

  std::string origin_;
  Header header_;
  State state_ = State::before;
  std::string key_;
  std::unordered_set<std::string> names_, metadata_keys_;
  std::array<bool, kFields.size()> fields_seen_ = {};
  TensorInfo tensor_;
  int offsets_ = 0;
};

// None if the product overflows. Zero sizes count as one in the overflow check, because strides
// computed from the shape must not overflow either.
std::optional<size_t> checked_bytes(const std::vector<int64_t>& shape, DType dtype) {
  uint64_t bytes = c10::elementSize(dtype);
  bool empty = false;
  for (int64_t size : shape) {
    empty |= size == 0;
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(std::max<int64_t>(size, 1)), &bytes) ||
        bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return std::nullopt;
  }
  return empty ? 0 : bytes;
}

// Checks that the tensors, sorted by their data, cover the data without a hole; converts begin and
// end to byte positions in the file.
void place(Header& header, size_t data_begin, size_t file_bytes, const std::string& origin) {
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  const size_t data_bytes = file_bytes - data_begin;
  size_t next = 0;
  for (TensorInfo& tensor : header.tensors) {
    auto refuse = [&](const std::string& what) {
      fail("{}: tensor {}: {}; {}", origin, printable(tensor.name), what, kDamaged);
    };
    if (tensor.end < tensor.begin) refuse("its data ends before it begins");
    if (tensor.begin != next)
      refuse(fmt::format("its data begins at byte {}, but byte {} is next: {}", tensor.begin, next,
                         tensor.begin < next ? "tensors overlap" : "there is a hole"));
    const std::optional<size_t> needed = checked_bytes(tensor.shape, tensor.dtype);
    if (!needed) refuse(fmt::format("a shape of {} overflows", shape_text(tensor.shape)));
    if (tensor.end - tensor.begin != *needed)
      refuse(fmt::format("{} of shape {} needs {} bytes, but its data_offsets span {}",
                         dtype_name(tensor.dtype), shape_text(tensor.shape), *needed,
                         tensor.end - tensor.begin));
    if (tensor.end > data_bytes)
      refuse(fmt::format("truncated: its data ends at byte {} of the file, which has {}",
                         data_begin + tensor.end, file_bytes));
    next = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (next != data_bytes)
    fail("{}: {} bytes follow the last tensor; {}", origin, data_bytes - next, kDamaged);
}

}  // namespace

Header parse_header(std::span<const std::byte> file, const std::string& origin) {
  uint64_t length = 0;
  if (file.size() < sizeof(length))
    fail("{}: truncated: {} bytes, shorter than the length of a header; download it again", origin,
         file.size());
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes)
    fail("{}: its header is said to be {} bytes long, but the format allows {}; {}", origin, length,
         kMaxHeaderBytes, kDamaged);
  if (length > file.size() - sizeof(length))
    fail("{}: truncated: the header needs {} bytes, but the file has {}; download it again", origin,
         length, file.size() - sizeof(length));
  std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length), length);
  if (!text.starts_with('{')) fail("{}: the header does not start with {{; {}", origin, kDamaged);
  // nlohmann's lexer treats a zero byte as the end of the text and would ignore the rest.
  if (size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail("{}: zero byte at {} of the header; {}", origin, zero, kDamaged);
  HeaderReader reader(origin);
  JsonValue::sax_parse(text.begin(), text.end(), &reader);
  Header header = reader.take();
  place(header, sizeof(length) + length, file.size(), origin);
  return header;
}

std::string make_header(std::vector<TensorInfo>& tensors,
                        const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    int rank_a = dtype_rank(a.dtype), rank_b = dtype_rank(b.dtype);
    return rank_a != rank_b ? rank_a > rank_b : a.name < b.name;
  });
  auto quoted = [](std::string_view text) { return JsonValue(text).dump(); };
  std::string json = "{";
  if (!metadata.empty()) {
    json += quoted(kMetadata) + ":{";
    for (const auto& [key, value] : metadata)
      json += fmt::format("{}{}:{}", json.ends_with('{') ? "" : ",", quoted(key), quoted(value));
    json += "}";
  }
  size_t offset = 0;
  for (TensorInfo& tensor : tensors) {
    tensor.begin = offset;
    tensor.end = offset += bytes_of(tensor.shape, tensor.dtype, tensor.name);
    json += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        json.size() > 1 ? "," : "", quoted(tensor.name), dtype_name(tensor.dtype),
                        fmt::join(tensor.shape, ","), tensor.begin, tensor.end);
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  const uint64_t length = json.size();
  for (TensorInfo& tensor : tensors) {
    tensor.begin += sizeof(length) + length;
    tensor.end += sizeof(length) + length;
  }
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + json;
}

size_t bytes_of(const std::vector<int64_t>& shape, DType dtype, const std::string& tensor) {
  std::optional<size_t> bytes = checked_bytes(shape, dtype);
  if (!bytes) fail("{}: a shape of {} overflows", tensor, shape_text(shape));
  return *bytes;
}

std::string printable(std::string_view name) {
  constexpr size_t kShown = 200;
  std::string text =
      JsonValue(name.substr(0, kShown)).dump(-1, ' ', true, JsonValue::error_handler_t::replace);
  text = text.substr(1, text.size() - 2);
  return name.size() > kShown ? text + "..." : text;
}

}  // namespace quern::checkpoint
