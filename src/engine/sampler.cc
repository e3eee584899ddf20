#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace quern::engine {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();
// Below this a temperature means "the likeliest", as in vLLM: dividing by it would overflow.
constexpr double kGreedyBelow = 1e-5;
// -log of the noise lies between -3.2 and 22.9, so what is further below the likeliest never wins.
const double kNegligible = 40 * std::log(2.0);
// Below this the rounding of a logit is no longer small beside the temperature.
constexpr double kCoarse = 0.01;
// Numbers that loops over rows treat side by side, so that compilers make vectors of them.
constexpr size_t kLanes = 8;
// A heap of so many is faster than a selection among all.
constexpr size_t kHeap = 1024;

bool before(const Choice& a, const Choice& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The k-th largest.
float kth_logit(std::span<const float> logits, size_t k) {
  constexpr auto larger = std::greater<float>();
  thread_local std::vector<float> kept;
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

// What rules that cut by size have left of a row: logits above `least`, and of those equal to it
// the ones up to id `last`.
struct Cut {
  float least;
  int32_t last = std::numeric_limits<int32_t>::max();

  bool keeps(float logit, int32_t id) const {
    return logit > least || (logit == least && id <= last);
  }
};

// Sums of exp(-x), x in [0, 28), in steps of 1/64: what tokens weigh that are x behind the
// likeliest. A token takes no call of exp: e^-x = e^-(step's end) * e^r, and r is at most 1/64, so
// that four terms of the series are short by r^4 / 24 < 2.5e-9.
class Weights {
 public:
  static constexpr double kSteps = 64, kMost = 28, kRelativeError = 2.5e-9;
  static size_t step_of(double x) { return static_cast<size_t>(std::min(x, kMost) * kSteps); }

  void add(double x) {
    const size_t step = step_of(x);
    const double r = static_cast<double>(step + 1) / kSteps - x;
    sums_[step] += 1 + r * (1 + r * (0.5 + r / 6));
  }
  double of(size_t step) const {
    return sums_[step] * std::exp(-static_cast<double>(step + 1) / kSteps);
  }
  double all() const {
    double sum = 0;
    for (size_t step = 0; step < sums_.size(); ++step) sum += of(step);
    return sum;
  }

 private:
  std::array<double, static_cast<size_t>(kSteps* kMost) + 1> sums_ = {};
};

// What keep_share() would leave of the logits from `least` on, without a list of them; nothing
// where the sums of the weights are not exact enough to tell.
std::optional<Cut> cut_by_share(std::span<const float> logits, float least, double temperature,
                                size_t likeliest, double share) {
  const double factor = 1 / temperature, largest = double{logits[likeliest]} * factor;
  const auto behind = [&](float logit) { return std::max(0.0, largest - double{logit} * factor); };
  Weights weights;
  for (const float logit : logits)
    if (logit >= least) weights.add(behind(logit));
  const double wanted = share * weights.all(), tolerance = wanted * 4 * Weights::kRelativeError;
  double held = 0;  // by the steps before
  size_t step = 0;
  for (; held + weights.of(step) < wanted - tolerance; ++step) held += weights.of(step);
  if (held > wanted - tolerance && held < wanted + tolerance) return std::nullopt;
  thread_local std::vector<Choice> undecided;
  undecided.clear();
  for (size_t id = 0; id < logits.size(); ++id)
    if (logits[id] >= least && Weights::step_of(behind(logits[id])) == step)
      undecided.push_back({static_cast<int32_t>(id), double{logits[id]} / temperature});
  std::ranges::sort(undecided, before);
  Cut cut{least};
  for (const auto& [id, logit] : undecided) {
    if (std::abs(held - wanted) <= tolerance) return std::nullopt;
    if (held > wanted) return cut;
    cut = {logits[static_cast<size_t>(id)], id};
    held += std::exp(logit - largest);
  }
  // The step after holds the next one, if there is one and this one was not enough.
  return held > wanted + tolerance ? std::optional(cut) : std::nullopt;
}

// The largest score, of equal ones that of the smallest id: score = logit - log(noise).
class Contest {
 public:
  void enter(int32_t id, double logit, double noise) {
    const double score = logit - std::log(noise);
    if (id_ >= 0 && (score < score_ || (score == score_ && id > id_))) return;
    id_ = id;
    score_ = score;
  }
  // No token of this logit or a smaller one wins with a word below it; kNever: with none at all.
  uint32_t least_word(double logit) const {
    const double behind = kSteps * (score_ - logit);
    if (behind < 0) return 0;
    return behind < static_cast<double>(kThresholds.size())
               ? kThresholds[static_cast<size_t>(behind)]
               : kNever;
  }
  static constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();
  int32_t id() const { return id_; }

 private:
  static constexpr int kSteps = 2;  // of the table, for each unit of a logit

  // A token that is d behind needs -log(-log(u)) > d, which is u > exp(-exp(-d)), where u is (word
  // + 0.5) / 2^32. That side's slope is e at least, so two words less make up for all rounding. The
  // largest noise is 22.9.
  using Thresholds = std::array<uint32_t, 23 * kSteps>;
  static Thresholds thresholds() {
    Thresholds words;
    for (size_t i = 0; i < words.size(); ++i) {
      const double d = static_cast<double>(i) / kSteps;
      words[i] = static_cast<uint32_t>(std::max(0.0, std::exp(-std::exp(-d)) * 0x1p32 - 2));
    }
    return words;
  }
  static const Thresholds kThresholds;

  int32_t id_ = -1;
  double score_ = 0;
};

const Contest::Thresholds Contest::kThresholds = Contest::thresholds();

int32_t draw(std::span<const Choice> choices, const Noise& noise, int64_t position) {
  Contest contest;
  for (const auto& [id, logit] : choices) contest.enter(id, logit, noise.exponential(position, id));
  return contest.id();
}

// The same from the row itself: nearly all tokens are told from their words alone, and stretch by
// stretch.
class RowContest {
 public:
  RowContest(std::span<const float> logits, Cut cut, double temperature)
      : logits_(logits), cut_(cut), temperature_(temperature) {}

  int32_t winner(size_t likeliest, const Noise& noise, int64_t position) {
    enter(likeliest, noise.exponential(position, static_cast<int32_t>(likeliest)));
    const size_t whole = logits_.size() / Noise::kStretch * Noise::kStretch;
    for (size_t first = 0; first < whole; first += Noise::kStretch) stretch(first, noise, position);
    for (size_t id = whole; id < logits_.size(); ++id)
      enter(id, noise.exponential(position, static_cast<int32_t>(id)));
    return contest_.id();
  }

 private:
  void enter(size_t id, double noise) {
    if (cut_.keeps(logits_[id], static_cast<int32_t>(id)))
      contest_.enter(static_cast<int32_t>(id), double{logits_[id]} / temperature_, noise);
  }

  static float largest_of(const float* row) {
    std::array<float, kLanes> lanes;
    std::copy_n(row, kLanes, lanes.begin());
    for (size_t first = kLanes; first < Noise::kStretch; first += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane)
        lanes[lane] = row[first + lane] > lanes[lane] ? row[first + lane] : lanes[lane];
    return std::ranges::max(lanes);
  }

  void stretch(size_t first, const Noise& noise, int64_t position) {
    const float largest = largest_of(logits_.data() + first);
    if (largest < cut_.least) return;
    const uint32_t least = contest_.least_word(double{largest} * factor_);
    if (least == Contest::kNever) return;
    const Noise::Words words =
        noise.words(position, static_cast<uint32_t>(first / Noise::kStretch));
    uint32_t enough = 0;
    for (const uint32_t word : words) enough += word >= least;
    if (enough == 0) return;
    for (size_t i = 0; i < words.size(); ++i)
      if (words[i] >= least) enter(first + i, Noise::exponential_of(words[i]));
  }

  std::span<const float> logits_;
  Cut cut_;
  double temperature_, factor_ = 1 / temperature_;
  Contest contest_;
};

double log_sum(std::span<const float> values, float largest) {
  double sum = 0;
  for (float value : values) sum += std::exp(double{value} - largest);
  return largest + std::log(sum);
}

// The number of the likeliest logit, of equal ones the first.
size_t likeliest(std::span<const float> logits) {
  QUERN_CHECK(!logits.empty());
  // In lanes, as compilers make vectors of them.
  std::array<float, kLanes> lanes;
  lanes.fill(kForbidden);
  std::array<int32_t, kLanes> numbers;
  numbers.fill(1);
  const size_t whole = logits.size() / kLanes * kLanes;
  for (size_t first = 0; first < whole; first += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = logits[first + lane];
      numbers[lane] &= logit < std::numeric_limits<float>::infinity();  // false for a NaN too
      lanes[lane] = logit > lanes[lane] ? logit : lanes[lane];
    }
  }
  for (const float logit : logits.subspan(whole)) {
    numbers[0] &= logit < std::numeric_limits<float>::infinity();
    lanes[0] = logit > lanes[0] ? logit : lanes[0];
  }
  if (std::ranges::count(numbers, 0) > 0) throw CorruptedLogits();
  const float largest = std::ranges::max(lanes);
  if (largest == kForbidden)
    fail(Exit::usage, "the request's rules leave no token: its allowed ids are all forbidden");
  return static_cast<size_t>(std::ranges::find(logits, largest) - logits.begin());
}

}  // namespace

