// The command line of `vllm serve`. The commands and files of published models are read from where
// their cards lie, word for word.
#include "serve/arguments.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/yaml.h"
#include "serve/flags.h"
#include "serve/settings.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

std::optional<std::string> nothing(const std::string&) { return std::nullopt; }

JsonValue given(const Words& words) { return read_arguments(words, nothing).given; }

std::string refusal(const Words& words) {
  try {
    read_arguments(words, nothing);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::usage) << error.what();
    return error.what();
  }
  return "nothing is refused";
}

class YamlFile {
 public:
  explicit YamlFile(const std::string& text)
      : path_(fs::temp_directory_path() /
              ("quern-arguments-" + std::to_string(::getpid()) + ".yaml")) {
    std::ofstream(path_) << text;
  }
  ~YamlFile() { fs::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

// As a shell splits it: spaces, quotes, "\" before the end of a line, and $VARIABLES.
Words split(const std::string& text, const std::map<std::string, std::string>& variables = {}) {
  Words words;
  std::string word;
  bool open = false;
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && i + 1 < text.size() && text[i + 1] == '\n') {
      ++i;
    } else if (quote ? c == quote : c == '"' || c == '\'') {
      quote = quote ? 0 : c;
      open = true;
    } else if (c == '$' && i + 1 < text.size() && text[i + 1] == '{' && quote != '\'') {
      const size_t end = text.find('}', i);
      word += variables.at(text.substr(i + 2, end - i - 2));
      open = true;
      i = end;
    } else if (!quote && (c == ' ' || c == '\n')) {
      if (open) words.push_back(std::exchange(word, {}));
      open = false;
    } else {
      word += c;
      open = true;
    }
  }
  if (open) words.push_back(word);
  return words;
}

// A card whose text has `mark`; nothing if the cards are not at hand.
std::optional<std::string> card(const std::string& mark) {
  const char* assets = std::getenv("QUERN_ASSETS");
  const fs::path folder =
      (assets ? fs::path(assets) : fs::path(QUERN_SOURCE_DIR).parent_path() / "shared") / "cards";
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    const std::string text = read_file(entry.path());
    if (text.find(mark) != std::string::npos) return text;
  }
  return std::nullopt;
}

// From `begin` to the end of the line that has `last`, without the program's name.
Words command(const std::string& text, const std::string& begin, const std::string& last,
              const std::map<std::string, std::string>& variables = {}) {
  const size_t at = text.find(begin);
  if (at == std::string::npos) throw std::runtime_error("no " + begin);
  const size_t end = text.find('\n', text.find(last, at));
  Words words = split(text.substr(at, end - at), variables);
  words.erase(words.begin(), words.begin() + 2);
  return words;
}

TEST(ArgumentsTest, CommandOfTheSarvamCard) {
  const auto text = card("Included vllm_config.yaml:");
  if (!text) GTEST_SKIP() << "no cards in $QUERN_ASSETS or ../shared";
  const JsonValue expected = {{"model", "."},
                              {"trust-remote-code", true},
                              {"tensor-parallel-size", 1},
                              {"gpu-memory-utilization", 0.85},
                              {"max-model-len", 55000},
                              {"enable-chunked-prefill", true},
                              {"dtype", "auto"}};
  const Arguments typed =
      read_arguments(command(*text, "vllm serve . \\", "--dtype auto"), nothing);
  EXPECT_EQ(JsonValue::diff(typed.given, expected), JsonValue::array()) << typed.given;
  ASSERT_EQ(typed.notes.size(), 1U);
  EXPECT_EQ(typed.notes[0],
            "--trust-remote-code means nothing here: no code of a checkpoint is ever run");

  const size_t begin = text->find("model: .", text->find("Included vllm_config.yaml:"));
  const YamlFile file(text->substr(begin, text->find("\n\n", begin) - begin) + "\n");
  const Arguments read = read_arguments({"--config", file.path()}, nothing);
  EXPECT_EQ(JsonValue::diff(read.given, expected), JsonValue::array()) << read.given;
  EXPECT_EQ(model_options(read).names, Words{"."});
}

