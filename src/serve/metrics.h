// What the server counts, under the names that vLLM's dashboards know.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/request.h"

namespace quern::serve {

class Histogram {
 public:
  // Upper bounds, ascending; a last one of infinity is added.
  explicit Histogram(std::vector<double> bounds);

  void observe(double value);
  // Lines of Prometheus' text format for `name` with `labels` ("a=\"b\"").
  void print(std::string& out, const std::string& name, const std::string& labels) const;
  double mean() const;  // 0 while there is nothing

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<uint64_t>> counts_;  // of each bucket alone
  std::atomic<double> sum_{0};
};

// How one choice came to be; seconds since the request arrived.
struct ChoiceTimes {
  double submitted = 0;  // to the engine
  double started = 0;    // the step that began to read the prompt
  double first_token = 0, last_token = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, new_tokens = 0, max_tokens = 0;
};

// May be called from any thread.
class Metrics {
 public:
  // `labels` of every line, such as model_name.
  Metrics(std::string labels, int64_t max_model_len);

  void step(int64_t tokens) { step_tokens_.observe(static_cast<double>(tokens)); }
  void first_token(const ChoiceTimes& times);
  // `seconds` since the last one.
  void next_token(double seconds) { between_tokens_.observe(seconds); }
  void new_tokens(int64_t tokens) { new_total_ += static_cast<uint64_t>(tokens); }
  void choice_ended(const char* finish_reason, const ChoiceTimes& times);
  // All n choices of a prompt have ended; the longest of them has `new_tokens`.
  void prompt_ended(int64_t n, int64_t new_tokens);
  void http_request(const std::string& path, const std::string& method, int status, double seconds);

  double mean_request_seconds() const { return request_seconds_.mean(); }
  // Since the start.
  uint64_t prompt_tokens() const { return prompt_total_; }
  uint64_t new_tokens() const { return new_total_; }

  // In Prometheus' text format 0.0.4.
  std::string text(const engine::EngineState& state, const engine::Limits& limits,
                   const std::string& cache_labels, uint64_t slow_clients, uint64_t refused) const;

 private:
  std::string labels_;
  Histogram first_token_, between_tokens_, per_token_;
  Histogram request_seconds_, queue_seconds_, inference_seconds_, prefill_seconds_, decode_seconds_;
  Histogram prompt_tokens_, computed_tokens_, new_tokens_, longest_tokens_, max_tokens_, n_;
  Histogram step_tokens_;
  mutable std::mutex mutex_;                       // guards the three below
  std::map<std::string, uint64_t> finished_;       // by reason
  std::map<std::string, uint64_t> http_;           // by labels
  std::map<std::string, Histogram> http_seconds_;  // by labels
  std::atomic<uint64_t> prompt_total_{0}, new_total_{0};
};

}  // namespace quern::serve
