// Random numbers that depend on nothing but their place: Philox4x32-10 (Salmon et al., "Parallel
// Random Numbers: As Easy as 1, 2, 3", 2011). A seeded request therefore draws the same tokens in
// every batch, after every pause and on every device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace quern::engine {

using PhiloxKey = std::array<uint32_t, 2>;
using PhiloxBlock = std::array<uint32_t, 4>;

PhiloxBlock philox(PhiloxBlock counter, PhiloxKey key);

// The seed of an engine's request that has none: another for each request, the same for the same
// number.
uint64_t seed_of_request(uint64_t engine_seed, uint64_t request);

// The noise of one answer: for each place in it and each token id an independent exponential
// variable with mean 1.
class Noise {
 public:
  Noise(uint64_t seed, uint32_t lane);

  // Between 2^-33 and 22.9.
  double exponential(int64_t position, int32_t id) const;

  // The same in bulk: word i belongs to id 32 * stretch + i, and exponential() is a falling
  // function of the id's word.
  static constexpr size_t kStretch = 32;
  using Words = std::array<uint32_t, kStretch>;
  Words words(int64_t position, uint32_t stretch) const;
  static double exponential_of(uint32_t word);

 private:
  PhiloxKey key_;
};

}  // namespace quern::engine
