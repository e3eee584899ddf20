#include "serve/server.h"

#include <malloc.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/version.h"
#include "serve/fields.h"
#include "serve/json_text.h"

namespace quern::serve {
namespace {

constexpr std::string_view kModelPath = "/v1/models/";
constexpr size_t kPoolQueue = 4096;
constexpr auto kWatchEvery = std::chrono::seconds(1);
// So many requests with logits that are not numbers, without one between them that went well, are
// the fault of the model or the machine.
constexpr int64_t kCorruptedInARow = 8;
constexpr size_t kUnreadBody = 64 << 10;  // of a request to a route that reads none
constexpr size_t kLongBody = 64 << 10;    // prepared on a thread for such
// JSON, text and tokens of a body take some of its bytes more, while it is prepared.
constexpr size_t kCopies = 4;

http::Response json_response(const JsonValue& value) {
  return {.body = value.dump(-1, ' ', false, JsonValue::error_handler_t::replace)};
}

std::string random_hex() {
  std::array<unsigned char, 16> bytes;
  QUERN_CHECK(RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) == 1);
  std::string text;
  for (unsigned char byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", byte);
  return text;
}

bool is_request_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '_' || c == ':' || c == '-';
  });
}

std::string shown_id(const http::Request& request) {
  const std::string_view id = request.header("x-request-id");
  return is_request_id(id) ? std::string(id) : random_hex();
}

// Of a body; in chunks it may have any length.
size_t announced_bytes(const http::Request& head) {
  if (!head.header("transfer-encoding").empty()) return static_cast<size_t>(-1);
  size_t bytes = 0;
  const std::string_view text = head.header("content-length");
  std::from_chars(text.data(), text.data() + text.size(), bytes);
  return bytes;
}

void check_json(const http::Request& request) {
  std::string type(request.header("content-type"));
  type = type.substr(0, type.find(';'));
  std::transform(type.begin(), type.end(), type.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  type.erase(type.find_last_not_of(" \t") + 1);
  if (type != "application/json")
    throw ApiError(400, "Bad Request",
                   "Unsupported Media Type: Only 'application/json' is allowed");
}

double seconds_since(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - time).count();
}

int64_t unix_time() { return static_cast<int64_t>(std::time(nullptr)); }

}  // namespace

const std::vector<Server::Route>& Server::routes() {
  using enum Route::For;
  using enum Route::When;
  using enum Route::Body;
  static const std::vector<Route> kRoutes = {
      {"GET", "/health", all, always, none, &Server::health},
      {"GET", "/ping", all, always, none, &Server::health},
      {"POST", "/ping", all, always, none, &Server::health},
      {"GET", "/version", all, always, none, &Server::version},
      {"GET", "/load", key_holders, loaded, none, &Server::load},
      {"GET", "/metrics", metrics_readers, loaded, none, &Server::metrics},
      {"GET", "/v1/models", key_holders, loaded, none, &Server::models},
      {"GET", kModelPath.data(), key_holders, loaded, none, &Server::one_model},
      {"POST", "/v1/chat/completions", key_holders, loaded, prompt, &Server::chat_completions},
      {"POST", "/v1/completions", key_holders, loaded, prompt, &Server::completions},
      {"POST", "/tokenize", key_holders, loaded, json, &Server::tokenize},
      {"POST", "/detokenize", key_holders, loaded, json, &Server::detokenize},
      {"GET", "/tokenizer_info", key_holders, loaded, none, &Server::tokenizer_info},
  };
  return kRoutes;
}

Server::Server(const ServerOptions& options)
    : options_(options), admission_(options.admission), created_(unix_time()) {
  http_ = std::make_unique<http::Server>(options_.http, static_cast<http::Handler&>(*this));
}

Server::~Server() {
  // The I/O threads first: what they run refers to all the rest.
  pool_.reset();
  long_pool_.reset();
  http_->stop();
  engine_.reset();
  http_.reset();
}

void Server::serve(std::unique_ptr<ServedModel> model, std::unique_ptr<engine::Engine> engine) {
  model_ = std::move(model);
  const engine::Limits& limits = engine->limits();
  admission_.fit(limits);
  metrics_ = std::make_unique<Metrics>("model_name=" + json_text(model_->name()) + ",engine=\"0\"",
                                       limits.max_model_len);
  engine_ = std::make_unique<EngineLoop>(
      std::move(engine), http_->io_threads(),
      EngineLoop::Listeners{
          .post = [this](int io_thread,
                         std::function<void()> work) { http_->post(io_thread, std::move(work)); },
          .stepped =
              [this](const engine::EngineState& state) { metrics_->step(state.step_tokens); },
          .died = [this] { stop(); }});
  pool_ = std::make_unique<Pool>(options_.pool_threads, kPoolQueue);
  long_pool_ = std::make_unique<Pool>(1, kPoolQueue);
  loaded_ = true;
}

