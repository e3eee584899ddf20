#include "compress/calibration_rows.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "prompt/chat_images.h"
#include "prompt/tool_calls.h"

namespace quern::compress {
namespace {

using Ids = std::vector<int32_t>;

struct RowTokens {
  Ids ids;
  std::vector<nn::PlacedImage> images = {};
};

// Rows tokenized at a time: enough for every thread, and few enough that the first windows do not
// need a whole file.
constexpr int64_t kBatch = 64;

bool has(const data::Row& row, const char* column) {
  return row.contains(column) && !row[column].is_null();
}

// Turns one row into tokens.
class Renderer {
 public:
  Renderer(const data::Rows& rows, const prompt::Tokenizer& tokenizer,
           const CalibrationParts& parts, const CalibrationOptions& options)
      : rows_(rows), tokenizer_(tokenizer), parts_(parts), options_(options) {}

  RowTokens tokens(int64_t number) const {
    const data::Row row = rows_.row(number);
    try {
      return tokens_of(row, number);
    } catch (const Error& error) {
      fail(error.code(), "{}: {}", rows_.where(number), error.what());
    }
  }

 private:
  RowTokens tokens_of(const data::Row& row, int64_t number) const {
    if (has(row, "input_ids")) return {given(row["input_ids"])};
    if (has(row, "messages")) return chat(row["messages"], row, number);
    if (has(row, "conversations")) return chat(from_sharegpt(row), row, number);
    if (has(row, "prompt") && has(row, "completion")) return completed(row, number);
    if (has(row, "text")) return {plain(text_of(row["text"], "text"))};
    std::vector<std::string> columns;
    for (auto it = row.begin(); it != row.end(); ++it) columns.push_back(it.key());
    fail(
        "it has none of the columns input_ids, messages, conversations, prompt with completion, "
        "text; its columns: {}",
        fmt::join(columns, ", "));
  }

