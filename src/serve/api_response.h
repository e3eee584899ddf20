// Answers -> OpenAI's JSON, key by key as vLLM prints it, whole or in chunks of a stream.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "prompt/tokenizer.h"
#include "serve/api_request.h"

namespace quern::serve {

// New text of a choice, or all of it.
struct Piece {
  std::string thought = {}, said = {};
  std::vector<int32_t> ids = {};
  std::vector<engine::TokenReport> reports = {};  // as many as ids, if logprobs were asked for
  std::string finish_reason = {};                 // empty: not yet
  std::string stop_reason = "null";               // JSON

  // Appends what comes next.
  void add(Piece next);
  // Drops the ids and reports of tokens that are not shown; shown: as many as ids.
  void keep(const std::vector<bool>& shown);
  bool empty() const { return thought.empty() && said.empty() && finish_reason.empty(); }
};

// What a prompt contributes to the choices that answer it.
struct EchoedPrompt {
  std::vector<int32_t> ids;
  std::string text;                          // if echoed
  std::vector<engine::TokenReport> reports;  // from the second token on, if asked for
};

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0;
  int64_t cached_tokens = 0, reasoning_tokens = 0;
};

struct WriterOptions {
  std::string id, model;
  int64_t created = 0;                              // Unix time
  bool details = true;                              // of usage
  bool thinks = false;                              // the model has marks for thoughts
  bool reasoning = true, reasoning_content = true;  // keys under which thoughts are told
};

// Writes the answers to one request.
class ApiWriter {
 public:
  // Both references must outlive it. asked: one for each choice.
  ApiWriter(WriterOptions options, const ApiRequest& request, const prompt::Tokenizer& tokenizer,
            const std::vector<engine::Request>& asked);

  // Chunks of a stream, with "data: " and the empty line.
  std::string role_chunk(size_t choice, const Usage& so_far) const;
  std::string echo_chunk(size_t choice, const EchoedPrompt& prompt, const Usage& so_far);
  std::string chunk(size_t choice, const Piece& piece, const Usage& so_far);
  std::string usage_chunk(const Usage& usage) const;

  std::string whole(const std::vector<Piece>& choices, const std::vector<EchoedPrompt>& prompts,
                    const Usage& usage);

 private:
  bool chat() const { return request_.endpoint == Endpoint::chat; }
  void append_chat_delta(std::string& out, const Piece& piece) const;
  JsonValue usage_json(const Usage& usage) const;
  std::string usage_so_far(const Usage& usage) const;
  // The text that the next token of a choice adds, or would add: the texts of all tokens together
  // are the text. "token_id:5" on request.
  std::string next_text(size_t choice, int32_t id);
  std::string other_text(size_t choice, int32_t id) const;
  JsonValue chat_logprobs(size_t choice, const Piece& piece);
  JsonValue text_logprobs(size_t choice, const std::vector<int32_t>& ids,
                          const std::vector<const engine::TokenReport*>& reports);
  JsonValue prompt_logprobs(const EchoedPrompt& prompt) const;
  JsonValue chat_choice(size_t index, const Piece& piece, const EchoedPrompt& prompt);
  JsonValue text_choice(size_t index, const Piece& piece, const EchoedPrompt& prompt);

  WriterOptions options_;
  const ApiRequest& request_;
  const prompt::Tokenizer& tokenizer_;
  std::vector<std::string> heads_;           // of chunks, up to what differs; by choice
  std::vector<int64_t> offsets_;             // characters of text so far, by choice
  std::vector<prompt::Detokenizer> tokens_;  // texts of reported tokens, by choice
};

}  // namespace quern::serve
