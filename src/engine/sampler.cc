#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/json.h"

namespace quern::engine {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
// Below this a temperature means "the likeliest", as in vLLM: dividing by it would overflow.
constexpr double kGreedyBelow = 1e-5;
// -log of the noise lies between -3.2 and 22.9, so what is further below the likeliest never wins.
const double kNegligible = 40 * std::log(2.0);
constexpr double kMostNoise = 22.9;
// A heap of so many is faster than a selection among all.
constexpr size_t kHeap = 1024;

bool before(const Choice& a, const Choice& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The k-th largest.
float kth_logit(std::span<const float> logits, size_t k) {
  constexpr auto larger = std::greater<float>();
  std::vector<float> kept;
  if (k > kHeap) {
    kept.assign(logits.begin(), logits.end());
    std::nth_element(kept.begin(), kept.begin() + static_cast<int64_t>(k) - 1, kept.end(), larger);
    return kept[k - 1];
  }
  kept.assign(logits.begin(), logits.begin() + static_cast<int64_t>(k));
  std::ranges::make_heap(kept, larger);
  for (float logit : logits.subspan(k)) {
    if (logit <= kept.front()) continue;
    std::ranges::pop_heap(kept, larger);
    kept.back() = logit;
    std::ranges::push_heap(kept, larger);
  }
  return kept.front();
}

// Keeps the likeliest choices, as few as hold `share` of the probability of all: a selection that
// halves what is undecided instead of sorting it.
void keep_share(std::vector<Choice>& choices, double share, double largest) {
  auto mass = [&](auto begin, auto end) {
    double sum = 0;
    for (auto choice = begin; choice != end; ++choice) sum += std::exp(choice->logit - largest);
    return sum;
  };
  double missing = share * mass(choices.begin(), choices.end());
  auto begin = choices.begin(), end = choices.end();  // undecided
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, before);
    const double upper = mass(begin, middle);
    if (upper >= missing) {
      end = middle;
    } else {
      missing -= upper;
      begin = middle;
    }
  }
  choices.erase(end, choices.end());
}

int32_t draw(const std::vector<Choice>& choices, const Noise& noise, int64_t position) {
  if (choices.size() == 1) return choices.front().id;
  int32_t best = -1;
  double best_score = 0;
  for (const auto& [id, logit] : choices) {
    if (best >= 0 && logit + kMostNoise < best_score) continue;
    const double score = logit - std::log(noise.exponential(position, id));
    if (best < 0 || score > best_score || (score == best_score && id < best)) {
      best = id;
      best_score = score;
    }
  }
  return best;
}

double log_sum(std::span<const float> values, float largest) {
  double sum = 0;
  for (float value : values) sum += std::exp(double{value} - largest);
  return largest + std::log(sum);
}

// The number of the likeliest logit, of equal ones the first.
size_t likeliest(std::span<const float> logits) {
  QUERN_CHECK(!logits.empty());
  size_t best = 0;
  bool numbers = true;
  for (size_t i = 0; i < logits.size(); ++i) {
    numbers &= logits[i] < std::numeric_limits<float>::infinity();  // false for a NaN too
    if (logits[i] > logits[best]) best = i;
  }
  if (!numbers) throw CorruptedLogits();
  if (logits[best] == kForbidden)
    fail(Exit::usage, "the request's rules leave no token: its allowed ids are all forbidden");
  return best;
}

}  // namespace

CorruptedLogits::CorruptedLogits()
    : Error(Exit::invalid_input,
            "the model's logits are not numbers; if it happens again, its weights are damaged: "
            "`quern verify` says which ones") {}

Sampling recommended_sampling(const std::filesystem::path& folder) {
  Sampling sampling;
  const std::filesystem::path file = folder / "generation_config.json";
  if (!std::filesystem::exists(file)) return sampling;
  const JsonValue document = read_json(file);
  const Json config(document, file.string());
  if (!config.is_object()) fail("{}: must hold an object", file.string());
  sampling.temperature = config.get("temperature", sampling.temperature);
  sampling.top_k = config.get("top_k", sampling.top_k);
  sampling.top_p = config.get("top_p", sampling.top_p);
  sampling.min_p = config.get("min_p", sampling.min_p);
  sampling.repetition_penalty = config.get("repetition_penalty", sampling.repetition_penalty);
  return sampling;
}

std::vector<Choice> choices(std::span<const float> logits, const Sampling& sampling) {
  const size_t first = likeliest(logits);
  if (sampling.temperature < kGreedyBelow)
    return {{static_cast<int32_t>(first), double{logits[first]}}};

  const double largest = double{logits[first]} / sampling.temperature;
  const double below = sampling.min_p > 0 ? -std::log(sampling.min_p) : kNegligible;
  auto least = static_cast<float>((largest - std::min(below, kNegligible)) * sampling.temperature);
  // Where min_p leaves fewer than k, the k-th is below them.
  const auto k = static_cast<size_t>(sampling.top_k);
  if (k > 0 && k < logits.size()) least = std::max(least, kth_logit(logits, k));
  std::vector<Choice> left;
  for (size_t id = 0; id < logits.size(); ++id)
    if (logits[id] >= least)
      left.push_back({static_cast<int32_t>(id), double{logits[id]} / sampling.temperature});
  if (sampling.top_p < 1) keep_share(left, sampling.top_p, largest);
  return left;
}

