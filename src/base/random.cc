#include "base/random.h"

#include <bit>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace quern {
namespace {

// NumPy's SeedSequence: spreads a seed over a pool of four words (after M. O'Neill's seed_seq_fe).
class SeedSequence {
 public:
  explicit SeedSequence(uint64_t seed) {
    const uint32_t entropy[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (size_t i = 0; i < pool_.size(); ++i) pool_[i] = hash(i < 2 ? entropy[i] : 0);
    for (size_t from = 0; from < pool_.size(); ++from) {
      for (size_t to = 0; to < pool_.size(); ++to) {
        if (from != to) pool_[to] = mix(pool_[to], hash(pool_[from]));
      }
    }
  }

  // generate_state(4, uint64).
  std::array<uint64_t, 4> state() const {
    std::array<uint64_t, 4> words{};
    uint32_t constant = 0x8b51f9dd;
    for (size_t i = 0; i < 8; ++i) {
      uint32_t value = pool_[i % 4] ^ constant;
      constant *= 0x58f38ded;
      value *= constant;
      value ^= value >> 16;
      words[i / 2] |= static_cast<uint64_t>(value) << (i % 2 * 32);
    }
    return words;
  }

 private:
  uint32_t hash(uint32_t value) {
    value ^= constant_;
    constant_ *= 0x931e8875;
    value *= constant_;
    return value ^ (value >> 16);
  }

  static uint32_t mix(uint32_t x, uint32_t y) {
    uint32_t value = x * 0xca01f9ddu - y * 0x4973f715u;
    return value ^ (value >> 16);
  }

  uint32_t constant_ = 0x43b0d7e5;
  std::array<uint32_t, 4> pool_{};
};

}  // namespace

NumpyRandom::NumpyRandom(uint64_t seed) {
  const std::array<uint64_t, 4> words = SeedSequence(seed).state();
  const Wide start = Wide{words[0]} << 64 | words[1];
  increment_ = (Wide{words[2]} << 64 | words[3]) << 1 | 1;
  next();
  state_ += start;
  next();
}

uint64_t NumpyRandom::next() {
  constexpr Wide kMultiplier = Wide{0x2360ed051fc65da4} << 64 | 0x4385df649fccf645;
  state_ = state_ * kMultiplier + increment_;
  const uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  return std::rotr(folded, static_cast<int>(state_ >> 122));
}

uint32_t NumpyRandom::next_half() {
  half_waits_ = !half_waits_;
  if (!half_waits_) return half_;
  const uint64_t bits = next();
  half_ = static_cast<uint32_t>(bits >> 32);
  return static_cast<uint32_t>(bits);
}

int64_t NumpyRandom::up_to(int64_t most) {
  const uint64_t bound = static_cast<uint64_t>(most);
  const uint64_t mask = bound == 0 ? 0 : ~uint64_t{0} >> std::countl_zero(bound);
  const bool wide = bound > std::numeric_limits<uint32_t>::max();
  while (bound != 0) {
    const uint64_t value = (wide ? next() : next_half()) & mask;
    if (value <= bound) return static_cast<int64_t>(value);
  }
  return 0;
}

std::vector<int64_t> NumpyRandom::permutation(int64_t size) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = size - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(up_to(i))]);
  }
  return order;
}

PythonRandom::PythonRandom(uint64_t seed) {
  // init_genrand and init_by_array of the MT19937 reference code; the key is the seed's words.
  state_[0] = 19650218;
  for (uint32_t i = 1; i < kWords; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ state_[i - 1] >> 30) + i;
  }
  const uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const uint32_t words = key[1] != 0 ? 2 : 1;
  size_t at = 1;
  auto step = [&] {
    if (++at < kWords) return;
    state_[0] = state_[kWords - 1];
    at = 1;
  };
  for (uint32_t k = 0; k < kWords; ++k) {
    const uint32_t before = state_[at - 1] ^ state_[at - 1] >> 30;
    state_[at] = (state_[at] ^ before * 1664525u) + key[k % words] + k % words;
    step();
  }
  for (uint32_t k = 1; k < kWords; ++k) {
    const uint32_t before = state_[at - 1] ^ state_[at - 1] >> 30;
    state_[at] = (state_[at] ^ before * 1566083941u) - static_cast<uint32_t>(at);
    step();
  }
  state_[0] = 0x80000000;
}

void PythonRandom::refill() {
  for (size_t i = 0; i < kWords; ++i) {
    const uint32_t bits = (state_[i] & 0x80000000) | (state_[(i + 1) % kWords] & 0x7fffffff);
    state_[i] = state_[(i + 397) % kWords] ^ bits >> 1 ^ (bits & 1 ? 0x9908b0df : 0);
  }
  used_ = 0;
}

uint32_t PythonRandom::next() {
  if (used_ == kWords) refill();
  uint32_t bits = state_[used_++];
  bits ^= bits >> 11;
  bits ^= bits << 7 & 0x9d2c5680;
  bits ^= bits << 15 & 0xefc60000;
  return bits ^ bits >> 18;
}

uint32_t PythonRandom::below(uint32_t bound) {
  QUERN_CHECK(bound > 0);
  const int shift = std::countl_zero(bound);
  while (true) {
    const uint32_t value = next() >> shift;
    if (value < bound) return value;
  }
}

}  // namespace quern
