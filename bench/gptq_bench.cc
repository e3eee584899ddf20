// GPTQ of the experts of a block: seconds per matrix of its three parts (Gram matrix of the inputs,
// factor, columns), and of the same arithmetic by LibTorch, one matrix after another in the order
// of llm-compressor, on the same threads in the same run.
//   gptq_bench [--matrices 32] [--rows 512] [--columns 2048] [--tokens 2048] [--threads 2]
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "bench/report.h"
#include "kernels/kernels.h"
#include "ops/compensated.h"
#include "ops/float_matrix.h"
#include "quant/dequantize.h"
#include "quant/grid.h"

namespace quern::bench {
namespace {

struct Options {
  int64_t matrices = 32, rows = 512, columns = 2048, tokens = 2048;
  int threads = 2, peers = 2;
};

template <class Work>
double seconds_of(Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Columns of different sizes that are correlated, as activations are.
Tensor activations(int64_t tokens, int64_t columns) {
  return at::randn({tokens, columns / 4}).matmul(at::randn({columns / 4, columns})) * 0.05 +
         at::randn({tokens, columns}) * at::rand({columns});
}

// As compress/grams.cc does it for one expert on one thread.
Tensor gram_of(const Tensor& x) {
  const int64_t tokens = x.size(0), columns = x.size(1);
  Tensor sum = at::empty({columns, columns});
  constexpr int64_t kRows = 128;
  for (int64_t begin = 0; begin < columns; begin += kRows) {
    const int64_t end = std::min(columns, begin + kRows);
    ops::float_product({end - begin,
                        columns - begin,
                        tokens,
                        {x.const_data_ptr<float>() + begin, columns, /*transposed=*/true},
                        {x.const_data_ptr<float>() + begin, columns},
                        sum.data_ptr<float>() + begin * columns + begin,
                        columns});
  }
  return sum;
}

// The dequantized weight, by LibTorch's functions: static activation order, blocks of 128 columns.
Tensor peer(const Tensor& weight, const Tensor& x, const quant::QuantWeight& start) {
  Tensor h = x.t().matmul(x);
  const Tensor order = h.diagonal().argsort(/*dim=*/-1, /*descending=*/true);
  Tensor w = weight.index_select(1, order), q = at::zeros_like(w);
  h = h.index_select(0, order).index_select(1, order);
  h.diagonal().add_(0.01 * h.diagonal().mean());
  const Tensor upper =
      at::linalg_cholesky(at::cholesky_inverse(at::linalg_cholesky(h)), /*upper=*/true);
  const Tensor scales = start.scales.repeat_interleave(weight.size(1) / start.scales.size(1), 1)
                            .index_select(1, order);
  for (int64_t begin = 0; begin < w.size(1); begin += 128) {
    const int64_t end = std::min(w.size(1), begin + 128);
    Tensor block = w.slice(1, begin, end).clone(), errors = at::zeros_like(block);
    const Tensor u = upper.slice(0, begin, end).slice(1, begin, end);
    for (int64_t i = 0; i < end - begin; ++i) {
      const Tensor column = block.select(1, i), scale = scales.select(1, begin + i);
      const Tensor stored = (column / scale).clamp(-8, 7).round() * scale;
      const Tensor error = (column - stored) / u[i][i];
      block.slice(1, i).sub_(error.unsqueeze(1).matmul(u[i].slice(0, i).unsqueeze(0)));
      errors.select(1, i).copy_(error);
      q.select(1, begin + i).copy_(stored);
    }
    w.slice(1, end).sub_(errors.matmul(upper.slice(0, begin, end).slice(1, end)));
  }
  return q.index_select(1, order.argsort());
}

void measure(const Options& o) {
  at::NoGradGuard no_grad;
  at::manual_seed(1);
  std::vector<Tensor> inputs, weights, grams(o.matrices);
  std::vector<quant::QuantWeight> starts(o.matrices), made(o.matrices);
  std::vector<ops::InverseFactor> factors(o.matrices);
  for (int64_t i = 0; i < o.matrices; ++i) {
    inputs.push_back(activations(o.tokens, o.columns));
    weights.push_back(at::randn({o.rows, o.columns}) * 0.02);
    starts[i] = quant::round_to_nearest(
        weights[i], {.group_size = 128, .symmetric = true, .scale_dtype = at::kFloat});
  }
  const auto for_all = [&](const std::function<void(int64_t)>& body) {
    return seconds_of([&] { parallel_for(o.matrices, body); }) / static_cast<double>(o.matrices);
  };
  const double gram = for_all([&](int64_t i) { grams[i] = gram_of(inputs[i]); });
  const double factor =
      for_all([&](int64_t i) { factors[i] = ops::inverse_factor(grams[i], 0.01, true); });
  const double columns = for_all([&](int64_t i) {
    made[i] = ops::compensated_codes(weights[i], factors[i], starts[i], {}).weight;
  });
  at::set_num_threads(o.threads);
  std::vector<Tensor> theirs;
  const double other = seconds_of([&] {
                         for (int i = 0; i < o.peers; ++i)
                           theirs.push_back(peer(weights[i], inputs[i], starts[i]));
                       }) /
                       o.peers;
  at::set_num_threads(1);
  double different = 0;
  for (int i = 0; i < o.peers; ++i)
    different +=
        quant::dequantize(made[i], at::kFloat).ne(theirs[i]).to(at::kDouble).mean().item<double>() /
        o.peers;
  print("gptq", {{"isa", kernels::cpu_kernels().name},
                 {"matrices", o.matrices},
                 {"rows", o.rows},
                 {"columns", o.columns},
                 {"tokens", o.tokens},
                 {"gram_seconds", gram},
                 {"factor_seconds", factor},
                 {"columns_seconds", columns},
                 {"seconds", gram + factor + columns},
                 {"libtorch_seconds", other},
                 {"ratio", other / (gram + factor + columns)},
                 {"share_of_different_codes", different}});
}

}  // namespace
}  // namespace quern::bench

int main(int argc, char** argv) {
  quern::bench::Options options;
  CLI::App app("Seconds per matrix of GPTQ, ours and by LibTorch's functions.");
  app.add_option("--matrices", options.matrices);
  app.add_option("--rows", options.rows);
  app.add_option("--columns", options.columns);
  app.add_option("--tokens", options.tokens, "tokens of each matrix");
  app.add_option("--threads", options.threads);
  app.add_option("--peers", options.peers, "matrices that LibTorch does");
  CLI11_PARSE(app, argc, argv);
  quern::prepare_torch();
  quern::set_threads(options.threads);
  quern::bench::measure(options);
}
