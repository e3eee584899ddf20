#include "data/mixture.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace quern::data {
namespace {

namespace fs = std::filesystem;

class Mixture : public testing::Test {
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
    std::vector<Source> sources;
    for (const std::string& text : texts) sources.push_back(parse_source(text));
    std::vector<std::string> names;
    for (const Row& row : read_mixture(sources, seed)) names.push_back(row["text"]);
    return fmt::format("{}", fmt::join(names, " "));
  }

  fs::path folder_;
};

TEST_F(Mixture, TakesAllOrTheFirst) {
  const std::string a = write("a", 3), b = write("b", 4);
  EXPECT_EQ(mix({a, b + "=2"}), "a0 a1 a2 b0 b1");
  EXPECT_EQ(mix({a + "=9"}), "a0 a1 a2");
}

TEST_F(Mixture, SharesStandInProportion) {
  const std::string a = write("a", 3), b = write("b", 100);
  // The three rows of a are a quarter of twelve.
  EXPECT_EQ(mix({a + "=0.25", b + "=0.75"}), "a0 a1 a2 b0 b1 b2 b3 b4 b5 b6 b7 b8");
}

TEST_F(Mixture, ASeedChoosesAsDatasetsShuffle) {
  const std::string a = write("a", 10);
  // default_rng(42).permutation(10) starts 5, 6, 0.
  EXPECT_EQ(mix({a + "=3"}, 42), "a0 a5 a6");
  EXPECT_EQ(mix({a}, 42), "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9");
}

TEST_F(Mixture, AmountsAreChecked) {
  for (const char* amount : {"=0", "=-3", "=1.5", "=x", "=", "=0.5x"}) {
    EXPECT_THROW(parse_source(std::string("a.jsonl") + amount), Error) << amount;
  }
  EXPECT_EQ(parse_source("a.jsonl=200").count, 200);
  EXPECT_EQ(parse_source("a.jsonl=1.0").share, 1.0);
  // A file may have the mark in its name.
  const std::string odd = write("x=5", 2);
  EXPECT_EQ(parse_source(odd).file, odd);
}

TEST_F(Mixture, StopsBeforeMemoryRunsOut) {
  const std::string a = write("a", 1000);
  EXPECT_THROW(read_mixture({parse_source(a)}, std::nullopt, 1000), Error);
}

}  // namespace
}  // namespace quern::data