  Ids given(const JsonValue& value) const {
    Ids ids;
    for (int64_t id : Json(value, "input_ids").as<std::vector<int64_t>>()) {
      const int64_t most = options_.vocabulary > 0 ? options_.vocabulary : tokenizer_.ids();
      if (id < 0 || id >= most) fail("input_ids: {} is outside the vocabulary of {}", id, most);
      ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  Ids plain(const std::string& text) const { return tokenizer_.encode(text, prompt::Special::add); }

  RowTokens completed(const data::Row& row, int64_t number) const {
    const JsonValue& asked = row["prompt"];
    const JsonValue& answered = row["completion"];
    if (!asked.is_array() || !answered.is_array()) {
      return {plain(text_of(asked, "prompt") + text_of(answered, "completion"))};
    }
    JsonValue messages = asked;
    for (const JsonValue& message : answered) messages.push_back(message);
    return chat(messages, row, number);
  }

  RowTokens chat(const JsonValue& messages, const data::Row& row, int64_t number) const {
    if (!prompt::has_images(messages)) return {rendered(messages, row, number)};
    const CalibrationImages* media = parts_.images ? parts_.images() : nullptr;
    if (!media) fail("it has pictures, but this model takes none; use rows with text only");
    const auto [texts, images] = prompt::take_images(
        messages, [&](const std::string& name) { return media->file(number, name); });
    const prompt::ImagePrompt prompt = (*media->reader)(rendered(texts, row, number), images);
    at::NoGradGuard no_grad;
    RowTokens result{prompt.tokens};
    for (const auto& [first, patches] : prompt.images) {
      result.images.push_back(
          {first, patches.soft_rows(), patches.soft_columns(), (*media->tower)(patches)});
    }
    return result;
  }

  // The template writes the special tokens itself.
  Ids rendered(const JsonValue& messages, const data::Row& row, int64_t number) const {
    const prompt::ChatTemplate* chat = parts_.chat ? parts_.chat() : nullptr;
    if (!chat)
      fail("it is a conversation, but this model has no chat template; use rows with text");
    prompt::ChatOptions options{.variables = options_.variables};
    if (options_.tools == Tools::use && has(row, "tools")) options.tools = tools_of(row["tools"]);
    JsonValue opened = messages;
    for (size_t i = 0; i < opened.size(); ++i)
      prompt::open_arguments(opened[i], fmt::format("{}: messages[{}]", rows_.where(number), i));
    return tokenizer_.encode(chat->render(opened, options), prompt::Special::none);
  }

  // Tables often store the list as text, because its schemas differ from row to row.
  static JsonValue tools_of(const JsonValue& value) {
    JsonValue tools = value.is_string() ? parse_json(value.get<std::string>(), "tools") : value;
    if (tools.empty()) return nullptr;
    if (!tools.is_array()) fail("tools must be a list, found {}", tools.type_name());
    return tools;
  }

  static std::string text_of(const JsonValue& value, const char* column) {
    return Json(value, column).as<std::string>();
  }

  static JsonValue from_sharegpt(const data::Row& row) {
    JsonValue messages = JsonValue::array();
    const Json list(row["conversations"], "conversations");
    for (size_t i = 0; i < list.size(); ++i) messages.push_back(message_of(list.at(i)));
    const std::string system = has(row, "system") ? text_of(row["system"], "system") : "";
    // A system turn in the conversation takes precedence over the column.
    const bool given =
        !messages.empty() && messages[0].contains("role") && messages[0]["role"] == "system";
    if (!system.empty() && !given)
      messages.insert(messages.begin(), JsonValue{{"role", "system"}, {"content", system}});
    return messages;
  }

  static JsonValue message_of(const Json& turn) {
    static const std::map<std::string, std::string> kRoles = {
        {"human", "user"},    {"user", "user"}, {"gpt", "assistant"},   {"assistant", "assistant"},
        {"system", "system"}, {"tool", "tool"}, {"observation", "tool"}};
    if (turn.has("role")) return turn.value();
    const std::string speaker = turn.get<std::string>("from");
    const auto role = kRoles.find(speaker);
    if (role == kRoles.end())
      fail("{}: unknown speaker \"{}\"; expected human, gpt, system or tool", turn.path(), speaker);
    return {{"role", role->second}, {"content", turn.get<std::string>("value")}};
  }

  const data::Rows& rows_;
  const prompt::Tokenizer& tokenizer_;
  const CalibrationParts& parts_;
  const CalibrationOptions& options_;
};

// Collects windows row by row until there are enough.
class Packer {
 public:
  explicit Packer(const CalibrationOptions& options) : options_(options) {}

  bool full() const { return static_cast<int64_t>(result_.windows.size()) == options_.samples; }

  void add(RowTokens row) {
    CalibrationReport& report = result_.report;
    ++report.rows_read;
    report.tokens_read += std::ssize(row.ids);
    longest_ = std::max(longest_, std::ssize(row.ids));
    if (options_.packing == Packing::concat && !row.images.empty()) {
      fail(Exit::usage, "rows with pictures are not joined: choose --packing truncate or drop");
    }
    const bool used =
        options_.packing == Packing::concat ? concat(row.ids) : single(std::move(row));
    if (!used) ++report.rows_dropped;
  }

  CalibrationWindows finish(int64_t rows) {
    CalibrationReport& report = result_.report;
    report.rows = rows;
    report.windows = std::ssize(result_.windows);
    for (const Ids& window : result_.windows) {
      report.tokens_used += std::ssize(window);
      if (std::ssize(window) < options_.seqlen) ++report.short_windows;
    }
    report.tokens_dropped = report.tokens_read - report.tokens_used;
    if (report.images == 0) result_.images.clear();
    if (report.windows == 0) {
      fail(
          "no calibration window: {} rows hold {} tokens, the longest {}, but a window takes {}; "
          "give more data, a smaller --seqlen, or another --packing",
          report.rows_read, report.tokens_read, longest_, options_.seqlen);
    }
    return std::move(result_);
  }

 private:
  bool concat(const Ids& ids) {
    rest_.insert(rest_.end(), ids.begin(), ids.end());
    size_t at = 0;
    const size_t length = static_cast<size_t>(options_.seqlen);
    for (; !full() && rest_.size() - at >= length; at += length) {
      result_.windows.emplace_back(rest_.begin() + static_cast<ptrdiff_t>(at),
                                   rest_.begin() + static_cast<ptrdiff_t>(at + length));
    }
    rest_.erase(rest_.begin(), rest_.begin() + static_cast<ptrdiff_t>(at));
    return !ids.empty();
  }

  bool single(RowTokens row) {
    Ids& ids = row.ids;
    const bool too_short = std::ssize(ids) < options_.seqlen;
    if (ids.empty() || (options_.packing == Packing::drop && too_short)) return false;
    if (!too_short) ids.resize(static_cast<size_t>(options_.seqlen));
    if (options_.packing == Packing::drop &&
        std::count(ids.begin(), ids.end(), ids.back()) > options_.seqlen / 2) {
      return false;
    }
    std::erase_if(row.images,
                  [&](const nn::PlacedImage& image) { return image.first >= std::ssize(ids); });
    result_.report.images += std::ssize(row.images);
    result_.images.push_back(std::move(row.images));
    result_.windows.push_back(std::move(ids));
    return true;
  }

  const CalibrationOptions& options_;
  CalibrationWindows result_;
  Ids rest_;  // of concatenated rows, not yet a window
  std::ptrdiff_t longest_ = 0;
};

}  // namespace

Packing parse_packing(const std::string& name) {
  if (name == "concat") return Packing::concat;
  if (name == "truncate") return Packing::truncate;
  if (name == "drop") return Packing::drop;
  fail(Exit::usage, "packing \"{}\" is unknown; expected concat, truncate or drop", name);
}

std::string to_text(const CalibrationReport& report) {
  std::string text = fmt::format(
      "calibration: {} of {} rows read, {} dropped; {} windows; {} tokens used, {} dropped, {} "
      "padded",
      report.rows_read, report.rows, report.rows_dropped, report.windows, report.tokens_used,
      report.tokens_dropped, report.tokens_padded);
  if (report.short_windows > 0) text += fmt::format("; {} windows are short", report.short_windows);
  if (report.images > 0) text += fmt::format("; {} pictures", report.images);
  return text;
}

CalibrationWindows calibration_windows(const data::Rows& rows, const prompt::Tokenizer& tokenizer,
                                       const CalibrationParts& parts,
                                       const CalibrationOptions& options) {
  if (options.seqlen < 1 || options.samples < 1) {
    fail(Exit::usage, "calibration: seqlen is {} and samples {}, both must be at least 1",
         options.seqlen, options.samples);
  }
  const int64_t count = rows.size();
  if (count == 0) fail("calibration: the data contain no rows");
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  if (options.shuffle_seed) order = NumpyRandom(*options.shuffle_seed).permutation(count);
  const Renderer renderer(rows, tokenizer, parts, options);
  Packer packer(options);
  for (int64_t begin = 0; begin < count && !packer.full(); begin += kBatch) {
    std::vector<RowTokens> batch(static_cast<size_t>(std::min(kBatch, count - begin)));
    parallel_for(std::ssize(batch), [&](int64_t i) {
      batch[static_cast<size_t>(i)] = renderer.tokens(order[static_cast<size_t>(begin + i)]);
    });
    for (size_t i = 0; i < batch.size() && !packer.full(); ++i) packer.add(std::move(batch[i]));
  }
  return packer.finish(count);
}

}  // namespace quern::compress
