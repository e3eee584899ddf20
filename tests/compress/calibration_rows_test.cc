#include "compress/calibration_rows.h"

#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "compress/calibrate.h"
#include "data/mixture.h"
#include "models/models.h"

namespace quern::compress {
namespace {

namespace fs = std::filesystem;
using data::Row;
using Windows = std::vector<std::vector<int32_t>>;

fs::path data_folder() { return fs::path(QUERN_SOURCE_DIR) / "tests/data"; }

data::Mixture rows_of(const std::string& file) {
  return data::Mixture({{.file = data_folder() / file}}, std::nullopt);
}

// Rows in memory, for tests.
class Listed : public data::Rows {
 public:
  explicit Listed(std::vector<Row> rows) : rows_(std::move(rows)) {}

  int64_t size() const override { return std::ssize(rows_); }
  Row row(int64_t i) const override {
    ++parsed;
    return rows_.at(static_cast<size_t>(i));
  }
  std::string where(int64_t i) const override { return fmt::format("list, row {}", i + 1); }

  mutable std::atomic<int64_t> parsed = 0;

 private:
  std::vector<Row> rows_;
};

class CalibrationRows : public testing::Test {
 protected:
  CalibrationWindows windows(const data::Rows& rows, const CalibrationOptions& options) const {
    return calibration_windows(rows, tokenizer_, {.chat = [&] { return &chat_; }}, options);
  }
  CalibrationWindows windows(std::vector<Row> rows, const CalibrationOptions& options) const {
    return windows(Listed(std::move(rows)), options);
  }

