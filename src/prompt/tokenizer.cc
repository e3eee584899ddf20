#include "prompt/tokenizer.h"

#include <cstring>

#include "base/file.h"
#include "prompt/ffi.h"

namespace quern::prompt {
namespace {

// The limit of backtracking steps for one match of a splitting pattern. The patterns of known
// tokenizers need a few steps for each character of a word.
constexpr uint64_t kBacktracks = 10'000'000;
// A character needs at most four byte tokens; after this many ids without a character, the bytes
// are invalid.
constexpr size_t kLongestCharacter = 8;
// Ids before a stream that a decoder may look at.
constexpr size_t kContext = 8;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

std::filesystem::path tokenizer_file(const std::filesystem::path& path) {
  return std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& file)
    : Tokenizer(read_file(tokenizer_file(file)), tokenizer_file(file).string()) {}

Tokenizer::Tokenizer(std::string_view json, const std::string& origin) : origin_(origin) {
  QtTokenizer* tokenizer = nullptr;
  FfiBytes message;
  int32_t status =
      qt_tokenizer_new(json.data(), json.size(), kBacktracks, &tokenizer, message.out());
  require(status, message, origin_);
  tokenizer_ = std::shared_ptr<const QtTokenizer>(
      tokenizer, [](const QtTokenizer* t) { qt_tokenizer_free(const_cast<QtTokenizer*>(t)); });
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Special special) const {
  FfiBytes out;
  int32_t status = qt_tokenizer_encode(tokenizer_.get(), text.data(), text.size(),
                                       special == Special::add, out.out());
  require(status, out, origin_);
  std::vector<int32_t> ids(out.size() / sizeof(int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), out.data(), out.size());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, Show show) const {
  FfiBytes out;
  // A negative id becomes a huge id outside every vocabulary.
  int32_t status =
      qt_tokenizer_decode(tokenizer_.get(), reinterpret_cast<const uint32_t*>(ids.data()),
                          ids.size(), show == Show::text, out.out());
  require(status, out, origin_);
  return out.text();
}

int64_t Tokenizer::ids() const { return qt_tokenizer_ids(tokenizer_.get()); }

std::optional<std::string> Tokenizer::token(int32_t id) const {
  FfiBytes out;
  int32_t status = qt_tokenizer_token(tokenizer_.get(), static_cast<uint32_t>(id), out.out());
  if (status == QT_FAILED) return std::nullopt;
  require(status, out, origin_);
  return out.text();
}

std::optional<int32_t> Tokenizer::id(std::string_view token) const {
  uint32_t id = 0;
  if (qt_tokenizer_id(tokenizer_.get(), token.data(), token.size(), &id) != QT_OK) return {};
  return static_cast<int32_t>(id);
}

Detokenizer::Detokenizer(const Tokenizer& tokenizer, Show show, std::span<const int32_t> before)
    : tokenizer_(&tokenizer), show_(show) {
  // As few ids as have text, because some decoders treat the first text of a sequence differently.
  for (size_t count = kContext; !before.empty(); count *= 4) {
    const auto last = before.last(std::min(count, before.size()));
    const std::string text = tokenizer_->decode(last, show_);
    if (text.empty() && last.size() < before.size()) continue;
    if (text.empty() || text.ends_with(kReplacement)) return;
    window_.assign(last.begin(), last.end());
    context_ = window_.size();
    return;
  }
}

std::string Detokenizer::push(int32_t id) {
  window_.push_back(id);
  std::string before = tokenizer_->decode({window_.data(), context_}, show_);
  std::string after = tokenizer_->decode(window_, show_);
  bool incomplete = after.ends_with(kReplacement) && window_.size() - context_ < kLongestCharacter;
  if (incomplete || after.size() <= before.size()) return {};
  window_.erase(window_.begin(), window_.begin() + static_cast<ptrdiff_t>(context_));
  context_ = window_.size();
  return after.substr(before.size());
}

std::string Detokenizer::peek(int32_t id) const { return Detokenizer(*this).push(id); }

std::string Detokenizer::flush() {
  std::string before = tokenizer_->decode({window_.data(), context_}, show_);
  std::string after = tokenizer_->decode(window_, show_);
  context_ = window_.size();
  // What comes next does not complete a character that was delivered as incomplete.
  if (after.ends_with(kReplacement)) {
    window_.clear();
    context_ = 0;
  }
  return after.size() > before.size() ? after.substr(before.size()) : std::string();
}

}  // namespace quern::prompt
