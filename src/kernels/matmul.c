/* Products with a weight matrix in f32. Few rows: dot kernels over dense weights, split over output
 * columns. All else: panels of weight rows are widened to f32 and multiplied by oneDNN on one
 * thread each; a panel's shape depends on the matrix alone, so results do not depend on the number
 * of threads. */
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/internal.h"

enum {
    FEW_ROWS = 8,              /* at most: the weights are read once, from memory */
    PANEL_FLOATS = 128 * 1024, /* 512 KiB: a share of the L2 cache */
    FEW_WORK = 1 << 18,        /* products below this are not worth waking threads */
    MANY_WORK = 1 << 21,
    BF16_ROWS = 1024,   /* rows held in bf16 at once */
    BF16_COLUMNS = 192, /* of a task: whole blocks of AVX-512's kernel and of AMX' */
    BF16_DEEP = 2560,   /* columns of the weights at once: a task's stay in the second level */
    BF16_PART = 64,     /* rows whose results stay in the cache from the bias to the product */
};

/* Scratch of a thread, freed when it ends. */
typedef struct scratch {
    float *p[3];
    size_t n[3];
} scratch;

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void free_scratch(void *p) {
    scratch *s = p;
    for (int i = 0; i < 3; i++) {
        sq_free(s->p[i]);
    }
    free(s);
}

static void make_key(void) { pthread_key_create(&key, free_scratch); }

float *sq_thread_scratch(int slot, size_t n) {
    pthread_once(&key_once, make_key);
    scratch *s = pthread_getspecific(key);
    if (s == NULL) {
        s = calloc(1, sizeof *s);
        if (s == NULL || pthread_setspecific(key, s) != 0) {
            free(s);
            return NULL;
        }
    }
    if (s->n[slot] < n) {
        sq_free(s->p[slot]);
        s->p[slot] = sq_alloc_raw(n, sizeof(float), "kernel scratch", NULL);
        s->n[slot] = s->p[slot] == NULL ? 0 : n;
    }
    return s->p[slot];
}

/* Output columns [lo, lo + m) when there is no memory for scratch: slow, and right. */
static void plain(const sq_weight *w, int64_t lo, int64_t m, const float *x, int64_t ldx,
                  int64_t rows, const float *bias, float *y, int64_t ldy) {
    for (int64_t r = lo; r < lo + m; r++) {
        for (int64_t i = 0; i < rows; i++) {
            float s = 0;
            for (int64_t c = 0; c < w->k; c++) {
                s += sq_weight_at(w, r, c) * x[i * ldx + c];
            }
            y[i * ldy + r] = s + (bias == NULL ? 0.0f : bias[r]);
        }
    }
}

static float dot_dense(const sq_kernels *kn, const sq_weight *w, int64_t row, const float *x) {
    const char *p = w->data;
    if (w->kind == SQ_W_F32) {
        return kn->dot_f32((const float *)(const void *)(p + 4 * row * w->k), x, w->k);
    }
    const uint16_t *h = (const uint16_t *)(const void *)(p + 2 * row * w->k);
    return w->kind == SQ_W_F16 ? kn->dot_f16(h, x, w->k) : kn->dot_bf16(h, x, w->k);
}

void sq_matmul_dots(const sq_weight *w, const float *x, int64_t ldx, int64_t rows,
                    const float *bias, float *y, int64_t ldy, int64_t lo, int64_t hi) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t r = lo; r < hi; r++) {
        for (int64_t i = 0; i < rows; i++) {
            y[i * ldy + r] = dot_dense(kn, w, r, x + i * ldx) + (bias == NULL ? 0.0f : bias[r]);
        }
    }
}

static void few_dense(const sq_weight *w, const float *x, int64_t ldx, int64_t rows,
                      const float *bias, float *y, int64_t ldy) {
#pragma omp parallel num_threads(sq_threads()) if (w->n * w->k > FEW_WORK)
    {
        int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        sq_matmul_dots(w, x, ldx, rows, bias, y, ldy, part * w->n / parts,
                       (part + 1) * w->n / parts);
    }
}

