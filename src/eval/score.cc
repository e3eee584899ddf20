#include "eval/score.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "eval/distribution.h"
#include "eval/stream.h"

namespace quern::eval {
namespace {

// One scored token: the state that predicts it, and the token itself.
struct Target {
  int64_t state = 0, token = 0, window = 0;
};

std::vector<Target> targets_of(std::span<const Window> windows) {
  std::vector<Target> targets;
  int64_t begin = 0;
  for (int64_t w = 0; w < std::ssize(windows); ++w) {
    const auto& tokens = windows[w].tokens;
    for (int64_t t = windows[w].first_scored; t < std::ssize(tokens); ++t) {
      targets.push_back({begin + t - 1, tokens[t], w});
    }
    begin += std::ssize(tokens);
  }
  return targets;
}

// Counts finished blocks of all models and groups.
class Counter {
 public:
  Counter(const ScoreOptions& options, int64_t total) : options_(options), total_(total) {}
  void operator()() {
    ++done_;
    if (options_.progress) options_.progress(done_, total_);
  }

 private:
  const ScoreOptions& options_;
  int64_t total_, done_ = 0;
};

// Runs body(target, a row of logits from each stream) for all targets, in any order.
template <class Body>
void for_each_row(const std::vector<const Stream*>& streams, const std::vector<Tensor>& states,
                  std::span<const Target> targets, const Body& body) {
  const int64_t piece = streams[0]->states_at_once();
  for (int64_t begin = 0; begin < std::ssize(targets); begin += piece) {
    const auto part = targets.subspan(begin, std::min(piece, std::ssize(targets) - begin));
    std::vector<int64_t> rows;
    for (const Target& target : part) rows.push_back(target.state);
    const Tensor index = at::tensor(rows, at::kLong);
    std::vector<Tensor> logits;
    for (size_t i = 0; i < streams.size(); ++i) {
      logits.push_back(streams[i]->logits(states[i].index_select(0, index)).contiguous());
    }
    parallel_for(std::ssize(part), [&](int64_t row) {
      std::vector<Distribution> seen;
      for (const Tensor& x : logits) {
        const auto width = static_cast<size_t>(x.size(1));
        seen.emplace_back(std::span(x.const_data_ptr<float>() + row * x.size(1), width));
      }
      body(begin + row, seen);
    });
  }
}

// The mean log-probability, summed in the order of the tokens.
class ScoreSum {
 public:
  void add(double log_prob, bool finite) {
    sum_ += log_prob;
    ++tokens_;
    if (!finite) ++not_finite_;
  }
  Scores scores(size_t windows) const {
    const double mean = sum_ / static_cast<double>(tokens_);
    return {.tokens = tokens_,
            .windows = static_cast<int64_t>(windows),
            .not_finite = not_finite_,
            .mean_log_prob = mean,
            .perplexity = std::exp(-mean)};
  }

 private:
  double sum_ = 0;
  int64_t tokens_ = 0, not_finite_ = 0;
};

// A mean over tokens with its two standard errors.
class ClusteredMean {
 public:
  // Windows must be added in order.
  void add(double x, int64_t window) {
    if (clusters_.empty() || window != window_) clusters_.push_back({});
    window_ = window;
    clusters_.back().sum += x;
    clusters_.back().count += 1;
    squares_ += x * x;
    sum_ += x;
    count_ += 1;
  }

  double mean() const { return sum_ / count_; }
  double token_error() const {
    if (count_ < 2) return 0;
    return std::sqrt(std::max(squares_ / count_ - mean() * mean(), 0.0) / (count_ - 1));
  }
  // The standard error of a ratio estimator (sum over windows / tokens in them) with independent
  // windows; Cochran, "Sampling Techniques", 9.6.
  double window_error() const {
    const auto windows = static_cast<double>(clusters_.size());
    if (windows < 2) return 0;
    double squares = 0;
    for (const Cluster& cluster : clusters_) {
      const double deviation = cluster.sum - mean() * cluster.count;
      squares += deviation * deviation;
    }
    return std::sqrt(windows / (windows - 1) * squares) / count_;
  }

