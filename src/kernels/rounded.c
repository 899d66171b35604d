/* Products with inputs rounded to 8 bits, row by row: integer sums over pieces of the columns, then
 * f32. Few rows: dot kernels over the packed codes. Many: panels of 16 output rows unpacked once
 * and used for every row. */
#include <math.h>
#include <string.h>

#include "kernels/internal.h"

enum {
    FEW_ROWS = 8,
    BLOCK_ROWS = 256, /* rows of inputs held as integers at once */
    TASK_COLUMNS = 64,
    FEW_WORK = 1 << 18, /* products below this are not worth waking threads */
    MOST = 65536,       /* columns of a piece whose sum surely fits 32 bits */
};

/* compressed_tensors quantization/utils/helpers.py calculate_qparams and lifecycle/forward.py, 8
 * bits, per token. Scale 0: a row of zeros; NaN: a number is none. */
static void choose_scale(const sq_kernels *kn, const float *x, int64_t k, int symmetric,
                         float *scale, float *zero) {
    float lo, hi;
    kn->range(x, k, &lo, &hi);
    float s = symmetric ? fmaxf(-lo, hi) / 127.5f : (hi - lo) / 255.0f;
    s = lo != lo || !isfinite(s) ? NAN : s;
    *scale = s;
    *zero = symmetric || !(s > 0) ? 0.0f : rintf(fminf(fmaxf(-128.0f - lo / s, -128.0f), 127.0f));
}

static float rounded_at(float x, float s, float z) {
    return !(s > 0) ? x : (rintf(fminf(fmaxf(x / s + z, -128.0f), 127.0f)) - z) * s;
}

void sq_fake_quantize_rows(float *x, int64_t ldx, int64_t rows, int64_t k, int symmetric) {
    const sq_kernels *kn = sq_kernels_get();
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (rows * k > 65536)
    for (int64_t r = 0; r < rows; r++) {
        float s, z, *row = x + r * ldx;
        choose_scale(kn, row, k, symmetric, &s, &z);
        for (int64_t i = 0; i < k; i++) {
            row[i] = rounded_at(row[i], s, z);
        }
    }
}

/* Where there is no memory for scratch, or the integers do not serve: slow, and right. */
static void plain(const sq_weight *w, int symmetric, const float *x, int64_t ldx, int64_t rows,
                  const float *bias, float *y, int64_t ldy) {
    const sq_kernels *kn = sq_kernels_get();
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (w->n * w->k > FEW_WORK)
    for (int64_t r = 0; r < w->n; r++) {
        for (int64_t i = 0; i < rows; i++) {
            float s, z, sum = 0;
            choose_scale(kn, x + i * ldx, w->k, symmetric, &s, &z);
            for (int64_t c = 0; c < w->k; c++) {
                sum += sq_weight_at(w, r, c) * rounded_at(x[i * ldx + c], s, z);
            }
            y[i * ldy + r] = sum + (bias == NULL ? 0.0f : bias[r]);
        }
    }
}

/* Over rounded copies, in f32. */
static void widened(const sq_weight *w, int symmetric, const float *x, int64_t ldx, int64_t rows,
                    const float *bias, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i += BLOCK_ROWS) {
        int64_t m = rows - i < BLOCK_ROWS ? rows - i : BLOCK_ROWS;
        float *copy = sq_thread_scratch(2, (size_t)(m * w->k));
        if (copy == NULL) {
            plain(w, symmetric, x + i * ldx, ldx, m, bias, y + i * ldy, ldy);
            continue;
        }
        for (int64_t r = 0; r < m; r++) {
            memcpy(copy + r * w->k, x + (i + r) * ldx, (size_t)w->k * sizeof *copy);
        }
        sq_fake_quantize_rows(copy, w->k, m, w->k, symmetric);
        sq_matmul(w, copy, w->k, m, bias, y + i * ldy, ldy);
    }
}

/* The scratch of a block of rows: codes, sums and headers. */
typedef struct block {
    sq_rounded *rows;
    int8_t *codes; /* a row: [columns in pieces], then the copy that the weight's kernels want */
    int32_t *sums;
    int64_t columns, codes_row, sums_row;
} block;

