/* Products of bf16 pairs in AMX' tiles: two tiles of rows by one or two panels of columns, or one
 * by one, two or four. What the sums begin with, each step of k adds to in order: an element's
 * result depends on its row and column alone. */
#ifndef SQ_KERNELS_BF16_TILES_H
#define SQ_KERNELS_BF16_TILES_H

#include <stddef.h>

#include "kernels/tiles_amx.h"

/* Where the operands of a block lie, in bytes. A step is of 16 pairs: 64 bytes of a row of A, 16
 * rows of B. */
typedef struct sq_tiles_bf16 {
    const char *a, *b;
    int64_t a_row;
    int64_t b_row, b_step, b_right; /* from a row, a step, a panel of B to the next */
    int64_t steps;
    const char *next; /* nullable: laid out as B, fetched into the second level meanwhile */
} sq_tiles_bf16;

#define SQ_TILES_INLINE static inline __attribute__((always_inline))

SQ_TILES_INLINE void sq_tiles_fetch(const char *next, int64_t row, int64_t rows) {
    for (int64_t i = 0; next != NULL && i < rows; i++) {
        __builtin_prefetch(next + i * row, 0, 2);
    }
}

/* below: the block has a second tile of rows; it and the number of panels are constants, as the
 * numbers of tiles must be. Tiles 0 and 1 are the sums of the first two panels, 2 and 3 those below
 * them or of two more panels. */
SQ_TILES_INLINE void sq_tiles_multiply(int below, int panels, const sq_tiles_bf16 *t) {
    const char *a = t->a, *b = t->b, *next = t->next;
    const int64_t a_row = t->a_row, b_row = t->b_row, b_right = t->b_right, b_step = t->b_step;
    for (int64_t i = t->steps; i > 0; i--, a += 64, b += b_step) {
        _tile_loadd(4, a, a_row);
        _tile_loadd(6, b, b_row);
        _tile_dpbf16ps(0, 4, 6);
        if (panels > 1) {
            _tile_loadd(7, b + b_right, b_row);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (below) {
            _tile_loadd(5, a + 16 * a_row, a_row);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (below && panels > 1) {
            _tile_dpbf16ps(3, 5, 7);
        }
        if (panels > 2) {
            _tile_loadd(6, b + 2 * b_right, b_row);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, b + 3 * b_right, b_row);
            _tile_dpbf16ps(3, 4, 7);
        }
        for (int j = 0; next != NULL && j < panels; j++) {
            sq_tiles_fetch(next + j * b_right, b_row, SQ_TILE_ROWS);
        }
        next = next == NULL ? NULL : next + b_step;
    }
}

SQ_TILES_INLINE void sq_tiles_zero(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

SQ_TILES_INLINE void sq_tiles_take(int below, int panels, const float *c, int64_t ldc) {
    const float *more = below ? c + 16 * ldc : c + 32;
    sq_tiles_settle();
    _tile_loadd(0, c, 4 * ldc);
    if (panels > 1) {
        _tile_loadd(1, c + 16, 4 * ldc);
    }
    if (below || panels > 2) {
        _tile_loadd(2, more, 4 * ldc);
    }
    if (panels > (below ? 1 : 2)) {
        _tile_loadd(3, more + 16, 4 * ldc);
    }
}

SQ_TILES_INLINE void sq_tiles_give(int below, int panels, float *c, int64_t ldc) {
    float *more = below ? c + 16 * ldc : c + 32;
    _tile_stored(0, c, 4 * ldc);
    if (panels > 1) {
        _tile_stored(1, c + 16, 4 * ldc);
    }
    if (below || panels > 2) {
        _tile_stored(2, more, 4 * ldc);
    }
    if (panels > (below ? 1 : 2)) {
        _tile_stored(3, more + 16, 4 * ldc);
    }
}

/* The end of k, n < 16 words of each row of A behind whole steps, as a step of its own: the last 16
 * rows of B, which are 0 times those that were in a step already. Where there is no whole step, B's
 * are copied instead and filled up. A sum runs over k in order, so where the zeros are is no
 * matter.
 */
static inline void sq_tiles_last_a(uint32_t *to, const uint32_t *from, int64_t stride, int64_t rows,
                                   int64_t n, int steps) {
    __mmask16 m = (__mmask16)((1u << n) - 1);
    m = steps ? (__mmask16)(m << (16 - n)) : m;
    from -= steps ? 16 - n : 0;
    for (int64_t i = 0; i < rows; i++) {
        _mm512_storeu_si512(to + 16 * i, _mm512_maskz_loadu_epi32(m, from + i * stride));
    }
}

static inline void sq_tiles_last_b(uint32_t *to, const char *from, int64_t stride, int64_t n) {
    for (int64_t i = 0; i < SQ_TILE_ROWS; i++) {
        _mm512_storeu_si512(to + 16 * i,
                            i < n ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512());
    }
}

#endif
