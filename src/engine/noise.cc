#include "engine/noise.h"

#include <algorithm>
#include <cmath>

namespace quern::engine {

PhiloxBlock philox(PhiloxBlock counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

namespace {

uint32_t low(uint64_t word) { return static_cast<uint32_t>(word); }
uint32_t high(uint64_t word) { return static_cast<uint32_t>(word >> 32); }

}  // namespace

// The third number keeps these apart from the keys below.
uint64_t seed_of_request(uint64_t engine_seed, uint64_t request) {
  const PhiloxBlock spread =
      philox({low(request), high(request), 1, 0}, {low(engine_seed), high(engine_seed)});
  return uint64_t{spread[1]} << 32 | spread[0];
}

// The generator itself spreads neighbouring seeds and lanes: its output is the key.
Noise::Noise(uint64_t seed, uint32_t lane) {
  const PhiloxBlock spread = philox({lane, 0, 0, 0}, {low(seed), high(seed)});
  key_ = {spread[0], spread[1]};
}

double Noise::exponential_of(uint32_t word) { return -std::log((word + 0.5) * 0x1p-32); }

double Noise::exponential(int64_t position, int32_t id) const {
  const auto place = static_cast<uint64_t>(position);
  const auto token = static_cast<uint32_t>(id);
  return exponential_of(philox({low(place), high(place), token / 4, 0}, key_)[token % 4]);
}

Noise::Words Noise::words(int64_t position, uint32_t stretch) const {
  constexpr uint32_t kBlocks = kStretch / 4;
  const auto place = static_cast<uint64_t>(position);
  Words words;
  for (uint32_t i = 0; i < kBlocks; ++i)
    std::ranges::copy(philox({low(place), high(place), stretch * kBlocks + i, 0}, key_),
                      words.begin() + 4 * i);
  return words;
}

}  // namespace quern::engine
