#include "nn/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"

namespace quern::nn {
namespace {

// Columns of the block's output that one work item adds up over all experts, in the experts' order:
// no thread waits for another, and the order of the sum is fixed.
constexpr int64_t kOutputTile = Weight::kRowTile;

struct Job {
  Weight gate, up, down;
  Activation activation;
  ops::ExpertLists lists;
  int64_t slots;               // experts per token
  std::vector<int64_t> order;  // experts with tokens, largest first

  int64_t hidden() const { return gate.columns(); }
  int64_t inner() const { return gate.rows(); }
};

// The rows of `x` that go to an expert, one after another.
std::vector<float> gather(const Job& job, int64_t expert, const float* x, int64_t width) {
  std::vector<float> rows(job.lists.pairs(expert) * width);
  for (int64_t i = 0; i < job.lists.pairs(expert); ++i) {
    const float* row = x + job.lists.token[job.lists.begin[expert] + i] * width;
    std::copy(row, row + width, rows.begin() + i * width);
  }
  return rows;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// An activation's value at x and its derivative there.
struct Slope {
  float value, derivative;
};

Slope silu(float x) {
  const float s = sigmoid(x), value = x * s;
  return {value, s + value * (1.0f - s)};
}

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
Slope gelu_tanh(float x) {
  constexpr float kScale = 0.79788456f, kCube = 0.044715f;
  const float t = std::tanh(kScale * (x + kCube * x * x * x)), half = 0.5f * (1.0f + t);
  return {x * half, half + 0.5f * x * (1.0f - t * t) * kScale * (1.0f + 3.0f * kCube * x * x)};
}

Slope slope_of(Activation activation, float x) {
  return activation == Activation::silu ? silu(x) : gelu_tanh(x);
}

// act = act(gate) * up
void activate(Activation activation, const float* gate, const float* up, float* act,
              int64_t count) {
  for (int64_t i = 0; i < count; ++i) act[i] = slope_of(activation, gate[i]).value * up[i];
}

// gate and up [pairs, inner], in the order of the lists.
void project_in(const Job& job, const float* x, Tensor& gate, Tensor& up) {
  const int64_t inner = job.inner();
  parallel_for(static_cast<int64_t>(job.order.size()), [&](int64_t i) {
    const int64_t expert = job.order[i], first = job.lists.begin[expert],
                  pairs = job.lists.pairs(expert);
    const std::vector<float> rows = gather(job, expert, x, job.hidden());
    const Activations ready = job.gate.prepare(rows.data(), pairs, job.hidden());
    for (const auto& [weight, out] : {std::pair{&job.gate, &gate}, std::pair{&job.up, &up}}) {
      weight->product(ready, expert, 0, inner, out->data_ptr<float>() + first * inner, inner);
    }
  });
}

// out[token] = sum over its experts of p * down(act).
Tensor project_out(const Job& job, const Tensor& gate, const Tensor& up, const float* p,
                   int64_t tokens) {
  const int64_t inner = job.inner(), hidden = job.hidden(),
                experts = static_cast<int64_t>(job.order.size());
  Tensor act = at::empty_like(gate), out = at::zeros({tokens, hidden}, at::kFloat);
  std::vector<Activations> ready(experts);
  parallel_for(experts, [&](int64_t i) {
    const int64_t first = job.lists.begin[job.order[i]], pairs = job.lists.pairs(job.order[i]);
    float* rows = act.data_ptr<float>() + first * inner;
    activate(job.activation, gate.const_data_ptr<float>() + first * inner,
             up.const_data_ptr<float>() + first * inner, rows, pairs * inner);
    ready[i] = job.down.prepare(rows, pairs, inner);
  });
  // A token's experts are added in the order of their numbers, whatever other tokens choose.
  std::vector<int64_t> by_number(experts);
  std::iota(by_number.begin(), by_number.end(), 0);
  std::ranges::sort(by_number, {}, [&](int64_t i) { return job.order[i]; });
  parallel_pieces(hidden, kOutputTile, [&](int64_t begin, int64_t end) {
    std::vector<float> tile;
    const int64_t width = end - begin;
    for (int64_t i : by_number) {
      const int64_t expert = job.order[i], first = job.lists.begin[expert],
                    pairs = job.lists.pairs(expert);
      tile.resize(pairs * width);
      job.down.product(ready[i], expert, begin, end, tile.data(), width);
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t token = job.lists.token[first + pair], slot = job.lists.slot[first + pair];
        const float factor = p[token * job.slots + slot];
        float* row = out.data_ptr<float>() + token * hidden + begin;
        for (int64_t c = 0; c < width; ++c) row[c] += factor * tile[pair * width + c];
      }
    }
  });
  return out;
}

struct Gradients {
  Tensor gate, up;  // of the products [pairs, inner]
  Tensor p;         // of the routing weights [tokens, slots]
};

// From the output back to gate and up, and the step of down_proj.
Gradients backward_out(const Job& job, const Tensor& gate, const Tensor& up, const Tensor& p,
                       const float* dy) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  Gradients d{at::empty_like(gate), at::empty_like(up), at::zeros_like(p)};
  parallel_for(static_cast<int64_t>(job.order.size()), [&](int64_t i) {
    const int64_t expert = job.order[i], first = job.lists.begin[expert],
                  pairs = job.lists.pairs(expert);
    std::vector<float> dy_rows = gather(job, expert, dy, hidden), dact(pairs * inner),
                       act(pairs * inner);
    job.down.product_backward(dy_rows.data(), pairs, hidden, expert, dact.data(), inner,
                              /*accumulate=*/false);
    const float* g = gate.const_data_ptr<float>() + first * inner;
    const float* u = up.const_data_ptr<float>() + first * inner;
    float* dg = d.gate.data_ptr<float>() + first * inner;
    float* du = d.up.data_ptr<float>() + first * inner;
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int64_t place =
          job.lists.token[first + pair] * job.slots + job.lists.slot[first + pair];
      const float factor = p.const_data_ptr<float>()[place];
      float dp = 0;
      for (int64_t c = pair * inner; c < (pair + 1) * inner; ++c) {
        const Slope at = slope_of(job.activation, g[c]);
        const float upstream = factor * dact[c];
        act[c] = at.value * u[c];
        dp += dact[c] * act[c];
        du[c] = upstream * at.value;
        dg[c] = upstream * u[c] * at.derivative;
      }
      d.p.data_ptr<float>()[place] = dp;
      for (int64_t c = pair * hidden; c < (pair + 1) * hidden; ++c) dy_rows[c] *= factor;
    }
    job.down.step(dy_rows.data(), hidden, job.down.prepare_step(act.data(), pairs, inner), expert,
                  0, hidden);
  });
  return d;
}