static void many(const sq_weight *w, const float *x, int64_t ldx, int64_t rows, const float *bias,
                 float *y, int64_t ldy) {
    int64_t panel = PANEL_FLOATS / w->k / 16 * 16;
    panel = panel < 16 ? 16 : panel > 128 ? 128 : panel;
    int64_t panels = sq_ceil_div(w->n, panel);
#pragma omp parallel for schedule(dynamic, 1)                                                      \
    num_threads(sq_threads()) if (w->n * w->k * rows > MANY_WORK)
    for (int64_t t = 0; t < panels; t++) {
        int64_t lo = t * panel, m = w->n - lo < panel ? w->n - lo : panel;
        float *wide = sq_thread_scratch(1, (size_t)(panel * w->k));
        if (wide == NULL) {
            plain(w, lo, m, x, ldx, rows, bias, y, ldy);
            continue;
        }
        sq_weight_rows_f32(w, lo, m, wide);
        sq_sgemm_serial(0, 1, rows, m, w->k, 1.0f, x, ldx, wide, w->k, 0.0f, y + lo, ldy);
        for (int64_t i = 0; bias != NULL && i < rows; i++) {
            for (int64_t r = 0; r < m; r++) {
                y[i * ldy + lo + r] += bias[lo + r];
            }
        }
    }
}

void sq_matmul(const sq_weight *w, const float *x, int64_t ldx, int64_t rows, const float *bias,
               float *y, int64_t ldy) {
    int quantized = w->kind == SQ_W_Q4 || w->kind == SQ_W_Q8;
    (rows > FEW_ROWS || quantized ? many : few_dense)(w, x, ldx, rows, bias, y, ldy);
}

/* A row of k columns as bf16, two to a word; an odd row's other half is 0. */
static void narrow_row(const sq_kernels *kn, const float *x, int64_t k, uint32_t *out) {
    out[(k + 1) / 2 - 1] = 0;
    kn->narrow_bf16((uint16_t *)out, x, k);
}

/* Words from a row to the next: whole lines of the cache, and an odd number of them, so that a
 * column's do not share a set of it. */
static int64_t row_words(int64_t pairs) { return (sq_ceil_div(pairs, 16) | 1) * 16; }

/* Rows of x as bf16; NULL without memory. */
static const uint32_t *narrow_rows(const float *x, int64_t ldx, int64_t rows, int64_t k) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t words = row_words((k + 1) / 2);
    uint32_t *out = (uint32_t *)(void *)sq_thread_scratch(0, (size_t)(rows * words));
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (k * rows > 65536)
    for (int64_t r = 0; r < (out == NULL ? 0 : rows); r++) {
        narrow_row(kn, x + r * ldx, k, out + r * words);
    }
    return out;
}

static void start_rows(const float *bias, int64_t rows, int64_t n, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++) {
        if (bias == NULL) {
            memset(y + i * ldy, 0, (size_t)n * sizeof *y);
        } else {
            memcpy(y + i * ldy, bias, (size_t)n * sizeof *y);
        }
    }
}

/* Output columns from lo on, BF16_COLUMNS at most. 0 without memory. */
static int bf16_columns(const sq_weight *w, const uint32_t *a, int64_t lo, int64_t rows,
                        const float *bias, float *y, int64_t ldy) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t n = w->n - lo < BF16_COLUMNS ? w->n - lo : BF16_COLUMNS;
    int64_t most = w->k < BF16_DEEP ? w->k : BF16_DEEP, a_row = row_words((w->k + 1) / 2);
    uint32_t *b = (uint32_t *)(void *)sq_thread_scratch(1, (size_t)(BF16_COLUMNS * (most + 1) / 2));
    for (int64_t c = 0; b != NULL && c < w->k; c += BF16_DEEP) {
        int64_t k = w->k - c < BF16_DEEP ? w->k - c : BF16_DEEP, pairs = (k + 1) / 2;
        for (int64_t j = 0; j < n; j += 16) {
            const uint16_t *from = (const uint16_t *)w->data + (lo + j) * w->k + c;
            kn->panel_bf16(from, w->k, n - j < 16 ? n - j : 16, k, b + j * pairs);
        }
        for (int64_t i = 0; i < rows; i += BF16_PART) {
            int64_t m = rows - i < BF16_PART ? rows - i : BF16_PART;
            float *to = y + i * ldy + lo;
            if (c == 0) {
                start_rows(bias == NULL ? NULL : bias + lo, m, n, to, ldy);
            }
            kn->tile_bf16(m, n, pairs, a + i * a_row + c / 2, a_row, b, 16 * pairs, to, ldy);
        }
    }
    return b != NULL;
}

