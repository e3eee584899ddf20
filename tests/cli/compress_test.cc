// quern compress from the command line to the published folder, and every way to fail.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "layouts/headers.h"
#include "tests/cli/run.h"

namespace quern::cli {
namespace {

std::map<std::string, std::string> hashes(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      all[fs::relative(entry, folder).string()] = sha256_of_file(entry.path());
  return all;
}

class CompressTest : public testing::Test {
 protected:
  CompressTest()
      : rows_(scratch_.write("rows.jsonl", rows(24))), out_((scratch_ / "out").string()) {}

  static std::string rows(int count) {
    std::string text;
    for (int i = 0; i < count; ++i)
      text += fmt::format(
          R"({{"messages": [{{"role": "user", "content": "What is {} + {}?"}}, {{"role": "assistant", "content": "{} + {} = {}"}}]}})"
          "\n",
          i, i + 3, i, i + 3, 2 * i + 3);
    return text;
  }

  Ran compress(std::vector<std::string> more, const std::string& source = model()) const {
    std::vector<std::string> args = {"compress", source, "-o", out_, "--threads", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return quern(args);
  }
  std::vector<std::string> tuned(const std::string& iters,
                                 std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--data", rows_, "--seqlen", "32", "--nsamples", "8", "--iters", iters,
                             "--batch-size", "2"});
    return more;
  }

  // It failed with this code and these words, and left no output.
  void expect_nothing(const Ran& ran, int code, const std::vector<std::string>& said) const {
    EXPECT_EQ(ran.code, code) << ran.err;
    for (const std::string& text : said)
      EXPECT_NE(ran.err.find(text), std::string::npos) << "\"" << text << "\" in: " << ran.err;
    for (const std::string& name : scratch_.files())
      EXPECT_NE(name.rfind("out", 0), 0u) << name << " was left behind";
  }

