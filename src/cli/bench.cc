// quern bench: measures a server (`serve`, with the options and result keys of `vllm bench serve`)
// or a model without a server (`raw`).
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "cli/program.h"
#include "cli/terminal.h"
#include "runner/model_engine.h"
#include "serve/load_bench.h"

namespace quern::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct ServeBench {
  std::string base_url, host = "127.0.0.1", backend = "openai", endpoint, model, key;
  int port = 8000;
  std::string dataset = "random", dataset_path, rate = "inf", extra_body, result_dir, result_file;
  int64_t prompts = 1000, input = 1024, output = 128;
  double range = 0;
  std::vector<std::string> goodput;
  std::string percentiles = "99";
  bool save = false, insecure = false;
  serve::LoadOptions load;
};

// Ids that every vocabulary has; the choice does not affect the time.
constexpr int32_t kFirstId = 10, kIds = 490;

int64_t around(int64_t length, double range, std::mt19937_64& random) {
  const double spread = range * static_cast<double>(length);
  std::uniform_real_distribution<double> uniform(-spread, spread);
  return std::max<int64_t>(1, length + static_cast<int64_t>(std::llround(uniform(random))));
}

std::vector<serve::LoadPrompt> random_prompts(const ServeBench& bench, bool chat) {
  std::mt19937_64 random(bench.load.seed);
  std::uniform_int_distribution<int32_t> id(kFirstId, kFirstId + kIds - 1);
  std::vector<serve::LoadPrompt> prompts(static_cast<size_t>(bench.prompts));
  for (serve::LoadPrompt& prompt : prompts) {
    const int64_t tokens = around(bench.input, bench.range, random);
    prompt.output_tokens = around(bench.output, bench.range, random);
    for (int64_t i = 0; i < tokens; ++i) {
      if (chat)  // a word of one letter is usually one token
        prompt.text += {' ', static_cast<char>('a' + id(random) % 26)};
      else
        prompt.ids.push_back(id(random));
    }
  }
  return prompts;
}

// ShareGPT's file, or lines of {"prompt": ..., "output_tokens": ...}.
std::vector<serve::LoadPrompt> prompts_of_file(const ServeBench& bench) {
  const std::string text = read_file(bench.dataset_path, 4u << 30);
  std::vector<serve::LoadPrompt> prompts;
  auto add = [&](const JsonValue& row) {
    serve::LoadPrompt prompt{.ids = {}, .text = {}, .output_tokens = bench.output};
    if (row.contains("conversations") && !row["conversations"].empty())
      prompt.text = row["conversations"][0].value("value", "");
    else
      prompt.text = row.value("prompt", "");
    prompt.output_tokens = row.value("output_tokens", bench.output);
    if (!prompt.text.empty()) prompts.push_back(std::move(prompt));
  };
  if (bench.dataset == "sharegpt") {
    for (const JsonValue& row : parse_json(text, bench.dataset_path, {.bytes = 4u << 30})) add(row);
  } else {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      if (end > begin) add(parse_json(text.substr(begin, end - begin), bench.dataset_path));
      begin = end + 1;
    }
  }
  if (prompts.empty()) fail("{}: the file contains no prompts", bench.dataset_path);
  const size_t wanted = static_cast<size_t>(bench.prompts), there = prompts.size();
  for (size_t i = there; i < wanted; ++i) prompts.push_back(prompts[i % there]);
  prompts.resize(wanted);
  return prompts;
}

double number_of(const std::string& text, const char* option) {
  try {
    size_t used = 0;
    const double value = std::stod(text, &used);
    if (used == text.size() && value > 0) return value;
  } catch (const std::logic_error&) {
  }
  fail(Exit::usage, "{}: \"{}\" is not a number above 0", option, text);
}

void complete(ServeBench& bench) {
  const bool chat = bench.backend == "openai-chat";
  if (bench.endpoint.empty()) bench.endpoint = chat ? "/v1/chat/completions" : "/v1/completions";
  serve::LoadOptions& load = bench.load;
  load.endpoint = bench.endpoint;
  load.url =
      http::Url::of(bench.base_url.empty() ? fmt::format("http://{}:{}", bench.host, bench.port)
                                           : bench.base_url);
  load.key = bench.key;
  if (bench.insecure) load.trust = http::Trust::anybody;
  load.model = bench.model;
  if (bench.rate != "inf") load.request_rate = number_of(bench.rate, "--request-rate");
  if (!bench.extra_body.empty()) load.extra_body = parse_json(bench.extra_body, "--extra-body");
  load.percentiles.clear();
  for (std::string_view rest = bench.percentiles; !rest.empty();) {
    const std::string one(rest.substr(0, rest.find(',')));
    load.percentiles.push_back(number_of(one, "--metric-percentiles"));
    rest.remove_prefix(std::min(rest.size(), one.size() + 1));
  }
  for (const std::string& goal : bench.goodput) {
    const size_t colon = goal.find(':');
    const std::string name = goal.substr(0, colon);
    if (colon == std::string::npos || (name != "ttft" && name != "tpot" && name != "e2el"))
      fail(Exit::usage, "--goodput: \"{}\" is not ttft:MS, tpot:MS or e2el:MS", goal);
    load.goodput[name] = number_of(goal.substr(colon + 1), "--goodput");
  }
  if (!load.model.empty()) return;
  const JsonValue list = parse_json(
      http::fetch(load.url, "GET", "/v1/models", "", load.key, load.trust), "/v1/models");
  load.model = Json(list, "/v1/models").at("data").at(0).get<std::string>("id");
}