void sq_matmul_bf16(const sq_weight *w, const float *x, int64_t ldx, int64_t rows,
                    const float *bias, float *y, int64_t ldy) {
    int fits = w->kind == SQ_W_BF16 && sq_kernels_get()->tile_bf16 != NULL && rows > FEW_ROWS;
    for (int64_t at = 0; at < rows; at += BF16_ROWS) {
        int64_t m = rows - at < BF16_ROWS ? rows - at : BF16_ROWS;
        const uint32_t *a = fits ? narrow_rows(x + at * ldx, ldx, m, w->k) : NULL;
        int done = a != NULL;
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads()) reduction(&& : done) if (  \
        w->n * w->k * m > MANY_WORK)
        for (int64_t t = 0; t < (a == NULL ? 0 : sq_ceil_div(w->n, BF16_COLUMNS)); t++) {
            done = bf16_columns(w, a, BF16_COLUMNS * t, m, bias, y + at * ldy, ldy) && done;
        }
        if (!done) {
            sq_matmul(w, x + at * ldx, ldx, m, bias, y + at * ldy, ldy);
        }
    }
}

void sq_sgemm(int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    const int64_t tile = 128;
    int64_t tm = sq_ceil_div(m, tile), tn = sq_ceil_div(n, tile);
    if (omp_in_parallel() || tm * tn == 1) {
        sq_sgemm_serial(0, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads())
    for (int64_t t = 0; t < tm * tn; t++) {
        int64_t i = t / tn * tile, j = t % tn * tile;
        int64_t h = m - i < tile ? m - i : tile, w = n - j < tile ? n - j : tile;
        sq_sgemm_serial(0, trans_b, h, w, k, alpha, a + i * lda, lda, trans_b ? b + j * ldb : b + j,
                        ldb, beta, c + i * ldc + j, ldc);
    }
}

/* X as panels of 16 columns of bf16 pairs, and its transpose as rows of such: a product's two
 * operands. */
typedef struct twice {
    uint32_t *panels, *rows;
} twice;

/* Tile [h][w] of X'X at (i, j), in bf16 or from X itself; on the diagonal what lies well below it
 * is left out. */
static void syrk_tile(const float *x, int64_t ldx, int64_t rows, const twice *t, int64_t i,
                      int64_t j, int64_t h, int64_t w, float *c, int64_t ldc) {
    int64_t pairs = (rows + 1) / 2;
    if (t->panels == NULL) {
        sq_sgemm_serial(1, 0, h, w, rows, 1.0f, x + i, ldx, x + j, ldx, 1.0f, c, ldc);
        return;
    }
    for (int64_t r = 0; r < h; r += BF16_COLUMNS) {
        int64_t from = i == j ? r : 0, m = h - r < BF16_COLUMNS ? h - r : BF16_COLUMNS;
        sq_kernels_get()->tile_bf16(m, w - from, pairs, t->rows + (i + r) * row_words(pairs),
                                    row_words(pairs), t->panels + (j + from) * pairs, 16 * pairs,
                                    c + r * ldc + from, ldc);
    }
}

/* Tile (j, i) from (i, j), by blocks that stay in the cache. */
static void mirror(float *c, int64_t k, int64_t i, int64_t j, int64_t h, int64_t w) {
    const int64_t block = 16;
    for (int64_t s0 = 0; s0 < w; s0 += block) {
        for (int64_t r0 = 0; r0 < (j > i ? h : s0 + block) && r0 < h; r0 += block) {
            for (int64_t s = s0; s < s0 + block && s < w; s++) {
                int64_t end = j == i && s < r0 + block ? s : r0 + block;
                for (int64_t r = r0; r < end && r < h; r++) {
                    c[(j + s) * k + i + r] = c[(i + r) * k + j + s];
                }
            }
        }
    }
}

void sq_syrk_mirror(int64_t k, float *c) {
    const int64_t tile = 128;
    int64_t tiles = sq_ceil_div(k, tile);
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads()) if (k > tile)
    for (int64_t t = 0; t < tiles * tiles; t++) {
        int64_t i = t / tiles * tile, j = t % tiles * tile;
        if (j >= i) {
            mirror(c, k, i, j, k - i < tile ? k - i : tile, k - j < tile ? k - j : tile);
        }
    }
}