void Server::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

void Server::wait() {
  auto logged = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kWatchEvery, [&] { return stopping_.load(); })) {
    if (!loaded_) continue;
    end_if_stuck();
    const double since = seconds_since(logged);
    if (options_.log_seconds <= 0 || since < options_.log_seconds) continue;
    log_throughput(since);
    logged = std::chrono::steady_clock::now();
  }
  http_->drain();
  const bool dead = engine_ && engine_->dead();
  const auto patience = std::chrono::duration<double>(dead ? 1 : options_.shutdown_seconds);
  if (!changed_.wait_for(lock, patience, [&] { return answers_ == 0; }))
    log_warning("{} answers were not finished in time", answers_.load());
  lock.unlock();
  if (engine_) engine_->cancel_all();
  // What the last answers hold has to leave; a second is plenty for who still reads.
  for (int i = 0; i < 100 && http_->counts().connections > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  http_->stop();
  if (dead) fail(Exit::internal, "the engine died; the message above says why");
}

void Server::reload() {
  const auto attempt = [](const char* what, const std::function<void()>& read) {
    try {
      read();
      log_info("read the {} again", what);
    } catch (const Error& error) {
      log_warning("the {} stay as they were: {}", what, error.what());
    }
  };
  attempt("API keys", [&] { admission_.reload_keys(); });
  attempt("certificates", [&] { http_->reload_certificates(); });
}

// A step that never ends cannot be interrupted, and its thread cannot be joined; whoever watches
// the process starts another one.
void Server::end_if_stuck() const {
  if (options_.abort_seconds <= 0 || engine_->step_seconds() < options_.abort_seconds) return;
  log_warning("a step has run for {:.0f} seconds; the process ends", engine_->step_seconds());
  std::_Exit(static_cast<int>(Exit::internal));
}

// --- Every request -------------------------------------------------------------------------------

const Server::Route* Server::route_of(const http::Request& head, std::string& methods) const {
  const std::string method = head.method == "HEAD" ? "GET" : head.method;
  for (const Route& route : routes()) {
    const bool prefix = std::string_view(route.path).ends_with('/');
    if (prefix ? !head.path.starts_with(route.path) : head.path != route.path) continue;
    if (method == route.method) return &route;
    methods += (methods.empty() ? "" : ", ") + std::string(route.method);
  }
  return nullptr;
}

bool Server::needs_key(const Route& route) const {
  return route.whom == Route::For::key_holders ||
         (route.whom == Route::For::metrics_readers && !options_.metrics_without_key);
}

std::optional<http::Response> Server::admit(const http::Request& head) {
  if (auto response = preflight(options_.cors, head)) return response;
  std::string methods;  // of this path
  const Route* route = route_of(head, methods);
  http::Response refused;
  try {
    // A client without a key does not learn which routes there are.
    if (!route || needs_key(*route)) admission_.check_key(head);
    if (route) {
      check(*route, head);
      return std::nullopt;
    }
    refused = error_response(methods.empty() ? 404 : 405,
                             methods.empty() ? "Not Found" : "Method Not Allowed");
    if (!methods.empty()) refused.headers.emplace_back("Allow", methods);
  } catch (const ApiError& error) {
    refused = error_response(error);
  }
  finish(head, 0, refused);
  for (http::Header& header : cors_headers(options_.cors, head))
    refused.headers.push_back(std::move(header));
  if (options_.request_id_headers) refused.headers.emplace_back("X-Request-Id", shown_id(head));
  return refused;
}

// What can be told before the body is there.
void Server::check(const Route& route, const http::Request& head) {
  if (route.when == Route::When::loaded && !loaded_)
    throw ApiError(503, "ServiceUnavailable", "Loading model");
  const size_t announced = announced_bytes(head);
  if (route.body == Route::Body::none) {
    if (announced > kUnreadBody)
      throw ApiError(413, "Content Too Large", "This route reads no body.");
    return;
  }
  check_json(head);
  if (route.body == Route::Body::prompt)
    admission_.check_load(
        admission_.key_of(head), 1,
        head.header("content-length").empty() ? 0 : admission_.likely_tokens(announced),
        engine_->unfinished());
}

