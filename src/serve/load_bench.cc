#include "serve/load_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"

namespace quern::serve {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

struct Outcome {
  Clock::time_point began{}, first{}, last{};
  std::vector<double> gaps;  // milliseconds between chunks
  int64_t prompt_tokens = 0, output_tokens = 0, chunks = 0;
  int status = 0;
  std::string error, body;

  bool good() const { return error.empty() && status == 200 && chunks > 0; }
  double ttft() const { return milliseconds(first - began); }
  double e2el() const { return milliseconds(last - began); }
  // None for an answer of one token.
  std::optional<double> tpot() const {
    if (output_tokens < 2) return std::nullopt;
    return milliseconds(last - first) / static_cast<double>(output_tokens - 1);
  }
};

double mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& values) {
  const double center = mean(values);
  double sum = 0;
  for (double value : values) sum += (value - center) * (value - center);
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

// Linear between neighbours, as numpy.percentile.
double percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

class LoadTest {
 public:
  LoadTest(const LoadOptions& options, const std::vector<LoadPrompt>& prompts)
      : options_(options),
        prompts_(prompts),
        client_(options.url, options.trust),
        outcomes_(prompts.size()),
        most_(options.max_concurrency.value_or(static_cast<int64_t>(prompts.size()))) {}

  double run() {
    plan_arrivals();
    began_ = Clock::now();
    start_due();
    client_.run();
    return std::chrono::duration<double>(Clock::now() - began_).count();
  }
  const std::vector<Outcome>& outcomes() const { return outcomes_; }

 private:
  bool chat() const { return options_.endpoint.find("chat") != std::string::npos; }

  // Gamma-distributed pauses, scaled so that all together take what the rate says.
  void plan_arrivals() {
    arrivals_.assign(prompts_.size(), 0);
    if (!options_.request_rate) return;
    std::mt19937_64 random(options_.seed);
    std::gamma_distribution<double> pause(options_.burstiness,
                                          1 / (*options_.request_rate * options_.burstiness));
    for (size_t i = 1; i < arrivals_.size(); ++i) arrivals_[i] = arrivals_[i - 1] + pause(random);
    const double wanted = static_cast<double>(prompts_.size() - 1) / *options_.request_rate;
    if (arrivals_.back() <= 0) return;
    const double scale = wanted / arrivals_.back();
    for (double& arrival : arrivals_) arrival *= scale;
  }

  void start_due() {
    while (next_ < prompts_.size() && open_ < most_) {
      const double wait =
          arrivals_[next_] - std::chrono::duration<double>(Clock::now() - began_).count();
      if (wait > 0) {
        if (!waiting_)
          client_.after(wait, [this] {
            waiting_ = false;
            start_due();
          });
        waiting_ = true;
        return;
      }
      start(next_++);
    }
  }

  std::string body_of(const LoadPrompt& prompt) const {
    JsonValue body = options_.extra_body;
    body["model"] = options_.model;
    if (chat())
      body["messages"] = {{{"role", "user"}, {"content", prompt.text}}};
    else if (prompt.ids.empty())
      body["prompt"] = prompt.text;
    else
      body["prompt"] = prompt.ids;
    body[chat() ? "max_completion_tokens" : "max_tokens"] = prompt.output_tokens;
    if (options_.ignore_eos) body["ignore_eos"] = true;
    if (options_.temperature) body["temperature"] = *options_.temperature;
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
    return body.dump();
  }

  void start(size_t index) {
    ++open_;
    Outcome& outcome = outcomes_[index];
    auto events = std::make_shared<http::EventReader>();
    outcome.began = Clock::now();
    client_.start({.path = options_.endpoint,
                   .body = body_of(prompts_[index]),
                   .key = options_.key,
                   .head = [&outcome](int status) { outcome.status = status; },
                   .piece =
                       [&outcome, events](std::string_view piece) {
                         if (outcome.status != 200) outcome.body += piece;
                         events->push(piece, [&](std::string_view data) { take(outcome, data); });
                       },
                   .end =
                       [this, &outcome](const std::string& error) {
                         outcome.error = error;
                         --open_;
                         start_due();
                       }});
  }

  static void take(Outcome& outcome, std::string_view data) {
    if (data == "[DONE]") return;
    const auto now = Clock::now();
    // Chunks with text are the many, and most servers write them so.
    if (data.find("\"choices\":[{") != std::string_view::npos) return count_chunk(outcome, now);
    const JsonValue json = JsonValue::parse(data, nullptr, false);
    if (!json.is_object() || !json.contains("choices")) {
      outcome.error = std::string(data.substr(0, 300));
      return;
    }
    if (!json["choices"].empty()) return count_chunk(outcome, now);
    if (!json.contains("usage") || !json["usage"].is_object()) return;
    outcome.prompt_tokens = json["usage"].value("prompt_tokens", int64_t{0});
    outcome.output_tokens = json["usage"].value("completion_tokens", int64_t{0});
  }

  static void count_chunk(Outcome& outcome, Clock::time_point now) {
    if (outcome.chunks++ == 0)
      outcome.first = now;
    else
      outcome.gaps.push_back(milliseconds(now - outcome.last));
    outcome.last = now;
  }

  const LoadOptions& options_;
  const std::vector<LoadPrompt>& prompts_;
  http::Client client_;
  std::vector<Outcome> outcomes_;
  std::vector<double> arrivals_;  // seconds
  Clock::time_point began_{};
  size_t next_ = 0;
  int64_t open_ = 0, most_;
  bool waiting_ = false;
};

void add_statistics(JsonValue& result, const std::string& name, const std::vector<double>& values,
                    const std::vector<double>& percentiles) {
  result["mean_" + name + "_ms"] = mean(values);
  result["median_" + name + "_ms"] = percentile(values, 50);
  result["std_" + name + "_ms"] = deviation(values);
  for (double percent : percentiles)
    result[fmt::format("p{}_{}_ms", percent, name)] = percentile(values, percent);
}

bool meets(const Outcome& outcome, const std::map<std::string, double>& goals) {
  for (const auto& [name, most] : goals) {
    const double value = name == "ttft"   ? outcome.ttft()
                         : name == "tpot" ? outcome.tpot().value_or(0)
                                          : outcome.e2el();
    if (value > most) return false;
  }
  return true;
}

}  // namespace

