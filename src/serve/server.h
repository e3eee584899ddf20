// An OpenAI server: routes, keys, limits, start and end. It listens before the model is loaded and
// says so until then.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "http/server.h"
#include "serve/admission.h"
#include "serve/answer.h"
#include "serve/cors.h"
#include "serve/engine_loop.h"
#include "serve/errors.h"
#include "serve/metrics.h"
#include "serve/pool.h"
#include "serve/served_model.h"

namespace quern::serve {

struct ServerOptions {
  http::Options http;
  AdmissionOptions admission;
  CorsOptions cors;
  ApiLimits limits;
  int pool_threads = 2;
  size_t text_bytes = 0;  // of one prompt; 0: 16 for each token that it may have
  bool reasoning = true, reasoning_content = true;  // keys of thoughts in answers
  bool usage_details = true;
  bool usage_always = false;  // at the end of every stream
  bool tokenizer_info = false;
  bool metrics_without_key = false;
  bool log_requests = false;  // a line for each request, without its texts
  std::string response_role = "assistant";
  bool request_id_headers = false;
  double shutdown_seconds = 25;
  double watchdog_seconds = 120;  // a longer step makes /health fail
  double abort_seconds = 0;       // a longer step ends the process; 0: none does
  double log_seconds = 10;        // between two lines about the throughput; 0: none
  std::string cache_dtype = "auto";
};

class Server : private http::Handler {
 public:
  // Listens from here on. Fails with Exit::usage when it cannot.
  explicit Server(const ServerOptions& options);
  ~Server() override;

  // Answers requests from here on.
  void serve(std::unique_ptr<ServedModel> model, std::unique_ptr<engine::Engine> engine);
  // Until stop() was called and what was asked before is answered, or shutdown_seconds have passed.
  // Fails with Exit::internal when the engine died.
  void wait();
  void stop();  // from any thread
  // Reads the files of keys and certificates again, from any thread. What cannot be read is logged,
  // and then the old ones stay.
  void reload();

  std::string url() const { return http_->url(); }
  uint16_t port() const { return http_->port(); }
  size_t connections() const { return http_->counts().connections; }
  engine::EngineState state() const { return engine_->state(); }
  const engine::Limits& limits() const { return engine_->limits(); }

 private:
  using Call = std::shared_ptr<http::Exchange>;
  struct Route {
    const char* method;
    const char* path;
    enum class For { all, key_holders, metrics_readers } whom;
    enum class When { always, loaded } when;
    enum class Body { none, json, prompt } body;
    void (Server::*handle)(const Call& call);
  };
  static const std::vector<Route>& routes();

  std::optional<http::Response> admit(const http::Request& head) override;
  void handle(std::shared_ptr<http::Exchange> call) override;
  http::Response fault(int status, const std::string& message) override;
  const Route* route_of(const http::Request& head, std::string& methods) const;
  bool needs_key(const Route& route) const;
  void check(const Route& route, const http::Request& head);
  void respond(const Call& call, http::Response response);
  // Counts the response and adds the headers that go with its status.
  void finish(const http::Request& request, double seconds, http::Response& response);
  int retry_seconds() const;

  void health(const Call& call);
  void version(const Call& call);
  void load(const Call& call);
  void metrics(const Call& call);
  void models(const Call& call);
  void one_model(const Call& call);
  void tokenizer_info(const Call& call);
  void chat_completions(const Call& call) { generate(call, Endpoint::chat); }
  void completions(const Call& call) { generate(call, Endpoint::completions); }
  void tokenize(const Call& call);
  void detokenize(const Call& call);

  // Runs `work` on the pool; what it throws is answered. 503 if the pool has too much to do.
  void on_pool(const Call& call, std::function<void()> work);
  void generate(const Call& call, Endpoint endpoint);
  TextBudget text_budget(const Call& call) const;
  std::shared_ptr<Answer> prepare_answer(const Call& call, Endpoint endpoint,
                                         int64_t queued_tokens);
  std::string answer_id(const http::Request& request, const ApiRequest& asked) const;
  void check_model(const std::optional<std::string>& name) const;
  JsonValue model_json(const std::string& name) const;
  void log_throughput(double seconds);
  void end_if_stuck() const;

  ServerOptions options_;
  Admission admission_;
  int64_t created_;
  std::unique_ptr<http::Server> http_;
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<EngineLoop> engine_;
  // Bodies of some length have a thread of their own, so that short ones never wait for them.
  std::unique_ptr<Pool> pool_, long_pool_;
  std::atomic<bool> loaded_{false}, stopping_{false};
  std::atomic<int64_t> answers_{0};
  uint64_t logged_prompt_tokens_ = 0, logged_new_tokens_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace quern::serve