double sq_quadratic(const float *d, int64_t m, const float *c, int64_t k, float *tmp) {
    enum { ROWS = 128, WIDE = 256, MOST = 512 };
    int64_t down = sq_ceil_div(m, ROWS), across = sq_ceil_div(k, WIDE);
    double sum = 0, parts[MOST];
    for (int64_t t0 = 0; t0 < down * across; t0 += MOST) {
        int64_t count = down * across - t0 < MOST ? down * across - t0 : MOST;
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads())
        for (int64_t t = 0; t < count; t++) { /* the widest products first */
            int64_t j = (across - 1 - (t0 + t) / down) * WIDE, i = (t0 + t) % down * ROWS;
            int64_t h = m - i < ROWS ? m - i : ROWS, w = k - j < WIDE ? k - j : WIDE;
            float *p = tmp + i * k + j;
            sq_sgemm_serial(0, 0, h, w, w, 0.5f, d + i * k + j, k, c + j * k + j, k, 0.0f, p, k);
            if (j > 0) {
                sq_sgemm_serial(0, 0, h, w, j, 1.0f, d + i * k, k, c + j, k, 1.0f, p, k);
            }
            parts[t] = 0;
            for (int64_t r = 0; r < h; r++) {
                for (int64_t x = 0; x < w; x++) {
                    parts[t] += (double)d[(i + r) * k + j + x] * (double)p[r * k + x];
                }
            }
        }
        for (int64_t t = 0; t < count; t++) {
            sum += parts[t];
        }
    }
    return 2 * sum;
}

/* x[rows][k] as panels of [pairs of rows][16 columns]; lower: a panel from the row of its first
 * column on. */
static void pair_rows(const float *x, int64_t ldx, int64_t rows, int64_t k, int lower,
                      uint32_t *out) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t pairs = (rows + 1) / 2, panels = sq_ceil_div(k, 16);
#pragma omp parallel for schedule(dynamic, 4) num_threads(sq_threads()) if (k * rows > 65536)
    for (int64_t t = 0; t < panels; t++) {
        int64_t n = k - 16 * t < 16 ? k - 16 * t : 16;
        for (int64_t p = lower ? 8 * t : 0; p < pairs; p++) {
            const float *even = x + 2 * p * ldx + 16 * t;
            kn->pair_bf16(even, 2 * p + 1 < rows ? even + ldx : NULL, n,
                          out + 16 * (pairs * t + p));
        }
    }
}

/* The panels' columns as rows: sixteen words of a panel at a time are the columns of a smaller one.
 */