 private:
  struct Cluster {
    double sum = 0, count = 0;
  };
  std::vector<Cluster> clusters_;
  int64_t window_ = 0;
  double sum_ = 0, squares_ = 0, count_ = 0;
};

}  // namespace

Scores score(std::shared_ptr<const nn::Source> model, std::span<const Window> windows,
             const ScoreOptions& options) {
  QUERN_CHECK(!windows.empty());
  const Stream stream(std::move(model));
  const auto groups = group_windows(windows, stream.state_bytes(), options.state_bytes);
  Counter block_done(options, std::ssize(groups) * stream.blocks());
  ScoreSum sum;
  for (std::span<const Window> group : groups) {
    const Tensor states = stream.states(group, std::ref(block_done));
    const std::vector<Target> targets = targets_of(group);
    struct Seen {
      double log_prob;
      bool finite;
    };
    std::vector<Seen> seen(targets.size());
    for_each_row({&stream}, {states}, targets, [&](int64_t i, const auto& rows) {
      seen[i] = {rows[0].log_prob(targets[i].token), rows[0].finite()};
    });
    for (const Seen& token : seen) sum.add(token.log_prob, token.finite);
  }
  return sum.scores(windows.size());
}

Comparison compare(std::shared_ptr<const nn::Source> reference,
                   std::shared_ptr<const nn::Source> artifact, std::span<const Window> windows,
                   const ScoreOptions& options) {
  QUERN_CHECK(!windows.empty());
  const Stream original(std::move(reference)), changed(std::move(artifact));
  if (original.vocabulary() != changed.vocabulary()) {
    fail("the models cannot be compared: one vocabulary has {} tokens, the other {}",
         original.vocabulary(), changed.vocabulary());
  }
  const auto groups =
      group_windows(windows, original.state_bytes() + changed.state_bytes(), options.state_bytes);
  Counter block_done(options, std::ssize(groups) * (original.blocks() + changed.blocks()));
  ScoreSum original_sum, changed_sum;
  ClusteredMean kld;
  Comparison result;
  int64_t agreeing = 0, first_window = 0;
  for (std::span<const Window> group : groups) {
    const Tensor original_states = original.states(group, std::ref(block_done));
    const Tensor changed_states = changed.states(group, std::ref(block_done));
    const std::vector<Target> targets = targets_of(group);
    struct Seen {
      double original, changed, kld;
      bool original_finite, changed_finite, agrees;
    };
    std::vector<Seen> seen(targets.size());
    for_each_row({&original, &changed}, {original_states, changed_states}, targets,
                 [&](int64_t i, const auto& rows) {
                   const Distribution &p = rows[0], &q = rows[1];
                   const int64_t token = targets[i].token;
                   seen[i] = {p.log_prob(token), q.log_prob(token), p.divergence(q),
                              p.finite(),        q.finite(),        p.likeliest() == q.likeliest()};
                 });
    for (size_t i = 0; i < seen.size(); ++i) {
      original_sum.add(seen[i].original, seen[i].original_finite);
      changed_sum.add(seen[i].changed, seen[i].changed_finite);
      kld.add(seen[i].kld, first_window + targets[i].window);
      result.max_kld = std::max(result.max_kld, seen[i].kld);
      agreeing += seen[i].agrees;
    }
    first_window += std::ssize(group);
  }
  result.reference = original_sum.scores(windows.size());
  result.artifact = changed_sum.scores(windows.size());
  result.mean_kld = kld.mean();
  result.kld_error = kld.window_error();
  result.kld_token_error = kld.token_error();
  result.top1_agreement =
      static_cast<double>(agreeing) / static_cast<double>(result.reference.tokens);
  return result;
}

JsonValue to_json(const Scores& scores) {
  return {{"tokens", scores.tokens},
          {"windows", scores.windows},
          {"not_finite", scores.not_finite},
          {"mean_log_prob", scores.mean_log_prob},
          {"perplexity", scores.perplexity}};
}

JsonValue to_json(const Comparison& comparison) {
  return {{"reference", to_json(comparison.reference)},
          {"artifact", to_json(comparison.artifact)},
          {"mean_kld", comparison.mean_kld},
          {"kld_error", comparison.kld_error},
          {"kld_token_error", comparison.kld_token_error},
          {"max_kld", comparison.max_kld},
          {"top1_agreement", comparison.top1_agreement}};
}

}  // namespace quern::eval
