/* The thin wrapper over oneDNN: the one file that knows its API. */
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "kernels/internal.h"

void sq_sgemm_serial(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc) {
    /* Inside a parallel region oneDNN stays on the calling thread; a region of one thread makes it
     * so everywhere. */
    if (omp_in_parallel()) {
        dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta,
                   c, ldc);
        return;
    }
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c,
               ldc);
    omp_set_num_threads(threads);
}
