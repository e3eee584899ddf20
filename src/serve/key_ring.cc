#include "serve/key_ring.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/yaml.h"

namespace quern::serve {
namespace {

constexpr size_t kFileBytes = 4 << 20;
constexpr int kFileNodes = 1'000'000;

bool is_digest(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::shared_ptr<ApiKey> key_of(std::string digest) {
  auto key = std::make_shared<ApiKey>();
  key->digest = std::move(digest);
  return key;
}

std::shared_ptr<ApiKey> read_key(const Json& entry) {
  if (!entry.is_object()) fail(Exit::usage, "{}: expected key or sha256", entry.path());
  for (const std::string& field : entry.keys())
    if (field != "key" && field != "sha256" && field != "name" && field != "max-num-queued-reqs")
      fail(Exit::usage,
           "{}: there is no field \"{}\"; known: key, sha256, name, max-num-queued-reqs",
           entry.path(), field);
  const auto text = entry.get<std::string>("key", ""),
             digest = entry.get<std::string>("sha256", "");
  if (text.empty() == digest.empty())
    fail(Exit::usage, "{}: expected either key or sha256", entry.path());
  if (!digest.empty() && !is_digest(digest))
    fail(Exit::usage, "{}: sha256 must have 64 lower-case hexadecimal digits", entry.path());
  auto key = key_of(digest.empty() ? sha256(text) : digest);
  key->name = entry.get<std::string>("name", "");
  key->max_requests = entry.get<int64_t>("max-num-queued-reqs", 0);
  if (key->max_requests < 0)
    fail(Exit::usage, "{}: max-num-queued-reqs must be 0 or more", entry.path());
  return key;
}

}  // namespace

KeyRing::KeyRing(const std::vector<std::string>& keys, std::filesystem::path file)
    : file_(std::move(file)), keys_(std::make_shared<const Keys>()) {
  for (const std::string& key : keys) digests_.push_back(sha256(key));
  reload();
}

void KeyRing::reload() {
  const std::shared_ptr<const Keys> before = keys_.load();
  auto keys = std::make_shared<Keys>();
  const auto add = [&](const std::shared_ptr<ApiKey>& read) {
    const auto same = [&](const auto& key) { return key->digest == read->digest; };
    if (std::ranges::any_of(*keys, same))
      fail(Exit::usage, "{}: a key appears twice", file_.string());
    const auto known = std::ranges::find_if(*before, same);
    if (known == before->end()) return keys->push_back(read);
    (*known)->max_requests = read->max_requests.load();
    keys->push_back(*known);
  };
  for (const std::string& digest : digests_) add(key_of(digest));
  if (!file_.empty()) {
    const JsonValue document = parse_yaml(read_file(file_, kFileBytes), file_.string(),
                                          {.bytes = kFileBytes, .nodes = kFileNodes});
    const Json list(document, file_.string());
    if (!document.is_array() || document.empty())
      fail(Exit::usage, "{}: expected a list of keys", file_.string());
    for (size_t i = 0; i < list.size(); ++i) add(read_key(list.at(i)));
  }
  keys_ = std::move(keys);
}

int64_t KeyRing::busy() const {
  return std::ranges::count_if(
      *keys_.load(), [](const auto& key) { return key->requests > 0 || key->queued_tokens > 0; });
}

std::shared_ptr<ApiKey> KeyRing::find(std::string_view key) const {
  const std::string digest = sha256(key);
  std::shared_ptr<ApiKey> found;
  for (const std::shared_ptr<ApiKey>& known : *keys_.load())
    if (CRYPTO_memcmp(digest.data(), known->digest.data(), digest.size()) == 0) found = known;
  return found;
}

}  // namespace quern::serve
