#include "serve/flags.h"

#include <array>

namespace quern::serve {
namespace {

using enum Kind;

constexpr std::array kUsed = std::to_array<Flag>({
    // Model
    {"model", text, "null", "model folder; `--model` is the older spelling of the first word"},
    {"revision", text, "null",
     "branch, tag or commit of a name in the Hugging Face cache; default: main"},
    {"tokenizer", text, "null", "folder of the tokenizer, if it is not the model's"},
    {"served-model-name", list, "null",
     "names that clients may use; the first one is told to them"},
    {"max-model-len", size, "null",
     "tokens of prompt and answer together; -1 or auto: what the cache has room for"},
    {"quantization", text, "null", "what the checkpoint must be, or the start fails"},
    {"dtype", text, "\"auto\"", "of activations; they are float32 inside whatever is asked for",
     "auto|half|float16|bfloat16|float|float32"},
    {"seed", integer, "0", "of requests that have none: the same answers in the same order"},
    {"mock-engine", text, "null",
     "no model: repeat a text; tokens_per_s=N,prefill_us=N,answer_tokens=N"},
    {"tensor-parallel-size", integer, "1", "devices that share each layer; 1"},
    {"pipeline-parallel-size", integer, "1", "devices that share the layers; 1"},
    {"data-parallel-size", integer, "1", "copies of the model; 1"},
    // Memory and schedule
    {"device", text, "\"cpu\"", "where the model runs", "auto|cpu|cuda"},
    {"kv-cache-dtype", text, "\"auto\"", "of keys and values in the cache",
     "auto|bfloat16|float16|fp8|fp8_e4m3"},
    {"kv-cache-memory-bytes", size, "null",
     "of all caches together; default: VLLM_CPU_KVCACHE_SPACE GiB, else what the next leaves"},
    {"gpu-memory-utilization", number, "null",
     "share of the machine's memory for weights, activations and caches; default: caches take a "
     "quarter of what is available, and 16 GiB at most"},
    {"block-size", integer, "16", "tokens of a cache block; a multiple of 16"},
    {"max-num-seqs", integer, "64", "answers that are made at once"},
    {"max-num-batched-tokens", size, "2048", "tokens of one step"},
    {"enable-chunked-prefill", flag, "true", "read long prompts in several steps"},
    {"enable-prefix-caching", flag, "true", "keep what was computed of prompts for later ones"},
    {"target-itl-ms", number, "250.0",
     "milliseconds that a step with running answers may take: it reads fewer tokens of prompts to "
     "end in time; 0: no limit"},
    {"long-prefill-token-threshold", integer, "0", "tokens of one prompt in a step; 0: no limit"},
    {"scheduling-policy", text, "\"fcfs\"", "who goes first", "fcfs|priority"},
    {"logprobs-mode", text, "\"raw_logprobs\"", "what logprobs are",
     "raw_logprobs|raw_logits|processed_logprobs|processed_logits"},
    // Answers
    {"generation-config", text, "\"auto\"", "auto: the model's; vllm: none; or a folder"},
    {"override-generation-config", json, "null", "sampling settings for requests that have none"},
    {"chat-template", text, "null", "a file, or the template itself"},
    {"chat-template-content-format", text, "\"auto\"", "what templates get for lists of parts",
     "auto|string|openai"},
    {"default-chat-template-kwargs", json, "null", "variables for every conversation"},
    {"reasoning-parser", text, "\"auto\"",
     "how thoughts are marked: auto, none, qwen3, glm45, gemma4, deepseek_r1"},
    {"response-role", text, "\"assistant\"", "role of the answers' messages"},
    {"reasoning-field", text, "\"both\"", "key under which thoughts are told",
     "both|reasoning|reasoning_content"},
    {"max-logprobs", integer, "20", "that a request may ask for"},
    {"enable-prompt-tokens-details", flag, "true", "tell cached_tokens and reasoning_tokens"},
    {"enable-force-include-usage", flag, "false", "usage at the end of every stream"},
    {"enable-tokenizer-info-endpoint", flag, "false", "offer GET /tokenizer_info"},
    // Server
    {"host", text, "\"127.0.0.1\"", "address to listen on; 0.0.0.0: all"},
    {"port", integer, "8000", "0: any that is free"},
    {"uds", text, "null", "path of a Unix socket, instead of host and port"},
    {"api-key", list, "null",
     "keys of clients; a client without one may only ask for /health, /ping and /version"},
    {"api-key-file", text, "null",
     "file with more keys: a list of `key` or `sha256`, `name` and `max-num-queued-reqs`; SIGHUP "
     "reads it again"},
    {"metrics-without-key", flag, "false", "lets clients without a key read /metrics"},
    {"allowed-origins", json, "null",
     "origins whose pages may ask from a browser, as a JSON list; default: [\"*\"] if there are "
     "keys, else none"},
    {"allowed-methods", json, "[\"*\"]", "methods that such pages may use"},
    {"allowed-headers", json, "[\"*\"]", "headers that such pages may send"},
    {"allow-credentials", flag, "false", "lets such pages send cookies and certificates"},
    {"ssl-certfile", text, "null", "certificate chain, PEM"},
    {"ssl-keyfile", text, "null", "private key, PEM"},
    {"ssl-ca-certs", text, "null", "who signs certificates of clients"},
    {"ssl-cert-reqs", integer, "0", "certificates of clients: 0 no, 1 optional, 2 required"},
    {"api-server-count", integer, "1", "I/O threads"},
    {"max-num-queued-reqs", integer, "null",
     "in work and waiting, then 503; default: 4 times max-num-seqs"},
    {"max-num-queued-tokens", size, "null", "of prompts that are still to be read, then 503"},
    {"max-num-queued-reqs-per-key", integer, "null", "of one API key, then 429; default: no limit"},
    {"overload-status", integer, "503", "what a request gets that finds too many before it",
     "503|429|529"},
    {"request-timeout-s", number, "0.0",
     "that a request may take, if its x-request-timeout-ms allows no less; 0: any time"},
    {"max-request-bytes", size, "67108864", "of a body, then 413"},
    {"max-total-request-bytes", size, "536870912",
     "bytes of all bodies that are being read and prepared, then 503"},
    {"max-text-bytes", size, "null",
     "bytes of the text of one prompt, then 400; default: 16 for each token of max-model-len"},
    {"watchdog-s", number, "120.0", "seconds that a step may take before /health is 503"},
    {"watchdog-abort-s", number, "0.0",
     "seconds that a step may take before the process ends with exit code 1; 0: any time"},
    {"max-connections", integer, "8192", "connections at once, then 503"},
    {"max-connections-per-address", integer, "null",
     "connections of one client's address at once, then 503; 0: no limit; default: half of "
     "max-connections"},
    {"h11-max-incomplete-event-size", size, "65536", "bytes of a request's head, then 431"},
    {"h11-max-header-count", integer, "256", "header fields of a request, then 431"},
    {"enable-request-id-headers", flag, "false", "tell X-Request-Id in every answer"},
    {"shutdown-timeout", number, "25.0", "seconds that answers may take to end after SIGTERM"},
    {"enable-log-requests", flag, "false",
     "logs a line when a request begins and ends, without its texts"},
    {"disable-log-stats", flag, "false", "no line about the throughput every 10 seconds"},
    {"threads", integer, "null", "that compute; default: all cores"},
    {"check-config", flag, "false", "print the effective configuration as YAML, and end"},
});

constexpr std::array kAliases = std::to_array<Alias>({
    {"-tp", "tensor-parallel-size"},
    {"-pp", "pipeline-parallel-size"},
    {"-dp", "data-parallel-size"},
    {"-q", "quantization"},
    {"-O", "optimization-level"},
    {"-cc", "compilation-config"},
    {"-asc", "api-server-count"},
});

}  // namespace

std::span<const Flag> used_flags() { return kUsed; }
std::span<const Alias> aliases() { return kAliases; }

}  // namespace quern::serve
