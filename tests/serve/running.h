// The real server on a port of its own, before the mock engine.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"
#include "engine/mock_engine.h"
#include "serve/server.h"
#include "tests/http/wire.h"
#include "tests/sanitized.h"

namespace quern::serve {

using http::ask;
using http::get;
using http::post;
using http::Received;
using http::soon;
using http::Wire;

inline size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  size_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

inline std::filesystem::path tiny_model() {
  return std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data/tiny-qwen3.6";
}

inline engine::Limits mock_limits() {
  return {.vocabulary = 2048,
          .max_model_len = 4096,
          .max_num_seqs = 256,
          .max_num_batched_tokens = 8192,
          .block_tokens = 16,
          .kv_tokens = 1 << 20};
}

constexpr const char* kMockText =
    "The mill grinds slowly, but it grinds exceedingly fine. \u00e9\u4e2d\U0001F600 ";

class RunningServer {
 public:
  explicit RunningServer(engine::MockOptions mock = {}, ServerOptions options = {},
                         engine::Limits limits = mock_limits(), ModelOptions model = {})
      : server_(quiet(std::move(options))) {
    auto served = served_model(std::move(model));
    auto text = served->encode(kMockText, false);
    start(std::move(served), std::make_unique<engine::MockEngine>(mock, limits, std::move(text)));
  }
  explicit RunningServer(std::unique_ptr<engine::Engine> engine, ModelOptions model = {})
      : server_(quiet({})) {
    start(served_model(std::move(model)), std::move(engine));
  }
  ~RunningServer() { stop(); }

  // Why wait() failed, or nothing.
  std::string stop() {
    server_.stop();
    if (thread_.joinable()) thread_.join();
    return died_;
  }
  Server* operator->() { return &server_; }
  uint16_t port() const { return server_.port(); }

 private:
  static ServerOptions quiet(ServerOptions options) {
    options.http.port = 0;
    options.log_seconds = 0;
    return options;
  }
  static std::unique_ptr<ServedModel> served_model(ModelOptions model) {
    if (model.folder.empty()) model.folder = tiny_model();
    if (model.names.empty()) model.names = {"tiny"};
    return std::make_unique<ServedModel>(model);
  }
  void start(std::unique_ptr<ServedModel> model, std::unique_ptr<engine::Engine> engine) {
    server_.serve(std::move(model), std::move(engine));
    thread_ = std::thread([this] {
      try {
        server_.wait();
      } catch (const std::exception& error) {
        died_ = error.what();
      }
    });
  }

  Server server_;
  std::string died_;
  std::thread thread_;
};

inline Received chat(uint16_t port, const std::string& body, const std::string& headers = "") {
  return ask(port, post("/v1/chat/completions", body, headers));
}
inline Received complete(uint16_t port, const std::string& body) {
  return ask(port, post("/v1/completions", body));
}
inline std::string user(const std::string& more = "") {
  return R"({"messages": [{"role": "user", "content": "Hello"}])" + more + "}";
}

inline std::string stream_body(int64_t max_tokens) {
  return R"({"prompt": "x", "stream": true, "max_tokens": )" + std::to_string(max_tokens) + "}";
}

}  // namespace quern::serve
