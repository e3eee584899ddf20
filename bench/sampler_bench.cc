// What one token costs to draw from a row of logits, by the settings of the request: the median of
// many draws, each at another place of the answer.
//   sampler_bench [--vocabulary 262144] [--draws 41]
// Prints one JSON line for each row of settings. Nothing is compared in the run: the figure is
// milliseconds on one thread, beside a pass over the same row that only looks for the largest.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>

#include "base/random.h"
#include "bench/report.h"
#include "engine/sampler.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

struct Row {
  const char* name;
  engine::Request request;
};

std::vector<Row> rows() {
  const auto of = [](engine::Sampling sampling, std::optional<int64_t> logprobs = std::nullopt) {
    sampling.seed = 1;
    return engine::Request{.sampling = sampling, .logprobs = logprobs};
  };
  return {{"greedy", of({.temperature = 0})},
          {"T=1, top_k 64, top_p .95 (Gemma)", of({.top_k = 64, .top_p = 0.95})},
          {"T=1, top_k 20, top_p .95 (Qwen)", of({.top_k = 20, .top_p = 0.95})},
          {"T=1, min_p .01", of({.min_p = 0.01})},
          {"T=1", of({})},
          {"T=0.6", of({.temperature = 0.6})},
          {"T=1.5", of({.temperature = 1.5})},
          {"T=1, repetition_penalty 1.1", of({.repetition_penalty = 1.1})},
          {"T=1, top_p .95", of({.top_p = 0.95})},
          {"T=0.6, top_p .95", of({.temperature = 0.6, .top_p = 0.95})},
          {"greedy, logprobs 0", of({.temperature = 0}, 0)},
          {"greedy, logprobs 20", of({.temperature = 0}, 20)},
          {"T=1, logprobs 20", of({}, 20)}};
}

// Independent normal logits: flatter than a trained model's, which is the hard case.
std::vector<float> random_logits(int64_t vocabulary, double deviation) {
  NumpyRandom random(3);
  const auto uniform = [&] { return (static_cast<double>(random.next() >> 11) + 0.5) * 0x1p-53; };
  std::vector<float> logits(static_cast<size_t>(vocabulary));
  for (float& logit : logits)
    logit = static_cast<float>(deviation * std::sqrt(-2 * std::log(uniform())) *
                               std::cos(2 * M_PI * uniform()));
  return logits;
}

template <class Work>
bench::Line timed(int64_t draws, const Work& work) {
  std::vector<double> times;
  for (int64_t i = -3; i < draws; ++i) {  // the first ones bring in pages
    const auto start = Clock::now();
    work();
    if (i >= 0)
      times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  return bench::spread(times);
}

void measure(const Row& row, const std::vector<float>& logits, int64_t draws) {
  engine::Sampler sampler(row.request, std::ssize(logits), engine::LogprobsMode::raw_logprobs, 1);
  std::vector<int32_t> answer;
  const bench::Line draw =
      timed(draws, [&] { answer.push_back(sampler.next(logits, answer).token); });
  volatile float largest = 0;
  const bench::Line pass = timed(draws, [&] { largest = *std::ranges::max_element(logits); });
  bench::print("sampler", {{"settings", row.name},
                           {"vocabulary", logits.size()},
                           {"ms", draw},
                           {"largest_alone_ms", pass}});
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  int64_t vocabulary = 262'144, draws = 41;
  CLI::App app;
  app.add_option("--vocabulary", vocabulary)->check(CLI::PositiveNumber);
  app.add_option("--draws", draws)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  quern::set_threads(1);
  const std::vector<float> logits = quern::random_logits(vocabulary, 2.5);
  for (const quern::Row& row : quern::rows()) quern::measure(row, logits, draws);
}
