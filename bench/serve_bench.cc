// What the server itself costs: behind it stands the mock engine, before it a client of its own.
// The server runs in a process of its own; with two cores each has one.
//   serve_bench [tokens a second of each stream for the latency, default 20]
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "bench/report.h"
#include "engine/mock_engine.h"
#include "serve/load_bench.h"
#include "serve/server.h"

namespace quern::serve {
namespace {

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
}

// In the child: tells its port through the pipe and serves until it is killed.
[[noreturn]] void serve_mock(int pipe, double tokens_per_s) {
  ServerOptions options;
  options.http.port = 0;
  options.http.unsent_bytes =
      64 << 20;  // the client may be slower than the mock, which never waits
  options.max_queued_requests = 1 << 20;
  options.max_queued_tokens = 1 << 30;
  options.log_seconds = 0;
  ModelOptions model;
  model.folder = QUERN_SOURCE_DIR "/tests/data/tiny-qwen3.6";
  model.names = {"mock"};
  auto served = std::make_unique<ServedModel>(model);
  engine::MockOptions mock;
  mock.tokens_per_s = tokens_per_s;
  const engine::Limits limits{.vocabulary = served->tokenizer().ids(),
                              .max_model_len = 1 << 20,
                              .max_num_seqs = 1 << 16,
                              .max_num_batched_tokens = 1 << 20,
                              .block_tokens = 16,
                              .kv_tokens = 1 << 30};
  auto text = served->encode("Little strokes fell great oaks; haste makes waste. ", false);
  Server server(options);
  server.serve(std::move(served),
               std::make_unique<engine::MockEngine>(mock, limits, std::move(text)));
  const uint16_t port = server.port();
  if (::write(pipe, &port, sizeof port) != sizeof port) std::_Exit(1);
  server.wait();
  std::_Exit(0);
}

class Child {
 public:
  explicit Child(double tokens_per_s) {
    int pipe[2];
    QUERN_CHECK(::pipe(pipe) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      pin_to(0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      serve_mock(pipe[1], tokens_per_s);
    }
    QUERN_CHECK(::read(pipe[0], &port_, sizeof port_) == sizeof port_);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Url url() const { return {.host = "127.0.0.1", .port = port_, .path = ""}; }

  double resident_bytes() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/statm");
    double size = 0, resident = 0;
    file >> size >> resident;
    return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
  }
  // Of all its threads so far.
  double cpu_seconds() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/stat");
    std::string word;
    double user = 0, system = 0;
    for (int i = 1; i <= 13; ++i) file >> word;
    file >> user >> system;
    return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }

 private:
  pid_t pid_ = 0;
  uint16_t port_ = 0;
};

JsonValue load(const Child& child, int64_t streams, int64_t tokens) {
  LoadOptions options;
  options.url = child.url();
  options.model = "mock";
  options.ignore_eos = true;
  const LoadPrompt prompt{.ids = {11, 12, 13}, .text = {}, .output_tokens = tokens};
  return run_load(options, std::vector<LoadPrompt>(static_cast<size_t>(streams), prompt));
}

void throughput() {
  const Child child(0);
  load(child, 10, 10);
  for (int64_t streams : {1, 64, 512}) {
    const double before = child.cpu_seconds();
    const JsonValue result = load(child, streams, 600'000 / streams);
    const double cpu = child.cpu_seconds() - before;
    const double tokens = result["total_output_tokens"];
    bench::print("serve_throughput", {{"streams", streams},
                                      {"tokens_per_second", result["output_throughput"]},
                                      {"chunks_per_second", result["chunk_throughput"]},
                                      {"server_cpu_microseconds_per_token", cpu / tokens * 1e6}});
  }
}

void latency(double tokens_per_s) {
  for (int64_t streams : {1000, 2000}) {
    const Child child(tokens_per_s);
    load(child, 10, 10);
    const double idle = child.resident_bytes(), cpu = child.cpu_seconds();
    std::atomic<bool> done{false};
    double most = 0;
    std::thread watch([&] {
      while (!done) {
        most = std::max(most, child.resident_bytes());
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    });
    const JsonValue result = load(child, streams, static_cast<int64_t>(tokens_per_s * 10));
    done = true;
    watch.join();
    const double period = 1000 / tokens_per_s;
    bench::print(
        "serve_latency",
        {{"streams", streams},
         {"chunks_per_second", result["chunk_throughput"]},
         {"completed", result["completed"]},
         {"added_p99_ms", result["p99_itl_ms"].get<double>() - period},
         {"added_median_ms", result["median_itl_ms"].get<double>() - period},
         {"resident_bytes_per_stream", (most - idle) / static_cast<double>(streams)},
         {"server_cpu_share", (child.cpu_seconds() - cpu) / result["duration"].get<double>()}});
  }
}

void idle() {
  const Child child(20);
  load(child, 10, 10);
  const double before = child.cpu_seconds();
  std::this_thread::sleep_for(std::chrono::seconds(5));
  bench::print("serve_idle", {{"server_cpu_share", (child.cpu_seconds() - before) / 5},
                              {"resident_bytes", child.resident_bytes()}});
}

}  // namespace
}  // namespace quern::serve

int main(int argc, char** argv) {
  const double tokens_per_s = argc > 1 ? std::atof(argv[1]) : 20;
  quern::serve::pin_to(1);
  quern::serve::throughput();
  quern::serve::latency(tokens_per_s);
  quern::serve::idle();
  return 0;
}
