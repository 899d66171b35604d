/* Attention over the KV cache in AMX' tiles. A block's keys or values are B as they lie in memory:
 * a step of k is 16 rows of words, the last one filled up with zeros. Few rows are one tile of A by
 * four panels, many two by two: an element's sum is the same. */
#include "kernels/bf16_tiles.h"
#include "kernels/internal.h"

enum { ROWS = 32, STEP = 16, FEW_BYTES_ROWS = 8 };

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

/* b: the words' rows of a block's first panel. */
SQ_TILES_INLINE void multiply_left(int below, int panels, const rows *r, const char *b,
                                   const char *next) {
    const int64_t ldb = 4 * r->p->ldb;
    uint32_t last[4 * STEP * 16] __attribute__((aligned(64)));
    sq_tiles_bf16 t = {.a = (const char *)r->a,
                       .b = b - (STEP - r->left) * ldb,
                       .a_row = 64,
                       .b_row = ldb,
                       .b_right = 64,
                       .steps = 1};
    for (int j = 0; j < panels; j++) {
        sq_tiles_fetch(next == NULL ? NULL : next + 64 * j, ldb, r->left);
    }
    if (r->p->k < STEP) {
        for (int j = 0; j < panels; j++) {
            sq_tiles_last_b(last + j * STEP * 16, b + 64 * j, ldb, r->left);
        }
        t.b = (const char *)last;
        t.b_row = 64;
        t.b_right = SQ_TILE_BYTES;
    }
    sq_tiles_settle();
    sq_tiles_multiply(below, panels, &t);
}