void Server::handle(std::shared_ptr<http::Exchange> call) {
  if (options_.request_id_headers) call->add_header({"X-Request-Id", shown_id(call->request())});
  for (http::Header& header : cors_headers(options_.cors, call->request()))
    call->add_header(std::move(header));
  std::string methods;
  const Route* route = route_of(call->request(), methods);
  QUERN_CHECK(route);  // it was admitted
  try {
    (this->*route->handle)(call);
  } catch (const ApiError& error) {
    respond(call, error_response(error));
  }
}

http::Response Server::fault(int status, const std::string& message) {
  http::Response response = error_response(status, message);
  if (status == 503) response.headers.emplace_back("Retry-After", std::to_string(retry_seconds()));
  return response;
}

void Server::respond(const Call& call, http::Response response) {
  finish(call->request(), seconds_since(call->arrived()), response);
  call->respond(std::move(response));
}

void Server::finish(const http::Request& request, double seconds, http::Response& response) {
  const bool later = response.status == 503 || response.status == 429 || response.status == 529;
  if (later) response.headers.emplace_back("Retry-After", std::to_string(retry_seconds()));
  if (later && loaded_)
    response.headers.emplace_back("X-Quern-Queue-Depth", std::to_string(engine_->unfinished()));
  if (!loaded_) return;
  const bool known = std::any_of(routes().begin(), routes().end(),
                                 [&](const Route& route) { return request.path == route.path; });
  metrics_->http_request(known ? request.path : "none", known ? request.method : "other",
                         response.status, seconds);
}

// By then as many requests have ended as are worked on at once.
int Server::retry_seconds() const {
  const double mean = loaded_ ? metrics_->mean_request_seconds() : 0;
  return static_cast<int>(std::clamp(std::ceil(mean), 1.0, 60.0));
}

void Server::on_pool(const Call& call, std::function<void()> work) {
  http::Request& request = call->request();
  const bool is_long = request.body.size() >= kLongBody;
  if (!request.charge.add(kCopies * request.body.size()))
    admission_.refuse_load("other requests hold all the memory that there is for bodies");
  Pool& pool = is_long ? *long_pool_ : *pool_;
  const bool accepted = pool.run([this, call, is_long, work = std::move(work)]() mutable {
    std::optional<http::Response> refused;
    try {
      if (!call->left()) work();
    } catch (const ApiError& error) {
      refused = error_response(error);
    } catch (const std::bad_alloc&) {
      refused = error_response(503, "Out of memory.");
    } catch (const std::exception& error) {
      log_warning("a request failed: {}", error.what());
      refused = error_response(500, "Internal error.");
    }
    // Before the answer is there: the next request finds the room that this one took.
    work = nullptr;
    call->request().body = {};
    call->request().charge.release();
    if (is_long) ::malloc_trim(0);
    if (refused)
      call->post([this, call, response = *refused]() mutable { respond(call, response); });
  });
  if (!accepted) admission_.refuse_load("too many requests are being prepared");
}

// --- Routes without a model's work ---------------------------------------------------------------

void Server::health(const Call& call) {
  const bool healthy = loaded_ && !stopping_ && !engine_->dead() &&
                       engine_->step_seconds() < options_.watchdog_seconds &&
                       engine_->state().corrupted_in_a_row < kCorruptedInARow;
  respond(call, {.status = healthy ? 200 : 503, .content_type = "", .headers = {}, .body = {}});
}

void Server::version(const Call& call) { respond(call, json_response({{"version", kVersion}})); }

void Server::load(const Call& call) {
  respond(call, json_response({{"server_load", engine_->unfinished()}}));
}

void Server::metrics(const Call& call) {
  const engine::Limits& limits = engine_->limits();
  const std::string cache = fmt::format(
      "block_size=\"{}\",cache_dtype=\"{}\",enable_prefix_caching=\"{}\",num_gpu_blocks=\"{}\"",
      limits.block_tokens, options_.cache_dtype, limits.prefix_caching ? "True" : "False",
      limits.block_tokens > 0 ? limits.kv_tokens / limits.block_tokens : 0);
  http::Response response{.content_type = "text/plain; version=0.0.4; charset=utf-8"};
  response.body = metrics_->text(engine_->state(), limits, cache, http_->counts().slow_clients,
                                 admission_.refused());
  respond(call, std::move(response));
}

