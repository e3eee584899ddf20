// Products of fp32 matrices on one thread: ours (kernels/float_matrix.h) and LibTorch's, in turn,
// for every layout of the factors that the program uses.
//   product_bench [--rows 256] [--columns 2048] [--inner 2048] [--rounds 15]
#include <time.h>

#include <CLI/CLI.hpp>

#include "bench/report.h"
#include "kernels/kernels.h"
#include "ops/float_matrix.h"
#include "tensor/tensor.h"

namespace quern::bench {
namespace {

struct Options {
  int64_t rows = 256, columns = 2048, inner = 2048;
  int rounds = 15;
};

// CPU time of this thread, which other work on the machine affects less than wall time.
double thread_seconds() {
  timespec time;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

template <class Work>
double seconds_of(Work work) {
  const double start = thread_seconds();
  work();
  return thread_seconds() - start;
}

// a [rows, inner] and b [inner, columns], each stored plainly or transposed.
void measure(const Options& o, bool turned_a, bool turned_b) {
  const Tensor a = turned_a ? at::randn({o.inner, o.rows}) : at::randn({o.rows, o.inner}),
               b = turned_b ? at::randn({o.columns, o.inner}) : at::randn({o.inner, o.columns});
  Tensor ours = at::empty({o.rows, o.columns}), theirs = at::empty({o.rows, o.columns});
  const kernels::FloatProduct product = {o.rows,
                                         o.columns,
                                         o.inner,
                                         {a.const_data_ptr<float>(), a.size(1), turned_a},
                                         {b.const_data_ptr<float>(), b.size(1), turned_b},
                                         ours.data_ptr<float>(),
                                         o.columns};
  const double flops = 2.0 * static_cast<double>(o.rows * o.columns * o.inner) / 1e9;
  std::vector<double> own, torch, ratios;
  for (int round = -2; round < o.rounds; ++round) {
    const double own_seconds = seconds_of([&] { ops::float_product(product); });
    const double torch_seconds =
        seconds_of([&] { at::mm_out(theirs, turned_a ? a.t() : a, turned_b ? b.t() : b); });
    if (round < 0) continue;  // memory and caches warm up
    own.push_back(flops / own_seconds);
    torch.push_back(flops / torch_seconds);
    ratios.push_back(torch_seconds / own_seconds);
  }
  print("float_product", {{"isa", kernels::cpu_kernels().name},
                          {"rows", o.rows},
                          {"columns", o.columns},
                          {"inner", o.inner},
                          {"a_transposed", turned_a},
                          {"b_transposed", turned_b},
                          {"gflops", spread(own)},
                          {"libtorch_gflops", spread(torch)},
                          {"ratio", spread(ratios)},
                          {"largest_difference", (ours - theirs).abs().max().item<float>()}});
}

}  // namespace
}  // namespace quern::bench

int main(int argc, char** argv) {
  quern::bench::Options options;
  CLI::App app("GFLOP/s of products of fp32 matrices on one thread, ours and LibTorch's.");
  app.add_option("--rows", options.rows);
  app.add_option("--columns", options.columns);
  app.add_option("--inner", options.inner);
  app.add_option("--rounds", options.rounds);
  CLI11_PARSE(app, argc, argv);
  quern::prepare_torch();
  quern::set_threads(1);
  for (const auto& [turned_a, turned_b] : {std::pair{false, false}, {false, true}, {true, false}})
    quern::bench::measure(options, turned_a, turned_b);
}
