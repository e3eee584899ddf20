// The API keys, which a reload may replace while requests of the old ones are in work.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quern::serve {

struct ApiKey {
  std::string digest;  // SHA-256 of the key, in hexadecimal
  std::string name;    // for the log; empty: none was given
  // In work and waiting together, then 429; 0: the limit for all keys.
  std::atomic<int64_t> max_requests{0};
  std::atomic<int64_t> requests{0};
  std::atomic<int64_t> queued_tokens{0};  // of its prompts that are still to be read
};

class KeyRing {
 public:
  // Keys from the command line, and those of a file, if it is not empty: YAML or JSON,
  //   - key: sk-...                   or `sha256:` with the digest of the key
  //     name: alice                   optional
  //     max-num-queued-reqs: 8        optional
  // Fails with Exit::usage, naming the entry.
  KeyRing(const std::vector<std::string>& keys, std::filesystem::path file);

  // Reads the file again. Keys that stay keep their counts. Fails as the constructor does, and then
  // the old keys stay.
  void reload();

  size_t size() const { return keys_.load()->size(); }
  // Keys with requests in work or waiting.
  int64_t busy() const;
  // Null if it is not one of them. Takes a time that does not depend on the keys.
  std::shared_ptr<ApiKey> find(std::string_view key) const;

 private:
  using Keys = std::vector<std::shared_ptr<ApiKey>>;

  std::vector<std::string> digests_;  // of the command line
  std::filesystem::path file_;
  std::atomic<std::shared_ptr<const Keys>> keys_;
};

}  // namespace quern::serve
