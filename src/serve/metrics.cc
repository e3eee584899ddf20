#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace quern::serve {
namespace {

const std::vector<double> kFirstTokenSeconds = {.001, .005, .01, .02, .04, .06, .08, .1,
                                                .25,  .5,   .75, 1,   2.5, 5,   7.5, 10,
                                                20,   40,   80,  160, 640, 2560};
const std::vector<double> kTokenSeconds = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                           .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const std::vector<double> kRequestSeconds = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                             30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};

const std::vector<double> kStepTokens = {1,   8,    16,   32,   64,   128,  256,
                                         512, 1024, 2048, 4096, 8192, 16384};
const std::vector<double> kHttpSeconds = {.1, .5, 1};

// 1, 2, 5, 10, 20, 50, ... up to `most`.
std::vector<double> steps_of_125(int64_t most) {
  std::vector<double> bounds;
  for (double decade = 1;; decade *= 10)
    for (double step : {1.0, 2.0, 5.0}) {
      if (step * decade > static_cast<double>(most)) return bounds;
      bounds.push_back(step * decade);
    }
}

// As Python prints it, which dashboards match literally.
std::string bound_text(double bound) {
  return bound == std::floor(bound) ? fmt::format("{:.1f}", bound) : fmt::format("{}", bound);
}

class Page {
 public:
  explicit Page(const std::string& labels) : labels_(labels) {}

  void head(const std::string& name, const char* type, const char* help) {
    out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  void line(const std::string& name, double value, const std::string& more = {}) {
    out_ += fmt::format("{}{{{}{}}} {}\n", name, labels_, more, value);
  }
  void gauge(const std::string& name, const char* help, double value) {
    head(name, "gauge", help);
    line(name, value);
  }
  void counter(const std::string& name, const char* help, double value) {
    head(name + "_total", "counter", help);
    line(name + "_total", value);
  }
  void buckets(const std::string& name, const Histogram& histogram, const std::string& more = {}) {
    histogram.print(out_, name, labels_ + more);
  }
  void histogram(const std::string& name, const char* help, const Histogram& histogram) {
    head(name, "histogram", help);
    buckets(name, histogram);
  }
  std::string take() { return std::move(out_); }

 private:
  const std::string& labels_;
  std::string out_;
};

double count(int64_t value) { return static_cast<double>(value); }

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void Histogram::print(std::string& out, const std::string& name, const std::string& labels) const {
  uint64_t below = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    const std::string bound = i < bounds_.size() ? bound_text(bounds_[i]) : "+Inf";
    out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, below);
  }
  out += fmt::format("{}_count{{{}}} {}\n", name, labels, below);
  out += fmt::format("{}_sum{{{}}} {}\n", name, labels, sum_.load());
}

double Histogram::mean() const {
  uint64_t all = 0;
  for (const auto& count : counts_) all += count;
  return all ? sum_ / static_cast<double>(all) : 0;
}

Metrics::Metrics(std::string labels, int64_t max_model_len)
    : labels_(std::move(labels)),
      first_token_(kFirstTokenSeconds),
      between_tokens_(kTokenSeconds),
      per_token_(kTokenSeconds),
      request_seconds_(kRequestSeconds),
      queue_seconds_(kRequestSeconds),
      inference_seconds_(kRequestSeconds),
      prefill_seconds_(kRequestSeconds),
      decode_seconds_(kRequestSeconds),
      prompt_tokens_(steps_of_125(max_model_len)),
      computed_tokens_(steps_of_125(max_model_len)),
      new_tokens_(steps_of_125(max_model_len)),
      longest_tokens_(steps_of_125(max_model_len)),
      max_tokens_(steps_of_125(max_model_len)),
      n_({1, 2, 5, 10, 20}),
      step_tokens_(kStepTokens) {
  for (const char* reason : {"stop", "length", "abort", "error"}) finished_[reason] = 0;
}

void Metrics::first_token(const ChoiceTimes& times) {
  first_token_.observe(times.first_token);
  prompt_total_ += static_cast<uint64_t>(times.prompt_tokens);
}

void Metrics::choice_ended(const char* finish_reason, const ChoiceTimes& times) {
  {
    const std::lock_guard lock(mutex_);
    ++finished_[finish_reason];
  }
  if (times.new_tokens == 0) return;
  prompt_tokens_.observe(count(times.prompt_tokens));
  computed_tokens_.observe(count(times.prompt_tokens - times.cached_tokens));
  new_tokens_.observe(count(times.new_tokens));
  max_tokens_.observe(count(times.max_tokens));
  request_seconds_.observe(times.last_token);
  queue_seconds_.observe(times.started - times.submitted);
  inference_seconds_.observe(times.last_token - times.started);
  prefill_seconds_.observe(times.first_token - times.started);
  const double decode = times.last_token - times.first_token;
  decode_seconds_.observe(decode);
  if (times.new_tokens > 1) per_token_.observe(decode / count(times.new_tokens - 1));
}

void Metrics::prompt_ended(int64_t n, int64_t new_tokens) {
  n_.observe(count(n));
  longest_tokens_.observe(count(new_tokens));
}

void Metrics::http_request(const std::string& path, const std::string& method, int status,
                           double seconds) {
  const std::string labels = fmt::format("handler=\"{}\",method=\"{}\"", path, method);
  const std::lock_guard lock(mutex_);
  ++http_[fmt::format("{},status=\"{}xx\"", labels, status / 100)];
  http_seconds_.try_emplace(labels, kHttpSeconds).first->second.observe(seconds);
}

