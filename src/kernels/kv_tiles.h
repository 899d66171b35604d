/* How a product over a block of the KV cache is cut into tiles of registers. An ISA file writes
 * tile(m, wide, p, row, column): m of 1..6 rows by `wide` panels of 16 columns, `most` or 1. Each
 * element's sum runs over k in one order, so that a row's result does not depend on how many there
 * are. */
#ifndef SQ_KERNELS_KV_TILES_H
#define SQ_KERNELS_KV_TILES_H

#include "kernels/internal.h"

enum { SQ_KV_ROWS = 6 };

/* gcc keeps an array of registers in memory when a loop over it is unrolled late: sums by name. */
#define SQ_EACH_KV_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5)

#define SQ_KV_CASE(m, wide, tile)                                                                  \
    case m:                                                                                        \
        tile(m, wide, p, i, j);                                                                    \
        break;
#define SQ_KV_CASES(wide, tile)                                                                    \
    switch (p->rows - i < SQ_KV_ROWS ? p->rows - i : SQ_KV_ROWS) {                                 \
        SQ_KV_CASE(1, wide, tile)                                                                  \
        SQ_KV_CASE(2, wide, tile)                                                                  \
        SQ_KV_CASE(3, wide, tile)                                                                  \
        SQ_KV_CASE(4, wide, tile)                                                                  \
        SQ_KV_CASE(5, wide, tile)                                                                  \
        SQ_KV_CASE(6, wide, tile)                                                                  \
    }
#define SQ_KV_KERNEL(name, tile, most)                                                             \
    static void name(const sq_kv_product *p) {                                                     \
        for (int64_t j = 0, wide; j < p->n; j += 16 * wide) {                                      \
            wide = p->n - j >= 16 * (most) ? (most) : 1;                                           \
            for (int64_t i = 0; i < p->rows; i += SQ_KV_ROWS) {                                    \
                if (wide == (most)) {                                                              \
                    SQ_KV_CASES(most, tile)                                                        \
                } else {                                                                           \
                    SQ_KV_CASES(1, tile)                                                           \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

/* While B is read, step k of the tile at `column`, the same place of what is read next is fetched:
 * the CPU's own prefetching ends at a page's border. Into the second level: lines on their way to
 * the first are so few that they bound a core to half of what it can read. */
static inline __attribute__((always_inline)) void
sq_kv_fetch(const sq_kv_product *p, int64_t k, int64_t step, int64_t column, int bytes) {
    if (p->next != NULL) {
        const char *at = (const char *)p->next + k * step + column;
        for (int i = 0; i < bytes; i += 64) {
            __builtin_prefetch(at + i, 0, 2);
        }
    }
}

#endif