static int reserve(block *b, const sq_weight *w, int64_t rows) {
    b->columns = sq_round_up(sq_weight_pieces(w) * sq_weight_stride(w), SQ_CHUNK_COLUMNS);
    b->codes_row =
        b->columns + (w->kind == SQ_W_Q4 ? sq_weight_chunks(w) * SQ_CHUNK_COLUMNS : 2 * b->columns);
    b->sums_row = sq_round_up(sq_weight_pieces(w), 4);
    size_t bytes =
        (size_t)rows * ((size_t)b->codes_row + (size_t)b->sums_row * 4 + sizeof(sq_rounded));
    char *p = (char *)sq_thread_scratch(2, bytes / sizeof(float) + 1);
    if (p == NULL) {
        return 0;
    }
    b->rows = (sq_rounded *)(void *)p; /* codes are whole chunks: everything stays aligned */
    b->codes = (int8_t *)p + (size_t)rows * sizeof(sq_rounded);
    b->sums = (int32_t *)(void *)(b->codes + rows * b->codes_row);
    return 1;
}

/* 4-bit codes of a chunk come out of a register as [low, high][half][16-byte lane][32-column block]
 * [4 columns] once the bytes of each lane are transposed: see internal.h. */
static void mix_columns(const int8_t *codes, int8_t *mixed, int64_t chunks) {
    for (int64_t c = 0; c < chunks; c++, codes += SQ_CHUNK_COLUMNS, mixed += SQ_CHUNK_COLUMNS) {
        for (int to = 0; to < 32; to++) {
            int high = to / 16, half = to / 8 % 2, lane = to / 4 % 2, b = to % 4;
            memcpy(mixed + 4 * to, codes + 4 * (8 * b + 4 * high + 2 * half + lane), 4);
        }
    }
}

static void round_row(const block *b, const sq_weight *w, int symmetric, const float *x,
                      int64_t at) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t piece = sq_weight_piece(w), stride = sq_weight_stride(w), pieces = sq_weight_pieces(w);
    int8_t *codes = b->codes + at * b->codes_row;
    int32_t *sums = b->sums + at * b->sums_row;
    float s, z;
    choose_scale(kn, x, w->k, symmetric, &s, &z);
    memset(codes, 0, (size_t)b->codes_row);
    memset(sums, 0, (size_t)b->sums_row * sizeof *sums);
    for (int64_t p = 0; s > 0 && p < pieces; p++) {
        int64_t n = w->k - p * piece < piece ? w->k - p * piece : piece;
        int8_t *q = codes + p * stride;
        if (n > 0) {
            kn->round_i8(q, x + p * piece, s, z, n);
        }
        for (int64_t i = 0; i < n; i++) {
            sums[p] += q[i];
        }
    }
    b->rows[at] = (sq_rounded){.codes = codes, .sums = sums, .scale = s, .zero = (int32_t)z};
    if (w->kind == SQ_W_Q4) {
        mix_columns(codes, codes + b->columns, sq_weight_chunks(w));
        b->rows[at].mixed = codes + b->columns;
    } else {
        int16_t *wide = (int16_t *)(void *)(codes + b->columns);
        for (int64_t i = 0; i < b->columns; i++) {
            wide[i] = codes[i];
        }
        b->rows[at].wide = wide;
    }
}

/* y[n] of one row: from the kernels' sums to the product. Rounded numbers are (code - zero) *
 * scale; offsets beyond the middle's are added here, so that every kernel sees centred codes. */
static void finish(const sq_weight *w, int64_t lo, int64_t n, const sq_rounded *x,
                   const float *bias, float *y) {
    int64_t groups = sq_weight_groups(w), per = w->group / sq_weight_piece(w);
    float middle = (float)sq_weight_middle(w), zero = (float)x->zero;
    for (int64_t r = 0; r < n; r++) {
        float t = y[r];
        for (int64_t g = 0; !w->centred && g < groups; g++) {
            int64_t at = (lo + r) * groups + g;
            int32_t sum = 0;
            for (int64_t p = g * per; p < (g + 1) * per; p++) {
                sum += x->sums[p];
            }
            t += (w->offsets[at] + middle * w->scales[at]) * (float)sum;
        }
        t -= x->zero == 0 ? 0.0f : zero * w->sums[lo + r];
        y[r] = x->scale * t + (bias == NULL ? 0.0f : bias[lo + r]);
    }
}

