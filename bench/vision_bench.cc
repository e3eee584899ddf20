// One picture through a vision tower: seconds, memory, and the time of the bare products of its
// linears by LibTorch in fp32 with the same number of threads, in turn.
//   vision_bench MODEL [--height 1024 --width 1024] [--rounds 3] [--threads 2]
// Prints one JSON line.
#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "base/error.h"
#include "bench/report.h"
#include "models/models.h"
#include "prompt/image_processor.h"

namespace quern {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// An upper bound: every linear multiplies every patch, although a merger does not.
void bare_products(const std::vector<nn::LinearSite>& sites, int64_t patches) {
  for (const nn::LinearSite& site : sites) {
    const Tensor x = at::empty({patches, site.weight.columns()}, at::kFloat).fill_(0.5);
    at::matmul(x, at::empty({site.weight.columns(), site.weight.rows()}, at::kFloat).fill_(0.5));
  }
}

void run(const std::string& folder, int64_t height, int64_t width, int rounds) {
  prepare_torch();
  const auto source = std::make_shared<const nn::Source>(folder);
  const auto model = models::make_model(source->files.config());
  const auto processor = prompt::image_processor(folder);
  std::vector<nn::LinearSite> sites;
  const auto vision = model->vision(nn::Weights(source).listing(&sites));
  if (!vision || !processor)
    fail("{}: this model takes no pictures; give a model with a vision tower", folder);
  at::manual_seed(1);
  const Tensor picture = at::randint(0, 256, {3, height, width}, at::kByte);

  at::NoGradGuard no_grad;
  const double before = peak_megabytes();
  std::vector<double> resizing, tower, bare, ratios;
  double peak = 0;
  prompt::Patches patches;
  for (int i = 0; i < rounds; ++i) {
    resizing.push_back(seconds_of([&] { patches = (*processor)(picture, "picture"); }));
    tower.push_back(seconds_of([&] { (*vision)(patches); }));
    if (i == 0) peak = peak_megabytes();
    at::set_num_threads(threads());
    bare.push_back(seconds_of([&] { bare_products(sites, patches.rows * patches.columns); }));
    at::set_num_threads(1);
    ratios.push_back(tower.back() / bare.back());
  }
  bench::print("vision", {{"model", std::filesystem::path(folder).filename().string()},
                          {"height", height},
                          {"width", width},
                          {"patches", patches.rows * patches.columns},
                          {"soft_tokens", patches.soft_tokens()},
                          {"processor_seconds", bench::spread(resizing)},
                          {"tower_seconds", bench::spread(tower)},
                          {"bare_products_seconds", bench::spread(bare)},
                          {"ratio", bench::spread(ratios)},
                          {"megabytes_before", std::llround(before)},
                          {"peak_megabytes", std::llround(peak)}});
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  CLI::App app("One picture through a vision tower");
  std::string folder;
  int64_t height = 1024, width = 1024;
  int rounds = 3, threads = 2;
  app.add_option("MODEL", folder, "Model folder")->required();
  app.add_option("--height", height);
  app.add_option("--width", width);
  app.add_option("--rounds", rounds);
  app.add_option("--threads", threads);
  CLI11_PARSE(app, argc, argv);
  quern::set_threads(threads);
  try {
    quern::run(folder, height, width, rounds);
  } catch (const quern::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
