/* AVX2 with FMA and F16C. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

#include "kernels/simd_body.h"
/* After it: it uses v_exp. */
#include "kernels/kv_body.h"

void sq_kernels_init_avx2(sq_kernels *k) {
    fill_table(k);
    fill_kv(k);
    sq_rounded_init_avx2(k);
    sq_rounded_init_avx2_tiles(k);
    sq_kv_init_avx2(k);
}
