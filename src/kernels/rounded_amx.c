/* Products with rounded inputs in AMX' tiles. */
#include "kernels/internal.h"
#include "kernels/tiles_amx.h"

void sq_rounded_init_amx(sq_kernels *k) { (void)k; }

void sq_kernels_init_amx(sq_kernels *k) {
    sq_rounded_init_amx(k);
    sq_bf16_init_amx(k);
    sq_kv_init_amx(k);
}