JsonValue Server::model_json(const std::string& name) const {
  const JsonValue permission = {{"id", "modelperm-" + sha256(name).substr(0, 32)},
                                {"object", "model_permission"},
                                {"created", created_},
                                {"allow_create_engine", false},
                                {"allow_sampling", true},
                                {"allow_logprobs", true},
                                {"allow_search_indices", false},
                                {"allow_view", true},
                                {"allow_fine_tuning", false},
                                {"organization", "*"},
                                {"group", nullptr},
                                {"is_blocking", false}};
  return {{"id", name},
          {"object", "model"},
          {"created", created_},
          {"owned_by", "quern"},
          {"root", model_->root()},
          {"parent", nullptr},
          {"max_model_len", engine_->limits().max_model_len},
          {"permission", JsonValue::array({permission})}};
}

void Server::models(const Call& call) {
  JsonValue list = JsonValue::array();
  for (const std::string& name : model_->names()) list.push_back(model_json(name));
  respond(call, json_response({{"object", "list"}, {"data", list}}));
}

void Server::one_model(const Call& call) {
  const std::string name = call->request().path.substr(kModelPath.size());
  check_model(name);
  respond(call, json_response(model_json(name)));
}

void Server::check_model(const std::optional<std::string>& name) const {
  if (name && !name->empty() && !model_->has_name(*name))
    throw ApiError(404, "NotFoundError", "The model `" + name->substr(0, 200) + "` does not exist.",
                   "model");
}

// --- Tokens --------------------------------------------------------------------------------------

void Server::tokenizer_info(const Call& call) {
  if (!options_.tokenizer_info)
    throw ApiError(404, "Not Found", "Start the server with --enable-tokenizer-info-endpoint.");
  respond(call, json_response(model_->tokenizer_config()));
}

void Server::tokenize(const Call& call) {
  on_pool(call, [this, call] {
    const JsonValue body = parse_body(call->request().body);
    const Fields fields(body, "body");
    check_model(fields.text("model"));
    const bool chat = fields.has("messages");
    const bool special = fields.boolean("add_special_tokens").value_or(!chat);
    const auto text = chat ? model_->render(read_chat_input(body)).text : fields.text("prompt");
    if (!text) refuse_field("body.prompt", "Field required");
    const std::vector<int32_t> ids = model_->encode(*text, special, text_budget(call));
    JsonValue strings = nullptr;
    if (fields.boolean("return_token_strs").value_or(false)) {
      strings = JsonValue::array();
      for (int32_t id : ids) strings.push_back(model_->tokenizer().token(id).value_or(""));
    }
    const JsonValue answer = {{"count", ids.size()},
                              {"max_model_len", engine_->limits().max_model_len},
                              {"tokens", ids},
                              {"token_strs", strings}};
    call->post([this, call, response = json_response(answer)] { respond(call, response); });
  });
}

void Server::detokenize(const Call& call) {
  on_pool(call, [this, call] {
    const JsonValue body = parse_body(call->request().body);
    const Fields fields(body, "body");
    check_model(fields.text("model"));
    const auto ids = fields.ids("tokens");
    if (!ids) refuse_field("body.tokens", "Field required");
    for (int32_t id : *ids)
      if (id >= model_->tokenizer().ids())
        refuse(fmt::format("Token id {} is out of vocabulary", id), "tokens");
    const JsonValue answer = {{"prompt", model_->tokenizer().decode(*ids)}};
    call->post([this, call, response = json_response(answer)] { respond(call, response); });
  });
}

// --- Answers -------------------------------------------------------------------------------------

void Server::generate(const Call& call, Endpoint endpoint) {
  const Admission::Key key = admission_.key_of(call->request());
  const int64_t tokens = admission_.likely_tokens(call->request().body.size());
  admission_.check_load(key, 1, tokens, engine_->unfinished());
  const auto queued = std::make_shared<Admission::Queued>(admission_, key, tokens);
  const auto deadline = admission_.deadline_of(*call);
  on_pool(call, [this, call, endpoint, deadline, queued] {
    auto answer = prepare_answer(call, endpoint, queued->tokens());
    call->post([answer = std::move(answer), deadline, queued] { answer->start(deadline); });
  });
}

