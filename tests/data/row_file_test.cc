#include "data/row_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"

namespace quern::data {
namespace {

namespace fs = std::filesystem;

class RowFileTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("quern_rows_") + test->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }

  static std::vector<Row> all(const fs::path& file, const RowLimits& limits = {}) {
    const auto file_rows = open_rows(file, limits);
    std::vector<int64_t> places(static_cast<size_t>(file_rows->size()));
    std::iota(places.begin(), places.end(), 0);
    file_rows->prepare(places, 1 << 20);
    std::vector<Row> rows;
    for (const int64_t place : places) rows.push_back(file_rows->row(place));
    return rows;
  }

  static std::string error_of(const fs::path& file, const RowLimits& limits = {}) {
    try {
      all(file, limits);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::invalid_input);
      std::string text = error.what();
      EXPECT_EQ(text.find(file.string()), 0u) << text;
      return text.substr(file.string().size());
    }
    return "read without an error";
  }

  static fs::path data(const std::string& name) {
    return fs::path(QUERN_SOURCE_DIR) / "tests/data/rows" / name;
  }

  fs::path folder_;
};

TEST_F(RowFileTest, JsonlSkipsEmptyLinesAndKeepsOrder) {
  auto rows = all(write("a.jsonl", "\xEF\xBB\xBF{\"b\": 1, \"a\": \"é\"}\r\n\n  \n{\"x\": null}"));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].dump(), R"({"b":1,"a":"é"})");
  EXPECT_EQ(rows[1].dump(), R"({"x":null})");
}

TEST_F(RowFileTest, JsonlLinesMayBeLongerThanTheReadBuffer) {
  std::string text(3'000'000, 'x');
  auto rows = all(write("a.jsonl", "{\"text\": \"" + text + "\"}\n{\"text\": \"y\"}\n"));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["text"], text);
  EXPECT_EQ(rows[1]["text"], "y");
  EXPECT_EQ(error_of(folder_ / "a.jsonl", {.row_bytes = 1000}), ", line 1: longer than 1000 bytes");
}

TEST_F(RowFileTest, JsonlErrorsNameTheLine) {
  EXPECT_EQ(error_of(write("a.jsonl", "{}\n{\"a\": }\n")).find(", line 2: not valid JSON at byte"),
            0u);
  EXPECT_EQ(error_of(write("b.jsonl", "{}\n\n[1]\n")),
            ", line 3: a row must be an object, found array");
  EXPECT_EQ(error_of(write("c.jsonl", "{\"a\": \"\xC0\x80\"}\n")), ", line 1: not valid UTF-8");
  EXPECT_EQ(error_of(write("d.jsonl", std::string(200, '[')), {.depth = 64}),
            ", line 1: nested deeper than 64 levels");
}

TEST_F(RowFileTest, JsonIsAListOfObjects) {
  auto rows =
      all(write("a.json", "\xEF\xBB\xBF [{\"text\": \"a, ]}\\\"\"}\n, {\"text\": [\"b\"]}]\n"));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["text"], "a, ]}\"");
  EXPECT_EQ(rows[1].dump(), R"({"text":["b"]})");
  EXPECT_EQ(open_rows(folder_ / "a.json")->where(1), (folder_ / "a.json").string() + ", row 2");
  EXPECT_EQ(error_of(write("c.json", "[{}, 3]")), ", row 2: a row must be an object, found number");
  EXPECT_EQ(error_of(write("d.json", "[{}, {\"a\": }]")).find(", row 2: not valid JSON at byte"),
            0u);
  EXPECT_EQ(error_of(write("e.json", "[{}, {}")), ": the list is not closed");
  EXPECT_EQ(error_of(write("f.json", "[{},")), ": the list is not closed");
  EXPECT_EQ(error_of(write("g.json", "[{},]")), ", line 1: not valid JSON at byte 4, near \"]\"");
  EXPECT_EQ(error_of(write("h.json", "[{}]\n[{}]")),
            ", line 2: not valid JSON at byte 5, near \"[\"");
  EXPECT_EQ(error_of(write("i.json", "[{} {}]")), ", line 1: not valid JSON at byte 4, near \"{\"");
  EXPECT_EQ(error_of(write("j.json", "[{},\n{\"a\": [1]")), ", line 2: this row is not closed");
  EXPECT_EQ(error_of(write("k.json", "[{\"a\\\": 1}]")), ", line 1: a string is not closed");
  EXPECT_EQ(error_of(write("l.json", "[" + std::string(200, '[') + std::string(200, ']') + "]")),
            ", row 1: nested deeper than 64 levels");
}

// As Hugging Face's datasets reads it, and as many programs write it.
TEST_F(RowFileTest, JsonMayHoldOneObjectALine) {
  auto rows = all(write("a.json", "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\r\n{\n\"text\": \"c\"}"));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[2]["text"], "c");
  const auto file = open_rows(folder_ / "a.json");
  EXPECT_EQ(file->where(1), (folder_ / "a.json").string() + ", line 3");
  EXPECT_EQ(file->where(2), (folder_ / "a.json").string() + ", line 4");
  EXPECT_EQ(error_of(write("b.json", "{}\n3\n")),
            ", line 2: expected a list of objects, or consecutive objects");
  EXPECT_EQ(error_of(write("c.json", "\"text\"")),
            ", line 1: expected a list of objects, or consecutive objects");
}