// dx[token] = sum over its experts of dgate W_gate + dup W_up. The products of all pairs are kept,
// fp32 [pairs, hidden], and then added up by column tiles in the experts' order, as in project_out.
Tensor backward_in(const Job& job, const Gradients& d, int64_t tokens) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  Tensor dx = at::zeros({tokens, hidden}, at::kFloat);
  const int64_t pairs_total = static_cast<int64_t>(job.lists.token.size());
  Tensor dpairs = at::empty({pairs_total, hidden}, at::kFloat);
  parallel_for(static_cast<int64_t>(job.order.size()), [&](int64_t i) {
    const int64_t expert = job.order[i], first = job.lists.begin[expert],
                  pairs = job.lists.pairs(expert);
    float* out = dpairs.data_ptr<float>() + first * hidden;
    job.gate.product_backward(d.gate.const_data_ptr<float>() + first * inner, pairs, inner, expert,
                              out, hidden,
                              /*accumulate=*/false);
    job.up.product_backward(d.up.const_data_ptr<float>() + first * inner, pairs, inner, expert, out,
                            hidden,
                            /*accumulate=*/true);
  });
  parallel_pieces(hidden, kOutputTile, [&](int64_t begin, int64_t end) {
    for (int64_t pair = 0; pair < pairs_total; ++pair) {
      float* row = dx.data_ptr<float>() + job.lists.token[pair] * hidden;
      const float* add = dpairs.const_data_ptr<float>() + pair * hidden;
      for (int64_t c = begin; c < end; ++c) row[c] += add[c];
    }
  });
  return dx;
}

