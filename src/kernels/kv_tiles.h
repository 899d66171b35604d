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

/* Where to prefetch while B is read from `b` on: SQ_KV_AHEAD bytes before it is needed (the CPU's
 * own prefetching ends at a page's border), the last of them in what is read next. */
enum { SQ_KV_AHEAD = 8192 };
typedef struct sq_kv_fetch {
    const char *at, *next;
    int64_t turn; /* the step at which `next` begins */
} sq_kv_fetch;
static inline __attribute__((always_inline)) sq_kv_fetch sq_kv_ahead(const sq_kv_product *p,
                                                                     const char *b, int64_t step) {
    int64_t turn = p->k - SQ_KV_AHEAD / step;
    const char *next = p->next != NULL ? (const char *)p->next : b;
    return turn > 0 ? (sq_kv_fetch){b + SQ_KV_AHEAD, next, turn} : (sq_kv_fetch){next, next, -1};
}
static inline __attribute__((always_inline)) void sq_kv_go(sq_kv_fetch *f, int64_t k, int64_t step,
                                                           int bytes) {
    f->at = k == f->turn ? f->next : f->at;
    for (int i = 0; i < bytes; i += 64) {
        __builtin_prefetch(f->at + i);
    }
    f->at += step;
}

#endif