static void few(const sq_weight *w, const block *b, int64_t rows, const float *bias, float *y,
                int64_t ldy) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t tasks = (w->n + TASK_COLUMNS - 1) / TASK_COLUMNS;
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (w->n * w->k > FEW_WORK)
    for (int64_t t = 0; t < tasks; t++) {
        int64_t lo = t * TASK_COLUMNS, m = w->n - lo < TASK_COLUMNS ? w->n - lo : TASK_COLUMNS;
        for (int64_t i = 0; i < rows; i++) {
            float *out = y + i * ldy + lo;
            (w->kind == SQ_W_Q4 ? kn->gemv_i4 : kn->gemv_i8)(w, lo, m, &b->rows[i], out);
            finish(w, lo, m, &b->rows[i], bias, out);
        }
    }
}

static void many(const sq_weight *w, const block *b, int64_t rows, const float *bias, float *y,
                 int64_t ldy) {
    const sq_kernels *kn = sq_kernels_get();
    int64_t panels = (w->n + SQ_PANEL - 1) / SQ_PANEL;
#pragma omp parallel for schedule(dynamic, 4)                                                      \
    num_threads(sq_threads()) if (w->n * w->k * rows > FEW_WORK)
    for (int64_t t = 0; t < panels; t++) {
        int64_t lo = t * SQ_PANEL, m = w->n - lo < SQ_PANEL ? w->n - lo : SQ_PANEL;
        uint8_t *panel = (uint8_t *)sq_thread_scratch(1, sq_panel_bytes(w) / sizeof(float) + 1);
        if (panel != NULL) {
            kn->int_panel(w, lo, m, panel);
            kn->int_tile(w, m, panel, b->rows, rows, y + lo, ldy);
        }
        for (int64_t i = 0; i < rows; i++) {
            if (panel == NULL) {
                (w->kind == SQ_W_Q4 ? kn->gemv_i4 : kn->gemv_i8)(w, lo, m, &b->rows[i],
                                                                 y + i * ldy + lo);
            }
            finish(w, lo, m, &b->rows[i], bias, y + i * ldy + lo);
        }
    }
}

void sq_matmul_rounded(const sq_weight *w, int symmetric, const float *x, int64_t ldx, int64_t rows,
                       const float *bias, float *y, int64_t ldy) {
    int quantized = w->kind == SQ_W_Q4 || w->kind == SQ_W_Q8;
    if (!quantized || sq_weight_piece(w) > MOST || (!symmetric && w->sums == NULL)) {
        widened(w, symmetric, x, ldx, rows, bias, y, ldy);
        return;
    }
    for (int64_t i = 0; i < rows; i += BLOCK_ROWS) {
        int64_t m = rows - i < BLOCK_ROWS ? rows - i : BLOCK_ROWS;
        block b;
        if (!reserve(&b, w, m)) {
            plain(w, symmetric, x + i * ldx, ldx, m, bias, y + i * ldy, ldy);
            continue;
        }
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (m * w->k > 32768)
        for (int64_t r = 0; r < m; r++) {
            round_row(&b, w, symmetric, x + (i + r) * ldx, r);
        }
        (rows > FEW_ROWS ? many : few)(w, &b, m, bias, y + i * ldy, ldy);
    }
}

sq_status sq_weight_sum_rows(sq_weight *w, sq_error *err) {
    float *sums = sq_alloc_raw((size_t)w->n, sizeof *sums, "sums of rows", err);
    int failed = sums == NULL;
#pragma omp parallel for schedule(static) num_threads(sq_threads()) reduction(| : failed)
    for (int64_t r = 0; r < (sums == NULL ? 0 : w->n); r++) {
        float *row = sq_thread_scratch(1, (size_t)w->k);
        double s = 0;
        if (row == NULL) {
            failed = 1;
            continue;
        }
        sq_weight_rows_f32(w, r, 1, row);
        for (int64_t c = 0; c < w->k; c++) {
            s += (double)row[c];
        }
        sums[r] = (float)s;
    }
    if (failed) {
        sq_free(sums);
        return sq_fail(err, SQ_ENOMEM, "not enough memory for the sums of %lld rows",
                       (long long)w->n);
    }
    sq_free(w->sums);
    w->sums = sums;
    return SQ_OK;
}

void sq_panel_scales(const sq_weight *w, int64_t row0, int64_t n, uint8_t *panel) {
    float *s = (float *)(void *)(panel + sq_panel_codes(w));
    int64_t groups = sq_weight_groups(w), pieces = sq_weight_pieces(w),
            per = w->group / sq_weight_piece(w);
    for (int64_t p = 0; p < pieces; p++, s += SQ_PANEL) {
        for (int64_t r = 0; r < SQ_PANEL; r++) {
            s[r] = r < n ? w->scales[(row0 + r) * groups + p / per] : 0.0f;
        }
    }
}
