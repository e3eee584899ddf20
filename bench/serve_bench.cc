// The cost of the server, measured with the mock engine and a client in this program. The server
// runs in a separate process; with two cores each process has one. For comparison, a bare loop
// sends the same bytes to the same number of sockets.
//   serve_bench [tokens a second of each stream for the latency, default 20]
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
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

// The child process: writes its port to the pipe and serves until it is killed.
[[noreturn]] void serve_mock(int pipe, double tokens_per_s) {
  ServerOptions options;
  options.http.port = 0;
  options.http.unsent_bytes =
      64 << 20;  // the client may be slower than the mock, which never waits
  options.admission.max_queued_requests = 1 << 20;
  options.admission.max_queued_tokens = 1 << 30;
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
  http::Url url() const { return {.host = "127.0.0.1", .port = port_, .path = ""}; }

  double resident_bytes() const {
    std::ifstream file("/proc/" + std::to_string(pid_) + "/statm");
    double size = 0, resident = 0;
    file >> size >> resident;
    return resident * static_cast<double>(::sysconf(_SC_PAGESIZE));
  }
  // CPU time of all its threads so far.
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

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Wires {
  std::vector<int> here, there;

  explicit Wires(int64_t count) {
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    QUERN_CHECK(::bind(listener, generic, size) == 0 && ::listen(listener, 16) == 0);
    QUERN_CHECK(::getsockname(listener, generic, &size) == 0);
    const int on = 1;
    for (int64_t i = 0; i < count; ++i) {
      there.push_back(::socket(AF_INET, SOCK_STREAM, 0));
      QUERN_CHECK(::connect(there.back(), generic, size) == 0);
      here.push_back(::accept(listener, nullptr, nullptr));
      ::setsockopt(here.back(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    ::close(listener);
  }
  ~Wires() {
    for (const auto* ends : {&here, &there})
      for (int end : *ends) ::close(end);
  }
};

// Milliseconds between arrivals at each socket, until `done`.
std::vector<double> read_gaps(const std::vector<int>& sockets, const std::atomic<bool>& done) {
  using Clock = std::chrono::steady_clock;
  const int epoll = ::epoll_create1(0);
  for (size_t i = 0; i < sockets.size(); ++i) {
    epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.u64 = i}};
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[i], &event);
  }
  std::vector<Clock::time_point> last(sockets.size());
  std::vector<double> gaps;
  std::array<epoll_event, 128> events;
  std::array<char, 8192> bytes;
  while (!done) {
    const int ready = ::epoll_wait(epoll, events.data(), events.size(), 100);
    for (int k = 0; k < ready; ++k) {
      const size_t i = events[static_cast<size_t>(k)].data.u64;
      if (::recv(sockets[i], bytes.data(), bytes.size(), MSG_DONTWAIT) <= 0) continue;
      const auto now = Clock::now();
      if (last[i] != Clock::time_point{})
        gaps.push_back(std::chrono::duration<double, std::milli>(now - last[i]).count());
      last[i] = now;
    }
  }
  ::close(epoll);
  std::sort(gaps.begin(), gaps.end());
  return gaps;
}

// The lower bound for any server on this machine: only the system calls.
void bare_loop(int64_t streams, double tokens_per_s) {
  constexpr int kSteps = 100;
  const std::string chunk(250, 'x');  // the size of a chunk of /v1/completions
  const Wires wires(streams);
  std::atomic<bool> done{false};
  double seconds = 0;
  std::thread sender([&] {
    pin_to(0);
    const double before = thread_seconds();
    auto next = std::chrono::steady_clock::now();
    for (int step = 0; step < kSteps; ++step) {
      next += std::chrono::microseconds(static_cast<int64_t>(1e6 / tokens_per_s));
      std::this_thread::sleep_until(next);
      for (int socket : wires.here)
        (void)!::send(socket, chunk.data(), chunk.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    seconds = thread_seconds() - before;
    done = true;
  });
  const std::vector<double> gaps = read_gaps(wires.there, done);
  sender.join();
  const double period = 1000 / tokens_per_s;
  bench::print("bare_loop", {{"streams", streams},
                             {"added_p99_ms", gaps[gaps.size() * 99 / 100] - period},
                             {"added_median_ms", gaps[gaps.size() / 2] - period},
                             {"cpu_microseconds_per_chunk",
                              seconds / static_cast<double>(streams * kSteps) * 1e6}});
}

void latency(double tokens_per_s) {
  for (int64_t streams : {1000, 2000}) {
    bare_loop(streams, tokens_per_s);
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
    const double seconds = child.cpu_seconds() - cpu, tokens = result["total_output_tokens"];
    bench::print("serve_latency",
                 {{"streams", streams},
                  {"chunks_per_second", result["chunk_throughput"]},
                  {"completed", result["completed"]},
                  {"added_p99_ms", result["p99_itl_ms"].get<double>() - period},
                  {"added_median_ms", result["median_itl_ms"].get<double>() - period},
                  {"resident_bytes_per_stream", (most - idle) / static_cast<double>(streams)},
                  {"server_cpu_microseconds_per_chunk", seconds / tokens * 1e6},
                  {"server_cpu_share", seconds / result["duration"].get<double>()}});
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
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const double tokens_per_s = argc > 1 ? std::atof(argv[1]) : 20;
  quern::serve::pin_to(1);
  quern::serve::throughput();
  quern::serve::latency(tokens_per_s);
  quern::serve::idle();
  return 0;
}
