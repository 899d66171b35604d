/* Products of bf16 pairs in AMX' tiles. */
#include "kernels/bf16_tiles.h"
#include "kernels/internal.h"

enum { ROWS = 32, COLUMNS = 32 }; /* of a block */

/* A product with whole steps of k. */
typedef struct part {
    int64_t rows, columns, steps;
    const uint32_t *a, *b;
    int64_t a_row, b_panel;
    float *c;
    int64_t ldc;
} part;

SQ_TILES_INLINE void add_block(int below, int panels, const sq_tiles_bf16 *t, float *c,
                               int64_t ldc) {
    sq_tiles_take(below, panels, c, ldc);
    sq_tiles_multiply(below, panels, t);
    sq_tiles_give(below, panels, c, ldc);
}

/* m rows of n columns, at most ROWS and COLUMNS. */
static void block(const part *p, int64_t i, int64_t j, int64_t m, int64_t n, float *c,
                  int64_t ldc) {
    const sq_tiles_bf16 t = {.a = (const char *)(p->a + i * p->a_row),
                             .b = (const char *)(p->b + j / 16 * p->b_panel),
                             .a_row = 4 * p->a_row,
                             .b_row = 64,
                             .b_step = SQ_TILE_BYTES,
                             .b_right = 4 * p->b_panel,
                             .steps = p->steps};
    if (m > 16 && n > 16) {
        add_block(1, 2, &t, c, ldc);
    } else if (m > 16) {
        add_block(1, 1, &t, c, ldc);
    } else if (n > 16) {
        add_block(0, 2, &t, c, ldc);
    } else {
        add_block(0, 1, &t, c, ldc);
    }
}

static void copy(float *to, int64_t ldt, const float *from, int64_t ldf, int64_t m, int64_t n) {
    __mmask16 left = (__mmask16)(n < 16 ? (1u << n) - 1 : 0xffff),
              right = (__mmask16)(n < 16 ? 0 : (1u << (n - 16)) - 1);
    for (int64_t i = 0; i < m; i++, to += ldt, from += ldf) {
        _mm512_mask_storeu_ps(to, left, _mm512_maskz_loadu_ps(left, from));
        _mm512_mask_storeu_ps(to + 16, right, _mm512_maskz_loadu_ps(right, from + 16));
    }
}

static void add_part(const part *p) {
    float edge[ROWS * COLUMNS];
    for (int64_t i = 0, m; i < p->rows; i += m) {
        m = p->rows - i < ROWS ? p->rows - i : ROWS;
        if (i == 0 || m < ROWS) {
            sq_tiles_use(m < 16 ? (int)m : 16, m > 16 ? (int)m - 16 : 16);
        }
        for (int64_t j = 0, n; j < p->columns; j += n) {
            float *c = p->c + i * p->ldc + j;
            n = p->columns - j < COLUMNS ? p->columns - j : COLUMNS;
            if (n % 16 == 0) {
                block(p, i, j, m, n, c, p->ldc);
            } else { /* a tile is written whole */
                copy(edge, COLUMNS, c, p->ldc, m, n);
                block(p, i, j, m, n, edge, COLUMNS);
                copy(c, p->ldc, edge, COLUMNS, m, n);
            }
        }
    }
}

/* The last pairs, fewer than a step, of which `all` says where they begin. */
static void add_last(const part *all, int64_t pairs, int steps) {
    uint32_t a[ROWS * 16] __attribute__((aligned(64)));
    uint32_t b[COLUMNS * 16] __attribute__((aligned(64)));
    for (int64_t i = 0; i < all->rows; i += ROWS) {
        int64_t m = all->rows - i < ROWS ? all->rows - i : ROWS;
        part p = {m,
                  all->columns,
                  1,
                  a,
                  all->b - 16 * (16 - pairs),
                  16,
                  all->b_panel,
                  all->c + i * all->ldc,
                  all->ldc};
        sq_tiles_last_a(a, all->a + i * all->a_row, all->a_row, m, pairs, steps);
        if (steps) {
            add_part(&p);
            continue;
        }
        p.b = b;
        p.b_panel = 256;
        for (int64_t j = 0; j < all->columns; j += COLUMNS, p.c += COLUMNS) {
            p.columns = all->columns - j < COLUMNS ? all->columns - j : COLUMNS;
            for (int64_t x = 0; x < p.columns; x += 16) {
                const uint32_t *from = all->b + (j + x) / 16 * all->b_panel;
                sq_tiles_last_b(b + 16 * x, (const char *)from, 64, pairs);
            }
            add_part(&p);
        }
    }
}

static void tile_bf16(int64_t rows, int64_t columns, int64_t pairs, const uint32_t *a,
                      int64_t a_row, const uint32_t *b, int64_t b_panel, float *c, int64_t ldc) {
    int64_t steps = pairs / 16, whole = 16 * steps;
    if (steps > 0) {
        add_part(&(part){rows, columns, steps, a, b, a_row, b_panel, c, ldc});
    }
    if (whole < pairs) {
        add_last(&(part){rows, columns, 1, a + whole, b + 16 * whole, a_row, b_panel, c, ldc},
                 pairs - whole, steps > 0);
    }
}

void sq_bf16_init_amx(sq_kernels *k) { k->tile_bf16 = tile_bf16; }