  Scratch scratch_;
  std::string rows_, out_;
};

// Norms and routers that AWQ changes are not damage to verify, but what happens to them later is.
TEST_F(CompressTest, AwqIsVerified) {
  const std::string recipe =
      scratch_.write("awq.yaml",
                     "s_stage:\n  m_modifiers:\n    AWQModifier: {n_grid: 4}\n"
                     "    QuantizationModifier: {scheme: W4A16, ignore: [lm_head]}\n");
  const Ran ran = compress({"--recipe", recipe, "--data", rows_, "--seqlen", "32", "--nsamples",
                            "8", "--no-quality-gate"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_NE(ran.out.find("changed by the method"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("of them rescaled"), std::string::npos) << ran.out;
  std::string shard;
  for (const auto& entry : fs::directory_iterator(out_))
    if (entry.path().extension() == ".safetensors") shard = entry.path();
  std::string bytes = read_file(shard);
  const JsonValue header =
      JsonValue::parse(bytes.substr(8, *reinterpret_cast<const uint64_t*>(bytes.data())));
  const char* norm = "model.language_model.layers.0.input_layernorm.weight";
  const size_t data = 8 + *reinterpret_cast<const uint64_t*>(bytes.data());
  bytes[data + header[norm]["data_offsets"][0].get<size_t>()] ^= 1;
  write_file(shard, bytes);
  const Ran again = quern({"verify", out_, "--source", model(), "--no-quality-gate"});
  EXPECT_EQ(again.code, 5);
  EXPECT_NE((again.out + again.err).find(std::string(norm) + ": is not what compress wrote"),
            std::string::npos)
      << again.out << again.err;
}

TEST_F(CompressTest, RoundToNearest) {
  const auto before = hashes(model());
  const Ran ran = compress({"--method", "rtn", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(hashes(model()), before) << "the source was touched";
  EXPECT_EQ(scratch_.files(), (std::vector<std::string>{"out", "rows.jsonl"}));

  const auto json = nlohmann::json::parse(ran.out);
  EXPECT_EQ(json.at("output"), out_);
  EXPECT_GT(json.at("quantized").get<int>(), 90);  // 4 blocks of 8 experts have 96 alone
  EXPECT_LT(json.at("output_bytes").get<int64_t>(), json.at("source_bytes").get<int64_t>());
  EXPECT_EQ(json.at("blocks").size(), 4u);
  EXPECT_FALSE(json.at("verification").is_null());
  bool kept = false;
  for (const auto& group : json.at("groups"))
    if (group.at("scheme").is_null()) kept |= !group.at("reason").get<std::string>().empty();
  EXPECT_TRUE(kept) << "what was kept has no reason";

  const auto inspected = nlohmann::json::parse(quern({"inspect", out_, "--json"}).out);
  EXPECT_EQ(inspected.at("schemes").at(0).at("scheme"), "int4 symmetric, groups of 128");
  EXPECT_EQ(inspected.at("schemes").at(0).at("modules"), json.at("quantized"));
  EXPECT_EQ(quern({"verify", out_, "--source", model()}).code, 0);
  const Ran answer = quern(
      {"generate", out_, "--prompt", "What is 17 + 25?", "--temperature", "0", "--no-thinking"});
  EXPECT_NE(answer.out.find("42"), std::string::npos) << answer.out << answer.err;
}

TEST_F(CompressTest, AutoRoundTellsEveryBlock) {
  const Ran ran = compress(tuned("4"));
  ASSERT_EQ(ran.code, 0) << ran.err;
  for (int block = 1; block <= 4; ++block)
    EXPECT_NE(ran.err.find(fmt::format("block {}/4: ", block)), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find(" -> "), std::string::npos);
  EXPECT_NE(ran.err.find("tokens per expert min "), std::string::npos);
  EXPECT_NE(ran.err.find("peak RAM "), std::string::npos);
  EXPECT_EQ(ran.err.find('\r'), std::string::npos) << "a bar, though no terminal is there";
  EXPECT_NE(ran.out.find("quantized"), std::string::npos);
  EXPECT_TRUE(fs::exists(out_ + "/quantization.yaml"));
}

TEST_F(CompressTest, EventsAreOneJsonObjectALine) {
  const Ran ran = compress(tuned("2", {"--json-lines", "--no-verify"}));
  ASSERT_EQ(ran.code, 0) << ran.err;
  std::map<std::string, int> events;
  std::string last;
  for (size_t begin = 0; begin < ran.out.size();) {
    const size_t end = ran.out.find('\n', begin);
    last = nlohmann::json::parse(ran.out.substr(begin, end - begin)).at("event");
    ++events[last];
    begin = end + 1;
  }
  EXPECT_EQ(events["block_begins"], 4);
  EXPECT_EQ(events["block_done"], 4);
  EXPECT_EQ(last, "finished");
}

TEST_F(CompressTest, RejectsWhatFailsVerification) {
  const Ran ran = compress({"--method", "rtn", "--max-kld", "0"});
  EXPECT_EQ(ran.code, 5) << ran.err;
  EXPECT_NE(ran.err.find("out.rejected"), std::string::npos) << ran.err;
  EXPECT_EQ(scratch_.files(), (std::vector<std::string>{"out.rejected", "rows.jsonl"}));
}

TEST_F(CompressTest, ExistingOutput) {
  fs::create_directory(out_);
  std::ofstream(out_ + "/mine") << "x";
  const Ran ran = compress({"--method", "rtn"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("already exists"), std::string::npos) << ran.err;
  EXPECT_EQ(compress({"--method", "rtn", "--force"}).code, 2) << "it is not a model folder";
  EXPECT_EQ(slurp(out_ + "/mine"), "x");
  fs::remove(out_ + "/mine");
  EXPECT_EQ(compress({"--method", "rtn", "--force", "--no-verify"}).code, 0);
  EXPECT_TRUE(fs::exists(out_ + "/config.json"));
}

TEST_F(CompressTest, OutputInsideTheSource) {
  const std::string source = copy_of(model(), scratch_ / "model");
  const Ran ran = quern({"compress", source, "-o", source + "/packed", "--method", "rtn"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find("source"), std::string::npos) << ran.err;
}

// Headers of a model whose output is four times the free space; the source itself uses no space.
TEST_F(CompressTest, TooLittleRoomOnTheDisk) {
  const fs::path source = scratch_ / "model";
  fs::create_directory(source);
  const auto free = static_cast<double>(fs::space(source).available);
  JsonValue config = layouts::published_config("glm4.5", 2);
  const double bytes_of_column = 128 * 3 * 4096 * 0.53;  // of the experts of one block, in 4 bits
  config["moe_intermediate_size"] = 128 * (1 + static_cast<int>(4 * free / bytes_of_column / 128));
  layouts::write_headers(layouts::layout_of(Json(config, "config")), config, source);
  const Ran ran = compress({"--method", "rtn", "--group-size", "64"}, source.string());
  expect_nothing(ran, 7, {"the output needs", "are free", "choose another -o"});
}

TEST_F(CompressTest, UsageErrors) {
  expect_nothing(compress({}), 2, {"--data"});
  expect_nothing(compress({"--method", "rtn", "--max-shard-size", "5 apples"}), 2,
                 {"--max-shard-size 5 apples"});
  expect_nothing(compress({"--method", "rtn", "--format", "gguf"}), 2, {"gguf"});
  expect_nothing(compress({"--recipe", "r.yaml", "--bits", "4"}), 2, {"--recipe"});
}

TEST_F(CompressTest, GroupsThatDoNotDivide) {
  expect_nothing(compress({"--method", "rtn", "--group-size", "96"}), 3, {"96"});
}

// Groups that a format could store, but no kernel can multiply.
TEST_F(CompressTest, GroupsThatTheKernelsCannotHold) {
  expect_nothing(compress({"--method", "rtn", "--no-verify", "--group-size", "16"}), 3,
                 {"groups of 16 columns", "that works: 32, 64"});
  expect_nothing(compress(tuned("2", {"--group-size", "8"})), 3, {"groups of 8 columns"});
}

TEST_F(CompressTest, RuleThatMatchesNothing) {
  expect_nothing(compress({"--method", "rtn", "--ignore", "shared_exprt"}), 4, {"shared_exprt"});
}

TEST_F(CompressTest, BadCalibrationData) {
  auto with = [&](const std::string& name, const std::string& bytes) {
    return compress({"--data", scratch_.write(name, bytes), "--iters", "1", "--seqlen", "32"});
  };
  expect_nothing(with("empty.jsonl", ""), 4, {"empty.jsonl"});
  expect_nothing(with("short.jsonl", "{\"messages\": ["), 4, {"short.jsonl"});
  expect_nothing(with("strange.jsonl", "{\"answer\": 1}\n"), 4, {});
  expect_nothing(with("rows.doc", "text"), 4, {"rows.doc"});
  expect_nothing(compress({"--data", (scratch_ / "nowhere.jsonl").string()}), 4, {"nowhere.jsonl"});
}

TEST_F(CompressTest, TemplateThatRaises) {
  const std::string source = copy_of(model(), scratch_ / "model");
  std::ofstream(source + "/chat_template.jinja", std::ios::trunc)
      << "{{ raise_exception('roles must alternate') }}";
  expect_nothing(compress(tuned("1"), source), 4, {"roles must alternate"});
}

TEST_F(CompressTest, DamagedSource) {
  const std::string source = copy_of(model(), scratch_ / "model");
  const fs::path shard = fs::path(source) / "model-00001-of-00002.safetensors";
  fs::resize_file(shard, fs::file_size(shard) / 2);
  expect_nothing(compress({"--method", "rtn"}, source), 4, {"model-00001-of-00002.safetensors"});
}

TEST_F(CompressTest, FirstInterruptFinishesTheBlock) {
  std::vector<std::string> args = {"compress", model(), "-o", out_, "--threads", "1"};
  for (const std::string& arg : tuned("300")) args.push_back(arg);
  for (int signal : {SIGINT, SIGTERM}) {
    Running running(args, "", {});
    ASSERT_TRUE(running.says("block 1/4: ")) << running.err_so_far();
    running.send(signal);
    ASSERT_TRUE(running.says("interrupt again to stop at once"));
    const Ran ran = running.wait();
    expect_nothing(ran, 6, {"block 2/4: ", "interrupted; nothing was left behind"});
    EXPECT_EQ(ran.err.find("block 4/4: "), std::string::npos) << ran.err;
  }
}

TEST_F(CompressTest, SecondInterruptStopsAtOnce) {
  std::vector<std::string> args = {"compress", model(), "-o", out_, "--threads", "1"};
  for (const std::string& arg : tuned("5000")) args.push_back(arg);
  Running running(args, "", {});
  ASSERT_TRUE(running.says("calibration: ")) << running.err_so_far();
  running.send(SIGINT);
  ASSERT_TRUE(running.says("interrupt again to stop at once"));
  running.send(SIGINT);
  expect_nothing(running.wait(), 6, {});
}

}  // namespace
}  // namespace quern::cli
