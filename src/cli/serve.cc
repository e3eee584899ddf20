// quern serve: an OpenAI server on one model, started as `vllm serve` is.
#include "cli/serve.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "base/log.h"
#include "base/threads.h"
#include "checkpoint/files.h"
#include "cli/interrupt.h"
#include "cli/program.h"
#include "cli/service.h"
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

// With the two lines that scripts look for in the log of vLLM.
void tell_memory(const engine::MemoryPlan& plan) {
  log_info("{}", plan.text());
  log_info("GPU KV cache size: {} tokens", count_text(plan.kv_tokens));
  log_info("Maximum concurrency for {} tokens per request: {:.2f}x", count_text(plan.max_model_len),
           plan.concurrency());
}

std::unique_ptr<engine::Engine> make_engine(const std::filesystem::path& folder,
                                            const serve::ServedModel& model,
                                            const serve::Arguments& arguments,
                                            const JsonValue& config) {
  const JsonValue mock = arguments.value("mock-engine");
  if (!mock.is_null())
    return make_mock(mock, model, arguments, serve::max_model_len(arguments, config));
  auto engine = std::make_unique<runner::ModelEngine>(
      std::make_shared<const nn::Source>(folder),
      serve::engine_options(arguments, environment, config, model.tokenizer().ids()));
  tell_memory(engine->plan());
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
      "stopping: answers that have begun are finished; interrupt again to stop at once", [&server] {
        notify_service("STOPPING=1");
        server.stop();
      });
  const OnHangup hangup([&server] { server.reload(); });
  const auto start = std::chrono::steady_clock::now();
  load_model(server, arguments);
  const std::chrono::duration<double> load = std::chrono::steady_clock::now() - start;
  const engine::Limits limits = server.limits();
  log_info(
      "Application startup complete. READY url={} load_s={:.1f} max_model_len={} max_num_seqs={} "
      "kv_tokens={} max_concurrency={:.2f}",
      server.url(), load.count(), limits.max_model_len, limits.max_num_seqs, limits.kv_tokens,
      static_cast<double>(limits.kv_tokens) / static_cast<double>(limits.max_model_len));
  notify_service("READY=1");
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
  auto model = std::make_unique<serve::ServedModel>(options);
  if (!model->sampling_defaults().empty())
    log_info("sampling settings of requests that have none: {}", model->sampling_defaults().dump());
  auto engine = make_engine(options.folder, *model, arguments, config);
  server.serve(std::move(model), std::move(engine));
}

void add_serve(CLI::App& app, Program& program) {
  CLI::App* verb = app.add_subcommand("serve", "Answer OpenAI's clients over HTTP");
  verb->prefix_command();  // the words behind it have a grammar of their own
  verb->callback([&program] { program.run = [&program] { run(program.rest); }; });
}

}  // namespace quern::cli