void step_in(const Job& job, const Gradients& d, const float* x) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  parallel_for(static_cast<int64_t>(job.order.size()), [&](int64_t i) {
    const int64_t expert = job.order[i], first = job.lists.begin[expert],
                  pairs = job.lists.pairs(expert);
    const std::vector<float> rows = gather(job, expert, x, hidden);
    const StepInput in = job.gate.prepare_step(rows.data(), pairs, hidden);
    job.gate.step(d.gate.const_data_ptr<float>() + first * inner, inner, in, expert, 0, inner);
    job.up.step(d.up.const_data_ptr<float>() + first * inner, inner, in, expert, 0, inner);
  });
}

// Experts that got no token keep their state; if this state is the best so far, theirs is a part of
// it.
void skip_idle(const Job& job) {
  for (const Weight* weight : {&job.gate, &job.up, &job.down}) {
    if (!weight->rounding()) continue;
    parallel_for(weight->matrices(), [&](int64_t expert) {
      if (job.lists.pairs(expert) == 0) (*weight->rounding())->skip(expert);
    });
  }
}

struct ExpertsFunction : torch::autograd::Function<ExpertsFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& p,
                        const Tensor& /*anchor*/, std::shared_ptr<Job> job) {
    const int64_t pairs = static_cast<int64_t>(job->lists.token.size());
    Tensor gate = at::empty({pairs, job->inner()}, at::kFloat), up = at::empty_like(gate);
    project_in(*job, x.const_data_ptr<float>(), gate, up);
    Tensor out = project_out(*job, gate, up, p.const_data_ptr<float>(), x.size(0));
    context->save_for_backward({x, p, gate, up});
    context->saved_data["job"] =
        c10::IValue::make_capsule(c10::make_intrusive<Holder>(std::move(job)));
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto capsule = context->saved_data["job"].toCapsule();
    const Job& job = *static_cast<Holder*>(capsule.get())->job;
    auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &p = saved[1], &gate = saved[2], &up = saved[3];
    const Tensor dy = gradients[0].contiguous();
    Gradients d = backward_out(job, gate, up, p, dy.const_data_ptr<float>());
    Tensor dx;
    if (context->needs_input_grad(0)) dx = backward_in(job, d, x.size(0));
    step_in(job, d, x.const_data_ptr<float>());
    skip_idle(job);
    return {dx, d.p, Tensor(), Tensor()};
  }

  struct Holder : torch::CustomClassHolder {
    explicit Holder(std::shared_ptr<Job> j) : job(std::move(j)) {}
    std::shared_ptr<Job> job;
  };
};

}  // namespace

Tensor Experts::operator()(const Tensor& x_in, const ops::Routing& routing,
                           std::vector<int64_t>* pairs_per_expert) const {
  const Tensor x = x_in.contiguous(), p = routing.weights.contiguous();
  QUERN_CHECK(x.dim() == 2 && x.size(1) == gate_proj_.columns() &&
              routing.experts.size(0) == x.size(0));
  const int64_t count = gate_proj_.matrices();
  auto job = std::make_shared<Job>(Job{gate_proj_,
                                       up_proj_,
                                       down_proj_,
                                       activation_,
                                       ops::sort_by_expert(routing.experts, count),
                                       routing.experts.size(1),
                                       {}});
  job->order = job->lists.by_size();
  if (pairs_per_expert) {
    pairs_per_expert->resize(count, 0);
    for (int64_t e = 0; e < count; ++e) (*pairs_per_expert)[e] += job->lists.pairs(e);
  }
  if (at::GradMode::is_enabled()) {
    const bool tuned = gate_proj_.rounding() || up_proj_.rounding() || down_proj_.rounding();
    return ExpertsFunction::apply(x, p, at::empty({0}, at::kFloat).requires_grad_(tuned),
                                  std::move(job));
  }
  const int64_t pairs = static_cast<int64_t>(job->lists.token.size());
  Tensor gate = at::empty({pairs, job->inner()}, at::kFloat), up = at::empty_like(gate);
  project_in(*job, x.const_data_ptr<float>(), gate, up);
  return project_out(*job, gate, up, p.const_data_ptr<float>(), x.size(0));
}

}  // namespace quern::nn
