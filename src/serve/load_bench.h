// What `vllm bench serve` measures: many streams against a server, and the times of their tokens.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "http/client.h"

namespace quern::serve {

struct LoadPrompt {
  std::vector<int32_t> ids;  // for completions
  std::string text;          // if there are no ids
  int64_t output_tokens = 128;
};

struct LoadOptions {
  http::Url url;
  http::Trust trust = http::Trust::check;
  std::string endpoint = "/v1/completions";  // or /v1/chat/completions
  std::string model, key;
  std::optional<double> request_rate;  // a second; unset: all at once
  double burstiness = 1;               // shape of the gamma distribution of the pauses
  std::optional<int64_t> max_concurrency;
  bool ignore_eos = false;
  std::optional<double> temperature;
  JsonValue extra_body = JsonValue::object();
  uint64_t seed = 0;
  std::map<std::string, double> goodput;  // "ttft", "tpot", "e2el" -> most milliseconds
  std::vector<double> percentiles = {99};
};

// Under the keys that vllm bench writes.
JsonValue run_load(const LoadOptions& options, const std::vector<LoadPrompt>& prompts);

// The table that vllm bench prints.
std::string load_text(const JsonValue& result);

}  // namespace quern::serve
