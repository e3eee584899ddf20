// Attacks a server of its own on this machine, while an innocent client asks it ordinary questions:
//   hostile QUERN MODEL [--only NAME] [--seconds 6] [--json]
// Each attack meets a fresh server. It ends with a table: the innocent client's time to the first
// token, quiet and beside the attack; what memory the attack made the server take; what is left
// behind. Exit status 1 if a server ends, keeps requests or descriptors, or takes more memory than
// its budgets say. Times are only judged with --times, because other work on the machine shows in
// them. All traffic stays on the loopback interface.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/hostile/attacks.h"
#include "tests/hostile/served_program.h"
#include "tests/http/wire.h"

namespace quern::hostile {
namespace {

using Clock = std::chrono::steady_clock;
using http::get;
using http::post;
using http::Wire;

constexpr int kAttackersCore = 1;
constexpr double kSlack = 0.25;  // seconds
constexpr const char* kInnocentAddress = "127.0.0.2";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string innocents_key() {
  return "Authorization: Bearer " + std::string(kInnocentKey) + "\r\n";
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return std::nan("");
  std::ranges::sort(values);
  const double place = share * static_cast<double>(values.size() - 1);
  return values[static_cast<size_t>(std::ceil(place))];
}

// Times of one kind of request that a client makes one after another.
struct Times {
  std::vector<double> seconds;
  int failed = 0;
};

// Seconds to the first token of a short chat.
void ask_a_question(uint16_t port, Times& times) {
  const auto start = Clock::now();
  try {
    Wire wire(port, 0, kInnocentAddress);
    wire.send(post("/v1/chat/completions",
                   R"({"messages": [{"role": "user", "content": "What is 2 + 3?"}],)"
                   R"( "stream": true, "max_tokens": 4})",
                   innocents_key()));
    std::string got;
    while (got.find("data: ") == std::string::npos) {
      const std::string bytes = wire.receive();
      if (bytes.empty()) throw std::runtime_error("no answer");
      got += bytes;
      if (!got.starts_with("HTTP/1.1 200")) throw std::runtime_error("refused");
    }
    times.seconds.push_back(seconds_since(start));
    while (got.find("data: [DONE]") == std::string::npos) {
      const std::string bytes = wire.receive();
      if (bytes.empty()) throw std::runtime_error("cut off");
      got += bytes;
    }
  } catch (const std::exception&) {
    ++times.failed;
  }
}

void ask_for_models(uint16_t port, Times& times) {
  const auto start = Clock::now();
  try {
    if (Wire(port, 0, kInnocentAddress).ask(get("/v1/models", innocents_key())).status != 200)
      throw std::runtime_error("refused");
    times.seconds.push_back(seconds_since(start));
  } catch (const std::exception&) {
    ++times.failed;
  }
}

Times ask_for(double seconds, uint16_t port, void (*once)(uint16_t, Times&)) {
  Times times;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) once(port, times);
  return times;
}

// The value of a line of /metrics; -1 if it is not there.
double metric(uint16_t port, const std::string& name) {
  const std::string page =
      Wire(port, 0, kInnocentAddress).ask(get("/metrics", innocents_key())).body;
  const size_t at = page.find("\n" + name + "{");
  return at == std::string::npos ? -1 : std::stod(page.substr(page.find("} ", at) + 2));
}

struct Outcome {
  double quiet = 0, beside = 0;  // 99th percentiles of the innocent client, in seconds
  int failed = 0;                // of its requests beside the attack
  int64_t memory_bytes = 0;      // that the attack made the server take
  std::vector<std::string> broken;
  std::vector<std::string> late;  // judged with --times
};

// Whether it holds within 15 seconds.
template <class Condition>
bool settles(Condition condition) {
  return http::soon(condition, 15);
}

Outcome run(const Attack& attack, const std::string& program, const std::string& model,
            double seconds) {
  std::vector<std::string> options = {"--api-key", kInnocentKey, kAttackersKey};
  if (std::ranges::find(attack.options, "--mock-engine") == attack.options.end())
    options.insert(options.end(), {"--mock-engine", "tokens_per_s=200,prefill_us=5"});
  options.insert(options.end(), attack.options.begin(), attack.options.end());
  ServedProgram server(program, model, options);
  const uint16_t port = server.port();
  const auto once = attack.promise == Promise::answers ? ask_a_question : ask_for_models;
  ask_for(0.5, port, once);  // warm
  Outcome outcome;
  outcome.quiet = percentile(ask_for(2, port, once).seconds, 0.99);
  server.forget_peak();
  const Usage before = server.usage();

  const Target target{port, Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                               std::chrono::duration<double>(seconds))};
  std::thread attacker([&] { attack.run(target); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const Times beside = ask_for(seconds - 0.2, port, once);
  attacker.join();
  outcome.beside = percentile(beside.seconds, 0.99);
  outcome.failed = beside.failed;
  outcome.memory_bytes = std::max<int64_t>(server.usage().peak_bytes - before.resident_bytes, 0);

  if (!server.runs()) {
    outcome.broken.push_back("the server ended");
    return outcome;
  }
  if (!settles([&] {
        return metric(port, "vllm:num_requests_running") == 0 &&
               metric(port, "vllm:num_requests_waiting") == 0 &&
               metric(port, "vllm:kv_cache_usage_perc") == 0;
      }))
    outcome.broken.push_back("requests or cache blocks are left");
  if (!settles([&] { return server.usage().files <= before.files + 4; }))
    outcome.broken.push_back(
        fmt::format("{} descriptors are left", server.usage().files - before.files));
  if (outcome.memory_bytes > attack.memory_bytes)
    outcome.broken.push_back(
        fmt::format("it took more memory than {} MB", attack.memory_bytes >> 20));
  Times after;
  ask_a_question(port, after);
  if (after.failed > 0) outcome.broken.push_back("nobody is answered afterwards");
  const double limit = attack.promise == Promise::answers ? 2 * outcome.quiet + kSlack : kSlack;
  if (!(outcome.beside < limit)) outcome.late.push_back("late");
  if (outcome.failed > 0) outcome.late.push_back(fmt::format("{} refused", outcome.failed));
  return outcome;
}

std::string milliseconds(double seconds) {
  return std::isnan(seconds) ? "-" : fmt::format("{:.1f}", 1000 * seconds);
}

std::string verdict(const Outcome& outcome) {
  std::vector<std::string> all = outcome.broken;
  all.insert(all.end(), outcome.late.begin(), outcome.late.end());
  return all.empty() ? "ok" : fmt::format("{}", fmt::join(all, "; "));
}

int run_all(const std::string& program, const std::string& model, const std::string& only,
            double seconds, bool json, bool times) {
  stay_on_core(kAttackersCore);
  int bad = 0;
  if (!json)
    std::printf("%-14s %10s %10s %9s %9s  %s\n", "attack", "quiet ms", "beside ms", "MB taken",
                "MB allowed", "outcome");
  for (const Attack& attack : attacks()) {
    if (!only.empty() && attack.name != only) continue;
    const Outcome outcome = run(attack, program, model, seconds);
    bad += !outcome.broken.empty() || (times && !outcome.late.empty());
    if (json)
      std::printf("%s\n", JsonValue{{"attack", attack.name},
                                    {"about", attack.about},
                                    {"quiet_p99_ms", 1000 * outcome.quiet},
                                    {"beside_p99_ms", 1000 * outcome.beside},
                                    {"memory_mb", outcome.memory_bytes >> 20},
                                    {"allowed_mb", attack.memory_bytes >> 20},
                                    {"outcome", verdict(outcome)}}
                              .dump()
                              .c_str());
    else
      std::printf("%-14s %10s %10s %9ld %9ld  %s\n", attack.name.c_str(),
                  milliseconds(outcome.quiet).c_str(), milliseconds(outcome.beside).c_str(),
                  static_cast<long>(outcome.memory_bytes >> 20),
                  static_cast<long>(attack.memory_bytes >> 20), verdict(outcome).c_str());
    std::fflush(stdout);
  }
  return bad == 0 ? 0 : 1;
}

}  // namespace
}  // namespace quern::hostile

int main(int argc, char** argv) {
  CLI::App app("Attacks a server of its own, and measures what others notice");
  std::string program, model, only;
  double seconds = 6;
  bool json = false, times = false;
  app.add_option("program", program, "quern")->required();
  app.add_option("model", model, "model folder")->required();
  app.add_option("--only", only, "name of one attack");
  app.add_option("--seconds", seconds, "length of each attack");
  app.add_flag("--json", json, "print one JSON line for each attack");
  app.add_flag("--times", times, "fail when the innocent client is late or refused");
  CLI11_PARSE(app, argc, argv);
  try {
    return quern::hostile::run_all(program, model, only, seconds, json, times);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