static void turn_panels(const twice *t, int64_t pairs, int64_t k) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t panels = sq_ceil_div(k, 16);
#pragma omp parallel for schedule(dynamic, 4) num_threads(sq_threads()) if (k * pairs > 32768)
    for (int64_t j = 0; j < panels; j++) {
        for (int64_t p = 0; p < pairs; p += 16) {
            uint32_t turned[16 * 16];
            int64_t n = pairs - p < 16 ? pairs - p : 16;
            kn->panel_bf16((const uint16_t *)(t->panels + 16 * (pairs * j + p)), 32, n, 32, turned);
            for (int64_t r = 0; r < 16; r++) {
                memcpy(t->rows + (16 * j + r) * row_words(pairs) + p, turned + 16 * r,
                       (size_t)n * sizeof *turned);
            }
        }
    }
}

sq_status sq_operand_open(sq_operand *o, const float *b, int64_t ldb, int64_t k, int64_t n,
                          int lower, sq_error *err) {
    *o = (sq_operand){b, k, n, ldb, NULL};
    if (sq_kernels_get()->tile_bf16 == NULL) {
        return SQ_OK;
    }
    o->panels = sq_alloc_raw((size_t)((k + 1) / 2), (size_t)sq_round_up(n, 16) * sizeof *o->panels,
                             "a matrix in bf16", err);
    if (o->panels == NULL) {
        return SQ_ENOMEM;
    }
    pair_rows(b, ldb, k, n, lower, o->panels);
    return SQ_OK;
}

void sq_operand_close(sq_operand *o) {
    sq_free(o->panels);
    *o = (sq_operand){0};
}

void sq_operand_add(const sq_operand *o, int64_t row, int64_t rows, int64_t column, int64_t columns,
                    const float *a, int64_t lda, int64_t m, float *c, int64_t ldc) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t pairs = (rows + 1) / 2, all = (o->k + 1) / 2, a_row = row_words(pairs);
    int whole = rows % 2 == 0 || row + rows == o->k; /* a last pair's other half is 0 */
    uint32_t *narrow = NULL;
    if (rows == 0) {
        return;
    }
    if (o->panels != NULL && whole && row % 2 == 0 && column % 16 == 0) {
        narrow = (uint32_t *)(void *)sq_thread_scratch(0, (size_t)(m * a_row));
    }
    if (narrow == NULL) {
        sq_sgemm_serial(0, 0, m, columns, rows, 1.0f, a, lda, o->b + row * o->ldb + column, o->ldb,
                        1.0f, c, ldc);
        return;
    }
    for (int64_t i = 0; i < m; i++) {
        narrow_row(kn, a + i * lda, rows, narrow + i * a_row);
    }
    const uint32_t *b = o->panels + 16 * (column / 16 * all + row / 2);
    for (int64_t p = 0; p < pairs; p += BF16_DEEP / 2) {
        int64_t deep = pairs - p < BF16_DEEP / 2 ? pairs - p : BF16_DEEP / 2;
        kn->tile_bf16(m, columns, deep, narrow + p, a_row, b + 16 * p, 16 * all, c, ldc);
    }
}

void sq_syrk_accumulate(const float *x, int64_t ldx, int64_t rows, int64_t k, float *c) {
    twice both = {0};
    int64_t pairs = (rows + 1) / 2, wide = sq_round_up(k, 16);
    if (sq_kernels_get()->tile_bf16 != NULL) {
        both.panels =
            (uint32_t *)(void *)sq_thread_scratch(0, (size_t)(wide * (pairs + row_words(pairs))));
    }
    if (both.panels != NULL) {
        both.rows = both.panels + wide * pairs;
        pair_rows(x, ldx, rows, k, 0, both.panels);
        turn_panels(&both, pairs, k);
    }
    const int64_t tile = both.panels == NULL ? 128 : 192;
    int64_t tiles = sq_ceil_div(k, tile);
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads()) if (k > tile)
    for (int64_t t = 0; t < tiles * tiles; t++) {
        int64_t i = t / tiles * tile, j = t % tiles * tile;
        if (j < i) {
            continue;
        }
        int64_t h = k - i < tile ? k - i : tile, w = k - j < tile ? k - j : tile;
        syrk_tile(x, ldx, rows, &both, i, j, h, w, c + i * k + j, k);
    }
}
