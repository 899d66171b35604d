/* Attention over the KV cache in AMX' tiles. A block's keys or values are B as they lie in memory:
 * a step of k is 16 rows of words, the last one filled up with zeros. Few rows are one tile of A by
 * four panels, many two by two: an element's sum is the same. */
#include "kernels/bf16_tiles.h"
#include "kernels/internal.h"

enum { ROWS = 32, STEP = 16 };

/* The rows of a block, and what is left of k behind whole steps. */
typedef struct rows {
    const sq_kv_product *p;
    int64_t row, m, left;
    uint32_t *a; /* [m][STEP]: the last words, and zeros */
} rows;

/* Sums times the rows' scales. */
static void put(const sq_kv_product *p, int64_t row, int64_t m, int64_t column, int64_t n,
                const float *sums) {
    for (int64_t i = 0; i < m; i++) {
        __m512 scale = _mm512_set1_ps(p->scale[row + i]);
        for (int64_t j = 0; j < n; j += 16, sums += 16) {
            float *c = p->c + (row + i) * p->ldc + column + j;
            __m512 f = _mm512_mul_ps(_mm512_loadu_ps(sums), scale);
            _mm512_storeu_ps(c, p->add ? _mm512_add_ps(_mm512_loadu_ps(c), f) : f);
        }
    }
}

SQ_TILES_INLINE void multiply_left(int below, int panels, const rows *r, const char *b,
                                   const char *next) {
    const int64_t ldb = 4 * r->p->ldb;
    uint32_t last[4 * STEP * 16] __attribute__((aligned(64)));
    for (int j = 0; j < panels; j++) {
        sq_tiles_pad_rows(last + j * STEP * 16, b + 64 * j, ldb, r->left);
        sq_tiles_fetch(next == NULL ? NULL : next + 64 * j, ldb, r->left);
    }
    sq_tiles_settle();
    sq_tiles_multiply(below, panels,
                      &(sq_tiles_bf16){.a = (const char *)r->a,
                                       .b = (const char *)last,
                                       .a_row = 64,
                                       .b_row = 64,
                                       .b_right = SQ_TILE_BYTES,
                                       .steps = 1});
}

SQ_TILES_INLINE void block(int below, int panels, const rows *r, int64_t column) {
    const sq_kv_product *p = r->p;
    const int64_t ldb = 4 * p->ldb, whole = p->k / STEP * STEP;
    const char *b = (const char *)p->b + 4 * column;
    const char *next = p->next == NULL || r->row > 0 ? NULL : (const char *)p->next + 4 * column;
    float *c = p->c + r->row * p->ldc + column;
    if (p->scale == NULL && p->add) {
        sq_tiles_take(below, panels, c, p->ldc);
    } else {
        sq_tiles_zero();
    }
    sq_tiles_multiply(below, panels,
                      &(sq_tiles_bf16){.a = (const char *)p->a + 4 * r->row * p->lda,
                                       .b = b,
                                       .a_row = 4 * p->lda,
                                       .b_row = ldb,
                                       .b_step = STEP * ldb,
                                       .b_right = 64,
                                       .steps = p->k / STEP,
                                       .next = next});
    if (r->left > 0) {
        multiply_left(below, panels, r, b + whole * ldb, next == NULL ? NULL : next + whole * ldb);
    }
    if (p->scale == NULL) {
        sq_tiles_give(below, panels, c, p->ldc);
    } else {
        float sums[ROWS * 32] __attribute__((aligned(64)));
        sq_tiles_give(below, panels, sums, 16 * panels);
        put(p, r->row, r->m, column, 16 * panels, sums);
    }
}

static void few_rows(const rows *r) {
    int64_t j = 0;
    for (; j + 64 <= r->p->n; j += 64) {
        block(0, 4, r, j);
    }
    for (; j < r->p->n; j += 16) {
        block(0, 1, r, j);
    }
}

static void many_rows(const rows *r) {
    int64_t j = 0;
    for (; j + 32 <= r->p->n; j += 32) {
        block(1, 2, r, j);
    }
    if (j < r->p->n) {
        block(1, 1, r, j);
    }
}

static void kv_bf16(const sq_kv_product *p) {
    uint32_t last[ROWS * STEP];
    for (int64_t i = 0; i < p->rows; i += ROWS) {
        rows r = {p, i, p->rows - i < ROWS ? p->rows - i : ROWS, p->k % STEP, last};
        if (r.left > 0) {
            sq_tiles_pad(last, (const uint32_t *)p->a + i * p->lda + p->k - r.left, p->lda, r.m,
                         r.left);
        }
        if (r.m <= 16) {
            sq_tiles_use((int)r.m, (int)r.m);
            few_rows(&r);
        } else {
            sq_tiles_use(16, (int)r.m - 16);
            many_rows(&r);
        }
    }
}

void sq_kv_init_amx(sq_kernels *k) { k->kv_bf16 = kv_bf16; }
