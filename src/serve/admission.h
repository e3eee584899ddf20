// Who may ask, and how much: API keys, and the load above which requests are refused instead of
// left waiting. All of it may be called from any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "http/server.h"
#include "serve/key_ring.h"

namespace quern::serve {

struct AdmissionOptions {
  std::vector<std::string> api_keys = {};  // none, and no file: everybody may ask
  std::string api_key_file = {};           // more of them; see KeyRing
  // In work and waiting; 0: four times what the engine runs at once.
  int64_t max_queued_requests = 0;
  // Of prompts that wait or are being read; 0: 64 times what a step takes.
  int64_t max_queued_tokens = 0;
  // Of one key, in work and waiting, then 429; 0: no limit but the ones for all.
  int64_t max_queued_requests_per_key = 0;
  int overload_status = 503;
  double request_seconds = 0;  // that a request may take; 0: as long as it takes
};

class Admission {
 public:
  using Clock = std::chrono::steady_clock;
  using Key = std::shared_ptr<ApiKey>;

  explicit Admission(const AdmissionOptions& options);
  // Sets what the options leave to the engine.
  void fit(const engine::Limits& limits);

  // Throws ApiError 401 for who has none of the keys.
  void check_key(const http::Request& request) const;
  // The key that was given; null where nobody is asked for one.
  Key key_of(const http::Request& request) const;
  bool asks_for_keys() const { return keys_.size() > 0; }
  bool tells_keys_apart() const { return keys_.size() > 1; }
  void reload_keys() { keys_.reload(); }

  // Throws ApiError for what would have to wait for too long. A key whose own load is below its
  // share of what all may have is never refused for the load of others. `unfinished`: requests in
  // the engine; `own_tokens`: of the queued ones, those that are counted for this request already.
  void check_load(const Key& key, int64_t requests, int64_t tokens, int64_t unfinished,
                  int64_t own_tokens = 0);
  [[noreturn]] void refuse_load(const std::string& why);
  // As many tokens as a prompt in a body of so many bytes may have, until it is tokenized: no more
  // than the model reads.
  int64_t likely_tokens(size_t bytes) const {
    return std::min(static_cast<int64_t>(bytes / 3), max_model_len_.load());
  }
  // Tokens of prompts that are still to be read, as long as this lives.
  class Queued {
   public:
    Queued(Admission& admission, Key key, int64_t tokens)
        : admission_(admission), key_(std::move(key)), tokens_(tokens) {
      admission_.queued_tokens_ += tokens_;
      if (key_) key_->queued_tokens += tokens_;
    }
    ~Queued() {
      admission_.queued_tokens_ -= tokens_;
      if (key_) key_->queued_tokens -= tokens_;
    }
    Queued(const Queued&) = delete;
    Queued& operator=(const Queued&) = delete;
    int64_t tokens() const { return tokens_; }

   private:
    Admission& admission_;
    const Key key_;
    const int64_t tokens_;
  };
  uint64_t refused() const { return refused_; }

  // When a request has to be done: by our option or its own header, whichever is sooner.
  std::optional<Clock::time_point> deadline_of(const http::Exchange& call) const;

 private:
  [[noreturn]] void refuse_load(int status, const std::string& why);

  AdmissionOptions options_;
  KeyRing keys_;
  std::atomic<int64_t> max_model_len_{std::numeric_limits<int64_t>::max()};
  std::atomic<int64_t> queued_tokens_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace quern::serve