TEST(ArgumentsTest, CommandOfTheGlmCard) {
  const auto text = card("SAMPLER_OVERRIDE=");
  if (!text) GTEST_SKIP() << "no cards in $QUERN_ASSETS or ../shared";
  std::map<std::string, std::string> variables;
  for (const char* name : {"MODEL", "MODELNAME", "GPU_UTIL", "SAMPLER_OVERRIDE"}) {
    const size_t at = text->find("\n" + std::string(name) + "=") + 1 + std::string(name).size() + 1;
    variables[name] = split(text->substr(at, text->find('\n', at) - at)).at(0);
  }
  const Arguments arguments = read_arguments(
      command(*text, "vllm serve \"${MODEL}\"", "--override-generation-config", variables),
      nothing);
  EXPECT_EQ(arguments.given["model"], variables["MODEL"]);
  EXPECT_EQ(arguments.given["served-model-name"], JsonValue::array({variables["MODELNAME"]}));
  EXPECT_EQ(arguments.given["gpu-memory-utilization"], 0.97);
  EXPECT_EQ(arguments.given["override-generation-config"]["min_p"], 0.01);
  EXPECT_TRUE(arguments.notes.empty());
}

TEST(ArgumentsTest, FileOfTheGemmaCard) {
  const auto text = card("kv-cache-dtype: fp8_e4m3");
  if (!text) GTEST_SKIP() << "no cards in $QUERN_ASSETS or ../shared";
  // The page that shows the file lost its line ends; its keys still part it.
  const size_t begin = text->find("gpu-memory-utilization: ");
  std::string yaml = text->substr(begin, text->find('\n', begin) - begin);
  for (const char* key :
       {"max-model-len:", "max-num-seqs:", "max-num-batched-tokens:", "enable-prefix-caching:",
        "enable-chunked-prefill:", "quantization:", "kv-cache-dtype:", "limit-mm-per-prompt:"})
    yaml.insert(yaml.find(key), "\n");
  yaml.insert(yaml.find("image:"), "\n  ");
  const YamlFile file(yaml + "\n");
  const Arguments read = read_arguments({"google/gemma", "--config=" + file.path()}, nothing);
  const JsonValue expected = {
      {"model", "google/gemma"},        {"gpu-memory-utilization", 0.9},
      {"max-model-len", 20000},         {"max-num-seqs", 1024},
      {"max-num-batched-tokens", 4096}, {"enable-prefix-caching", true},
      {"enable-chunked-prefill", true}, {"quantization", "compressed-tensors"},
      {"kv-cache-dtype", "fp8_e4m3"},   {"limit-mm-per-prompt", {{"image", 3}}}};
  EXPECT_EQ(JsonValue::diff(read.given, expected), JsonValue::array()) << read.given;
}

TEST(ArgumentsTest, CommandOfTheQwenCard) {
  const auto text = card("--speculative-model [draft_model]");
  if (!text) GTEST_SKIP() << "no cards in $QUERN_ASSETS or ../shared";
  const Arguments arguments =
      read_arguments(command(*text, "vllm serve nchapman", "--speculative-model"), nothing);
  EXPECT_EQ(arguments.given["dtype"], "bfloat16");
  EXPECT_EQ(arguments.given["quantization"], "auto_round");
  EXPECT_EQ(arguments.given["num-speculative-tokens"], 1);
  EXPECT_EQ(arguments.given["speculative-model"], "[draft_model]");
  check_quantization(arguments, {{"quantization_config", {{"quant_method", "auto-round"}}}});
  EXPECT_THROW(check_quantization(arguments, {{"quantization_config", {{"quant_method", "gptq"}}}}),
               Error);
  EXPECT_THROW(check_quantization(arguments, JsonValue::object()), Error);
}

TEST(ArgumentsTest, NamesAndValues) {
  EXPECT_EQ(given({"M", "--max_model_len=1k"})["max-model-len"], 1000);
  EXPECT_EQ(given({"M", "--max-model-len", "1K"})["max-model-len"], 1024);
  EXPECT_EQ(given({"M", "--max-model-len", "25.6k"})["max-model-len"], 25600);
  EXPECT_EQ(given({"M", "--max-model-len", "2M"})["max-model-len"], 2 << 20);
  EXPECT_EQ(given({"M", "--max-model-len", "-1"})["max-model-len"], -1);
  EXPECT_EQ(given({"M", "--max-model-len", "auto"})["max-model-len"], -1);
  EXPECT_EQ(given({"--model", "M"})["model"], "M");
  EXPECT_EQ(given({"M", "--no-enable-prefix-caching"})["enable-prefix-caching"], false);
  EXPECT_EQ(given({"M", "--enable_prefix_caching"})["enable-prefix-caching"], true);
  EXPECT_EQ(given({"M", "--served-model-name", "a", "b", "--port", "1"})["served-model-name"],
            JsonValue::array({"a", "b"}));
  EXPECT_EQ(given({"M", "--api-key", "a", "--api-key", "b"})["api-key"],
            JsonValue::array({"a", "b"}));
  EXPECT_EQ(given({"M", "-tp", "1", "-q", "gptq", "-O3", "-asc=2"}),
            (JsonValue{{"model", "M"},
                       {"tensor-parallel-size", 1},
                       {"quantization", "gptq"},
                       {"optimization-level", "3"},
                       {"api-server-count", 2}}));
  EXPECT_EQ(given({"M", "--speculative-config.method", "mtp",
                   "--speculative_config.num_speculative_tokens=1", "--speculative-config.list+",
                   "a", "--speculative-config.list+=2"})["speculative-config"],
            (JsonValue{{"method", "mtp"}, {"num_speculative_tokens", 1}, {"list", {"a", 2}}}));
  EXPECT_EQ(given({"M", "--port", "1", "--port", "2"})["port"], 2);
}

