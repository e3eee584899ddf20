#include "ops/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "ops/cpu_stack.h"

namespace quern::ops {
namespace {

// Columns of the block's output in one work item, which sums over all experts in order; no thread
// waits for another. The width does not change the bits, because each column has its own sum. A
// wide item reads long runs of each expert's matrix, and 2 items per thread keep all threads busy.
int64_t output_tile(int64_t hidden) {
  const int64_t tiles = (hidden + CpuStack::kRowTile - 1) / CpuStack::kRowTile,
                each = tiles / (2 * threads());
  return std::clamp<int64_t>(each, 1, 8) * CpuStack::kRowTile;
}

struct Job {
  ExpertStacks stacks;
  ExpertTaps taps;
  ExpertLists lists;
  int64_t slots;               // experts per token
  std::vector<int64_t> order;  // experts with tokens, largest first

  CpuStack& gate() const { return on_cpu(stacks.gate); }
  CpuStack& up() const { return on_cpu(stacks.up); }
  CpuStack& down() const { return on_cpu(stacks.down); }
  bool one_form() const { return gate().input_form() == up().input_form(); }
  int64_t hidden() const { return stacks.gate->columns(); }
  int64_t inner() const { return stacks.gate->rows(); }
  int64_t pairs() const { return std::ssize(lists.token); }
};

// The pairs (token, slot) of one expert.
struct Share {
  Share(const Job& job, int64_t i)
      : expert(job.order[i]), first(job.lists.begin[expert]), pairs(job.lists.pairs(expert)) {}
  int64_t expert, first, pairs;
};

// Indexes into job.order by the experts' numbers: the order in which a token's experts are added,
// whatever other tokens choose.
std::vector<int64_t> by_number(const Job& job) {
  std::vector<int64_t> indexes(job.order.size());
  std::iota(indexes.begin(), indexes.end(), 0);
  std::ranges::sort(indexes, {}, [&](int64_t i) { return job.order[i]; });
  return indexes;
}

// Experts whose numbers follow one another, and so do their pairs.
struct Group {
  std::vector<int64_t> indexes;  // into job.order, which starts with the largest expert
  int64_t first, pairs;
};

// Groups of at most so many pairs, or of one expert.
std::vector<Group> groups_of(const Job& job, int64_t most_pairs) {
  std::vector<Group> groups;
  for (const int64_t i : by_number(job)) {
    const Share share(job, i);
    if (groups.empty() || groups.back().pairs + share.pairs > most_pairs)
      groups.push_back({{}, share.first, 0});
    groups.back().indexes.push_back(i);
    groups.back().pairs += share.pairs;
  }
  for (Group& group : groups) std::ranges::sort(group.indexes);
  return groups;
}

void for_each_expert(const Job& job, const std::function<void(int64_t i, const Share&)>& body) {
  parallel_for(std::ssize(job.order), [&](int64_t i) { body(i, Share(job, i)); });
}

// The rows of `x` for one expert, concatenated.
std::vector<float> gather(const Job& job, const Share& share, const float* x, int64_t width) {
  std::vector<float> rows(share.pairs * width);
  for (int64_t i = 0; i < share.pairs; ++i) {
    const float* row = x + job.lists.token[share.first + i] * width;
    std::copy(row, row + width, rows.begin() + i * width);
  }
  return rows;
}

float factor_of(const Job& job, int64_t pair, const float* p) {
  return p[job.lists.token[pair] * job.slots + job.lists.slot[pair]];
}

void show(InputTap* tap, const Job& job, const Share& share, float* rows, int64_t width,
          const float* p) {
  if (!tap) return;
  at::NoGradGuard no_grad;
  const Tensor factors = at::empty({share.pairs}, at::TensorOptions(at::kCPU).dtype(at::kFloat));
  for (int64_t i = 0; i < share.pairs; ++i)
    factors.data_ptr<float>()[i] = factor_of(job, share.first + i, p);
  tap->see(share.expert, at::from_blob(rows, {share.pairs, width}, at::kFloat), factors);
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

// Computes gate and up [pairs, inner], in the order of the lists.
void project_in(const Job& job, const float* x, const float* p, Tensor& gate, Tensor& up) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  for_each_expert(job, [&](int64_t, const Share& share) {
    std::vector<float> rows = gather(job, share, x, hidden);
    show(job.taps.in, job, share, rows.data(), hidden, p);
    ArrangedInput in = job.gate().arrange(rows.data(), share.pairs, hidden);
    job.gate().product(in, share.expert, 0, inner, gate.data_ptr<float>() + share.first * inner,
                       inner);
    if (!job.one_form()) in = job.up().arrange(rows.data(), share.pairs, hidden);
    job.up().product(in, share.expert, 0, inner, up.data_ptr<float>() + share.first * inner, inner);
  });
}

// out[token] = sum over its experts of p * down(act).
Tensor project_out(const Job& job, const Tensor& gate, const Tensor& up, const float* p,
                   int64_t tokens) {
  const int64_t inner = job.inner(), hidden = job.hidden(), busy = std::ssize(job.order);
  Tensor act = at::empty_like(gate), out = at::zeros({tokens, hidden}, gate.options());
  std::vector<ArrangedInput> arranged(busy);
  for_each_expert(job, [&](int64_t i, const Share& share) {
    const int64_t place = share.first * inner;
    float* rows = act.data_ptr<float>() + place;
    activate(job.stacks.activation, gate.const_data_ptr<float>() + place,
             up.const_data_ptr<float>() + place, rows, share.pairs * inner);
    show(job.taps.out, job, share, rows, inner, p);
    arranged[i] = job.down().arrange(rows, share.pairs, inner);
  });
  const std::vector<int64_t> experts = by_number(job);
  parallel_pieces(hidden, output_tile(hidden), [&](int64_t begin, int64_t end) {
    std::vector<float> tile;
    const int64_t width = end - begin;
    for (const int64_t i : experts) {
      const Share share(job, i);
      tile.resize(share.pairs * width);
      job.down().product(arranged[i], share.expert, begin, end, tile.data(), width);
      for (int64_t pair = 0; pair < share.pairs; ++pair) {
        const float factor = factor_of(job, share.first + pair, p);
        float* row = out.data_ptr<float>() + job.lists.token[share.first + pair] * hidden + begin;
        for (int64_t c = 0; c < width; ++c) row[c] += factor * tile[pair * width + c];
      }
    }
  });
  return out;
}

struct Gradients {
  Tensor gate, up;  // gradients of the products [pairs, inner]
  Tensor p;         // gradients of the routing weights [tokens, slots]
};

// The gradients of gate and up from the gradient of the output; passes dL/dw to down.
Gradients backward_out(const Job& job, const Tensor& gate, const Tensor& up, const Tensor& p,
                       const float* dy) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  Gradients d{at::empty_like(gate), at::empty_like(up), at::zeros_like(p)};
  for_each_expert(job, [&](int64_t, const Share& share) {
    std::vector<float> dy_rows = gather(job, share, dy, hidden), dact(share.pairs * inner),
                       act(share.pairs * inner);
    job.down().input_gradient(dy_rows.data(), share.pairs, hidden, share.expert, dact.data(), inner,
                              /*accumulate=*/false);
    const float* g = gate.const_data_ptr<float>() + share.first * inner;
    const float* u = up.const_data_ptr<float>() + share.first * inner;
    float* dg = d.gate.data_ptr<float>() + share.first * inner;
    float* du = d.up.data_ptr<float>() + share.first * inner;
    for (int64_t pair = 0; pair < share.pairs; ++pair) {
      const float factor = factor_of(job, share.first + pair, p.const_data_ptr<float>());
      float dp = 0;
      for (int64_t c = pair * inner; c < (pair + 1) * inner; ++c) {
        const Slope at = slope_of(job.stacks.activation, g[c]);
        const float upstream = factor * dact[c];
        act[c] = at.value * u[c];
        dp += dact[c] * act[c];
        du[c] = upstream * at.value;
        dg[c] = upstream * u[c] * at.derivative;
      }
      const int64_t place =
          job.lists.token[share.first + pair] * job.slots + job.lists.slot[share.first + pair];
      d.p.data_ptr<float>()[place] = dp;
      for (int64_t c = pair * hidden; c < (pair + 1) * hidden; ++c) dy_rows[c] *= factor;
    }
    if (!job.down().learns()) return;
    job.down().learn(dy_rows.data(), hidden,
                     job.down().arrange_to_learn(act.data(), share.pairs, inner), share.expert, 0,
                     hidden);
  });
  return d;
}

// Bytes of the products of pairs that the backward pass holds at a time.
constexpr int64_t kPairBytes = 128 << 20;

// dx[token] = sum over its experts of dgate W_gate + dup W_up, in the experts' order: the products
// of a group, fp32 [pairs, hidden], are added by column tiles, as in project_out.
Tensor backward_in(const Job& job, const Gradients& d, int64_t tokens) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  Tensor dx = at::zeros({tokens, hidden}, d.gate.options());
  const int64_t most_pairs = kPairBytes / (hidden * static_cast<int64_t>(sizeof(float)));
  for (const Group& group : groups_of(job, most_pairs)) {
    const Tensor products = at::empty({group.pairs, hidden}, d.gate.options());
    parallel_for(std::ssize(group.indexes), [&](int64_t i) {
      const Share share(job, group.indexes[i]);
      float* out = products.data_ptr<float>() + (share.first - group.first) * hidden;
      job.gate().input_gradient(d.gate.const_data_ptr<float>() + share.first * inner, share.pairs,
                                inner, share.expert, out, hidden, /*accumulate=*/false);
      job.up().input_gradient(d.up.const_data_ptr<float>() + share.first * inner, share.pairs,
                              inner, share.expert, out, hidden, /*accumulate=*/true);
    });
    parallel_pieces(hidden, output_tile(hidden), [&](int64_t begin, int64_t end) {
      for (int64_t pair = 0; pair < group.pairs; ++pair) {
        float* row = dx.data_ptr<float>() + job.lists.token[group.first + pair] * hidden;
        const float* add = products.const_data_ptr<float>() + pair * hidden;
        for (int64_t c = begin; c < end; ++c) row[c] += add[c];
      }
    });
  }
  return dx;
}

