// Random numbers equal to those of the peers bit for bit: NumPy's default generator, used by
// Hugging Face datasets to shuffle rows, and Python's, used by AutoRound to draw batches.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace quern {

// numpy.random.default_rng(seed): PCG64 seeded by SeedSequence.
class NumpyRandom {
 public:
  explicit NumpyRandom(uint64_t seed);

  uint64_t next();  // 64 random bits
  // Generator.permutation(size): the numbers 0 ... size - 1 in random order.
  std::vector<int64_t> permutation(int64_t size);

 private:
  __extension__ using Wide = unsigned __int128;

  uint32_t next_half();
  int64_t up_to(int64_t most);  // uniform in [0, most]

  Wide state_ = 0;
  Wide increment_ = 0;
  // The generator makes 64 bits at a time; the upper half is kept for the next request for 32 bits.
  bool half_waits_ = false;
  uint32_t half_ = 0;
};

// random.Random(seed): the Mersenne Twister MT19937.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);

  uint32_t next();  // getrandbits(32)
  // Uniform in [0, bound), as Random._randbelow; bound is at least 1 and below 2^32.
  uint32_t below(uint32_t bound);

  // random.shuffle.
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i-- > 1;) {
      std::swap(items[i], items[below(static_cast<uint32_t>(i + 1))]);
    }
  }

 private:
  static constexpr size_t kWords = 624;

  void refill();

  std::array<uint32_t, kWords> state_{};
  size_t used_ = kWords;
};

}  // namespace quern