TEST(ArgumentsTest, TheCommandLineWinsOverTheFile) {
  const YamlFile file(
      "model: A\nport: 1\nhost: \"0.0.0.0\"\nenable_prefix_caching: false\n"
      "served-model-name: [x, y]\nseed: null\ntrust_remote_code: yes\n");
  const JsonValue all = given({"B", "--config", file.path(), "--port", "2"});
  EXPECT_EQ(all["model"], "B");
  EXPECT_EQ(all["port"], 2);
  EXPECT_EQ(all["host"], "0.0.0.0");
  EXPECT_EQ(all["enable-prefix-caching"], false);
  EXPECT_EQ(all["served-model-name"], JsonValue::array({"x", "y"}));
  EXPECT_EQ(all["trust-remote-code"], true);
  EXPECT_FALSE(all.contains("seed"));
  EXPECT_EQ(given({"--config", file.path()})["model"], "A");
}

TEST(ArgumentsTest, RefusalsNameWhatIsMeant) {
  EXPECT_NE(refusal({"M", "--max-modle-len", "5"}).find("did you mean --max-model-len?"),
            std::string::npos);
  EXPECT_NE(refusal({"M", "--port"}).find("needs a value"), std::string::npos);
  EXPECT_NE(refusal({"M", "--port", "x"}).find("--port: must be a whole number"),
            std::string::npos);
  EXPECT_NE(refusal({"M", "--max-model-len", "1.5K"}).find("--max-model-len"), std::string::npos);
  EXPECT_NE(refusal({"M", "--kv-cache-dtype", "int3"}).find("must be one of auto, bfloat16"),
            std::string::npos);
  EXPECT_NE(refusal({"M", "--middleware", "a.b"}).find("put a proxy in front"), std::string::npos);
  EXPECT_NE(refusal({"M", "N"}).find("there is a model already"), std::string::npos);
  EXPECT_NE(refusal({"M", "--load-format", "bitsandbytes"}).find("auto, safetensors"),
            std::string::npos);
  EXPECT_NE(refusal({"M", "--config", "a.json"}).find(".yaml"), std::string::npos);
  const YamlFile file("port: 1\n\nhots: x\n");
  EXPECT_NE(refusal({"--config", file.path()})
                .find(":3: there is no option --hots; did you mean --host?"),
            std::string::npos);
  const YamlFile map("port:\n  a: 1\n");
  EXPECT_NE(refusal({"--config", map.path()}).find(":1: --port: takes no mapping"),
            std::string::npos);
}

