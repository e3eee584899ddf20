#include "serve/server.h"

#include <openssl/rand.h>

#include <algorithm>
#include <array>
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

HttpResponse json_response(const JsonValue& value) {
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

double seconds_since(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - time).count();
}

int64_t unix_time() { return static_cast<int64_t>(std::time(nullptr)); }

}  // namespace

const std::vector<Server::Route>& Server::routes() {
  using enum Route::For;
  using enum Route::When;
  static const std::vector<Route> kRoutes = {
      {"GET", "/health", all, always, &Server::health},
      {"GET", "/ping", key_holders, always, &Server::health},
      {"POST", "/ping", key_holders, always, &Server::health},
      {"GET", "/version", key_holders, always, &Server::version},
      {"GET", "/load", key_holders, loaded, &Server::load},
      {"GET", "/metrics", key_holders, loaded, &Server::metrics},
      {"GET", "/v1/models", key_holders, loaded, &Server::models},
      {"GET", kModelPath.data(), key_holders, loaded, &Server::one_model},
      {"POST", "/v1/chat/completions", key_holders, loaded, &Server::chat_completions},
      {"POST", "/v1/completions", key_holders, loaded, &Server::completions},
      {"POST", "/tokenize", key_holders, loaded, &Server::tokenize},
      {"POST", "/detokenize", key_holders, loaded, &Server::detokenize},
      {"GET", "/tokenizer_info", key_holders, loaded, &Server::tokenizer_info},
  };
  return kRoutes;
}

Server::Server(const ServerOptions& options)
    : options_(options), admission_(options.admission), created_(unix_time()) {
  http_ = std::make_unique<HttpServer>(options_.http, [this](const Call& call) { handle(call); });
}

Server::~Server() {
  // The I/O threads first: what they run refers to all the rest.
  pool_.reset();
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
  const auto log_every =
      std::chrono::duration<double>(options_.log_seconds > 0 ? options_.log_seconds : 3600);
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, log_every, [&] { return stopping_.load(); }))
    if (options_.log_seconds > 0 && loaded_) log_throughput(log_every.count());
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

// --- Every request -------------------------------------------------------------------------------

void Server::handle(const Call& call) {
  const HttpRequest& request = call->request();
  if (options_.request_id_headers) {
    const std::string_view id = request.header("x-request-id");
    call->add_header({"X-Request-Id", is_request_id(id) ? std::string(id) : random_hex()});
  }
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  std::string methods;  // of this path
  for (const Route& route : routes()) {
    const bool prefix = std::string_view(route.path).ends_with('/');
    if (prefix ? !request.path.starts_with(route.path) : request.path != route.path) continue;
    methods += (methods.empty() ? "" : ", ") + std::string(route.method);
    if (method != route.method) continue;
    try {
      if (route.whom == Route::For::key_holders) admission_.check_key(request);
      if (route.when == Route::When::loaded && !loaded_)
        throw ApiError(503, "ServiceUnavailable", "Loading model");
      (this->*route.handle)(call);
    } catch (const ApiError& error) {
      respond(call, error_response(error));
    }
    return;
  }
  // Who has no key does not learn which routes there are.
  try {
    admission_.check_key(request);
    if (methods.empty()) return respond(call, error_response(404, "Not Found"));
    HttpResponse wrong_method = error_response(405, "Method Not Allowed");
    wrong_method.headers.emplace_back("Allow", methods);
    respond(call, std::move(wrong_method));
  } catch (const ApiError& error) {
    respond(call, error_response(error));
  }
}

void Server::respond(const Call& call, HttpResponse response) {
  const HttpRequest& request = call->request();
  const bool later = response.status == 503 || response.status == 429 || response.status == 529;
  if (later) response.headers.emplace_back("Retry-After", std::to_string(retry_seconds()));
  if (later && loaded_)
    response.headers.emplace_back("X-Quern-Queue-Depth", std::to_string(engine_->unfinished()));
  if (loaded_) {
    const bool known = std::any_of(routes().begin(), routes().end(),
                                   [&](const Route& route) { return request.path == route.path; });
    metrics_->http_request(known ? request.path : "none", known ? request.method : "other",
                           response.status, seconds_since(call->arrived()));
  }
  call->respond(std::move(response));
}

// By then as many requests have ended as are worked on at once.
int Server::retry_seconds() const {
  const double mean = loaded_ ? metrics_->mean_request_seconds() : 0;
  return static_cast<int>(std::clamp(std::ceil(mean), 1.0, 60.0));
}

