#include "data/mixture.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::data {
namespace {

namespace fs = std::filesystem;

class MixtureTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("quern_mixture_") + test->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Rows {"text": "<name>0"}, {"text": "<name>1"}, ...
  std::string write(const std::string& name, int rows) const {
    const fs::path file = folder_ / (name + ".jsonl");
    std::ofstream out(file);
    for (int i = 0; i < rows; ++i) out << "{\"text\": \"" << name << i << "\"}\n";
    return file.string();
  }

  static std::string mix(const std::vector<std::string>& texts,
                         std::optional<uint64_t> seed = std::nullopt) {
    std::vector<RowSource> sources;
    for (const std::string& text : texts) sources.push_back(parse_source(text));
    std::vector<std::string> names;
    const Mixture rows(sources, seed);
    for (int64_t i = 0; i < rows.size(); ++i) names.push_back(rows.row(i)["text"]);
    return fmt::format("{}", fmt::join(names, " "));
  }

  fs::path folder_;
};

TEST_F(MixtureTest, TakesAllOrTheFirst) {
  const std::string a = write("a", 3), b = write("b", 4);
  EXPECT_EQ(mix({a, b + "=2"}), "a0 a1 a2 b0 b1");
  EXPECT_EQ(mix({a + "=9"}), "a0 a1 a2");
}

TEST_F(MixtureTest, SharesStandInProportion) {
  const std::string a = write("a", 3), b = write("b", 100);
  // The three rows of a are a quarter of twelve.
  EXPECT_EQ(mix({a + "=0.25", b + "=0.75"}), "a0 a1 a2 b0 b1 b2 b3 b4 b5 b6 b7 b8");
}

TEST_F(MixtureTest, ASeedChoosesAsDatasetsShuffle) {
  const std::string a = write("a", 10);
  // default_rng(42).permutation(10) starts 5, 6, 0.
  EXPECT_EQ(mix({a + "=3"}, 42), "a0 a5 a6");
  EXPECT_EQ(mix({a}, 42), "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9");
}

TEST_F(MixtureTest, AmountsAreChecked) {
  for (const char* amount : {"=0", "=-3", "=1.5", "=x", "=", "=0.5x"}) {
    EXPECT_THROW(parse_source(std::string("a.jsonl") + amount), Error) << amount;
  }
  EXPECT_EQ(parse_source("a.jsonl=200").count, 200);
  EXPECT_EQ(parse_source("a.jsonl=1.0").share, 1.0);
  // A file's name may contain =.
  const std::string odd = write("x=5", 2);
  EXPECT_EQ(parse_source(odd).file, odd);
}

TEST_F(MixtureTest, StopsBeforeMemoryRunsOut) {
  const std::string file = std::string(QUERN_SOURCE_DIR) + "/tests/data/rows/chat_snappy.parquet";
  const size_t bytes = open_rows(file)->prepare({0, 1}, 1 << 20);
  EXPECT_EQ(Mixture({{.file = file}}, std::nullopt, bytes).size(), 2);
  EXPECT_THROW(Mixture({{.file = file}}, std::nullopt, bytes - 1), Error);
  EXPECT_EQ(Mixture({{.file = file}, {.file = file}}, std::nullopt, 2 * bytes).size(), 4);
  EXPECT_THROW(Mixture({{.file = file}, {.file = file}}, std::nullopt, 2 * bytes - 1), Error);
}

TEST_F(MixtureTest, RowsKnowWhereTheyAreFrom) {
  const std::string a = write("a", 10), b = write("b", 2);
  const std::string table = std::string(QUERN_SOURCE_DIR) + "/tests/data/rows/chat_snappy.parquet";
  const Mixture rows({parse_source(a + "=3"), parse_source(b), parse_source(table)}, 42);
  std::vector<std::string> places;
  for (int64_t i = 0; i < rows.size(); ++i) places.push_back(rows.where(i));
  EXPECT_EQ(places, (std::vector<std::string>{a + ", line 1", a + ", line 6", a + ", line 7",
                                              b + ", line 1", b + ", line 2", table + ", row 1",
                                              table + ", row 2"}));
  EXPECT_EQ(rows.source(2), 0u);
  EXPECT_EQ(rows.source(3), 1u);
  EXPECT_EQ(rows.source(6), 2u);
}

// Only chosen rows are parsed, so a broken line that is not chosen is not an error.
TEST_F(MixtureTest, OnlyChosenRowsAreParsed) {
  const std::string a = write("a", 10);
  std::ofstream(a, std::ios::app) << "{broken\n";
  EXPECT_EQ(mix({a + "=3"}), "a0 a1 a2");
  EXPECT_EQ(mix({a + "=0.5", write("b", 3) + "=0.5"}, 42), mix({a + "=3"}, 42) + " b0 b1 b2");
  EXPECT_THROW(mix({a}), Error);
}

}  // namespace
}  // namespace quern::data
