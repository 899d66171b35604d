/* The tile registers of AMX: 16 rows of 64 bytes. A product takes a tile of 16 rows (A), and one
 * whose row r holds the r-th four bytes or two bf16 of 16 columns (B): a panel of packed words as
 * it lies in memory. Its sums are 16 x 16 numbers of 32 bits. The kernels keep sums in tiles 0..3,
 * A in 4 and 5, B in 6 and 7; each begins with sq_tiles_begin and ends with sq_tiles_end, so that
 * no thread holds tiles between calls. */
#ifndef SQ_KERNELS_TILES_AMX_H
#define SQ_KERNELS_TILES_AMX_H

#include <immintrin.h>
#include <stdint.h>

enum { SQ_TILE_ROWS = 16, SQ_TILE_BYTES = 1024 };

/* Tiles 0, 1 and 4 have `rows` rows, 1..16; 2, 3 and 5 `below`; 6 and 7 all sixteen. */
static inline void sq_tiles_begin(int rows, int below) {
    uint8_t config[64] __attribute__((aligned(64))) = {1}; /* the palette */
    for (int i = 0; i < 8; i++) {
        config[16 + 2 * i] = 64;
        config[48 + i] = SQ_TILE_ROWS;
    }
    config[48 + 0] = config[48 + 1] = config[48 + 4] = (uint8_t)rows;
    config[48 + 2] = config[48 + 3] = config[48 + 5] = (uint8_t)below;
    __asm__("" : : "r"(config) : "memory"); /* gcc 12 thinks that it reads eight bytes */
    _tile_loadconfig(config);
}
static inline void sq_tiles_end(void) { _tile_release(); }

#endif
