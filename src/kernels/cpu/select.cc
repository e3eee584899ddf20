// Chooses the table of kernels for this processor, once.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "kernels/cpu/tables.h"
#include "kernels/kernels.h"

namespace quern::kernels {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// The functions of AVX-512, and matrix products in bf16.
const CpuKernels& avx512bf16_kernels() {
  static const CpuKernels table = [] {
    CpuKernels kernels = kAvx512Kernels;
    kernels.name = "avx512bf16";
    kernels.bf16_matrix = &kAvx512Bf16Matrix;
    return kernels;
  }();
  return table;
}

}  // namespace

std::vector<const CpuKernels*> available_cpu_kernels() {
  std::vector<const CpuKernels*> tables = {&kReferenceKernels};
  if (has_avx2()) tables.push_back(&kAvx2Kernels);
  if (has_avx512()) tables.push_back(&kAvx512Kernels);
  if (has_avx512() && __builtin_cpu_supports("avx512bf16")) tables.push_back(&avx512bf16_kernels());
  return tables;
}

const CpuKernels& choose_cpu_kernels(const char* wanted) {
  const std::vector<const CpuKernels*> tables = available_cpu_kernels();
  if (!wanted || !*wanted) return *tables.back();
  for (const CpuKernels* table : tables)
    if (std::string_view(table->name) == wanted) return *table;
  std::string names;
  for (const CpuKernels* table : tables)
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  fail(Exit::usage,
       "QUERN_CPU_ISA={}: this processor can run {}; set it to one of them or unset it", wanted,
       names);
}

const CpuKernels& cpu_kernels() {
  static const CpuKernels& chosen = choose_cpu_kernels(std::getenv("QUERN_CPU_ISA"));
  return chosen;
}

}  // namespace quern::kernels
