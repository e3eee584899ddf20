// The cases that every kernel of every instruction set runs against the reference, and memory with
// guards around it. The benchmarks use the same shapes.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace quern::kernels {

// `count` values aligned to 64 bytes between two guards that must not be written. All bytes start
// as 0xcd, which also reveals values that were never written.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count, int64_t shift_bytes = 0)
      : bytes_(count * sizeof(T)),
        shift_(shift_bytes),
        memory_(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes_ + shift_ + 3 * 64) / 64 * 64)),
                std::free) {
    std::memset(memory_.get(), 0xcd, size());
  }

  T* data() { return reinterpret_cast<T*>(memory_.get() + 64 + shift_); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.get() + 64 + shift_); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  int64_t count() const { return static_cast<int64_t>(bytes_ / sizeof(T)); }

  bool guards_hold() const {
    for (size_t i = 0; i < size(); ++i) {
      const bool guard = i < 64 + shift_ || i >= 64 + shift_ + bytes_;
      if (guard && memory_.get()[i] != 0xcd) return false;
    }
    return true;
  }

  bool same_bits(const Guarded& other) const {
    return bytes_ == other.bytes_ && std::memcmp(data(), other.data(), bytes_) == 0;
  }

 private:
  size_t size() const { return (bytes_ + shift_ + 3 * 64) / 64 * 64; }

  size_t bytes_, shift_;
  std::unique_ptr<uint8_t, decltype(&std::free)> memory_;
};

struct Int4Case {
  Int4Shape shape;
  int64_t tokens;
};

inline std::vector<Int4Case> int4_cases() {
  using enum FloatType;
  return {
      {{512, 2048, 128, bf16, true}, 1},  // experts of Qwen3.6
      {{2048, 512, 128, fp16, true}, 1},  //
      {{512, 512, 128, fp16, true}, 2},   // one more token each time, across the panels
      {{64, 256, 32, bf16, true}, 3},     //
      {{64, 256, 64, fp16, true}, 4},     //
      {{64, 256, 128, bf16, true}, 5},    //
      {{48, 384, 128, fp16, true}, 12},   // an odd number of row blocks
      {{48, 256, 32, bf16, false}, 13},   //
      {{32, 1408, 128, bf16, true}, 25},  // an odd number of groups
      {{96, 512, 64, bf16, false}, 97},   // more than one chunk of tokens
      {{16, 2048, 2048, fp16, true}, 2},  // one scale per row
      {{40, 416, 416, bf16, false}, 14},  // ... with a last piece of 32 columns
      {{1, 32, 32, fp32, true}, 1},       // the smallest
      {{17, 96, 96, fp32, false}, 7},     // a group that is not a power of two
      {{33, 512, 256, fp32, true}, 4},    // two pieces a group
      {{250, 64, 32, bf16, true}, 31},    // rows that do not fill the last block
  };
}

inline std::string name_of(const Int4Case& c) {
  const char* types[] = {"bf16", "fp16", "fp32"};
  return std::to_string(c.shape.rows) + "x" + std::to_string(c.shape.columns) + " groups of " +
         std::to_string(c.shape.group) + " " + types[static_cast<int>(c.shape.scale_type)] +
         (c.shape.symmetric ? " symmetric, " : " asymmetric, ") + std::to_string(c.tokens) +
         " tokens";
}

struct DenseCase {
  DenseShape shape;
  int64_t tokens;
};

inline std::vector<DenseCase> dense_cases() {
  std::vector<DenseCase> cases;
  for (FloatType type : {FloatType::bf16, FloatType::fp16, FloatType::fp32})
    for (const auto& [rows, columns, tokens] :
         std::vector<std::tuple<int64_t, int64_t, int64_t>>{{64, 256, 1},
                                                            {61, 256, 2},
                                                            {32, 2048, 3},
                                                            {6, 4112, 4},
                                                            {9, 100, 5},
                                                            {3, 17, 8},
                                                            {50, 1000, 1},
                                                            {1, 5, 7},
                                                            {4, 8200, 2}})
      cases.push_back({{rows, columns, type}, tokens});
  return cases;
}

struct RoundingCase {
  int64_t rows;
  Rounding rounding;
  bool momentum;
};

inline std::vector<RoundingCase> rounding_cases() {
  using enum FloatType;
  const float delta = 1.0f / 200 / 200;
  using enum OffsetType;
  return {
      {8, {256, 128, bf16, fp16, int16, true, delta}, false},
      {8, {256, 128, bf16, fp16, int32, true, delta}, true},
      {8, {256, 128, bf16, fp16, int16, false, delta}, false},
      {8, {256, 128, bf16, fp16, int32, false, delta}, true},
      {5, {192, 32, fp16, bf16, int16, true, delta}, false},
      {5, {192, 32, fp16, bf16, int32, true, delta}, false},
      {5, {192, 64, fp32, fp32, int32, true, delta}, false},
      {5, {192, 32, fp32, bf16, int16, false, delta}, false},
      {3, {112, 112, bf16, fp16, int16, true, delta}, false},
      {3, {48, 16, bf16, bf16, int16, false, delta}, true},
  };
}

inline std::vector<float> normal_floats(int64_t count, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(count);
  for (float& x : out) x = normal(random);
  return out;
}

inline std::string random_bytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::string out(count, 0);
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

// `values` in the given type, as the bytes of a tensor.
inline std::vector<uint8_t> floats_as(FloatType type, const std::vector<float>& values) {
  std::vector<uint8_t> out(values.size() * float_bytes(type));
  for (size_t i = 0; i < values.size(); ++i)
    store_float(type, out.data(), static_cast<int64_t>(i), values[i]);
  return out;
}

}  // namespace quern::kernels