void Server::check_json(const HttpRequest& request) const {
  std::string type(request.header("content-type"));
  type = type.substr(0, type.find(';'));
  std::transform(type.begin(), type.end(), type.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  type.erase(type.find_last_not_of(" \t") + 1);
  if (type != "application/json")
    throw ApiError(400, "Bad Request",
                   "Unsupported Media Type: Only 'application/json' is allowed");
}

void Server::on_pool(const Call& call, std::function<void()> work) {
  const bool accepted = pool_->run([this, call, work = std::move(work)] {
    HttpResponse response;
    try {
      return work();
    } catch (const ApiError& error) {
      response = error_response(error);
    } catch (const std::bad_alloc&) {
      response = error_response(503, "Out of memory.");
    } catch (const std::exception& error) {
      log_warning("a request failed: {}", error.what());
      response = error_response(500, "Internal error.");
    }
    call->post([this, call, response]() mutable { respond(call, std::move(response)); });
  });
  if (!accepted) admission_.refuse_load("too many requests are being prepared");
}

// --- Routes without a model's work ---------------------------------------------------------------

void Server::health(const Call& call) {
  const bool healthy =
      loaded_ && !stopping_ && !engine_->dead() && engine_->step_seconds() < options_.stuck_seconds;
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
  HttpResponse response{.content_type = "text/plain; version=0.0.4; charset=utf-8"};
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
  check_json(call->request());
  on_pool(call, [this, call] {
    const JsonValue body = parse_body(call->request().body);
    const Fields fields(body, "body");
    check_model(fields.text("model"));
    const bool chat = fields.has("messages");
    const bool special = fields.boolean("add_special_tokens").value_or(!chat);
    const auto text = chat ? model_->render(read_chat_input(body)) : fields.text("prompt");
    if (!text) refuse_field("body.prompt", "Field required");
    const std::vector<int32_t> ids = model_->encode(*text, special);
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
  check_json(call->request());
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
  check_json(call->request());
  admission_.check_load(admission_.key_of(call->request()), 1, 0, engine_->unfinished());
  const auto deadline = admission_.deadline_of(*call);
  on_pool(call, [this, call, endpoint, deadline] {
    auto answer = prepare_answer(call, endpoint);
    call->post([answer = std::move(answer), deadline] { answer->start(deadline); });
  });
}

std::string Server::answer_id(const HttpRequest& request, const ApiRequest& asked) const {
  const char* kind = asked.endpoint == Endpoint::chat ? "chatcmpl-" : "cmpl-";
  const std::string_view header = request.header("x-request-id");
  if (is_request_id(header)) return kind + std::string(header);
  if (asked.request_id && is_request_id(*asked.request_id)) return kind + *asked.request_id;
  return kind + random_hex();
}

std::shared_ptr<Answer> Server::prepare_answer(const Call& call, Endpoint endpoint) {
  HttpRequest& http = call->request();
  ApiRequest request = read_api_request(endpoint, parse_body(http.body),
                                        model_->sampling_defaults(), options_.limits);
  http.body = {};
  check_model(request.model);
  request.include_usage |= options_.usage_always;
  Admission::Key* key = admission_.key_of(http);
  if (key) request.settings.fairness_key = key->digest;
  // Keys must not learn from the time that an answer takes what others have asked.
  if (key && admission_.tells_keys_apart()) request.settings.cache_salt += "@" + key->digest;
  Prepared prepared = prepare(request, *model_, engine_->limits());
  const auto requests = static_cast<int64_t>(prepared.requests.size());
  admission_.check_load(key, requests, prepared.prompt_tokens, engine_->unfinished());

  WriterOptions writer{.id = answer_id(http, request),
                       .model = model_->name(),
                       .created = unix_time(),
                       .details = options_.usage_details,
                       .thinks = model_->reasoning().has_value(),
                       .reasoning = options_.reasoning,
                       .reasoning_content = options_.reasoning_content};
  ++answers_;
  if (key) key->requests += requests;
  return std::make_shared<Answer>(
      AnswerContext{*model_, *engine_, *metrics_, admission_.queued_tokens()}, call,
      std::move(request), std::move(prepared), std::move(writer),
      [this, key, requests, path = http.path, method = http.method,
       arrived = call->arrived()](int status) {
        metrics_->http_request(path, method, status, seconds_since(arrived));
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