// Rows after the last needed row are not read.
TEST_F(RowFileTest, TheNumberOfRowsMayBeBounded) {
  for (const char* text : {"a.jsonl", "a.json"}) {
    const auto rows = open_rows(write(text, "{\"a\": 1}\n{\"a\": 2}\n{broken"), {.rows = 2});
    EXPECT_EQ(rows->size(), 2);
    EXPECT_EQ(rows->row(1)["a"], 2);
  }
  EXPECT_EQ(open_rows(write("a.csv", "x\n1\n2\n\"3"), {.rows = 2})->size(), 2);
  EXPECT_EQ(open_rows(data("chat_snappy.parquet"), {.rows = 1})->size(), 1);
}

TEST_F(RowFileTest, CsvQuotes) {
  auto rows = all(write("a.csv",
                        "question,answer\r\n"
                        "\"a, \"\"b\"\"\",1\r\n"
                        "\r\n"
                        "\"two\r\nlines\",\n"
                        ",\"\"\n"));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].dump(), R"({"question":"a, \"b\"","answer":"1"})");
  EXPECT_EQ(rows[1].dump(), R"({"question":"two\nlines","answer":""})");
  EXPECT_EQ(rows[2].dump(), R"({"question":"","answer":""})");
}

TEST_F(RowFileTest, CsvErrorsNameTheLine) {
  EXPECT_EQ(error_of(write("a.csv", "x,y\n1,2\n1\n")),
            ", line 3: 1 fields, but the header has 2 columns");
  EXPECT_EQ(error_of(write("b.csv", "x,y\n1,\"2\n3\n")), ", line 2: a quoted field is not closed");
  EXPECT_EQ(error_of(write("c.csv", "x\n\"1\"2\n")),
            ", line 2: text after the closing quotation mark of a field");
  EXPECT_EQ(error_of(write("d.csv", "x\n1\"2\n")),
            ", line 2: a quotation mark inside a field that is not quoted");
  EXPECT_EQ(error_of(write("e.csv", "x,x\n1,2\n")), ", line 1: a column name appears twice");
}

TEST_F(RowFileTest, TextIsOneRow) {
  auto rows = all(write("a.txt", "one\n\ntwo\n"));
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0]["text"], "one\n\ntwo\n");
}

TEST_F(RowFileTest, ParquetNestedAndNull) {
  for (const char* name : {"chat_snappy.parquet", "chat_gzip.parquet", "chat_zstd.parquet",
                           "chat_brotli.parquet", "chat_lz4.parquet"}) {
    auto rows = all(data(name));
    ASSERT_EQ(rows.size(), 2u) << name;
    EXPECT_EQ(rows[0]["messages"].size(), 2u);
    EXPECT_EQ(rows[0]["messages"][1]["content"], "one two");
    EXPECT_EQ(rows[0]["score"], 1.5);
    EXPECT_EQ(rows[0]["ids"].dump(), "[1,2,3]");
    EXPECT_EQ(rows[1]["messages"][1]["content"], "नमस्ते");
    EXPECT_TRUE(rows[1]["messages"][2]["content"].is_null());
    EXPECT_TRUE(rows[1]["score"].is_null());
    EXPECT_EQ(rows[1]["id"], int64_t{1} << 40);
    EXPECT_EQ(rows[1]["ids"].dump(), "[]");
  }
}

TEST_F(RowFileTest, ParquetErrors) {
  EXPECT_NE(error_of(write("a.parquet", "PAR1 this is not parquet")).find("Parquet"),
            std::string::npos);
  const auto rows = open_rows(data("chat_zstd.parquet"));
  EXPECT_THROW(rows->prepare({2}, 1 << 20), Error);
}

TEST_F(RowFileTest, FilesWithoutRowsAreRefused) {
  const std::string message = ": the file contains no rows";
  EXPECT_EQ(error_of(write("a.jsonl", "\n\n")), message);
  EXPECT_EQ(error_of(write("a.json", "[]")), message);
  EXPECT_EQ(error_of(write("a.json", " ")), message);
  EXPECT_EQ(error_of(write("a.csv", "x,y\n")), message);
  EXPECT_EQ(error_of(write("b.csv", "")), message);
  EXPECT_EQ(error_of(write("a.txt", "")), message);
  EXPECT_EQ(error_of(data("empty.parquet")), message);
}

TEST_F(RowFileTest, UnknownFilesAreRefused) {
  EXPECT_EQ(error_of(folder_ / "none.jsonl"), ": there is no such file");
  EXPECT_EQ(error_of(folder_), ": is not a file");
  EXPECT_EQ(error_of(write("a.xlsx", "x")),
            ": unknown extension; rows are read from .jsonl, .json, .csv, .txt and .parquet files");
}

}  // namespace
}  // namespace quern::data