TEST(ArgumentsTest, VariablesOfTheEnvironment) {
  const std::map<std::string, std::string> variables = {{"VLLM_API_KEY", "old"},
                                                        {"QUERN_API_KEY", "new"},
                                                        {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "7"},
                                                        {"VLLM_MAX_N_SEQUENCES", "3"}};
  const Environment environment = [&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
  const Arguments arguments = read_arguments({"M"}, environment);
  const ServerOptions options = server_options(arguments, environment);
  EXPECT_EQ(options.admission.api_keys, Words{"new"});
  EXPECT_EQ(options.http.keep_alive_seconds, 7);
  EXPECT_EQ(options.limits.n, 3);
  EXPECT_EQ(server_options(read_arguments({"M", "--api-key", "typed"}, environment), environment)
                .admission.api_keys,
            Words{"typed"});
}

TEST(ArgumentsTest, LimitsOfRequests) {
  const Words words = {"M",   "--overload-status",
                       "429", "--request-timeout-s",
                       "2.5", "--max-num-queued-reqs-per-key",
                       "3",   "--enable-request-id-headers"};
  const ServerOptions options = server_options(read_arguments(words, nothing), nothing);
  EXPECT_EQ(options.admission.overload_status, 429);
  EXPECT_EQ(options.admission.request_seconds, 2.5);
  EXPECT_EQ(options.admission.max_queued_requests_per_key, 3);
  EXPECT_TRUE(options.request_id_headers);
  EXPECT_NE(refusal({"M", "--overload-status", "500"}).find("must be one of 503, 429, 529"),
            std::string::npos);
  const ServerOptions usual = server_options(read_arguments({"M"}, nothing), nothing);
  EXPECT_EQ(usual.admission.overload_status, 503);
  EXPECT_EQ(usual.admission.request_seconds, 0);
}

TEST(ArgumentsTest, TheEffectiveConfigurationIsAFileAgain) {
  const Words words = {"M",
                       "--port",
                       "9000",
                       "--override-generation-config",
                       R"({"min_p": 0.01})",
                       "--no-enable-prefix-caching",
                       "--served-model-name",
                       "a",
                       "b"};
  const std::string yaml = effective_yaml(read_arguments(words, nothing));
  const YamlFile file(yaml);
  const Arguments again = read_arguments({"--config", file.path()}, nothing);
  EXPECT_EQ(effective_yaml(again), yaml);
  EXPECT_EQ(again.given["override-generation-config"]["min_p"], 0.01);
  EXPECT_EQ(again.given["enable-prefix-caching"], false);
}

TEST(ArgumentsTest, EveryFlagHasAValidDefault) {
  for (const auto flags : {used_flags(), ignored_flags(), refused_flags()})
    for (const Flag& flag : flags) {
      EXPECT_TRUE(JsonValue::accept(flag.otherwise)) << flag.name;
      EXPECT_FALSE(flag.help.empty()) << flag.name;
    }
  EXPECT_NE(help_text("cache").find("--kv-cache-dtype"), std::string::npos);
  EXPECT_EQ(help_text("cache").find("--host"), std::string::npos);
}

// All options of vLLM 0.32: used, accepted with a reason, or refused with one.
TEST(ArgumentsTest, EveryOptionOfVllmIsKnown) {
  std::ifstream list(QUERN_SOURCE_DIR "/tests/data/serve/vllm_options.txt");
  std::set<std::string_view> known;
  for (const auto flags : {used_flags(), ignored_flags(), refused_flags()})
    for (const Flag& flag : flags) EXPECT_TRUE(known.insert(flag.name).second) << flag.name;
  int options = 0;
  for (std::string name; std::getline(list, name); ++options)
    EXPECT_TRUE(known.contains(name)) << name;
  EXPECT_GT(options, 150);
  EXPECT_EQ(given({"M", "--language-model-only", "--attention-backend", "FLASH_ATTN"}).size(), 3u);
  EXPECT_NE(refusal({"M", "--hf-overrides", "{}"}).find("config.json"), std::string::npos);
  EXPECT_EQ(refusal({"M", "--quantum-entanglement"}).find("did you mean"), std::string::npos);
}

// The forms that files for vLLM had before 2026.
TEST(ArgumentsTest, FilesMayQuoteJsonAndNegateFlags) {
  const YamlFile file(
      "override-generation-config: '{\"temperature\": 0.6}'\n"
      "limit-mm-per-prompt: >-\n  {\"image\":\n  3}\n"
      "no-enable-prefix-caching: true\nno-enable-chunked-prefill: false\n");
  const JsonValue read = given({"M", "--config", file.path()});
  EXPECT_EQ(read["override-generation-config"], (JsonValue{{"temperature", 0.6}}));
  EXPECT_EQ(read["limit-mm-per-prompt"], (JsonValue{{"image", 3}}));
  EXPECT_EQ(read["enable-prefix-caching"], false);
  EXPECT_EQ(read["enable-chunked-prefill"], true);
  const YamlFile broken("override-generation-config: '{\"temperature\"'\n");
  EXPECT_NE(refusal({"--config", broken.path()}).find("override-generation-config"),
            std::string::npos);
  const YamlFile two("port: 1\n---\nport: 2\n");
  EXPECT_NE(refusal({"--config", two.path()}).find("more than one document"), std::string::npos);
}

TEST(ArgumentsTest, TheServerListensForThisMachineOnly) {
  EXPECT_EQ(server_options(read_arguments({"M"}, nothing), nothing).http.host, "127.0.0.1");
  EXPECT_THROW(server_options(read_arguments({"M", "-tp", "2"}, nothing), nothing), Error);
}

}  // namespace
}  // namespace quern::serve
