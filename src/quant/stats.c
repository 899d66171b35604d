#include "quant/stats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

enum { BLOCK_ROWS = 512, COLUMNS = 256 };

sq_status sq_stat_open(sq_stat *s, int64_t k, sq_error *err) {
    *s = (sq_stat){.k = k};
    s->sum_abs = sq_alloc((size_t)k, sizeof *s->sum_abs, "statistics", err);
    s->max_abs = sq_alloc((size_t)k, sizeof *s->max_abs, "statistics", err);
    s->xx = sq_alloc((size_t)k, (size_t)k * sizeof *s->xx, "statistics (X'X)", err);
    s->sample = sq_alloc((size_t)k, SQ_STAT_SAMPLE * sizeof *s->sample, "statistics", err);
    if (s->sum_abs == NULL || s->max_abs == NULL || s->xx == NULL || s->sample == NULL) {
        sq_stat_close(s);
        return SQ_ENOMEM;
    }
    return SQ_OK;
}

void sq_stat_close(sq_stat *s) {
    sq_free(s->sum_abs);
    sq_free(s->max_abs);
    sq_free(s->xx);
    sq_free(s->sample);
    sq_free(s->block);
    *s = (sq_stat){0};
}

/* The sample holds every stride-th of the rows so far, the stride the least power of two that fits.
 */
static int64_t sample_stride(int64_t rows) {
    int64_t stride = 1;
    while (sq_ceil_div(rows, stride) > SQ_STAT_SAMPLE) {
        stride *= 2;
    }
    return stride;
}

static void add_to_sample(sq_stat *s, const float *x) {
    int64_t before = sample_stride(s->rows), stride = sample_stride(s->rows + 1);
    size_t row = (size_t)s->k * sizeof *s->sample;
    if (stride != before) {
        s->sample_rows = (s->sample_rows + 1) / 2;
        for (int64_t i = 1; i < s->sample_rows; i++) {
            memcpy(s->sample + i * s->k, s->sample + 2 * i * s->k, row);
        }
    }
    if (s->rows % stride == 0) {
        memcpy(s->sample + s->sample_rows++ * s->k, x, row);
    }
    s->rows++;
}

float sq_stat_row_weight(const float *x, int64_t k) {
    double sum = 0, lanes[8] = {0};
    int64_t c = 0;
    for (; c + 8 <= k; c += 8) {
        for (int64_t l = 0; l < 8; l++) {
            lanes[l] += (double)x[c + l] * (double)x[c + l];
        }
    }
    for (; c < k; c++) {
        sum += (double)x[c] * (double)x[c];
    }
    for (int64_t l = 0; l < 8; l++) {
        sum += lanes[l];
    }
    return sum == 0 ? 0.0f : (float)(1 / sqrt(sum / (double)k));
}

/* The rows that wait in the block. */
static void add_block(sq_stat *s) {
    if (s->waiting > 0) {
        sq_syrk_accumulate(s->block, s->k, s->waiting, s->k, s->xx);
        s->waiting = 0;
    }
}

static void add_moments(sq_stat *s, const float *x, int64_t ldx, int64_t rows) {
    float *to = s->block + s->waiting * s->k;
#pragma omp parallel for schedule(static) if (s->k * rows > 16384)
    for (int64_t r = 0; r < rows; r++) {
        float root = sqrtf(sq_stat_row_weight(x + r * ldx, s->k));
        for (int64_t c = 0; c < s->k; c++) {
            to[r * s->k + c] = root * x[r * ldx + c];
        }
    }
    s->waiting += rows;
    if (s->waiting == BLOCK_ROWS) {
        add_block(s);
    }
}

void sq_stat_finish(sq_stat *s) {
    if (s->block != NULL) {
        add_block(s);
        sq_syrk_mirror(s->k, s->xx);
        sq_free(s->block);
        s->block = NULL;
    }
}

static void add_magnitudes(const float *x, int64_t ldx, int64_t rows, int64_t n, double *sum,
                           float *top) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < n; c++) {
            float v = fabsf(x[r * ldx + c]);
            sum[c] += (double)v;
            top[c] = v > top[c] ? v : top[c];
        }
    }
}

