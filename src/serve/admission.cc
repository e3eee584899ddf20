#include "serve/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "serve/errors.h"

namespace quern::serve {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

std::string_view given_key(const http::Request& request) {
  const std::string_view bearer = request.header("authorization");
  constexpr std::string_view kScheme = "bearer ";
  const bool is_bearer = bearer.size() >= kScheme.size() &&
                         std::equal(kScheme.begin(), kScheme.end(), bearer.begin(),
                                    [](char wanted, char given) { return wanted == lower(given); });
  return is_bearer ? bearer.substr(kScheme.size()) : request.header("x-api-key");
}

// What the client allows, in seconds; 0: anything.
double allowed_seconds(const http::Request& request) {
  const std::string_view text = request.header("x-request-timeout-ms");
  if (text.empty()) return 0;
  int64_t milliseconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), milliseconds);
  if (error != std::errc() || end != text.data() + text.size() || milliseconds < 1)
    refuse("x-request-timeout-ms must be a number of milliseconds.", "x-request-timeout-ms");
  return static_cast<double>(milliseconds) / 1000;
}

}  // namespace

Admission::Admission(const AdmissionOptions& options)
    : options_(options), keys_(options.api_keys, options.api_key_file) {}

void Admission::fit(const engine::Limits& limits) {
  max_model_len_ = limits.max_model_len;
  if (options_.max_queued_requests == 0) options_.max_queued_requests = 4 * limits.max_num_seqs;
  if (options_.max_queued_tokens == 0)
    options_.max_queued_tokens =
        std::max(64 * limits.max_num_batched_tokens, 2 * limits.max_model_len);
}

void Admission::check_key(const http::Request& request) const {
  if (asks_for_keys() && !key_of(request))
    throw ApiError(401, "AuthenticationError", "Unauthorized");
}

Admission::Key Admission::key_of(const http::Request& request) const {
  return keys_.find(given_key(request));
}

void Admission::check_load(const Key& key, int64_t requests, int64_t tokens, int64_t unfinished,
                           int64_t own_tokens) {
  const int64_t own = key ? key->max_requests.load() : 0;
  const int64_t of_key = own > 0 ? own : options_.max_queued_requests_per_key;
  if (key && of_key > 0 && key->requests + requests > of_key)
    refuse_load(429, fmt::format("{} requests of this API key are in work or waiting",
                                 key->requests.load()));
  const int64_t queued = queued_tokens_ - own_tokens;
  // Alone, whatever the request is: to be told to come back would not help it.
  const bool fits = (unfinished == 0 || unfinished + requests <= options_.max_queued_requests) &&
                    (queued == 0 || queued + tokens <= options_.max_queued_tokens);
  if (fits) return;
  if (key) {
    const bool busy = key->requests > 0 || key->queued_tokens > own_tokens;
    const int64_t keys = std::max<int64_t>(keys_.busy() + (busy ? 0 : 1), 1);
    if (keys > 1 && key->requests + requests <= options_.max_queued_requests / keys &&
        key->queued_tokens - own_tokens + tokens <= options_.max_queued_tokens / keys)
      return;
  }
  refuse_load(fmt::format(
      "{} requests are in work or waiting, {} tokens of their prompts are still to be read",
      unfinished, queued));
}

void Admission::refuse_load(const std::string& why) { refuse_load(options_.overload_status, why); }

void Admission::refuse_load(int status, const std::string& why) {
  ++refused_;
  throw ApiError(status, status == 503 ? "ServiceUnavailable" : http::reason_phrase(status),
                 "Server overloaded: " + why + ".");
}

std::optional<Admission::Clock::time_point> Admission::deadline_of(
    const http::Exchange& call) const {
  constexpr double kForever = 1e9;
  double seconds = kForever;
  for (const double allowed : {options_.request_seconds, allowed_seconds(call.request())})
    if (allowed > 0) seconds = std::min(seconds, allowed);
  if (seconds == kForever) return std::nullopt;
  return call.arrived() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace quern::serve
