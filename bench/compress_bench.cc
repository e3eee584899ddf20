// Seconds of one AutoRound iteration of one block, and of its bare matrix products by LibTorch on
// the same threads, in turn: in the type that the iteration multiplies in, and in fp32.
//   compress_bench CHECKPOINT [--samples 8] [--length 256] [--iterations 8] [--threads 2] [--block
//   0]
// CHECKPOINT is written by make_synthetic (see bench/README.md). Prints one JSON line.
#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/threads.h"
#include "base/version.h"
#include "bench/report.h"
#include "compress/autoround.h"
#include "compress/calibrate.h"
#include "compress/compress.h"
#include "compress/plan.h"
#include "compress/recipe_options.h"
#include "kernels/kernels.h"
#include "models/models.h"
#include "ops/bf16_matrix.h"
#include "tests/formats.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Page faults of this process so far.
double faults_so_far() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_minflt);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// y = x W^T, and which of its backward products a step needs.
struct Product {
  int64_t tokens, rows, columns;
  bool input_gradient, weight_gradient;
};

// All matrix products of an iteration. The block's input needs no gradient, so linears that read it
// have no input gradient.
std::vector<Product> products_of(const std::vector<nn::LinearSite>& sites,
                                 const compress::Plan& plan,
                                 const std::vector<int64_t>& pairs_per_expert, int64_t tokens) {
  std::vector<Product> products;
  for (const nn::LinearSite& site : sites) {
    const bool expert = site.weight.matrices() > 1;
    const bool first = site.name.find(".in_proj_") != std::string::npos ||
                       site.name.find(".q_proj") != std::string::npos ||
                       site.name.find(".k_proj") != std::string::npos ||
                       site.name.find(".v_proj") != std::string::npos;
    products.push_back({expert ? pairs_per_expert[site.matrix] : tokens, site.weight.rows(),
                        site.weight.columns(), !first, plan.quantized(site.name) != nullptr});
  }
  return products;
}

// The products of the chunked delta rule (ops/delta_rule.cc), forward; backward has twice as many.
struct DeltaProducts {
  int64_t chunks = 0, heads = 0, key = 0, value = 0;
};

class Floor {
 public:
  // The linears' products in this type; those of the delta rule are fp32.
  Floor(std::vector<Product> products, DeltaProducts delta, DType dtype)
      : products_(std::move(products)), delta_(delta) {
    int64_t largest = 0;
    for (const Product& p : products_) {
      largest = std::max({largest, p.tokens * p.columns, p.tokens * p.rows});
      weights_.push_back(at::randn({p.rows, p.columns}, dtype));
      flops_ += 2.0 * static_cast<double>(p.tokens * p.rows * p.columns) *
                (1 + p.input_gradient + p.weight_gradient);
    }
    x_ = at::randn({largest}, dtype);
    y_ = at::randn({largest}, dtype);
    if (delta_.heads == 0) return;
    auto random = [&](int64_t rows, int64_t columns) {
      return at::randn({delta_.heads * delta_.chunks, rows, columns});
    };
    qk_ = {random(64, delta_.key), random(delta_.key, 64)};
    uv_ = {random(64, 64), random(64, delta_.value)};
    state_ = {at::randn({delta_.heads, 64, delta_.key}),
              at::randn({delta_.heads, delta_.key, delta_.value})};
  }

  double flops() const { return flops_; }

  void run() const {
    for (size_t i = 0; i < products_.size(); ++i) {
      const Product& p = products_[i];
      if (p.tokens == 0) continue;
      Tensor x = x_.narrow(0, 0, p.tokens * p.columns).view({p.tokens, p.columns});
      Tensor y = y_.narrow(0, 0, p.tokens * p.rows).view({p.tokens, p.rows});
      at::mm(x, weights_[i].t());
      if (p.input_gradient) at::mm(y, weights_[i]);
      if (p.weight_gradient) at::mm(y.t(), x);
    }
    for (int pass = 0; delta_.heads > 0 && pass < 3; ++pass) {
      at::bmm(qk_[0], qk_[1]);
      at::bmm(qk_[0], qk_[1]);
      at::bmm(uv_[0], uv_[1]);
      for (int64_t c = 0; c < delta_.chunks; ++c) {
        at::bmm(state_[0], state_[1]);
        at::bmm(state_[0], state_[1]);
        at::bmm(state_[0].transpose(1, 2),
                state_[0].narrow(2, 0, std::min(delta_.key, delta_.value)));
      }
    }
  }

 private:
  std::vector<Product> products_;
  DeltaProducts delta_;
  double flops_ = 0;
  std::vector<Tensor> weights_;
  Tensor x_, y_;
  std::vector<Tensor> qk_, uv_, state_;
};

struct Options {
  std::string checkpoint;
  int samples = 8, length = 256, iterations = 8, threads = 2, block = 0;
};

