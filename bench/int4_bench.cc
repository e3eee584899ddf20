// The decoding speed of the int4 kernel as a fraction of the machine's memory bandwidth, and its
// speed for a prompt. The limit is the best of three ways to read the same bytes, measured in turn
// with the kernel, so a busy machine slows both. The weights take more than 1 GB in total, because
// smaller sets fit in the cache.
//
//   int4_bench [--threads N] [--gigabytes G] [--repetitions R] [--rows N]
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <random>

#include "base/error.h"
#include "bench/report.h"
#include "kernels/kernels.h"

namespace quern::bench {
namespace {

using kernels::CpuKernels;
using kernels::FloatType;
using kernels::Int4Activations;
using kernels::Int4Shape;

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Memory on huge pages, if available.
class Pages {
 public:
  explicit Pages(size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED)
      fail(Exit::memory, "out of memory: the system refused {} bytes for weights", bytes);
    madvise(data_, bytes, MADV_HUGEPAGE);
  }
  ~Pages() { munmap(data_, bytes_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  void* data_;
  size_t bytes_;
};

// ---- the ceiling

typedef float Vector __attribute__((vector_size(64)));

// Reads `bytes` from kStreams places at once, with a prefetch distance of kAhead bytes if not 0.
template <int kStreams, int kAhead>
__attribute__((target_clones("avx512f", "avx2", "default"))) float read(const uint8_t* data,
                                                                        size_t bytes) {
  const size_t each = bytes / kStreams;
  Vector sums[8] = {};
  for (size_t at = 0; at + 8 / kStreams * 64 <= each; at += 8 / kStreams * 64) {
    for (int i = 0; i < 8; ++i) {
      const uint8_t* p = data + i % kStreams * each + at + i / kStreams * 64;
      if (kAhead) __builtin_prefetch(p + kAhead, 0, 3);
      sums[i] += *reinterpret_cast<const Vector*>(p);
    }
  }
  for (int i = 1; i < 8; ++i) sums[0] += sums[i];
  return sums[0][0];
}

struct Probe {
  const char* name;
  float (*read)(const uint8_t* data, size_t bytes);
};

constexpr Probe kProbes[] = {
    {"read", read<1, 0>}, {"read4s", read<4, 0>}, {"readpf", read<1, 8192>}};

double probe_speed(const Probe& probe, const uint8_t* data, size_t bytes) {
  constexpr size_t kPiece = 8u << 20;
  volatile float sink = 0;
  const double time = seconds([&] {
    parallel_pieces(static_cast<int64_t>(bytes / kPiece), 1, [&](int64_t piece, int64_t) {
      sink = probe.read(data + piece * kPiece, kPiece);
    });
  });
  return static_cast<double>(bytes / kPiece * kPiece) / time / 1e9;
}

// ---- the kernel

// Enough copies of one random weight to fill the memory; each is read once per round.
struct Weights {
  Weights(const Int4Shape& shape, double gigabytes)
      : shape(shape),
        bytes(kernels::int4_bytes(shape)),
        count(static_cast<int64_t>(gigabytes * 1e9 / static_cast<double>(bytes)) + 1),
        pages(bytes * count + 65536) {
    std::mt19937_64 random(1);
    std::vector<uint64_t> codes(shape.rows * shape.columns / 16 + 1);
    for (uint64_t& word : codes) word = random();
    std::vector<uint16_t> scales(shape.rows * shape.groups());
    for (uint16_t& scale : scales)
      scale = kernels::bf16_from_float(0.001f * static_cast<float>(1 + random() % 256));
    kernels::arrange_int4(shape, {reinterpret_cast<uint8_t*>(codes.data()), scales.data(), nullptr},
                          pages.data());
    for (int64_t i = 1; i < count; ++i) std::memcpy(at(i), pages.data(), bytes);
  }

  uint8_t* at(int64_t i) const { return pages.data() + i * bytes; }

  Int4Shape shape;
  size_t bytes;
  int64_t count;
  Pages pages;
};

struct Activations {
  Activations(const CpuKernels& kernels, const Int4Shape& shape, int64_t tokens)
      : pages(kernels::int4_activation_bytes(shape, tokens)),
        values(kernels::int4_activations(shape, tokens, pages.data())) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> x(tokens * shape.columns);
    for (float& v : x) v = normal(random);
    kernels.quantize_activations(shape, x.data(), 0, tokens, values);
  }

  Pages pages;
  Int4Activations values;
};

// Small weights are multiplied several at a time, like the experts of one token.
struct Case {
  int64_t rows, columns, matrices_per_call;
};
constexpr Case kCases[] = {{512, 2048, 16}, {2048, 512, 16}, {4096, 4096, 1}, {8192, 8192, 1}};

// Rows in one work item: whole row blocks, about 128 KB of codes.
int64_t rows_per_piece(const Int4Shape& shape) {
  const int64_t block = kernels::kInt4RowBlock;
  return std::max<int64_t>(1, 262144 / shape.columns / block) * block;
}

double product_seconds(const CpuKernels& kernels, const Weights& weights, const Activations& x,
                       int64_t first, int64_t last, float* out) {
  const Int4Shape& shape = weights.shape;
  const int64_t rows = rows_per_piece(shape), pieces = (shape.rows + rows - 1) / rows;
  return seconds([&] {
    parallel_for((last - first) * pieces, [&](int64_t item) {
      const int64_t begin = item % pieces * rows;
      kernels.int4_product(shape, weights.at(first + item / pieces), x.values, begin,
                           std::min(begin + rows, shape.rows), out);
    });
  });
}

double decode_speed(const CpuKernels& kernels, const Weights& weights, const Activations& x,
                    int64_t matrices_per_call, float* out) {
  double time = 0;
  for (int64_t i = 0; i < weights.count; i += matrices_per_call)
    time += product_seconds(kernels, weights, x, i, std::min(i + matrices_per_call, weights.count),
                            out);
  return static_cast<double>(weights.bytes * weights.count) / time / 1e9;
}

std::string text(const Int4Shape& shape) {
  return fmt::format("{}x{} groups of {}", shape.rows, shape.columns, shape.group);
}

void bench_decode(const CpuKernels& kernels, const Weights& weights, int64_t matrices_per_call,
                  int64_t tokens, int repetitions) {
  const Activations x(kernels, weights.shape, tokens);
  std::vector<float> out(tokens * weights.shape.rows);
  std::vector<double> speeds, fractions, probes[std::size(kProbes)];
  for (int r = -1; r < repetitions; ++r) {
    double best = 0;
    for (size_t p = 0; p < std::size(kProbes); ++p) {
      const double speed =
          probe_speed(kProbes[p], weights.pages.data(), weights.bytes * weights.count);
      best = std::max(best, speed);
      if (r >= 0) probes[p].push_back(speed);
    }
    const double speed = decode_speed(kernels, weights, x, matrices_per_call, out.data());
    if (r < 0) continue;  // the first turn warms up
    speeds.push_back(speed);
    fractions.push_back(speed / best);
  }
  Line ceilings;
  for (size_t p = 0; p < std::size(kProbes); ++p)
    ceilings[kProbes[p].name] = spread(probes[p], 10)["median"];
  print("int4_decode", {{"isa", kernels.name},
                        {"weight", text(weights.shape)},
                        {"matrices_per_call", matrices_per_call},
                        {"tokens", tokens},
                        {"gigabytes_per_second", spread(speeds, 10)},
                        {"read_gigabytes_per_second", ceilings},
                        {"fraction_of_best_read", spread(fractions)}});
}

void bench_prompt(const CpuKernels& kernels, const Weights& weights, int64_t tokens,
                  int repetitions) {
  const Activations x(kernels, weights.shape, tokens);
  std::vector<float> out(tokens * weights.shape.rows);
  const double operations =
      2.0 * static_cast<double>(tokens * weights.shape.rows * weights.shape.columns) / 1e9;
  std::vector<double> speeds;
  for (int r = -1; r < repetitions; ++r) {
    const double time = product_seconds(kernels, weights, x, 0, 1, out.data());
    if (r >= 0) speeds.push_back(operations / time);
  }
  print("int4_prompt", {{"isa", kernels.name},
                        {"weight", text(weights.shape)},
                        {"tokens", tokens},
                        {"gigaoperations_per_second", spread(speeds, 10)}});
}

// `rows`: only the weight with this many rows; 0: all.
void run(double gigabytes, int repetitions, int64_t rows) {
  const CpuKernels& kernels = kernels::cpu_kernels();
  for (const Case& c : kCases) {
    if (rows != 0 && c.rows != rows) continue;
    const Weights weights({c.rows, c.columns, 128, FloatType::bf16, true}, gigabytes);
    for (int64_t tokens : {1, 2, 4})
      bench_decode(kernels, weights, c.matrices_per_call, tokens, repetitions);
    for (int64_t tokens : {8, 96, 504}) bench_prompt(kernels, weights, tokens, repetitions);
  }
}

}  // namespace
}  // namespace quern::bench

int main(int count, char** arguments) {
  double gigabytes = 1.2;
  int repetitions = 9, rows = 0;
  try {
    for (int i = 1; i + 1 < count; i += 2) {
      const std::string name = arguments[i];
      if (name == "--threads")
        quern::set_threads(std::stoi(arguments[i + 1]));
      else if (name == "--gigabytes")
        gigabytes = std::stod(arguments[i + 1]);
      else if (name == "--repetitions")
        repetitions = std::stoi(arguments[i + 1]);
      else if (name == "--rows")
        rows = std::stoi(arguments[i + 1]);
      else
        quern::fail(quern::Exit::usage, "int4_bench has no option {}", name);
    }
    if (gigabytes < 0.1) quern::fail(quern::Exit::usage, "int4_bench --gigabytes: at least 0.1");
    quern::bench::run(gigabytes, repetitions, rows);
  } catch (const std::exception& error) {
    fmt::print(stderr, "int4_bench: {}\n", error.what());
    return 1;
  }
}
