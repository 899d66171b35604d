/* The products of AVX-VNNI on a CPU that has the same instructions in AVX-512 alone: its file
 * compiled for those (meson.build). What differs from the shipped row is the encoding. */
#include <string.h>

#include "checkasm.h"

void init_avx2_vnni_evex(sq_kernels *k);

size_t more_tables(const sq_kernels **tables) {
    static sq_kernels evex;
    const sq_kernels *all[16], *avx2 = NULL, *vnni = NULL;
    size_t n = sq_kernels_available(all, 16);
    for (size_t i = 0; i < n; i++) {
        avx2 = strcmp(all[i]->name, "avx2") == 0 ? all[i] : avx2;
        vnni = strcmp(all[i]->name, "avx512_vnni") == 0 ? all[i] : vnni;
    }
    if (avx2 == NULL || vnni == NULL) {
        return 0;
    }
    evex = *avx2;
    init_avx2_vnni_evex(&evex);
    evex.name = "avx2_vnni_evex";
    tables[0] = &evex;
    return 1;
}