// Passes dL/dw to gate and up.
void learn_in(const Job& job, const Gradients& d, const float* x) {
  const int64_t inner = job.inner(), hidden = job.hidden();
  if (!job.gate().learns() && !job.up().learns()) return;
  for_each_expert(job, [&](int64_t, const Share& share) {
    const std::vector<float> rows = gather(job, share, x, hidden);
    ArrangedInput in;
    for (const auto& [stack, dy] : {std::pair{&job.gate(), &d.gate}, std::pair{&job.up(), &d.up}}) {
      if (!stack->learns()) continue;
      if (!in.x || !job.one_form()) in = stack->arrange_to_learn(rows.data(), share.pairs, hidden);
      stack->learn(dy->const_data_ptr<float>() + share.first * inner, inner, in, share.expert, 0,
                   inner);
    }
  });
}

// Experts without tokens keep their state; it still belongs to the best state if this iteration is
// the best so far.
void skip_idle(const Job& job) {
  for (CpuStack* stack : {&job.gate(), &job.up(), &job.down()}) {
    if (!stack->learns()) continue;
    parallel_for(stack->matrices(), [&](int64_t expert) {
      if (job.lists.pairs(expert) == 0) stack->skip(expert);
    });
  }
}

struct ExpertsFunction : torch::autograd::Function<ExpertsFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& p,
                        const Tensor& /*anchor*/, std::shared_ptr<Job> job) {
    Tensor gate = at::empty({job->pairs(), job->inner()}, x.options()), up = at::empty_like(gate);
    project_in(*job, x.const_data_ptr<float>(), p.const_data_ptr<float>(), gate, up);
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
    learn_in(job, d, x.const_data_ptr<float>());
    skip_idle(job);
    return {dx, d.p, Tensor(), Tensor()};
  }

  struct Holder : torch::CustomClassHolder {
    explicit Holder(std::shared_ptr<Job> j) : job(std::move(j)) {}
    std::shared_ptr<Job> job;
  };
};

}  // namespace

Tensor experts(const Tensor& x_in, const Routing& routing, const ExpertLists& lists,
               const ExpertStacks& stacks, const ExpertTaps& taps) {
  const Tensor x = x_in.contiguous(), p = routing.weights.contiguous();
  QUERN_CHECK(x.dim() == 2 && x.size(1) == stacks.gate->columns() &&
              routing.experts.size(0) == x.size(0));
  auto job =
      std::make_shared<Job>(Job{stacks, taps, lists, routing.experts.size(1), lists.by_size()});
  if (at::GradMode::is_enabled()) {
    const bool learns = stacks.gate->learns() || stacks.up->learns() || stacks.down->learns();
    return ExpertsFunction::apply(x, p, at::empty({0}, x.options()).requires_grad_(learns),
                                  std::move(job));
  }
  Tensor gate = at::empty({job->pairs(), job->inner()}, x.options()), up = at::empty_like(gate);
  project_in(*job, x.const_data_ptr<float>(), p.const_data_ptr<float>(), gate, up);
  return project_out(*job, gate, up, p.const_data_ptr<float>(), x.size(0));
}

}  // namespace quern::ops
