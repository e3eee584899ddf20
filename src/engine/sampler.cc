#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace quern::engine {
namespace {

// Below this a temperature means "the likeliest", as in vLLM: dividing by it would overflow.
constexpr double kGreedyBelow = 1e-5;

bool comes_later(const Choice& a, const Choice& b) {
  return a.probability != b.probability ? a.probability < b.probability : a.id > b.id;
}

double total(const std::vector<Choice>& choices) {
  double sum = 0;
  for (const Choice& choice : choices) sum += choice.probability;
  return sum;
}

// The likeliest `count` of a heap, in order.
std::vector<Choice> take(std::vector<Choice>& heap, size_t count) {
  std::vector<Choice> taken;
  while (taken.size() < count && !heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    taken.push_back(heap.back());
    heap.pop_back();
  }
  return taken;
}

// The likeliest, in order, until they hold `mass`.
std::vector<Choice> take_mass(std::vector<Choice>& heap, double mass) {
  std::vector<Choice> taken;
  for (double held = 0; held < mass && !heap.empty(); held += taken.back().probability)
    taken.push_back(take(heap, 1)[0]);
  return taken;
}

}  // namespace

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
  QUERN_CHECK(!logits.empty());
  // A comparison with a NaN is false, so one that hides behind the first logit is looked for too.
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(*likeliest) ||
      std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); }))
    fail(
        "the model's logits are not numbers; its weights are damaged: `quern verify` says which "
        "ones");
  const auto first = static_cast<int32_t>(likeliest - logits.begin());
  if (sampling.temperature < kGreedyBelow) return {{first, 1.0}};

  std::vector<Choice> left;
  left.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    // Relative to the likeliest, so that nothing overflows.
    const double p = std::exp((double{logits[id]} - *likeliest) / sampling.temperature);
    if (p > 0 && p >= sampling.min_p) left.push_back({static_cast<int32_t>(id), p});
  }
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < left.size()) {
    std::make_heap(left.begin(), left.end(), comes_later);
    left = take(left, static_cast<size_t>(sampling.top_k));
  }
  if (sampling.top_p < 1) {
    const double mass = sampling.top_p * total(left);
    std::make_heap(left.begin(), left.end(), comes_later);
    left = take_mass(left, mass);
  }
  const double sum = total(left);
  for (Choice& choice : left) choice.probability /= sum;
  return left;
}

Sampler::Sampler(const Sampling& sampling, int64_t ids)
    : sampling_(sampling), ids_(ids), random_(sampling.seed.value_or(0)) {
  sampling_.check();
}

void Sampler::see(std::span<const int32_t> tokens) {
  if (sampling_.repetition_penalty != 1) seen_.insert(tokens.begin(), tokens.end());
}

int32_t Sampler::next(std::span<const float> logits) {
  std::vector<float> allowed(
      logits.begin(),
      logits.begin() + std::min<int64_t>(ids_, static_cast<int64_t>(logits.size())));
  const auto penalty = static_cast<float>(sampling_.repetition_penalty);
  for (int32_t id : seen_) {
    if (id < 0 || id >= static_cast<int64_t>(allowed.size())) continue;
    float& logit = allowed[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  const std::vector<Choice> left = choices(allowed, sampling_);
  // 53 random bits: what NumPy's Generator.random() makes of the same seed.
  double draw = static_cast<double>(random_.next() >> 11) * 0x1p-53;
  int32_t id = left.back().id;  // if rounding leaves the sum below the draw
  for (const Choice& choice : left) {
    draw -= choice.probability;
    if (draw < 0) {
      id = choice.id;
      break;
    }
  }
  see({&id, 1});
  return id;
}

}  // namespace quern::engine
