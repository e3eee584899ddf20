// Converts text to token ids and back with the tokenizer.json of a model folder. The ids equal
// those of Hugging Face's fast tokenizers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct QtTokenizer;

namespace quern::prompt {

// Whether encoding adds the tokens of the file's post-processor (for example a leading <bos>).
enum class Special { add, none };
// Whether decoding skips tokens that are marked special.
enum class Show { all, text };

// Thread-safe.
class Tokenizer {
 public:
  // `file`: a tokenizer.json, or the folder that holds one. Fails, naming the file, if it is
  // missing or malformed.
  explicit Tokenizer(const std::filesystem::path& file);
  // From the contents of a tokenizer.json; `origin` names it in messages.
  Tokenizer(std::string_view json, const std::string& origin);

  // `text` must be UTF-8. Fails if the splitting pattern reaches its limit of steps.
  std::vector<int32_t> encode(std::string_view text, Special special = Special::none) const;
  // Ids outside the vocabulary are skipped; invalid UTF-8 becomes U+FFFD.
  std::string decode(std::span<const int32_t> ids, Show show = Show::all) const;

  // One more than the largest id, added tokens included. A model's embedding may have more rows.
  int64_t ids() const;
  std::optional<std::string> token(int32_t id) const;
  std::optional<int32_t> id(std::string_view token) const;

  const std::string& origin() const { return origin_; }

 private:
  std::string origin_;
  std::shared_ptr<const QtTokenizer> tokenizer_;
};

// Turns a stream of ids into a stream of text without cutting characters. Together the pieces are
// what decoding the ids of the stream adds to the text of the ids before it.
class Detokenizer {
 public:
  // before: the ids that precede the stream, whose text was delivered.
  explicit Detokenizer(const Tokenizer& tokenizer, Show show = Show::text,
                       std::span<const int32_t> before = {});

  // The text that this id completes; empty while a character is incomplete.
  std::string push(int32_t id);
  // What push(id) would return; the stream stays as it is.
  std::string peek(int32_t id) const;
  // The text still held back, with U+FFFD for incomplete characters. The stream goes on.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  Show show_;
  // Ids whose text may still change, after `context_` ids whose text was delivered, because some
  // decoders treat the first token of a text differently.
  std::vector<int32_t> window_;
  size_t context_ = 0;
};

}  // namespace quern::prompt
