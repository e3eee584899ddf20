#include "prompt/tokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/prompt/text_golden.h"

namespace quern::prompt {
namespace {

using Ids = std::vector<int32_t>;

// The build unpacks the real tokenizers if available.
std::filesystem::path file_of(const std::string& name) {
  if (name == "tiny") return data_folder() / "../qwen36/tokenizer.json";
  return std::filesystem::path(QUERN_UNPACKED_TOKENIZERS) / (name + ".json");
}

class Golden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(file_of(GetParam())))
      GTEST_SKIP() << "the real tokenizer " << GetParam() << " is not at hand";
  }
  const JsonValue& wanted() const { return golden()["tokenizers"][GetParam()]; }
};

TEST_P(Golden, EncodesAndDecodesAsTheReference) {
  Tokenizer tokenizer(file_of(GetParam()));
  EXPECT_EQ(tokenizer.ids(), wanted()["vocab_size"].get<int64_t>());
  ASSERT_EQ(wanted()["cases"].size(), 67u);
  for (const JsonValue& one : wanted()["cases"]) {
    std::string name = one["name"];
    std::string text = golden()["strings"][name];
    EXPECT_EQ(tokenizer.encode(text), one["ids"].get<Ids>()) << name;
    Ids special = tokenizer.encode(text, Special::add);
    EXPECT_EQ(special, one["ids_with_special"].get<Ids>()) << name;
    EXPECT_EQ(tokenizer.decode(special), one["decoded"].get<std::string>()) << name;
    EXPECT_EQ(tokenizer.decode(special, Show::text), one["decoded_skip_special"].get<std::string>())
        << name;
  }
  for (const JsonValue& one : wanted()["decode_only"]) {
    Ids ids = one["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids), one["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, Show::text), one["decoded_skip_special"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Golden,
                         testing::Values("tiny", "Qwen__Qwen3.5-0.8B", "sarvamai__sarvam-30b",
                                         "zai-org__GLM-4.7"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

}  // namespace
}  // namespace quern::prompt
