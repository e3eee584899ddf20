#include "tensor/blas.h"

// Fortran BLAS, column-major; libtorch_cpu exports it.
extern "C" void sgemm_(const char* trans_a, const char* trans_b, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace quern {

void sgemm(int64_t rows, int64_t columns, int64_t inner, MatrixView a, MatrixView b, float* c,
           int64_t c_stride, bool accumulate) {
  if (rows == 0 || columns == 0) return;
  // A row-major matrix is its transpose in column-major order, so the factors change places.
  const int m = static_cast<int>(columns), n = static_cast<int>(rows), k = static_cast<int>(inner);
  const int lda = static_cast<int>(b.stride), ldb = static_cast<int>(a.stride),
            ldc = static_cast<int>(c_stride);
  const char trans_a = b.transpose == Transpose::yes ? 't' : 'n',
             trans_b = a.transpose == Transpose::yes ? 't' : 'n';
  const float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  sgemm_(&trans_a, &trans_b, &m, &n, &k, &one, b.data, &lda, a.data, &ldb, &beta, c, &ldc);
}

}  // namespace quern
