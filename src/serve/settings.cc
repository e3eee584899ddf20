#include "serve/settings.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "prompt/context_length.h"

namespace quern::serve {
namespace {

namespace fs = std::filesystem;

std::string text_or(const Arguments& arguments, const char* name,
                    const std::string& otherwise = "") {
  const JsonValue value = arguments.value(name);
  return value.is_string() ? value.get<std::string>() : otherwise;
}

int64_t integer(const Arguments& arguments, const char* name, int64_t least, int64_t most) {
  const auto value = arguments.value(name).get<int64_t>();
  if (value < least || value > most)
    fail(Exit::usage, "--{} is {}, it must lie between {} and {}", name, value, least, most);
  return value;
}

// QUERN_X, else VLLM_X.
std::optional<int64_t> variable(const Environment& environment, const std::string& name) {
  for (const char* prefix : {"QUERN_", "VLLM_"}) {
    const auto text = environment(prefix + name);
    if (!text || text->empty()) continue;
    const auto value = parse_size(*text);
    if (!value || *value < 0)
      fail(Exit::usage, "{}{} is \"{}\", it must be a whole number", prefix, name, *text);
    return value;
  }
  return std::nullopt;
}

http::Options http_options(const Arguments& arguments, const Environment& environment) {
  http::Options http;
  http.host = text_or(arguments, "host");
  http.port = static_cast<uint16_t>(integer(arguments, "port", 0, 65535));
  http.uds = text_or(arguments, "uds");
  http.certificate_file = text_or(arguments, "ssl-certfile");
  http.key_file = text_or(arguments, "ssl-keyfile", http.certificate_file);
  http.ca_file = text_or(arguments, "ssl-ca-certs");
  http.client_certificate = static_cast<int>(integer(arguments, "ssl-cert-reqs", 0, 2));
  http.io_threads = static_cast<int>(integer(arguments, "api-server-count", 1, 64));
  http.limits.body_bytes =
      static_cast<size_t>(integer(arguments, "max-request-bytes", 1024, int64_t{1} << 32));
  http.limits.head_bytes =
      static_cast<size_t>(integer(arguments, "h11-max-incomplete-event-size", 1024, 16 << 20));
  http.limits.headers = static_cast<size_t>(integer(arguments, "h11-max-header-count", 8, 4096));
  http.bodies_bytes =
      static_cast<size_t>(integer(arguments, "max-total-request-bytes", 1024, int64_t{1} << 40));
  http.connections = static_cast<size_t>(integer(arguments, "max-connections", 1, 1 << 20));
  http.connections_per_address = http.connections / 2;
  if (arguments.has("max-connections-per-address"))
    http.connections_per_address =
        static_cast<size_t>(integer(arguments, "max-connections-per-address", 0, 1 << 20));
  http.keep_alive_seconds = static_cast<int>(
      variable(environment, "HTTP_TIMEOUT_KEEP_ALIVE").value_or(http.keep_alive_seconds));
  return http;
}

std::vector<std::string> texts(const Arguments& arguments, const char* name) {
  const JsonValue value = arguments.value(name);
  const auto is_text = [](const JsonValue& entry) { return entry.is_string(); };
  if (!value.is_array() || !std::ranges::all_of(value, is_text))
    fail(Exit::usage, "--{}: must be a JSON list of texts", name);
  return value.get<std::vector<std::string>>();
}

// Without keys a page of any origin could use a server on the visitor's own machine.
CorsOptions cors_options(const Arguments& arguments, bool has_keys) {
  CorsOptions options;
  if (arguments.has("allowed-origins"))
    options.origins = texts(arguments, "allowed-origins");
  else if (has_keys)
    options.origins = {"*"};
  options.methods = texts(arguments, "allowed-methods");
  options.headers = texts(arguments, "allowed-headers");
  options.credentials = arguments.value("allow-credentials");
  return options;
}

ApiLimits api_limits(const Arguments& arguments, const Environment& environment) {
  ApiLimits limits;
  auto read = [&](const char* name, int64_t& to) { to = variable(environment, name).value_or(to); };
  read("MAX_N_SEQUENCES", limits.n);
  read("MAX_COMPLETION_PROMPTS", limits.prompts);
  read("MAX_STOP_STRINGS", limits.stop_strings);
  read("MAX_NUM_BAD_WORDS", limits.bad_words);
  limits.max_logprobs = integer(arguments, "max-logprobs", 0, 1 << 20);
  return limits;
}

// Seconds from `least` on.
double seconds(const Arguments& arguments, const char* name, double least = 0) {
  const auto value = arguments.value(name).get<double>();
  if (!(value >= least && value < 1e9))
    fail(Exit::usage, "--{} is {} seconds, it must be {} or more", name, value, least);
  return value;
}

AdmissionOptions admission_options(const Arguments& arguments) {
  AdmissionOptions options;
  if (arguments.has("api-key"))
    options.api_keys = arguments.given["api-key"].get<std::vector<std::string>>();
  for (const std::string& key : options.api_keys)
    if (key.empty()) fail(Exit::usage, "--api-key: an empty key opens the server to everybody");
  options.api_key_file = text_or(arguments, "api-key-file");
  const auto read = [&](const char* name, int64_t& to) {
    if (arguments.has(name)) to = integer(arguments, name, 1, int64_t{1} << 40);
  };
  read("max-num-queued-reqs", options.max_queued_requests);
  read("max-num-queued-tokens", options.max_queued_tokens);
  read("max-num-queued-reqs-per-key", options.max_queued_requests_per_key);
  options.overload_status = static_cast<int>(arguments.value("overload-status").get<int64_t>());
  options.request_seconds = seconds(arguments, "request-timeout-s");
  return options;
}

// What answers have in them.
void read_answer_options(const Arguments& arguments, ServerOptions& options) {
  options.response_role = text_or(arguments, "response-role", "assistant");
  options.request_id_headers = arguments.value("enable-request-id-headers");
  const std::string field = text_or(arguments, "reasoning-field");
  options.reasoning = field != "reasoning_content";
  options.reasoning_content = field != "reasoning";
  options.usage_details = arguments.value("enable-prompt-tokens-details");
  options.usage_always = arguments.value("enable-force-include-usage");
  options.tokenizer_info = arguments.value("enable-tokenizer-info-endpoint");
}

// When the server stops, watches itself and writes to the log.
void read_times(const Arguments& arguments, const Environment& environment,
                ServerOptions& options) {
  constexpr double kLeastStep = 0.001;
  options.shutdown_seconds = seconds(arguments, "shutdown-timeout");
  options.watchdog_seconds = seconds(arguments, "watchdog-s", kLeastStep);
  options.abort_seconds = seconds(arguments, "watchdog-abort-s");
  options.log_requests = arguments.value("enable-log-requests");
  if (arguments.value("disable-log-stats").get<bool>())
    options.log_seconds = 0;
  else
    options.log_seconds =
        static_cast<double>(variable(environment, "LOG_STATS_INTERVAL").value_or(10));
}

// Names of methods that are read alike.
std::string family_of(std::string method) {
  std::replace(method.begin(), method.end(), '-', '_');
  if (method == "auto_round" || method == "auto_gptq" || method == "inc") return "auto_round";
  if (method == "gptq_marlin") return "gptq";
  if (method == "awq_marlin") return "awq";
  return method;
}

// Of the caches in $HF_HUB_CACHE, else $HF_HOME/hub.
fs::path hub_folder(const Environment& environment) {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (const auto folder = environment(name); folder && !folder->empty()) return *folder;
  const auto home = environment("HOME").value_or(".");
  return fs::path(environment("HF_HOME").value_or(home + "/.cache/huggingface")) / "hub";
}

// The folder of a revision: a commit, or the name of a branch or tag, whose file in refs/ has the
// commit.
fs::path snapshot(const fs::path& cached, const std::string& revision) {
  if (revision.empty() || revision.starts_with('/') || revision.find("..") != std::string::npos)
    fail(Exit::usage, "--revision {}: must be the name of a branch or tag, or a commit", revision);
  std::string commit = revision;
  if (const fs::path ref = cached / "refs" / revision; fs::is_regular_file(ref)) {
    constexpr size_t kCommitBytes = 256;
    commit = read_file(ref, kCommitBytes);
    commit.erase(commit.find_last_not_of(" \t\r\n") + 1);
  }
  const fs::path folder = cached / "snapshots" / commit;
  if (commit.empty() || commit.find('/') != std::string::npos || !fs::is_directory(folder))
    fail(Exit::invalid_input, "{}: the cache has no revision \"{}\" of it; download it first",
         cached.string(), revision);
  return folder;
}

std::optional<engine::KvType> kv_type(const std::string& name) {
  if (name == "bfloat16") return engine::KvType::bf16;
  if (name == "float16") return engine::KvType::fp16;
  if (name == "fp8" || name == "fp8_e4m3") return engine::KvType::fp8_e4m3;
  return std::nullopt;
}

engine::LogprobsMode logprobs_mode(const std::string& name) {
  if (name == "raw_logits") return engine::LogprobsMode::raw_logits;
  if (name == "processed_logprobs") return engine::LogprobsMode::processed_logprobs;
  if (name == "processed_logits") return engine::LogprobsMode::processed_logits;
  return engine::LogprobsMode::raw_logprobs;
}

// --kv-cache-memory-bytes, else the GiB of VLLM_CPU_KVCACHE_SPACE (or QUERN_...), else 0.
int64_t cache_bytes(const Arguments& arguments, const Environment& environment) {
  if (arguments.has("kv-cache-memory-bytes"))
    return integer(arguments, "kv-cache-memory-bytes", 1, int64_t{1} << 50);
  constexpr int64_t kGib = int64_t{1} << 30;
  const int64_t space = variable(environment, "CPU_KVCACHE_SPACE").value_or(0);
  if (space > (int64_t{1} << 50) / kGib)
    fail(Exit::usage, "CPU_KVCACHE_SPACE is {}, but it is counted in GiB", space);
  return space * kGib;
}

}  // namespace

ServerOptions server_options(const Arguments& arguments, const Environment& environment) {
  ServerOptions options;
  options.http = http_options(arguments, environment);
  options.limits = api_limits(arguments, environment);
  options.admission = admission_options(arguments);
  options.metrics_without_key = arguments.value("metrics-without-key");
  options.cors = cors_options(
      arguments, !options.admission.api_keys.empty() || !options.admission.api_key_file.empty());
  options.pool_threads = std::clamp(threads() / 4, 2, 8);
  if (arguments.has("max-text-bytes"))
    options.text_bytes = static_cast<size_t>(integer(arguments, "max-text-bytes", 1, 1LL << 32));
  read_answer_options(arguments, options);
  read_times(arguments, environment, options);
  options.cache_dtype = text_or(arguments, "kv-cache-dtype");
  for (const char* name : {"tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"})
    if (arguments.value(name) != 1)
      fail(Exit::usage, "--{} is {}, but this server runs on one device: leave it at 1", name,
           arguments.value(name).dump());
  return options;
}

ModelOptions model_options(const Arguments& arguments) {
  ModelOptions options;
  options.tokenizer = text_or(arguments, "tokenizer");
  // As in vLLM the name stays what was typed, even ".".
  options.names = {text_or(arguments, "model")};
  if (arguments.has("served-model-name"))
    options.names = arguments.given["served-model-name"].get<std::vector<std::string>>();
  options.chat_template = text_or(arguments, "chat-template");
  options.content_format = text_or(arguments, "chat-template-content-format");
  options.template_variables = arguments.value("default-chat-template-kwargs");
  options.generation_config = text_or(arguments, "generation-config");
  options.override_generation_config = arguments.value("override-generation-config");
  options.reasoning_parser = text_or(arguments, "reasoning-parser");
  return options;
}

engine::EngineOptions engine_options(const Arguments& arguments, const Environment& environment,
                                     const JsonValue& config, int64_t ids) {
  if (arguments.value("device") == "cuda")
    fail(Exit::device, "--device cuda: this quern was built without CUDA");
  engine::EngineOptions options;
  const int64_t longest = max_model_len(arguments, config);
  // Otherwise the memory decides.
  if (arguments.has("max-model-len") && arguments.given["max-model-len"] != -1)
    options.max_model_len = longest;
  options.max_num_seqs = arguments.value("max-num-seqs");
  options.max_num_batched_tokens = arguments.value("max-num-batched-tokens");
  if (!arguments.value("enable-chunked-prefill").get<bool>() &&
      options.max_num_batched_tokens < longest)
    fail(
        Exit::usage,
        "--no-enable-chunked-prefill: a prompt of --max-model-len {} does not fit in the {} tokens "
        "of a step (--max-num-batched-tokens)",
        longest, options.max_num_batched_tokens);
  options.long_prefill_tokens = arguments.value("long-prefill-token-threshold");
  options.target_itl_ms = arguments.value("target-itl-ms");
  if (!(options.target_itl_ms >= 0))
    fail(Exit::usage, "--target-itl-ms is {}, it must be 0 or more", options.target_itl_ms);
  if (arguments.value("scheduling-policy") == "priority") options.policy = engine::Policy::priority;
  options.prefix_caching = arguments.value("enable-prefix-caching");
  options.kv_type = kv_type(arguments.value("kv-cache-dtype"));
  options.kv_bytes = cache_bytes(arguments, environment);
  if (arguments.has("gpu-memory-utilization")) {
    options.memory_share = arguments.given["gpu-memory-utilization"];
    if (!(options.memory_share > 0 && options.memory_share <= 1))
      fail(Exit::usage, "--gpu-memory-utilization is {}, it must lie above 0 and be 1 at most",
           options.memory_share);
  }
  options.block_tokens = arguments.value("block-size");
  options.seed = static_cast<uint64_t>(arguments.value("seed").get<int64_t>());
  options.logprobs_mode = logprobs_mode(arguments.value("logprobs-mode"));
  options.ids = ids;
  return options;
}

fs::path model_folder(const Arguments& arguments, const Environment& environment) {
  const std::string model = text_or(arguments, "model");
  if (model.empty())
    fail(Exit::usage,
         "No model specified! Name its folder after `quern serve`, or as `model:` in --config");
  if (fs::is_directory(model)) return model;
  const fs::path hub = hub_folder(environment);
  std::string name = "models--" + model;
  for (size_t at; (at = name.find('/')) != std::string::npos;) name.replace(at, 1, "--");
  const fs::path cached = hub / name;
  if (!fs::is_directory(cached / "snapshots"))
    fail(Exit::invalid_input,
         "{}: there is no such folder, nor such a model in {}; download it first, quern never does",
         model, hub.string());
  return snapshot(cached, text_or(arguments, "revision", "main"));
}

void check_quantization(const Arguments& arguments, const JsonValue& config) {
  const std::string wanted = text_or(arguments, "quantization");
  if (wanted.empty() || wanted == "None") return;
  std::string found = "none";
  for (const JsonValue* from :
       {&config, config.contains("text_config") ? &config["text_config"] : &config})
    if (from->contains("quantization_config") && (*from)["quantization_config"].is_object())
      found = (*from)["quantization_config"].value("quant_method", "unknown");
  if (family_of(wanted) != family_of(found))
    fail(Exit::usage,
         "--quantization {}: config.json says that the weights' method is {}; omit the option",
         wanted, found);
}

int64_t max_model_len(const Arguments& arguments, const JsonValue& config) {
  const int64_t most = prompt::context_length(config);
  if (!arguments.has("max-model-len")) return most;
  const auto wanted = arguments.given["max-model-len"].get<int64_t>();
  if (wanted == -1) return most;
  if (wanted < 1) fail(Exit::usage, "--max-model-len is {}, it must be at least 1", wanted);
  if (most > 0 && wanted > most)
    fail(Exit::usage,
         "--max-model-len is {}, but the model was made for {} tokens (max_position_embeddings and "
         "rope factor in config.json)",
         wanted, most);
  return wanted;
}

}  // namespace quern::serve
