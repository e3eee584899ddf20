#include "serve/api_response.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "serve/json_text.h"

namespace quern::serve {
namespace {

constexpr float kLeastLogprob = -9999.0F;  // what -inf is printed as, by vLLM too

double printed(float logprob) { return std::max(logprob, kLeastLogprob); }

// As Python counts: characters, not bytes.
int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

JsonValue bytes_of(std::string_view text) {
  JsonValue bytes = JsonValue::array();
  for (char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

std::string event(const std::string& json) { return "data: " + json + "\n\n"; }

std::string dump(const JsonValue& value) {
  return value.dump(-1, ' ', false, JsonValue::error_handler_t::replace);
}

JsonValue text_or_null(const std::string& text) {
  return text.empty() ? JsonValue(nullptr) : JsonValue(text);
}

}  // namespace

void Piece::add(Piece next) {
  thought += next.thought;
  said += next.said;
  ids.insert(ids.end(), next.ids.begin(), next.ids.end());
  std::move(next.reports.begin(), next.reports.end(), std::back_inserter(reports));
  finish_reason = std::move(next.finish_reason);
  stop_reason = std::move(next.stop_reason);
}

void Piece::keep(const std::vector<bool>& shown) {
  size_t kept = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!shown[i]) continue;
    ids[kept] = ids[i];
    if (kept != i && i < reports.size()) reports[kept] = std::move(reports[i]);
    ++kept;
  }
  ids.resize(kept);
  reports.resize(std::min(kept, reports.size()));
}

ApiWriter::ApiWriter(WriterOptions options, const ApiRequest& request,
                     const prompt::Tokenizer& tokenizer, const std::vector<engine::Request>& asked)
    : options_(std::move(options)),
      request_(request),
      tokenizer_(tokenizer),
      offsets_(asked.size()) {
  std::string head = "data: {\"id\":" + json_text(options_.id) + ",\"object\":\"" +
                     (chat() ? "chat.completion.chunk" : "text_completion") +
                     "\",\"created\":" + std::to_string(options_.created) +
                     ",\"model\":" + json_text(options_.model) + ",\"choices\":[{\"index\":";
  for (size_t i = 0; i < asked.size(); ++i) {
    heads_.push_back(head + std::to_string(i) + (chat() ? ",\"delta\":" : ",\"text\":"));
    // The tokens of an echoed prompt are reported too.
    const bool echoes = !chat() && request_.echo;
    tokens_.emplace_back(tokenizer, prompt::Show::all,
                         echoes ? std::span<const int32_t>() : asked[i].tokens);
  }
}

std::string ApiWriter::next_text(size_t choice, int32_t id) {
  std::string text = tokens_[choice].push(id);
  return request_.tokens_as_ids ? "token_id:" + std::to_string(id) : text;
}

std::string ApiWriter::other_text(size_t choice, int32_t id) const {
  return request_.tokens_as_ids ? "token_id:" + std::to_string(id) : tokens_[choice].peek(id);
}

JsonValue ApiWriter::chat_logprobs(size_t choice, const Piece& piece) {
  if (piece.reports.empty()) return nullptr;
  const auto token = [](const std::string& text, float logprob) -> JsonValue {
    return {{"token", text}, {"logprob", printed(logprob)}, {"bytes", bytes_of(text)}};
  };
  JsonValue content = JsonValue::array();
  for (size_t i = 0; i < piece.reports.size(); ++i) {
    JsonValue top = JsonValue::array();
    for (const engine::Likely& likely : piece.reports[i].top)
      top.push_back(token(other_text(choice, likely.id), likely.logprob));
    content.push_back(token(next_text(choice, piece.ids[i]), piece.reports[i].logprob));
    content.back()["top_logprobs"] = top;
  }
  return {{"content", content}};
}

JsonValue ApiWriter::text_logprobs(size_t choice, const std::vector<int32_t>& ids,
                                   const std::vector<const engine::TokenReport*>& reports) {
  if (!request_.logprobs()) return nullptr;
  JsonValue offsets = JsonValue::array(), logprobs = JsonValue::array(),
            tokens = JsonValue::array(), tops = JsonValue::array();
  for (size_t i = 0; i < ids.size(); ++i) {
    JsonValue top = JsonValue::object();
    const engine::TokenReport* report = reports[i];
    if (report)
      for (const engine::Likely& likely : report->top)
        top.emplace(other_text(choice, likely.id), printed(likely.logprob));
    const std::string text = next_text(choice, ids[i]);
    tokens.push_back(text);
    offsets.push_back(offsets_[choice]);
    offsets_[choice] += characters(text);
    if (!report) {  // nothing stands before the first token of a prompt
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    logprobs.push_back(printed(report->logprob));
    top.emplace(text, printed(report->logprob));
    tops.push_back(top);
  }
  return {{"text_offset", offsets},
          {"token_logprobs", logprobs},
          {"tokens", tokens},
          {"top_logprobs", tops}};
}

JsonValue ApiWriter::prompt_logprobs(const EchoedPrompt& prompt) const {
  if (!request_.return_prompt_logprobs) return nullptr;
  JsonValue list = JsonValue::array({nullptr});
  prompt::Detokenizer texts(tokenizer_, prompt::Show::all);
  if (!prompt.ids.empty()) texts.push(prompt.ids[0]);
  for (size_t i = 0; i < prompt.reports.size(); ++i) {
    const engine::TokenReport& report = prompt.reports[i];
    JsonValue entry = JsonValue::object();
    auto add = [&](int32_t id, float logprob, int64_t rank) {
      entry.emplace(std::to_string(id), JsonValue{{"logprob", printed(logprob)},
                                                  {"rank", rank},
                                                  {"decoded_token", texts.peek(id)}});
    };
    add(prompt.ids[i + 1], report.logprob, report.rank);
    for (size_t k = 0; k < report.top.size(); ++k)
      add(report.top[k].id, report.top[k].logprob, static_cast<int64_t>(k) + 1);
    texts.push(prompt.ids[i + 1]);
    list.push_back(entry);
  }
  return list;
}

JsonValue ApiWriter::usage_json(const Usage& usage) const {
  JsonValue json = {{"prompt_tokens", usage.prompt_tokens},
                    {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
                    {"completion_tokens", usage.completion_tokens},
                    {"prompt_tokens_details", nullptr}};
  if (!options_.details) return json;
  json["prompt_tokens_details"] = {{"cached_tokens", usage.cached_tokens}};
  if (chat() && options_.thinks)
    json["completion_tokens_details"] = {{"reasoning_tokens", usage.reasoning_tokens}};
  return json;
}

// --- Chunks --------------------------------------------------------------------------------------

// Ends a chunk.
std::string ApiWriter::usage_so_far(const Usage& usage) const {
  if (request_.continuous_usage) return ",\"usage\":" + dump(usage_json(usage)) + "}\n\n";
  return chat() ? "}\n\n" : ",\"usage\":null}\n\n";
}

std::string ApiWriter::role_chunk(size_t choice, const Usage& so_far) const {
  return heads_[choice] + "{\"role\":" + json_text(request_.role) +
         ",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"prompt_token_ids\":null" +
         usage_so_far(so_far);
}

std::string ApiWriter::echo_chunk(size_t choice, const EchoedPrompt& prompt, const Usage& so_far) {
  if (chat()) {
    Piece piece;
    piece.said = prompt.text;
    return chunk(choice, piece, so_far);
  }
  std::vector<const engine::TokenReport*> reports = {nullptr};
  for (const engine::TokenReport& report : prompt.reports) reports.push_back(&report);
  const JsonValue logprobs = text_logprobs(choice, prompt.ids, reports);
  return heads_[choice] + json_text(prompt.text) + ",\"logprobs\":" + dump(logprobs) +
         ",\"finish_reason\":null,\"stop_reason\":null,\"token_ids\":null,\"prompt_logprobs\":null,"
         "\"prompt_token_ids\":null}]" +
         usage_so_far(so_far);
}

void ApiWriter::append_chat_delta(std::string& out, const Piece& piece) const {
  out += '{';
  auto add = [&](const char* key, const std::string& text) {
    if (out.back() != '{') out += ',';
    out.append("\"").append(key).append("\":");
    append_json(out, text);
  };
  if (!piece.thought.empty() && request_.include_reasoning) {
    if (options_.reasoning) add("reasoning", piece.thought);
    if (options_.reasoning_content) add("reasoning_content", piece.thought);
  }
  if (!piece.said.empty() || out.back() == '{') add("content", piece.said);
  out += '}';
}

std::string ApiWriter::chunk(size_t choice, const Piece& piece, const Usage& so_far) {
  std::string out = heads_[choice];
  if (chat())
    append_chat_delta(out, piece);
  else
    append_json(out, piece.said);
  out += ",\"logprobs\":";
  if (piece.reports.empty()) {
    out += "null";
  } else if (chat()) {
    out += dump(chat_logprobs(choice, piece));
  } else {
    std::vector<const engine::TokenReport*> reports;
    for (const engine::TokenReport& report : piece.reports) reports.push_back(&report);
    out += dump(text_logprobs(choice, piece.ids, reports));
  }
  const bool last = !piece.finish_reason.empty();
  out += ",\"finish_reason\":";
  out += last ? "\"" + piece.finish_reason + "\"" : "null";
  if (last || !chat()) out += ",\"stop_reason\":" + piece.stop_reason;
  out += ",\"token_ids\":";
  out += request_.return_token_ids ? dump(piece.ids) : "null";
  if (!chat()) out += ",\"prompt_logprobs\":null,\"prompt_token_ids\":null";
  out += "}]";
  out += usage_so_far(so_far);
  return out;
}

std::string ApiWriter::usage_chunk(const Usage& usage) const {
  JsonValue json = {{"id", options_.id},
                    {"object", chat() ? "chat.completion.chunk" : "text_completion"},
                    {"created", options_.created},
                    {"model", options_.model},
                    {"choices", JsonValue::array()},
                    {"usage", usage_json(usage)}};
  return event(dump(json));
}

// --- Whole answers -------------------------------------------------------------------------------

JsonValue ApiWriter::chat_choice(size_t index, const Piece& piece, const EchoedPrompt& prompt) {
  JsonValue message = {{"role", request_.role}, {"content", prompt.text + piece.said},
                       {"refusal", nullptr},    {"annotations", nullptr},
                       {"audio", nullptr},      {"function_call", nullptr}};
  if (piece.said.empty() && !piece.thought.empty()) message["content"] = nullptr;
  const JsonValue thought =
      request_.include_reasoning ? text_or_null(piece.thought) : JsonValue(nullptr);
  if (options_.reasoning) message["reasoning"] = thought;
  if (options_.reasoning_content) message["reasoning_content"] = thought;
  JsonValue choice = {{"index", index},
                      {"message", message},
                      {"logprobs", chat_logprobs(index, piece)},
                      {"finish_reason", piece.finish_reason},
                      {"stop_reason", JsonValue::parse(piece.stop_reason)},
                      {"token_ids", nullptr}};
  if (request_.return_token_ids) choice["token_ids"] = piece.ids;
  return choice;
}

JsonValue ApiWriter::text_choice(size_t index, const Piece& piece, const EchoedPrompt& prompt) {
  std::vector<int32_t> ids;
  std::vector<const engine::TokenReport*> reports;
  if (request_.echo) {
    ids = prompt.ids;
    reports.push_back(nullptr);
    for (const engine::TokenReport& report : prompt.reports) reports.push_back(&report);
  }
  ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
  for (const engine::TokenReport& report : piece.reports) reports.push_back(&report);
  JsonValue choice = {{"index", index},
                      {"text", prompt.text + piece.said},
                      {"logprobs", text_logprobs(index, ids, reports)},
                      {"finish_reason", piece.finish_reason},
                      {"stop_reason", JsonValue::parse(piece.stop_reason)},
                      {"token_ids", nullptr},
                      {"prompt_logprobs", prompt_logprobs(prompt)},
                      {"prompt_token_ids", nullptr}};
  if (request_.return_token_ids) {
    choice["token_ids"] = piece.ids;
    choice["prompt_token_ids"] = prompt.ids;
  }
  return choice;
}

std::string ApiWriter::whole(const std::vector<Piece>& choices,
                             const std::vector<EchoedPrompt>& prompts, const Usage& usage) {
  JsonValue list = JsonValue::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    const EchoedPrompt& prompt = prompts[i / static_cast<size_t>(request_.n)];
    list.push_back(chat() ? chat_choice(i, choices[i], prompt)
                          : text_choice(i, choices[i], prompt));
  }
  JsonValue json = {{"id", options_.id},
                    {"object", chat() ? "chat.completion" : "text_completion"},
                    {"created", options_.created},
                    {"model", options_.model},
                    {"choices", list},
                    {"service_tier", nullptr},
                    {"system_fingerprint", nullptr},
                    {"usage", usage_json(usage)}};
  if (chat()) {
    json["prompt_logprobs"] = prompt_logprobs(prompts.front());
    json["prompt_token_ids"] = nullptr;
    if (request_.return_token_ids) json["prompt_token_ids"] = prompts.front().ids;
  }
  json["kv_transfer_params"] = nullptr;
  return dump(json);
}

}  // namespace quern::serve
