/* NEON, which every 64-bit ARM has. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"
#include "kernels/simd_neon.h"

#include "kernels/simd_body.h"
/* After it: it uses v_exp. */
#include "kernels/kv_body.h"

void sq_kernels_init_neon(sq_kernels *k) {
    fill_table(k);
    fill_kv(k);
    sq_rounded_init_neon(k);
}
