// The command line: usage errors, help, colours, exit codes for unreadable input.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/run.h"

namespace quern::cli {
namespace {

void expect_failure(const Ran& ran, int code, const std::vector<std::string>& said) {
  EXPECT_EQ(ran.code, code) << ran.err;
  EXPECT_EQ(ran.out, "");
  for (const std::string& text : said)
    EXPECT_NE(ran.err.find(text), std::string::npos) << "\"" << text << "\" in: " << ran.err;
}

TEST(ProgramTest, UnknownVerb) {
  expect_failure(quern({"compres", "x"}), 2,
                 {"no verb \"compres\"", "did you mean quern compress?"});
  expect_failure(quern({"--threads", "2", "inspct"}), 2, {"no verb \"inspct\"", "inspect"});
}

TEST(ProgramTest, UnknownOption) {
  expect_failure(quern({"compress", model(), "-o", "x", "--group_size", "32"}), 2,
                 {"no option --group_size", "--group-size"});
  expect_failure(quern({"generate", model(), "--temprature=0"}), 2,
                 {"no option --temprature", "--temperature"});
  expect_failure(quern({"inspect", model(), "--jsn"}), 2, {"--json"});
}

TEST(ProgramTest, MissingOrBadValues) {
  expect_failure(quern({"compress", model()}), 2, {"--output", "quern compress --help"});
  expect_failure(quern({"inspect"}), 2, {"MODEL"});
  expect_failure(quern({"generate", model(), "--max-tokens", "many"}), 2, {"--max-tokens"});
  expect_failure(quern({"inspect", model(), "--threads", "0"}), 2, {"--threads"});
  expect_failure(quern({"generate", model(), "--prompt", "a", "--top-p", "3"}), 2,
                 {"top_p is 3, it must lie between"});
  expect_failure(quern({"generate", model(), "--json"}), 2, {"--prompt"});
}

TEST(ProgramTest, HelpTeachesByExample) {
  const Ran all = quern({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const char* verb :
       {"compress", "verify", "inspect", "logits", "generate", "perplexity", "version"}) {
    EXPECT_NE(all.out.find(verb), std::string::npos) << verb;
    const Ran help = quern({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    const std::string example =
        std::string(verb) == "version" ? "Version" : "quern " + std::string(verb);
    EXPECT_NE(help.out.find(example), std::string::npos) << help.out;
  }
  EXPECT_EQ(quern({}).code, 2);
}

TEST(ProgramTest, Version) {
  const Ran text = quern({"--version"});
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.out.rfind("quern ", 0), 0u);
  const auto json = nlohmann::json::parse(quern({"version", "--json", "--threads", "3"}).out);
  EXPECT_EQ(json.at("threads"), 3);
  for (const char* key : {"isa", "compiler", "kernel_compiler"}) {
    const auto value = json.at(key).get<std::string>();
    EXPECT_FALSE(value.empty()) << key;
    EXPECT_NE(text.out.find(value), std::string::npos) << key;
  }
  EXPECT_EQ(nlohmann::json::parse(quern({"version", "--json"}, "", {"QUERN_CPU_ISA=reference"}).out)
                .at("isa"),
            "reference");
}

TEST(ProgramTest, ColorsOnlyWhenWanted) {
  const std::string escape = "\x1b[";
  auto said = [](const std::vector<std::string>& environment, const std::string& color = "auto") {
    return quern({"inspect", "/nowhere", "--color", color}, "", environment).err;
  };
  EXPECT_EQ(said({}).find(escape), std::string::npos);
  EXPECT_NE(said({"CLICOLOR_FORCE=1"}).find(escape), std::string::npos);
  EXPECT_EQ(said({"CLICOLOR_FORCE=1", "NO_COLOR=1"}).find(escape), std::string::npos);
  EXPECT_NE(said({"NO_COLOR=1"}, "always").find(escape), std::string::npos);
  EXPECT_EQ(said({"CLICOLOR_FORCE=1"}, "never").find(escape), std::string::npos);
}

TEST(ProgramTest, FullDisk) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  const Scratch scratch;
  const std::string ids = scratch.write("ids.json", "[[1, 2, 3]]");
  EXPECT_EQ(quern({"logits", model(), "--tokens", ids, "-o", "/dev/full/x"}).code, 7);
}

class BadModelTest : public testing::Test {
 protected:
  std::string damaged() const { return copy_of(model(), scratch_ / "model"); }

  Scratch scratch_;
};

TEST_F(BadModelTest, MissingFolder) {
  for (const char* verb : {"inspect", "generate"})
    expect_failure(quern({verb, (scratch_ / "nowhere").string()}), 4, {"nowhere"});
}

TEST_F(BadModelTest, UnknownArchitecture) {
  const std::string folder = damaged();
  auto config = nlohmann::ordered_json::parse(slurp(folder + "/config.json"));
  config["architectures"] = {"FalconForCausalLM"};
  std::ofstream(folder + "/config.json") << config.dump();
  expect_failure(quern({"generate", folder, "--prompt", "a"}), 4,
                 {"FalconForCausalLM is not supported", "Qwen3_5MoeForConditionalGeneration"});
}

TEST_F(BadModelTest, TruncatedShard) {
  const std::string folder = damaged();
  const fs::path shard = fs::path(folder) / "model-00002-of-00002.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 1000);
  expect_failure(quern({"inspect", folder}), 4, {"model-00002-of-00002.safetensors"});
}

TEST_F(BadModelTest, MissingShard) {
  const std::string folder = damaged();
  fs::remove(folder + "/model-00001-of-00002.safetensors");
  expect_failure(quern({"inspect", folder}), 4,
                 {"model-00001-of-00002.safetensors", "this shard is missing"});
}

TEST_F(BadModelTest, HostileJson) {
  const std::string folder = damaged();
  const std::string good = slurp(folder + "/config.json");
  for (const std::string& bad :
       {std::string(100'000, '['), std::string("{\"a\": 1, \"a\": 2}"), std::string("{\"a\": "),
        std::string("\xff\xfe"), std::string("[]"), std::string()}) {
    std::ofstream(folder + "/config.json", std::ios::trunc) << bad;
    expect_failure(quern({"generate", folder, "--prompt", "a"}), 4, {"config.json"});
  }
  std::ofstream(folder + "/config.json", std::ios::trunc) << good;
  std::ofstream(folder + "/model-00001-of-00002.safetensors", std::ios::trunc)
      << std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
  expect_failure(quern({"inspect", folder}), 4, {"model-00001-of-00002.safetensors"});
}

TEST_F(BadModelTest, TemplateThatRaises) {
  const std::string folder = damaged();
  std::ofstream(folder + "/chat_template.jinja", std::ios::trunc)
      << "{{ raise_exception('no system message, please') }}";
  expect_failure(quern({"generate", folder, "--prompt", "a"}), 4, {"no system message, please"});
}

}  // namespace
}  // namespace quern::cli