sq_status sq_stat_add(sq_stat *s, const float *x, int64_t ldx, int64_t rows, sq_error *err) {
    if (s->block == NULL) {
        s->block = sq_alloc((size_t)s->k, BLOCK_ROWS * sizeof *s->block, "statistics", err);
        if (s->block == NULL) {
            return SQ_ENOMEM;
        }
    }
    int64_t parts = sq_ceil_div(s->k, COLUMNS);
#pragma omp parallel for schedule(static) if (s->k * rows > 16384)
    for (int64_t p = 0; p < parts; p++) {
        int64_t at = p * COLUMNS, n = s->k - at < COLUMNS ? s->k - at : COLUMNS;
        add_magnitudes(x + at, ldx, rows, n, s->sum_abs + at, s->max_abs + at);
    }
    for (int64_t r = 0, n; r < rows; r += n) {
        n = BLOCK_ROWS - s->waiting < rows - r ? BLOCK_ROWS - s->waiting : rows - r;
        add_moments(s, x + r * ldx, ldx, n);
    }
    for (int64_t r = 0; r < rows; r++) {
        add_to_sample(s, x + r * ldx);
    }
    return SQ_OK;
}

double sq_stat_loss(const sq_stat *s, const float *d, int64_t m, float *tmp) {
    return sq_quadratic(d, m, s->xx, s->k, tmp);
}

sq_status sq_stat_set_sink(void *user, int tap, const float *x, int64_t ldx, int64_t rows,
                           int64_t k, sq_error *err) {
    sq_stat_set *set = user;
    if (tap < set->first || tap >= set->first + set->n) {
        return SQ_OK;
    }
    sq_stat *s = &set->stats[tap - set->first];
    double t = sq_now();
    sq_status st = s->k == 0 ? sq_stat_open(s, k, err) : SQ_OK;
    st = st == SQ_OK ? sq_stat_add(s, x, ldx, rows, err) : st;
    set->seconds += sq_now() - t;
    return st;
}

void sq_stat_parts(sq_stat *s, int64_t k, sq_stat_part out[SQ_STAT_PARTS]) {
    size_t n = (size_t)k, sample = SQ_STAT_SAMPLE;
    const sq_stat_part parts[SQ_STAT_PARTS] = {
        {"sum_abs", SQ_F64, 1, {k}, s->sum_abs, n * sizeof *s->sum_abs},
        {"max_abs", SQ_F32, 1, {k}, s->max_abs, n * sizeof *s->max_abs},
        {"xx", SQ_F32, 2, {k, k}, s->xx, n * n * sizeof *s->xx},
        {"sample", SQ_F32, 2, {SQ_STAT_SAMPLE, k}, s->sample, sample * n * sizeof *s->sample},
        {"rows", SQ_I64, 1, {1}, &s->rows, sizeof s->rows}};
    memcpy(out, parts, sizeof parts);
}

sq_status sq_stat_load(sq_stat *s, const sq_checkpoint *f, const char *name, int64_t k,
                       sq_error *err) {
    sq_stat_part parts[SQ_STAT_PARTS];
    sq_status st = sq_stat_open(s, k, err);
    sq_stat_parts(s, k, parts);
    for (int p = 0; st == SQ_OK && p < SQ_STAT_PARTS; p++) {
        char key[600];
        snprintf(key, sizeof key, "%s.%s", name, parts[p].suffix);
        const sq_tensor *t = sq_checkpoint_find(f, key);
        if (t == NULL || t->dtype != parts[p].type || t->bytes != parts[p].bytes) {
            return sq_fail(err, SQ_EFORMAT,
                           "the statistics file does not fit the model or this version; a part of "
                           "'%s' is missing or has another width",
                           name);
        }
        memcpy(parts[p].data, t->data, t->bytes);
    }
    if (st == SQ_OK && (s->rows < 1 || s->rows > INT64_MAX / 2)) {
        return sq_fail(err, SQ_EFORMAT, "the statistics of '%s' are of %lld rows", name,
                       (long long)s->rows);
    }
    s->sample_rows = st == SQ_OK ? sq_ceil_div(s->rows, sample_stride(s->rows)) : 0;
    return st;
}
