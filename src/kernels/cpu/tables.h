// The table of each instruction set; defined in the file of that name, chosen in select.cc.
#pragma once

#include "kernels/kernels.h"

namespace quern::kernels {

extern const CpuKernels kReferenceKernels;
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const Bf16Matrix kAvx512Bf16Matrix;

}  // namespace quern::kernels