/* All steps of one B, part i of them. */
SQ_TILES_INLINE void multiply_part(int below, int panels, const rows *r, int64_t column,
                                   int64_t i) {
    const sq_kv_product *p = r->p;
    const int64_t ldb = 4 * p->ldb, whole = p->k / STEP * STEP;
    const char *b = (const char *)(i == 0 ? p->b : p->rest[i - 1]) + 4 * column;
    const char *next = i < p->n_rest ? p->rest[i] : p->next;
    next = next == NULL || r->row > 0 ? NULL : next + 4 * column;
    sq_tiles_multiply(below, panels,
                      &(sq_tiles_bf16){.a = (const char *)p->a + 4 * (r->row * p->lda + i * p->k),
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
}

SQ_TILES_INLINE void block(int below, int panels, const rows *r, int64_t column) {
    const sq_kv_product *p = r->p;
    float *c = p->c + r->row * p->ldc + column;
    if (p->scale == NULL && p->add) {
        sq_tiles_take(below, panels, c, p->ldc);
    } else {
        sq_tiles_zero();
    }
    for (int64_t i = 0; i <= p->n_rest; i++) {
        multiply_part(below, panels, r, column, i);
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
            sq_tiles_last_a(last, (const uint32_t *)p->a + i * p->lda + p->k - r.left, p->lda, r.m,
                            r.left, p->k >= STEP);
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

/* ---- integers ---- */

/* Sixteen rows at most by one or two panels: their low bytes' sums are tiles 0 and 1, their high
 * bytes' 2 and 3. left: 0, or the last words' rows, low and high, [2][16][STEP]. */
typedef struct bytes {
    const sq_kv_product *p;
    int64_t row, m, left;
    uint32_t *a;
} bytes;

SQ_TILES_INLINE void multiply_bytes(int panels, const char *low, const char *high, int64_t a_row,
                                    const char *b, int64_t b_row, int64_t b_right) {
    _tile_loadd(4, low, a_row);
    _tile_loadd(6, b, b_row);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(5, high, a_row);
    _tile_dpbsud(2, 5, 6);
    if (panels > 1) {
        _tile_loadd(7, b + b_right, b_row);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(3, 5, 7);
    }
}

SQ_TILES_INLINE void multiply_bytes_left(int panels, const bytes *r, const char *b) {
    const char *low = (const char *)r->a, *high = low + SQ_TILE_BYTES;
    const int64_t ldb = 4 * r->p->ldb;
    uint32_t last[2 * STEP * 16] __attribute__((aligned(64)));
    if (r->p->k >= STEP) {
        sq_tiles_settle();
        multiply_bytes(panels, low, high, 64, b - (STEP - r->left) * ldb, ldb, 64);
        return;
    }
    for (int j = 0; j < panels; j++) {
        sq_tiles_last_b(last + j * STEP * 16, b + 64 * j, ldb, r->left);
    }
    sq_tiles_settle();
    multiply_bytes(panels, low, high, 64, (const char *)last, 64, SQ_TILE_BYTES);
}

/* As kv_avx512.c: in whole numbers that may wrap, as the sum does not. */
static void put_bytes(int64_t panels, const bytes *r, int64_t column, const int32_t *low,
                      const int32_t *high) {
    const sq_kv_product *p = r->p;
    for (int64_t i = r->row; i < r->row + r->m; i++) {
        __m512i excess = _mm512_set1_epi32((int)(128u * (uint32_t)p->sums[i]));
        __m512 scale = _mm512_set1_ps(p->scale == NULL ? 1.0f : p->scale[i]);
        for (int64_t j = 0; j < panels; j++, low += 16, high += 16) {
            float *c = p->c + i * p->ldc + column + 16 * j;
            __m512i sum = _mm512_slli_epi32(_mm512_load_si512(high), 8);
            sum = _mm512_sub_epi32(_mm512_add_epi32(sum, _mm512_load_si512(low)), excess);
            __m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
            f = p->columns == NULL
                    ? f
                    : _mm512_mul_ps(f, _mm512_loadu_ps(p->columns + column + 16 * j));
            _mm512_storeu_ps(c, p->add ? _mm512_add_ps(_mm512_loadu_ps(c), f) : f);
        }
    }
}

SQ_TILES_INLINE void block_of_bytes(int panels, const bytes *r, int64_t column) {
    const sq_kv_product *p = r->p;
    const int64_t ldb = 4 * p->ldb, lda = 4 * p->lda, steps = p->k / STEP;
    const char *low = (const char *)p->a + r->row * lda, *b = (const char *)p->b + 4 * column;
    const char *next = p->next == NULL || r->row > 0 ? NULL : (const char *)p->next + 4 * column;
    int32_t sums[4 * 16 * 16] __attribute__((aligned(64)));
    sq_tiles_zero();
    for (int64_t i = 0; i < steps; i++) {
        multiply_bytes(panels, low + 64 * i, low + 4 * p->k + 64 * i, lda, b + i * STEP * ldb, ldb,
                       64);
        for (int j = 0; j < panels && next != NULL; j++) {
            sq_tiles_fetch(next + i * STEP * ldb + 64 * j, ldb, STEP);
        }
    }
    if (r->left > 0) {
        multiply_bytes_left(panels, r, b + steps * STEP * ldb);
        for (int j = 0; j < panels && next != NULL; j++) {
            sq_tiles_fetch(next + steps * STEP * ldb + 64 * j, ldb, r->left);
        }
    }
    _tile_stored(0, sums, 64 * panels);
    _tile_stored(2, sums + 512, 64 * panels);
    if (panels > 1) {
        _tile_stored(1, sums + 16, 64 * panels);
        _tile_stored(3, sums + 512 + 16, 64 * panels);
    }
    put_bytes(panels, r, column, sums, sums + 512);
}

static void kv_i8(const sq_kv_product *p) {
    if (p->rows <= FEW_BYTES_ROWS) { /* the same to the bit */
        sq_kv_i8_avx512(p);
        return;
    }
    uint32_t last[2 * 16 * STEP] __attribute__((aligned(64)));
    for (int64_t i = 0; i < p->rows; i += 16) {
        bytes r = {p, i, p->rows - i < 16 ? p->rows - i : 16, p->k % STEP, last};
        const uint32_t *behind = (const uint32_t *)p->a + i * p->lda + p->k - r.left;
        if (r.left > 0) {
            int steps = p->k >= STEP;
            sq_tiles_last_a(last, behind, p->lda, r.m, r.left, steps);
            sq_tiles_last_a(last + 16 * STEP, behind + p->k, p->lda, r.m, r.left, steps);
        }
        sq_tiles_use((int)r.m, (int)r.m);
        int64_t j = 0;
        for (; j + 32 <= p->n; j += 32) {
            block_of_bytes(2, &r, j);
        }
        if (j < p->n) {
            block_of_bytes(1, &r, j);
        }
    }
}

void sq_kv_init_amx(sq_kernels *k) {
    k->kv_bf16 = kv_bf16;
    k->kv_rest = 1;
    k->kv_i8 = kv_i8;
}