double floor_seconds(const Floor& floor, int threads) {
  at::NoGradGuard no_grad;
  at::set_num_threads(threads);
  const auto start = Clock::now();
  floor.run();
  const double seconds = seconds_since(start);
  at::set_num_threads(1);
  return seconds;
}

void run(const Options& o) {
  prepare_torch();
  set_threads(o.threads);
  auto source = std::make_shared<nn::Source>(o.checkpoint);
  auto model = models::make_model(source->files.config());
  const nn::Weights weights(source);
  compress::Sites sites;
  auto block = model->block(weights.listing(&sites.linears, nullptr, &sites.norms), o.block);
  compress::RecipeOptions recipe;
  recipe.iters = 200;
  const compress::Plan plan = compress::make_plan(*source, compress::list_sites(source, *model),
                                                  compress::make_recipe(recipe), kAutoGptq);

  at::manual_seed(1);
  const int64_t tokens = static_cast<int64_t>(o.samples) * o.length;
  compress::Samples input(std::vector<int64_t>(o.samples, o.length));
  for (int64_t sample = 0; sample < input.count(); ++sample)
    input.write({sample}, at::randn({o.length, model->hidden()}));
  std::vector<int64_t> pairs;
  compress::Samples target = input;
  compress::run_block(*block, target, &pairs);

  const std::vector<compress::Task> tasks = compress::tasks_of(sites.linears, plan);
  int64_t parameters = 0;
  for (const compress::Task& task : tasks)
    parameters += task.weight.matrices() * task.weight.rows() * task.weight.columns();
  const Json config = source->files.config();
  const Json text = config.has("text_config") ? config.at("text_config") : config;
  DeltaProducts delta;
  if (text.get<std::vector<std::string>>("layer_types")[o.block] == "linear_attention") {
    delta = {o.samples * ((o.length + 63) / 64), text.get<int>("linear_num_value_heads"),
             text.get<int>("linear_key_head_dim"), text.get<int>("linear_value_head_dim")};
  }
  const std::vector<Product> products = products_of(sites.linears, plan, pairs, tokens);
  const bool bf16 = ops::has_bf16_matrix();
  const Floor fp32_floor(products, delta, at::kFloat);
  const Floor own_floor(products, delta, bf16 ? at::kBFloat16 : at::kFloat);
  floor_seconds(fp32_floor, o.threads);
  floor_seconds(own_floor, o.threads);

  std::vector<double> iteration_seconds, fp32_floors, own_floors, fp32_ratios, own_ratios;
  const compress::AutoRoundSettings settings{.iters = o.iterations + 1, .batch_size = o.samples};
  const compress::CompressOptions options;
  PythonRandom random(42);
  std::vector<double> page_faults;
  auto start = Clock::now();
  double faults = faults_so_far();
  auto iteration_done = [&](int iteration, int) {
    const double seconds = seconds_since(start), new_faults = faults_so_far() - faults;
    const double fp32_bare = floor_seconds(fp32_floor, o.threads);
    const double own_bare = floor_seconds(own_floor, o.threads);
    if (iteration > 0) {
      iteration_seconds.push_back(seconds);
      page_faults.push_back(new_faults);
      fp32_floors.push_back(fp32_bare);
      own_floors.push_back(own_bare);
      fp32_ratios.push_back(seconds / fp32_bare);
      own_ratios.push_back(seconds / own_bare);
    }
    start = Clock::now();
    faults = faults_so_far();
  };
  compress::tune_rounding({.name = "block",
                           .block = *block,
                           .sites = sites,
                           .plan = plan,
                           .tasks = tasks,
                           .input = input,
                           .target = target,
                           .options = options,
                           .random = random,
                           .iteration_done = iteration_done},
                          settings, {});
  JsonValue line = {{"benchmark", "autoround_iteration"},
                    {"version", kVersion},
                    {"processor", bench::processor()},
                    {"isa", kernels::cpu_kernels().name},
                    {"dtype", bf16 ? "bf16" : "fp32"},
                    {"threads", o.threads},
                    {"tokens", tokens},
                    {"experts", text.get<int>("num_experts")},
                    {"tuned_parameters", parameters},
                    {"seconds", median(iteration_seconds)},
                    {"page_faults", median(page_faults)},
                    {"gemm_seconds", median(own_floors)},
                    {"gemm_gflops_per_second", own_floor.flops() / median(own_floors) / 1e9},
                    {"ratio", median(own_ratios)},
                    {"ratios", own_ratios},
                    {"fp32_gemm_seconds", median(fp32_floors)},
                    {"ratio_to_fp32", median(fp32_ratios)}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  quern::Options options;
  CLI::App app("Seconds of one AutoRound iteration of one block against its bare matrix products.");
  app.add_option("checkpoint", options.checkpoint)->required();
  app.add_option("--samples", options.samples, "samples in a batch");
  app.add_option("--length", options.length, "tokens of a sample");
  app.add_option("--iterations", options.iterations);
  app.add_option("--threads", options.threads);
  app.add_option("--block", options.block);
  CLI11_PARSE(app, argc, argv);
  quern::run(options);
}
