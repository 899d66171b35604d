/* The tile registers of AMX: 16 rows of 64 bytes. A product takes a tile of 16 rows (A), and one
 * whose row r holds the r-th four bytes or two bf16 of 16 columns (B): a panel of packed words as
 * it lies in memory. Its sums are 16 x 16 numbers of 32 bits. The kernels keep sums in tiles 0..3,
 * A in 4 and 5, B in 6 and 7; each begins with sq_tiles_begin and ends with sq_tiles_end, or begins
 * with sq_tiles_use. */
#ifndef SQ_KERNELS_TILES_AMX_H
#define SQ_KERNELS_TILES_AMX_H

#include <immintrin.h>
#include <stdint.h>

enum { SQ_TILE_ROWS = 16, SQ_TILE_BYTES = 1024 };

/* gcc does not know that a tile is loaded from memory: what was written for it must be there. */
static inline void sq_tiles_settle(void) { __asm__ volatile("" ::: "memory"); }

typedef struct sq_tiles_config {
    uint8_t bytes[64];
} __attribute__((aligned(64))) sq_tiles_config;

/* Tiles 0, 1 and 4 have `rows` rows, 1..16; 2, 3 and 5 `below`; 6 and 7 all sixteen. */
static inline sq_tiles_config sq_tiles_config_of(int rows, int below) {
    sq_tiles_config c = {{1}}; /* the palette */
    for (int i = 0; i < 8; i++) {
        c.bytes[16 + 2 * i] = 64;
        c.bytes[48 + i] = SQ_TILE_ROWS;
    }
    c.bytes[48 + 0] = c.bytes[48 + 1] = c.bytes[48 + 4] = (uint8_t)rows;
    c.bytes[48 + 2] = c.bytes[48 + 3] = c.bytes[48 + 5] = (uint8_t)below;
    return c;
}

/* All of it is in memory: gcc 12 takes only eight bytes for read or written, and a local array
 * whose address nobody has for out of a clobber's reach. */
static inline void sq_tiles_whole(const sq_tiles_config *c) {
    __asm__ volatile("" : : "r"(c) : "memory");
}

static inline void sq_tiles_begin(int rows, int below) {
    sq_tiles_config c = sq_tiles_config_of(rows, below);
    sq_tiles_whole(&c);
    _tile_loadconfig(c.bytes);
}
static inline void sq_tiles_end(void) { _tile_release(); }

/* The same for short products, without an end: a configuration takes 70 ns, as long as ten products
 * of tiles, to ask what there is takes 5. What the thread's tiles are may have been changed by
 * others (oneDNN), so it is not remembered. */
static inline void sq_tiles_use(int rows, int below) {
    sq_tiles_config want = sq_tiles_config_of(rows, below), have;
    _tile_storeconfig(have.bytes);
    sq_tiles_whole(&have);
    sq_tiles_whole(&want);
    if (_mm512_cmpneq_epi64_mask(_mm512_load_si512(want.bytes), _mm512_load_si512(have.bytes))) {
        _tile_loadconfig(want.bytes);
    }
}

#endif