std::string Metrics::text(const engine::EngineState& state, const engine::Limits& limits,
                          const std::string& cache_labels, uint64_t slow_clients,
                          uint64_t refused) const {
  Page page(labels_);
  const double usage =
      limits.kv_tokens > 0 ? count(state.kv_tokens_used) / count(limits.kv_tokens) : 0;
  page.gauge("vllm:num_requests_running", "Requests in the batches of the model.",
             count(state.running));
  page.gauge("vllm:num_requests_waiting", "Requests that wait for their turn.",
             count(state.waiting));
  page.gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all of it.", usage);
  page.gauge("vllm:gpu_cache_usage_perc", "The older name of vllm:kv_cache_usage_perc.", usage);
  page.head("vllm:cache_config_info", "gauge", "Settings of the KV cache.");
  page.line("vllm:cache_config_info", 1, "," + cache_labels);
  page.counter("vllm:prefix_cache_queries", "Tokens of prompts looked for in the prefix cache.",
               count(state.prefix_queries));
  page.counter("vllm:prefix_cache_hits", "Tokens of prompts found in the prefix cache.",
               count(state.prefix_hits));
  page.counter("vllm:gpu_prefix_cache_queries", "The older name of vllm:prefix_cache_queries.",
               count(state.prefix_queries));
  page.counter("vllm:gpu_prefix_cache_hits", "The older name of vllm:prefix_cache_hits.",
               count(state.prefix_hits));
  page.counter("vllm:num_preemptions", "Times that a request gave its cache to another one.",
               count(state.preemptions));
  page.counter("vllm:prompt_tokens", "Tokens of prompts.", static_cast<double>(prompt_total_));
  page.counter("vllm:prompt_tokens_cached", "Tokens of prompts that were not computed.",
               count(state.prefix_hits));
  page.counter("vllm:prompt_tokens_recomputed", "Tokens computed again after a preemption.",
               count(state.recomputed_tokens));
  page.head("vllm:prompt_tokens_by_source_total", "counter", "Tokens of prompts by their source.");
  page.line("vllm:prompt_tokens_by_source_total", count(state.prompt_tokens),
            ",source=\"local_compute\"");
  page.line("vllm:prompt_tokens_by_source_total", count(state.prefix_hits),
            ",source=\"local_cache_hit\"");
  page.counter("vllm:generation_tokens", "Tokens of answers.", static_cast<double>(new_total_));
  page.counter("vllm:corrupted_requests", "Requests whose logits were not numbers.",
               count(state.corrupted_requests));
  page.counter("vllm:admission_rejections", "Requests refused because too much was waiting.",
               static_cast<double>(refused));
  page.head("vllm:request_success_total", "counter", "Answers by the reason of their end.");
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [reason, ended] : finished_)
      page.line("vllm:request_success_total", static_cast<double>(ended),
                ",finished_reason=\"" + reason + "\"");
    page.head("http_requests_total", "counter", "HTTP requests.");
    for (const auto& [labels, requests] : http_)
      page.line("http_requests_total", static_cast<double>(requests), "," + labels);
    page.head("http_request_duration_seconds", "histogram", "From a request to its answer's end.");
    for (const auto& [labels, seconds] : http_seconds_)
      page.buckets("http_request_duration_seconds", seconds, "," + labels);
  }
  page.histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", prompt_tokens_);
  page.histogram("vllm:request_prefill_kv_computed_tokens",
                 "Tokens of a prompt that were not in the prefix cache.", computed_tokens_);
  page.histogram("vllm:request_generation_tokens", "Tokens of an answer.", new_tokens_);
  page.histogram("vllm:request_max_num_generation_tokens", "Tokens of the longest of n answers.",
                 longest_tokens_);
  page.histogram("vllm:request_params_max_tokens", "max_tokens of a request.", max_tokens_);
  page.histogram("vllm:request_params_n", "n of a request.", n_);
  page.histogram("vllm:time_to_first_token_seconds", "From a request to its first token.",
                 first_token_);
  page.histogram("vllm:inter_token_latency_seconds", "Between two tokens.", between_tokens_);
  page.histogram("vllm:time_per_output_token_seconds",
                 "The older name of vllm:inter_token_latency_seconds.", between_tokens_);
  page.histogram("vllm:request_time_per_output_token_seconds",
                 "Mean time between the tokens of an answer.", per_token_);
  page.histogram("vllm:e2e_request_latency_seconds", "From a request to its last token.",
                 request_seconds_);
  page.histogram("vllm:request_queue_time_seconds", "Until the first step of a request.",
                 queue_seconds_);
  page.histogram("vllm:request_inference_time_seconds",
                 "From the first step of a request to its last token.", inference_seconds_);
  page.histogram("vllm:request_prefill_time_seconds",
                 "From the first step of a request to its first token.", prefill_seconds_);
  page.histogram("vllm:request_decode_time_seconds", "From the first token to the last one.",
                 decode_seconds_);
  page.histogram("vllm:iteration_tokens_total", "Tokens of a step, of prompts and new ones.",
                 step_tokens_);
  page.gauge("quern:engine_step_seconds", "Length of the last step.", state.step_seconds);
  page.counter("quern:slow_client_aborts", "Clients that were dropped because they did not read.",
               static_cast<double>(slow_clients));
  return page.take();
}

}  // namespace quern::serve