void run_serve(ServeBench& bench, bool json) {
  complete(bench);
  const bool chat = bench.endpoint.find("chat") != std::string::npos;
  const auto prompts =
      bench.dataset == "random" ? random_prompts(bench, chat) : prompts_of_file(bench);
  // The first request warms up the server and shows whether it answers.
  serve::LoadOptions probe = bench.load;
  probe.request_rate.reset();
  run_load(probe, {prompts.front()});
  const JsonValue result = serve::run_load(bench.load, prompts);
  print(json ? to_text(result) : serve::load_text(result));
  if (!bench.save && bench.result_file.empty()) return;
  const std::filesystem::path folder = bench.result_dir.empty() ? "." : bench.result_dir;
  const std::string name = bench.result_file.empty() ? "quern-bench-serve.json" : bench.result_file;
  write_file(folder / name, to_text(result));
}

void declare_serve(CLI::App& verb, ServeBench& bench) {
  verb.add_option("--base-url", bench.base_url,
                  "http:// or https://, instead of --host and --port");
  verb.add_option("--host", bench.host, "Host of the server")->capture_default_str();
  verb.add_option("--port", bench.port, "Port of the server")->capture_default_str();
  verb.add_option("--backend,--endpoint-type", bench.backend, "openai, vllm or openai-chat")
      ->check(CLI::IsMember({"openai", "vllm", "openai-chat"}))
      ->capture_default_str();
  verb.add_option("--endpoint", bench.endpoint, "Path of the requests");
  verb.add_option("--model", bench.model, "Name of the model (default: the server's first)");
  verb.add_option("--api-key", bench.key, "Key of the server")->envname("OPENAI_API_KEY");
  verb.add_flag("--insecure", bench.insecure, "Do not check the server's certificate");
  verb.add_option("--dataset-name", bench.dataset, "random, sharegpt or custom (JSON lines)")
      ->check(CLI::IsMember({"random", "sharegpt", "custom"}))
      ->capture_default_str();
  verb.add_option("--dataset-path", bench.dataset_path, "File for sharegpt and custom");
  verb.add_option("--num-prompts", bench.prompts, "Requests")->check(CLI::Range(1, 10'000'000));
  verb.add_option("--random-input-len,--input-len", bench.input, "Tokens of a prompt");
  verb.add_option("--random-output-len,--output-len", bench.output, "Tokens of an answer");
  verb.add_option("--random-range-ratio", bench.range, "Lengths vary by this share")
      ->check(CLI::Range(0.0, 1.0));
  verb.add_option("--request-rate", bench.rate, "Requests per second; inf: all at once");
  verb.add_option("--burstiness", bench.load.burstiness, "1: Poisson arrivals; less: bursts")
      ->check(CLI::PositiveNumber);
  verb.add_option("--max-concurrency", bench.load.max_concurrency, "Requests at a time")
      ->check(CLI::PositiveNumber);
  verb.add_option("--temperature", bench.load.temperature, "Temperature of the requests");
  verb.add_option("--extra-body", bench.extra_body, "JSON object that is added to every request");
  verb.add_option("--seed", bench.load.seed, "Seed of lengths, ids and pauses");
  verb.add_option("--goodput", bench.goodput, "Limits of a good request, ttft:MS tpot:MS e2el:MS");
  verb.add_option("--metric-percentiles", bench.percentiles,
                  "List of percentiles, such as 50,90,99");
  verb.add_flag("--ignore-eos", bench.load.ignore_eos,
                "Generate answers of the full requested length");
  verb.add_flag("--save-result", bench.save, "Write the result as JSON");
  verb.add_option("--result-dir", bench.result_dir, "Folder of the result");
  verb.add_option("--result-filename", bench.result_file, "Name of the result");
}

// --- Without a server ----------------------------------------------------------------------------

struct RawBench {
  std::string model;
  int64_t prompt = 512, generate = 128, repeat = 5, batch = 1;
};

struct Rate {
  double mean = 0, deviation = 0;
};