JsonValue run_load(const LoadOptions& options, const std::vector<LoadPrompt>& prompts) {
  LoadTest test(options, prompts);
  const double seconds = test.run();
  std::vector<double> ttft, tpot, itl, e2el;
  int64_t completed = 0, good = 0, input = 0, output = 0, chunks = 0;
  std::string failure;
  for (const Outcome& outcome : test.outcomes()) {
    if (!outcome.good()) {
      failure = outcome.error.empty() ? fmt::format("status {}: {}", outcome.status, outcome.body)
                                      : outcome.error;
      continue;
    }
    ++completed;
    good += meets(outcome, options.goodput);
    input += outcome.prompt_tokens;
    output += outcome.output_tokens;
    chunks += outcome.chunks;
    ttft.push_back(outcome.ttft());
    e2el.push_back(outcome.e2el());
    if (outcome.tpot()) tpot.push_back(*outcome.tpot());
    itl.insert(itl.end(), outcome.gaps.begin(), outcome.gaps.end());
  }
  if (completed == 0) fail("no request was answered: {}", failure);
  JsonValue result = {{"endpoint", options.endpoint},
                      {"model_id", options.model},
                      {"num_prompts", prompts.size()},
                      {"request_rate", nullptr},
                      {"burstiness", options.burstiness},
                      {"max_concurrency", nullptr},
                      {"duration", seconds},
                      {"completed", completed},
                      {"failed", static_cast<int64_t>(prompts.size()) - completed},
                      {"total_input_tokens", input},
                      {"total_output_tokens", output},
                      {"request_throughput", static_cast<double>(completed) / seconds},
                      {"request_goodput", nullptr},
                      {"output_throughput", static_cast<double>(output) / seconds},
                      {"total_token_throughput", static_cast<double>(input + output) / seconds},
                      {"chunk_throughput", static_cast<double>(chunks) / seconds}};
  if (options.request_rate) result["request_rate"] = *options.request_rate;
  if (options.max_concurrency) result["max_concurrency"] = *options.max_concurrency;
  if (!options.goodput.empty()) result["request_goodput"] = static_cast<double>(good) / seconds;
  if (!failure.empty()) result["last_error"] = failure.substr(0, 500);
  add_statistics(result, "ttft", ttft, options.percentiles);
  add_statistics(result, "tpot", tpot, options.percentiles);
  add_statistics(result, "itl", itl, options.percentiles);
  add_statistics(result, "e2el", e2el, options.percentiles);
  return result;
}

std::string load_text(const JsonValue& result) {
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  auto count = [&](const char* label, const char* key) {
    text += fmt::format("{:<40} {:<10}\n", label, result[key].dump());
  };
  auto number = [&](const std::string& label, const std::string& key) {
    if (result.contains(key) && result[key].is_number())
      text += fmt::format("{:<40} {:<10.2f}\n", label, result[key].get<double>());
  };
  count("Successful requests:", "completed");
  count("Failed requests:", "failed");
  number("Benchmark duration (s):", "duration");
  count("Total input tokens:", "total_input_tokens");
  count("Total generated tokens:", "total_output_tokens");
  number("Request throughput (req/s):", "request_throughput");
  number("Request goodput (req/s):", "request_goodput");
  number("Output token throughput (tok/s):", "output_throughput");
  number("Total token throughput (tok/s):", "total_token_throughput");
  number("Chunk throughput (chunks/s):", "chunk_throughput");
  struct Row {
    const char* key;
    const char* label;
    const char* title;
  };
  for (const Row& row :
       {Row{"ttft", "TTFT", "Time to First Token"},
        Row{"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
        Row{"itl", "ITL", "Inter-token Latency"}, Row{"e2el", "E2EL", "End-to-end Latency"}}) {
    text += fmt::format("{:-^50}\n", row.title);
    for (const auto& [key, value] : result.items()) {
      const std::string end = fmt::format("_{}_ms", row.key);
      if (!key.ends_with(end) || key.starts_with("std")) continue;
      std::string what = key.substr(0, key.size() - end.size());
      what[0] = static_cast<char>(std::toupper(what[0]));
      number(fmt::format("{} {} (ms):", what, row.label), key);
    }
  }
  return text + std::string(50, '=') + "\n";
}

}  // namespace quern::serve
