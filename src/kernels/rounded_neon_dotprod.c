/* Products with rounded inputs, NEON with the dot product of 8-bit integers (ARMv8.2): sdot adds
 * four codes times inputs to a 32-bit sum, exactly. */
#include "kernels/internal.h"
#include "kernels/simd_neon.h"

#define add_four(sums, codes, x, lane, bits) vdotq_laneq_s32(sums, codes, x, lane)
#include "kernels/rounded_neon_body.h"
#define add_words vdotq_s32
#include "kernels/kv_neon_body.h"

void sq_kernels_init_neon_dotprod(sq_kernels *k) {
    k->int_tile = int_tile;
    k->kv_i8 = kv_i8;
}