std::string Server::answer_id(const http::Request& request, const ApiRequest& asked) const {
  const char* kind = asked.endpoint == Endpoint::chat ? "chatcmpl-" : "cmpl-";
  const std::string_view header = request.header("x-request-id");
  if (is_request_id(header)) return kind + std::string(header);
  if (asked.request_id && is_request_id(*asked.request_id)) return kind + *asked.request_id;
  return kind + random_hex();
}

TextBudget Server::text_budget(const Call& call) const {
  constexpr size_t kTokenBytes = 16;
  const auto most = kTokenBytes * static_cast<size_t>(engine_->limits().max_model_len);
  return {.bytes = options_.text_bytes ? options_.text_bytes : most,
          .left = [call] { return call->left(); }};
}

std::shared_ptr<Answer> Server::prepare_answer(const Call& call, Endpoint endpoint,
                                               int64_t queued_tokens) {
  http::Request& http = call->request();
  ApiRequest request = read_api_request(endpoint, parse_body(http.body),
                                        model_->sampling_defaults(), options_.limits);
  http.body = {};
  check_model(request.model);
  request.include_usage |= options_.usage_always;
  request.role = options_.response_role;
  const Admission::Key key = admission_.key_of(http);
  if (key) request.settings.fairness_key = key->digest;
  // Keys must not learn from the time that an answer takes what others have asked.
  if (key && admission_.tells_keys_apart()) request.settings.cache_salt += "@" + key->digest;
  Prepared prepared = prepare(request, *model_, engine_->limits(), text_budget(call));
  const auto requests = static_cast<int64_t>(prepared.requests.size());
  admission_.check_load(key, requests, prepared.prompt_tokens, engine_->unfinished(),
                        queued_tokens);

  WriterOptions writer{.id = answer_id(http, request),
                       .model = model_->name(),
                       .created = unix_time(),
                       .details = options_.usage_details,
                       .thinks = model_->reasoning().has_value(),
                       .reasoning = options_.reasoning,
                       .reasoning_content = options_.reasoning_content};
  if (options_.log_requests)
    log_info("Received request {}: {} prompt tokens, {} answers, at most {} tokens each{}{}",
             writer.id, prepared.prompt_tokens, requests, prepared.requests[0].max_tokens,
             request.stream ? ", stream" : "",
             key && !key->name.empty() ? ", key " + key->name : "");
  ++answers_;
  if (key) key->requests += requests;
  std::string logged_id = options_.log_requests ? writer.id : "";
  auto queued = std::make_unique<Admission::Queued>(admission_, key, prepared.prompt_tokens);
  return std::make_shared<Answer>(
      AnswerContext{*model_, *engine_, *metrics_}, call, std::move(request), std::move(prepared),
      std::move(writer), std::move(queued),
      [this, key, requests, path = http.path, method = http.method, arrived = call->arrived(),
       id = std::move(logged_id)](int status) {
        metrics_->http_request(path, method, status, seconds_since(arrived));
        if (!id.empty())
          log_info("Finished request {}: status {} after {:.3f} s", id, status,
                   seconds_since(arrived));
        if (key) key->requests -= requests;
        if (--answers_ == 0 && stopping_) stop();
      });
}

// In vLLM's words, which scripts look for.
void Server::log_throughput(double seconds) {
  const uint64_t prompt = metrics_->prompt_tokens(), made = metrics_->new_tokens();
  const engine::EngineState state = engine_->state();
  const engine::Limits& limits = engine_->limits();
  const bool active = prompt != logged_prompt_tokens_ || made != logged_new_tokens_ ||
                      state.running > 0 || state.waiting > 0;
  if (!active) return;
  auto share = [](int64_t part, int64_t all) {
    return all > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(all) : 0.0;
  };
  log_info(
      "Avg prompt throughput: {:.1f} tokens/s, Avg generation throughput: {:.1f} tokens/s, "
      "Running: "
      "{} reqs, Waiting: {} reqs, GPU KV cache usage: {:.1f}%, Prefix cache hit rate: {:.1f}%",
      static_cast<double>(prompt - logged_prompt_tokens_) / seconds,
      static_cast<double>(made - logged_new_tokens_) / seconds, state.running, state.waiting,
      share(state.kv_tokens_used, limits.kv_tokens),
      share(state.prefix_hits, state.prefix_queries));
  logged_prompt_tokens_ = prompt;
  logged_new_tokens_ = made;
}

}  // namespace quern::serve
