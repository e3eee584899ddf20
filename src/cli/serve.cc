// quern serve: an OpenAI server on one model, started as `vllm serve` is.
#include "cli/serve.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "base/threads.h"
#include "checkpoint/files.h"
#include "cli/interrupt.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "engine/mock_engine.h"
#include "runner/model_engine.h"

namespace quern::cli {
namespace {

constexpr const char* kHelp = R"(Answer OpenAI's clients over HTTP

quern serve MODEL [OPTIONS], as `vllm serve`; --config FILE.yaml holds options as `name: value`.
--help=WORD explains options that have to do with WORD, --help=all also those of vLLM that mean
nothing here.

)";

constexpr const char* kMockText =
    "Three may keep a secret, if two of them are dead; haste makes waste, and little strokes fell "
    "great oaks. ";

std::unique_ptr<engine::Engine> make_mock(const std::string& speed, const serve::ServedModel& model,
                                          const serve::Arguments& arguments, int64_t max_len) {
  const engine::Limits limits{
      .vocabulary = model.tokenizer().ids(),
      .max_model_len = max_len > 0 ? max_len : 4096,
      .max_num_seqs = arguments.value("max-num-seqs"),
      .max_num_batched_tokens = arguments.value("max-num-batched-tokens"),
      .block_tokens = arguments.value("block-size"),
      .kv_tokens = 1 << 24,
      .priorities = arguments.value("scheduling-policy") == "priority",
  };
  const auto options = engine::MockOptions::of(speed);
  std::optional<engine::MockScript> script;
  if (!options.script.empty())
    script = engine::MockScript::read(
        options.script,
        {.encode = [&model](std::string_view text) { return model.encode(text, false); },
         .decode = [&model](auto ids) { return model.tokenizer().decode(ids); }});
  return std::make_unique<engine::MockEngine>(options, limits, model.encode(kMockText, false),
                                              std::move(script));
}

std::optional<nn::KvType> kv_type(const std::string& name) {
  if (name == "bfloat16") return nn::KvType::bf16;
  if (name == "float16") return nn::KvType::fp16;
  if (name == "fp8" || name == "fp8_e4m3") return nn::KvType::fp8_e4m3;
  return std::nullopt;
}

engine::LogprobsMode logprobs_mode(const std::string& name) {
  if (name == "raw_logits") return engine::LogprobsMode::raw_logits;
  if (name == "processed_logprobs") return engine::LogprobsMode::processed_logprobs;
  if (name == "processed_logits") return engine::LogprobsMode::processed_logits;
  return engine::LogprobsMode::raw_logprobs;
}

engine::EngineOptions engine_options(const serve::Arguments& arguments, int64_t max_len,
                                     const serve::ServedModel& model) {
  if (arguments.value("device") == "cuda")
    fail(Exit::device, "--device cuda: this quern was built without CUDA");
  engine::EngineOptions options;
  // Without a wish of the user the memory decides.
  if (arguments.has("max-model-len") && arguments.given["max-model-len"] != -1)
    options.max_model_len = max_len;
  options.max_num_seqs = arguments.value("max-num-seqs");
  options.max_num_batched_tokens = arguments.value("max-num-batched-tokens");
  options.long_prefill_tokens = arguments.value("long-prefill-token-threshold");
  if (arguments.value("scheduling-policy") == "priority") options.policy = engine::Policy::priority;
  options.prefix_caching = arguments.value("enable-prefix-caching");
  options.kv_type = kv_type(arguments.value("kv-cache-dtype"));
  options.kv_bytes = serve::cache_bytes(arguments, environment);
  if (arguments.has("gpu-memory-utilization")) {
    options.memory_share = arguments.given["gpu-memory-utilization"];
    if (!(options.memory_share > 0 && options.memory_share <= 1))
      fail(Exit::usage, "--gpu-memory-utilization is {}, it must lie above 0 and be 1 at most",
           options.memory_share);
  }
  options.block_tokens = arguments.value("block-size");
  options.seed = static_cast<uint64_t>(arguments.value("seed").get<int64_t>());
  options.logprobs_mode = logprobs_mode(arguments.value("logprobs-mode"));
  options.ids = model.tokenizer().ids();
  return options;
}

std::unique_ptr<engine::Engine> make_engine(const std::filesystem::path& folder,
                                            const serve::ServedModel& model,
                                            const serve::Arguments& arguments, int64_t max_len) {
  const JsonValue mock = arguments.value("mock-engine");
  if (!mock.is_null()) return make_mock(mock, model, arguments, max_len);
  auto engine = std::make_unique<runner::ModelEngine>(std::make_shared<const nn::Source>(folder),
                                                      engine_options(arguments, max_len, model));
  log_info("{}", engine->plan().text());
  return engine;
}

// Every connection is an open file, of which a process may have few at first.
void allow_connections(size_t connections) {
  constexpr rlim_t kOtherFiles = 256;
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= connections + kOtherFiles)
    return;
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, connections + kOtherFiles);
  ::setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < connections + kOtherFiles)
    log_info("this process may open {} files (ulimit -n), fewer than the {} of --max-connections",
             files.rlim_cur, connections);
}

void run(const std::vector<std::string>& words) {
  const serve::Arguments arguments = serve::read_arguments(words, environment);
  if (arguments.help) return print(kHelp + serve::help_text(*arguments.help));
  for (const std::string& note : arguments.notes) log_info("{}", note);
  if (arguments.has("threads")) set_threads(arguments.given["threads"].get<int>());
  const serve::ServerOptions options = serve::server_options(arguments, environment);
  if (arguments.value("check-config")) return print(serve::effective_yaml(arguments));
  allow_connections(options.http.connections);
  serve::Server server(options);
  const FinishFirst finish(
      "stopping: answers that have begun are finished; once more to stop at once",
      [&server] { server.stop(); });
  load_model(server, arguments);
  const engine::Limits limits = server.limits();
  log_info(
      "Application startup complete. READY url={} max_model_len={} max_num_seqs={} kv_tokens={}",
      server.url(), limits.max_model_len, limits.max_num_seqs, limits.kv_tokens);
  server.wait();
}

}  // namespace

std::optional<std::string> environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (!value) return std::nullopt;
  return value;
}

void load_model(serve::Server& server, const serve::Arguments& arguments) {
  serve::ModelOptions options = serve::model_options(arguments);
  options.folder = serve::model_folder(arguments, environment);
  const JsonValue config = read_json(options.folder / "config.json");
  serve::check_quantization(arguments, config);
  const int64_t max_len = serve::max_model_len(arguments, config);
  auto model = std::make_unique<serve::ServedModel>(options);
  if (!model->sampling_defaults().empty())
    log_info("sampling settings of requests that have none: {}", model->sampling_defaults().dump());
  auto engine = make_engine(options.folder, *model, arguments, max_len);
  server.serve(std::move(model), std::move(engine));
}

void add_serve(CLI::App& app, Program& program) {
  CLI::App* verb = app.add_subcommand("serve", "Answer OpenAI's clients over HTTP");
  verb->prefix_command();  // the words behind it have a grammar of their own
  verb->callback([&program] { program.run = [&program] { run(program.rest); }; });
}

}  // namespace quern::cli