Rate rate_of(const std::vector<double>& values) {
  Rate rate;
  for (double value : values) rate.mean += value / static_cast<double>(values.size());
  double sum = 0;
  for (double value : values) sum += (value - rate.mean) * (value - rate.mean);
  if (values.size() > 1) rate.deviation = std::sqrt(sum / static_cast<double>(values.size() - 1));
  return rate;
}

// Seconds until the first tokens, and from the first to the last tokens.
std::pair<double, double> run_batch(engine::Engine& engine, int64_t prompt, int64_t generate,
                                    int64_t batch, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int32_t> id(
      0, static_cast<int32_t>(std::min<int64_t>(engine.limits().vocabulary, 500) - 1));
  for (int64_t b = 0; b < batch; ++b) {
    engine::Request request{.max_tokens = generate};
    request.sampling.temperature = 0;
    for (int64_t i = 0; i < prompt; ++i) request.tokens.push_back(id(random));
    engine.submit(std::move(request));
  }
  const auto start = Clock::now();
  auto first = start;
  int64_t waiting = batch;
  while (!engine.idle()) {
    for (const engine::Update& update : engine.step()) {
      if (update.finish == engine::Finish::error) fail(Exit::internal, "{}", update.error);
      if (!update.tokens.empty() && waiting > 0 && --waiting == 0) first = Clock::now();
    }
  }
  const auto seconds = [](auto time) { return std::chrono::duration<double>(time).count(); };
  return {seconds(first - start), seconds(Clock::now() - first)};
}

void run_raw(const RawBench& bench, bool json) {
  runner::ModelEngine engine(std::make_shared<const nn::Source>(bench.model));
  std::vector<double> prefill, decode;
  run_batch(engine, bench.prompt, 2, bench.batch, 0);  // cold
  for (int64_t i = 0; i < bench.repeat; ++i) {
    // A different seed each time, because a repeated prompt would be in the prefix cache.
    const auto [reading, making] = run_batch(engine, bench.prompt, bench.generate + 1, bench.batch,
                                             static_cast<uint64_t>(i) + 1);
    prefill.push_back(static_cast<double>(bench.prompt * bench.batch) / reading);
    decode.push_back(static_cast<double>(bench.generate * bench.batch) / making);
  }
  const Rate pp = rate_of(prefill), tg = rate_of(decode);
  if (json)
    return print(to_text({{"model", bench.model},
                          {"batch", bench.batch},
                          {"prompt_tokens", bench.prompt},
                          {"new_tokens", bench.generate},
                          {"prompt_tokens_per_second", {{"mean", pp.mean}, {"std", pp.deviation}}},
                          {"new_tokens_per_second", {{"mean", tg.mean}, {"std", tg.deviation}}}}));
  Table table({"test", "batch", "tokens/s", "+-"});
  auto add = [&](const std::string& name, const Rate& rate) {
    table.add({name, std::to_string(bench.batch), fmt::format("{:.2f}", rate.mean),
               fmt::format("{:.2f}", rate.deviation)});
  };
  add(fmt::format("pp{}", bench.prompt), pp);
  add(fmt::format("tg{}", bench.generate), tg);
  print(table.text(standard_output()));
}

void declare_raw(CLI::App& verb, RawBench& bench) {
  verb.add_option("MODEL", bench.model, "Model folder")->required();
  verb.add_option("-p,--n-prompt", bench.prompt, "Tokens of the prompt")->capture_default_str();
  verb.add_option("-n,--n-gen", bench.generate, "New tokens")->capture_default_str();
  verb.add_option("-r,--repetitions", bench.repeat, "Runs")->capture_default_str();
  verb.add_option("-b,--batch", bench.batch, "Sequences at once")->capture_default_str();
}

void run(const std::vector<std::string>& words, const Program& program) {
  ServeBench serve;
  RawBench raw;
  bool json = program.json;
  CLI::App app("Measures servers and models.", "quern bench");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", json, "Print one JSON document instead of text");
  CLI::App* of_server = app.add_subcommand("serve", "Latency and throughput of a server");
  CLI::App* of_model = app.add_subcommand("raw", "Tokens a second of a model, without a server");
  declare_serve(*of_server, serve);
  declare_raw(*of_model, raw);
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    return print(app.help());
  } catch (const CLI::ParseError& error) {
    fail(Exit::usage, "{}; `quern bench --help` explains", error.what());
  }
  if (of_server->parsed()) return run_serve(serve, json);
  run_raw(raw, json);
}

}  // namespace

void add_bench(CLI::App& app, Program& program) {
  CLI::App* verb = app.add_subcommand("bench", "Measure a server (serve) or a model (raw)");
  verb->prefix_command();  // its own verbs have options of their own
  verb->callback([&program] { program.run = [&program] { run(program.rest, program); }; });
}

}  // namespace quern::cli