CorruptedLogits::CorruptedLogits()
    : Error(Exit::invalid_input,
            "the model's logits are not numbers; if it happens again, its weights are damaged: "
            "`quern verify` says which ones") {}

namespace {

// The least logit that temperature, min_p and top_k leave.
float least_logit(std::span<const float> logits, size_t likeliest, const Sampling& sampling) {
  const double largest = double{logits[likeliest]} / sampling.temperature;
  const double below = sampling.min_p > 0 ? -std::log(sampling.min_p) : kNegligible;
  const auto least =
      static_cast<float>((largest - std::min(below, kNegligible)) * sampling.temperature);
  // Where min_p leaves fewer than k, the k-th is below them.
  const auto k = static_cast<size_t>(sampling.top_k);
  return k > 0 && k < logits.size() ? std::max(least, kth_logit(logits, k)) : least;
}

void list_choices(std::span<const float> logits, const Sampling& sampling,
                  std::vector<Choice>& left) {
  left.clear();
  const size_t first = likeliest(logits);
  if (sampling.temperature < kGreedyBelow) {
    left.push_back({static_cast<int32_t>(first), double{logits[first]}});
    return;
  }
  const float least = least_logit(logits, first, sampling);
  for (size_t id = 0; id < logits.size(); ++id)
    if (logits[id] >= least)
      left.push_back({static_cast<int32_t>(id), double{logits[id]} / sampling.temperature});
  if (sampling.top_p < 1)
    keep_share(left, sampling.top_p, double{logits[first]} / sampling.temperature);
}

// The token that wins among choices(), found without making a list of them where that is quicker.
int32_t draw_from(std::span<const float> logits, const Sampling& sampling, const Noise& noise,
                  int64_t position) {
  const size_t first = likeliest(logits);
  if (sampling.temperature < kGreedyBelow) return static_cast<int32_t>(first);
  std::optional<Cut> cut;
  if (sampling.top_p >= 1)
    cut = Cut{least_logit(logits, first, sampling)};
  else if (sampling.top_k == 0 && sampling.temperature >= kCoarse && logits.size() > kHeap)
    cut = cut_by_share(logits, least_logit(logits, first, sampling), sampling.temperature, first,
                       sampling.top_p);
  if (cut) return RowContest(logits, *cut, sampling.temperature).winner(first, noise, position);
  thread_local std::vector<Choice> left;
  list_choices(logits, sampling, left);
  return draw(left, noise, position);
}

}  // namespace

std::vector<Choice> choices(std::span<const float> logits, const Sampling& sampling) {
  std::vector<Choice> left;
  list_choices(logits, sampling, left);
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
  Drawn drawn{draw_from(row, sampling_, noise_, std::ssize(answer)), std::nullopt};
  if (sampling_.repetition_penalty != 1 || sampling_.frequency_penalty != 0 ||
      sampling_.presence_penalty != 0)
    ++counts_[drawn.token];
  if (!reported_) return drawn;
  if (mode_ == LogprobsMode::raw_logprobs || mode_ == LogprobsMode::raw_logits) {
    drawn.report = report(logits, drawn.token, *reported_, mode_);
  } else {
    if (sampling_.temperature >= kGreedyBelow) {
      const std::vector<Choice> left = choices(row, sampling_);
      std::fill(row.begin(), row.end(), kForbidden);
      for (const auto& [id, logit] : left) row[static_cast<size_t>(id)] = static_cast<float>(logit);
    }
    drawn.report = report(row, drawn.token, *reported_, mode_);
  }
  return drawn;
}

}  // namespace quern::engine