  std::string error_of(std::vector<Row> rows, const CalibrationOptions& options) const {
    try {
      windows(std::move(rows), options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  // Ids, to make the lengths obvious.
  static Row ids(std::vector<int> list) { return {{"input_ids", std::move(list)}}; }

  prompt::Tokenizer tokenizer_{data_folder() / "tiny-qwen3.6"};
  prompt::ChatTemplate chat_ = prompt::ChatTemplate::of_folder(data_folder() / "tiny-qwen3.6");
};

TEST_F(CalibrationRows, EqualsTheWindowsThatThePeersWereGiven) {
  const CalibrationOptions options{.seqlen = 256,
                                   .samples = 64,
                                   .packing = Packing::concat,
                                   .shuffle_seed = std::nullopt,
                                   .tools = Tools::ignore};
  const auto result = windows(rows_of("calibration/calibration.jsonl"), options);
  Windows wanted;
  const data::Mixture given = rows_of("calibration/calibration_64x256.jsonl");
  for (int64_t i = 0; i < given.size(); ++i)
    wanted.push_back(given.row(i)["input_ids"].get<std::vector<int32_t>>());
  ASSERT_EQ(wanted.size(), 64u);
  EXPECT_EQ(result.windows, wanted);
  EXPECT_EQ(result.report.tokens_used, 64 * 256);
  EXPECT_EQ(result.report.rows, 512);
  EXPECT_LT(result.report.rows_read, 512);
}

TEST_F(CalibrationRows, ToolsChangeTheRendering) {
  const auto rows = rows_of("calibration/calibration.jsonl");
  CalibrationOptions options{.seqlen = 1 << 20, .samples = 512, .packing = Packing::truncate};
  const auto with = windows(rows, options).report;
  options.tools = Tools::ignore;
  const auto without = windows(rows, options).report;
  EXPECT_GT(with.tokens_used, without.tokens_used);
  EXPECT_EQ(with.windows, 512);
}

TEST_F(CalibrationRows, ThreadsDoNotChangeTheWindows) {
  const auto rows = rows_of("calibration/calibration.jsonl");
  const CalibrationOptions options{.seqlen = 128, .samples = 100};
  set_threads(1);
  const Windows one = windows(rows, options).windows;
  set_threads(4);
  EXPECT_EQ(windows(rows, options).windows, one);
  EXPECT_EQ(one.size(), 100u);
}

TEST_F(CalibrationRows, ShuffleOrderIsNumpys) {
  std::vector<Row> rows;
  for (int i = 0; i < 10; ++i) rows.push_back(ids({i, i + 100}));
  const auto result = windows(rows, {.seqlen = 2, .samples = 3, .packing = Packing::drop});
  EXPECT_EQ(result.windows, (Windows{{5, 105}, {6, 106}, {0, 100}}));
}

TEST_F(CalibrationRows, PackingConcat) {
  const std::vector<Row> rows = {ids({1, 2, 3}), ids({4}), ids({}), ids({5, 6, 7, 8, 9, 10, 11})};
  const auto [result, images, report] =
      windows(rows, {.seqlen = 4, .samples = 9, .packing = Packing::concat, .shuffle_seed = {}});
  EXPECT_EQ(result, (Windows{{1, 2, 3, 4}, {5, 6, 7, 8}}));
  EXPECT_EQ(report.rows_read, 4);
  EXPECT_EQ(report.rows_dropped, 1);
  EXPECT_EQ(report.tokens_read, 11);
  EXPECT_EQ(report.tokens_used, 8);
  EXPECT_EQ(report.tokens_dropped, 3);
  EXPECT_EQ(
      to_text(report),
      "calibration: 4 of 4 rows read, 1 dropped; 2 windows; 8 tokens used, 3 dropped, 0 padded");
}

TEST_F(CalibrationRows, PackingTruncate) {
  const std::vector<Row> rows = {ids({1, 2, 3}), ids({}), ids({4, 5, 6, 7, 8, 9})};
  const auto [result, images, report] =
      windows(rows, {.seqlen = 4, .samples = 9, .packing = Packing::truncate, .shuffle_seed = {}});
  EXPECT_EQ(result, (Windows{{1, 2, 3}, {4, 5, 6, 7}}));
  EXPECT_EQ(report.short_windows, 1);
  EXPECT_EQ(report.tokens_dropped, 2);
  EXPECT_TRUE(images.empty());
}

// The fixture's picture takes 6 soft tokens; a window may cut it.
TEST(CalibrationImagesTest, WindowsHoldPictures) {
  prepare_torch();
  const fs::path folder = data_folder() / "qwen36";
  const auto source = std::make_shared<nn::Source>(folder);
  const auto model = models::make_model(source->files.config());
  const auto tower = model->vision(nn::Weights(source));
  const prompt::ImageReader reader(prompt::image_processor(folder), *model->image_tokens());
  const CalibrationImages images = {&reader, tower.get(), [](int64_t row, const std::string& name) {
                                      EXPECT_EQ(row, 1);
                                      return read_file(data_folder() / "image" / name);
                                    }};
  const JsonValue part = {{"type", "image"}, {"path", "gradient.png"}};
  const JsonValue content = JsonValue::array({part, {{"type", "text"}, {"text", "what?"}}});
  const JsonValue message = {{"role", "user"}, {"content", content}};
  const Listed rows({{{"input_ids", {33, 34, 35}}}, {{"messages", JsonValue::array({message})}}});
  const prompt::Tokenizer tokenizer(folder);
  const auto chat = prompt::ChatTemplate::of_folder(folder);
  CalibrationOptions options{
      .seqlen = 512, .samples = 9, .packing = Packing::truncate, .shuffle_seed = {}};
  CalibrationParts parts{.chat = [&] { return &chat; }};
  EXPECT_THROW(calibration_windows(rows, tokenizer, parts, options), Error) << "no tower";
  parts.images = [&] { return &images; };
  const CalibrationWindows all = calibration_windows(rows, tokenizer, parts, options);
  ASSERT_EQ(all.windows.size(), 2u);
  ASSERT_EQ(all.images.size(), 2u);
  EXPECT_TRUE(all.images[0].empty());
  ASSERT_EQ(all.images[1].size(), 1u);
  const nn::PlacedImage& image = all.images[1][0];
  EXPECT_EQ(std::count(all.windows[1].begin(), all.windows[1].end(), 14), 6);
  EXPECT_EQ(all.windows[1][image.first], 14);
  EXPECT_EQ(all.windows[1][image.end() - 1], 14);
  EXPECT_EQ(image.features.size(0), 6);

  options.seqlen = image.first + 2;
  const CalibrationWindows cut = calibration_windows(rows, tokenizer, parts, options);
  EXPECT_EQ(cut.images[1].size(), 1u);
  const Samples samples = embed(*model->stem(nn::Weights(source)), cut.windows, cut.images, true);
  const Tensor rows_of_last = samples.read({samples.count() - 1});
  const Tensor last = rows_of_last.narrow(0, rows_of_last.size(0) - 2, 2);
  // Samples are kept in bf16.
  EXPECT_TRUE(at::equal(last, image.features.narrow(0, 0, 2).to(at::kBFloat16).to(at::kFloat)));

  options.seqlen = image.first;
  EXPECT_TRUE(calibration_windows(rows, tokenizer, parts, options).images.empty());
  options.packing = Packing::concat;
  EXPECT_THROW(calibration_windows(rows, tokenizer, parts, options), Error);
}

TEST_F(CalibrationRows, PackingDrop) {
  const std::vector<Row> rows = {ids({1, 2, 3}), ids({7, 7, 7, 7, 1}), ids({4, 5, 6, 7, 8}),
                                 ids({9, 9, 1, 2})};
  const auto [result, images, report] =
      windows(rows, {.seqlen = 4, .samples = 9, .packing = Packing::drop, .shuffle_seed = {}});
  EXPECT_EQ(result, (Windows{{4, 5, 6, 7}, {9, 9, 1, 2}}));
  EXPECT_EQ(report.rows_dropped, 2);
  EXPECT_EQ(report.tokens_dropped, 9);
}

// Agent data have the arguments of calls as text or as an object; templates need the object.
TEST_F(CalibrationRows, ArgumentsOfToolCallsMayBeText) {
  auto row = [](const JsonValue& arguments) {
    const JsonValue call = {{"id", "1"},
                            {"type", "function"},
                            {"function", {{"name", "add_item"}, {"arguments", arguments}}}};
    return Row{
        {"messages",
         JsonValue::array(
             {{{"role", "user"}, {"content", "Put two melons on my list."}},
              {{"role", "assistant"}, {"content", ""}, {"tool_calls", JsonValue::array({call})}},
              {{"role", "tool"}, {"tool_call_id", "1"}, {"content", "{}"}}})}};
  };
  const CalibrationOptions options{
      .seqlen = 999, .samples = 9, .packing = Packing::truncate, .shuffle_seed = {}};
  const auto made =
      windows({row({{"item", "melon"}, {"count", 2}}), row("{\"item\": \"melon\", \"count\": 2}"),
               row(JsonValue::object()), row(""), row(nullptr)},
              options)
          .windows;
  EXPECT_NE(tokenizer_.decode(made[0]).find("melon\n"), std::string::npos);
  EXPECT_EQ(made[1], made[0]);
  EXPECT_NE(made[2], made[0]);
  EXPECT_EQ(made[3], made[2]);
  EXPECT_EQ(made[4], made[2]);
}

TEST_F(CalibrationRows, ShareGptsSystemColumnComesFirst) {
  auto row = [](const JsonValue& system, bool turn) {
    JsonValue turns = JsonValue::array(
        {{{"from", "human"}, {"value", "What is 5 * 6?"}}, {{"from", "gpt"}, {"value", "30"}}});
    if (turn)
      turns.insert(turns.begin(), JsonValue{{"from", "system"}, {"value", "You speak in rhymes."}});
    return Row{{"system", system}, {"conversations", turns}};
  };
  const CalibrationOptions options{
      .seqlen = 99, .samples = 9, .packing = Packing::truncate, .shuffle_seed = {}};
  const auto made = windows({row(nullptr, true), row("You speak in rhymes.", false),
                             row("Another voice.", true), row("", false), row(nullptr, false)},
                            options)
                        .windows;
  EXPECT_NE(tokenizer_.decode(made[0]).find("rhymes"), std::string::npos);
  EXPECT_EQ(made[1], made[0]);
  EXPECT_EQ(made[2], made[0]);
  EXPECT_NE(made[3], made[0]);
  EXPECT_EQ(made[4], made[3]);
}

TEST_F(CalibrationRows, EveryKindOfRow) {
  const JsonValue question = {{"role", "user"}, {"content", "What is 5 * 6?"}};
  const JsonValue answer = {{"role", "assistant"}, {"content", "30"}};
  const Row chat = {{"messages", JsonValue::array({question, answer})}};
  const Row split = {{"prompt", JsonValue::array({question})},
                     {"completion", JsonValue::array({answer})}};
  const Row sharegpt = {
      {"conversations", JsonValue::array({JsonValue{{"from", "human"}, {"value", "What is 5 * 6?"}},
                                          JsonValue{{"from", "gpt"}, {"value", "30"}}})}};
  const CalibrationOptions options{
      .seqlen = 99, .samples = 9, .packing = Packing::truncate, .shuffle_seed = {}};
  const auto chats = windows({chat, split, sharegpt}, options).windows;
  const std::string text = tokenizer_.decode(chats[0]);
  EXPECT_NE(text.find("What is 5 * 6?"), std::string::npos);
  EXPECT_EQ(text, chat_.render(chat["messages"]));
  EXPECT_EQ(chats[1], chats[0]);
  EXPECT_EQ(chats[2], chats[0]);

  const auto texts =
      windows({{{"text", "5 * 6 = 30"}}, {{"prompt", "5 * 6 "}, {"completion", "= 30"}}}, options)
          .windows;
  EXPECT_EQ(texts[0], tokenizer_.encode("5 * 6 = 30", prompt::Special::add));
  EXPECT_EQ(texts[1], texts[0]);
}

TEST_F(CalibrationRows, ErrorsNameTheRow) {
  const CalibrationOptions options{.seqlen = 4, .samples = 9, .shuffle_seed = {}};
  EXPECT_EQ(
      error_of({ids({1}), {{"question", "?"}, {"answer", "!"}}}, options),
      "list, row 2: it has none of the columns input_ids, messages, conversations, prompt with "
      "completion, text; its columns: question, answer");
  EXPECT_EQ(error_of({ids({1, -1})}, options).find("list, row 1: input_ids: -1"), 0u);
  EXPECT_EQ(error_of({ids({1'000'000})}, options).find("list, row 1: input_ids: 1000000"), 0u);
  EXPECT_EQ(error_of({{{"text", 5}}}, options), "list, row 1: text must be a string, found number");
  EXPECT_EQ(error_of({{{"messages", JsonValue::array()}}}, options).find("list, row 1: "), 0u);
  EXPECT_EQ(error_of({{{"conversations", {{{"from", "moon"}, {"value", "x"}}}}}}, options),
            "list, row 1: conversations[0]: unknown speaker \"moon\"; expected human, gpt, system "
            "or tool");
}

TEST_F(CalibrationRows, ErrorsNameFileAndLine) {
  const fs::path file = fs::path(testing::TempDir()) / "quern_chats.jsonl";
  write_file(file, "{\"text\": \"x\"}\n\n{\"text\": 5}\n");
  const data::Mixture rows(
      {{.file = data_folder() / "calibration/calibration.jsonl", .count = 2}, {.file = file}},
      std::nullopt);
  try {
    windows(rows, {.seqlen = 1 << 20, .samples = 9, .shuffle_seed = {}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), file.string() + ", line 3: text must be a string, found number");
  }
  fs::remove(file);
}

// Rows after the last window are not even parsed.
TEST_F(CalibrationRows, RowsAreParsedUntilThereAreWindowsEnough) {
  const Listed rows(std::vector<Row>(10'000, ids({1, 2, 3, 4})));
  EXPECT_EQ(windows(rows, {.seqlen = 4, .samples = 70}).report.windows, 70);
  EXPECT_LE(rows.parsed, 128);
}

TEST_F(CalibrationRows, NoWindowsIsAnError) {
  EXPECT_EQ(error_of({}, {}), "calibration: the data contain no rows");
  EXPECT_EQ(
      error_of({ids({1, 2, 3})}, {.seqlen = 4, .samples = 1, .packing = Packing::drop}),
      "no calibration window: 1 rows hold 3 tokens, the longest 3, but a window takes 4; give "
      "more data, a smaller --seqlen, or another --packing");
  EXPECT_NE(error_of({ids({1})}, {.seqlen = 0}), "");
  EXPECT_THROW(parse_packing("pad"), Error);
  EXPECT_EQ(parse_packing("truncate"), Packing::truncate);
}

TEST_F(CalibrationRows, ChatsNeedATemplate) {
  const Row chat = {{"messages", JsonValue::array({{{"role", "user"}, {"content", "x"}}})}};
  EXPECT_THROW(calibration_windows(Listed(std::vector<Row>{chat}), tokenizer_, {}, {.seqlen = 1}),
               Error);
}

}  // namespace
}  // namespace quern::compress