TokenReport report(std::span<const float> values, int32_t token, int64_t top, LogprobsMode mode) {
  const bool logits = mode == LogprobsMode::raw_logits || mode == LogprobsMode::processed_logits;
  const double subtracted = logits ? 0 : log_sum(values, values[likeliest(values)]);
  auto logprob = [&](float value) { return static_cast<float>(value - subtracted); };
  auto before = [](const Likely& a, const Likely& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  };
  const float own = values[static_cast<size_t>(token)];
  TokenReport report{logprob(own), 1, {}};
  const size_t wanted = std::min(static_cast<size_t>(top), values.size());
  std::vector<Likely>& heap = report.top;  // the least likely in front
  for (size_t i = 0; i < values.size(); ++i) {
    report.rank += values[i] > own;
    const Likely next{static_cast<int32_t>(i), values[i]};
    if (heap.size() == wanted && (wanted == 0 || !before(next, heap.front()))) continue;
    if (heap.size() == wanted) {
      std::pop_heap(heap.begin(), heap.end(), before);
      heap.pop_back();
    }
    heap.push_back(next);
    std::push_heap(heap.begin(), heap.end(), before);
  }
  std::sort_heap(heap.begin(), heap.end(), before);
  for (Likely& likely : heap) likely.logprob = logprob(likely.logprob);
  return report;
}

Sampler::Sampler(const Request& request, int64_t ids, LogprobsMode mode, uint64_t entropy)
    : sampling_(request.sampling),
      ids_(ids),
      min_tokens_(request.min_tokens),
      stop_ids_(request.stop_ids),
      reported_(request.logprobs),
      mode_(mode),
      noise_(sampling_.seed.value_or(entropy), sampling_.lane) {
  if (sampling_.repetition_penalty != 1)
    prompt_.insert(request.tokens.begin(), request.tokens.end());
}

void Sampler::apply_masks(std::span<float> logits, std::span<const int32_t> answer) const {
  std::fill(logits.begin() + std::min<int64_t>(ids_, std::ssize(logits)), logits.end(), kForbidden);
  if (!sampling_.allowed_ids.empty()) {
    std::vector<std::pair<int32_t, float>> allowed;
    for (int32_t id : sampling_.allowed_ids)
      allowed.emplace_back(id, logits[static_cast<size_t>(id)]);
    std::fill(logits.begin(), logits.end(), kForbidden);
    for (const auto& [id, logit] : allowed) logits[static_cast<size_t>(id)] = logit;
  }
  for (const std::vector<int32_t>& word : sampling_.bad_words) {
    const size_t before = word.size() - 1;
    if (before > answer.size()) continue;
    if (std::equal(word.begin(), word.end() - 1, answer.end() - static_cast<int64_t>(before)))
      logits[static_cast<size_t>(word.back())] = kForbidden;
  }
  if (std::ssize(answer) < min_tokens_)
    for (int32_t id : stop_ids_) logits[static_cast<size_t>(id)] = kForbidden;
}

void Sampler::apply_penalties(std::span<float> logits) const {
  const auto repetition = static_cast<float>(sampling_.repetition_penalty);
  auto penalize = [&](int32_t id) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / repetition : logit * repetition;
  };
  for (int32_t id : prompt_) penalize(id);
  for (const auto& [id, count] : counts_) {
    if (repetition != 1 && !prompt_.contains(id)) penalize(id);
    float& logit = logits[static_cast<size_t>(id)];
    logit -= static_cast<float>(sampling_.frequency_penalty) * static_cast<float>(count);
    logit -= static_cast<float>(sampling_.presence_penalty);
  }
}

void Sampler::apply_rules(std::span<float> logits, std::span<const int32_t> answer) const {
  apply_masks(logits, answer);
  for (const auto& [id, bias] : sampling_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  apply_penalties(logits);
}

Sampler::Drawn Sampler::next(std::span<const float> logits, std::span<const int32_t> answer) {
  thread_local std::vector<float> row;
  row.assign(logits.begin(), logits.end());
  apply_rules(row, answer);
  const std::vector<Choice> left = choices(row, sampling_);
  Drawn drawn{draw(left, noise_, std::ssize(answer)), std::nullopt};
  if (sampling_.repetition_penalty != 1 || sampling_.frequency_penalty != 0 ||
      sampling_.presence_penalty != 0)
    ++counts_[drawn.token];
  if (!reported_) return drawn;
  if (mode_ == LogprobsMode::raw_logprobs || mode_ == LogprobsMode::raw_logits) {
    drawn.report = report(logits, drawn.token, *reported_, mode_);
  } else {
    if (sampling_.temperature >= kGreedyBelow) {
      std::fill(row.begin(), row.end(), kForbidden);
      for (const auto& [id, logit] : left) row[static_cast<size_t>(id)] = static_cast<float>(logit);
    }
    drawn.report = report(row, drawn.token, *reported_, mode_);
  }
  return drawn;
}

}  // namespace quern::engine
