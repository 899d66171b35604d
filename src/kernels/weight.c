/* Weight matrices: borrowed dense ones, and quantized ones packed into the layout of internal.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/internal.h"

sq_status sq_weight_dense(sq_weight *w, sq_dtype t, const void *data, int64_t n, int64_t k,
                          sq_error *err) {
    *w = (sq_weight){.n = n, .k = k, .k_padded = k, .data = data};
    if (n < 1 || k < 1 || k > INT64_MAX / 64 / n || data == NULL ||
        (t != SQ_F32 && t != SQ_F16 && t != SQ_BF16)) {
        return sq_fail(err, SQ_EARG, "no such weight matrix; got %lld x %lld of %s", (long long)n,
                       (long long)k, sq_dtype_name(t));
    }
    w->kind = t == SQ_F32 ? SQ_W_F32 : t == SQ_F16 ? SQ_W_F16 : SQ_W_BF16;
    return SQ_OK;
}

static void put_code(uint8_t *out, int64_t c, uint8_t code, int bits) {
    if (bits == 8) {
        out[c] = code;
        return;
    }
    int64_t in = c % SQ_CHUNK_COLUMNS, nibble = in / 16;
    out[c / SQ_CHUNK_COLUMNS * 64 + in % 16 * 4 + nibble / 2] |=
        (uint8_t)(code << (nibble & 1 ? 4 : 0));
}

static void pack_row(uint8_t *out, const uint32_t *words, int64_t k, int bits) {
    for (int64_t c = 0; c < k; c++) {
        put_code(
            out, c,
            (uint8_t)(bits == 8 ? words[c / 4] >> (c % 4 * 8) : words[c / 8] >> (c % 8 * 4) & 15),
            bits);
    }
}

/* Room for codes (zeroed), scales and offsets of a weight whose dimensions are set. */
static sq_status make_room(sq_weight *w, sq_error *err) {
    size_t groups = (size_t)sq_weight_groups(w);
    size_t row_bytes = (size_t)sq_weight_row_bytes(w);
    w->owned = sq_alloc((size_t)w->n, row_bytes, "packed weights", err);
    w->data = w->owned;
    w->scales = sq_alloc_raw((size_t)w->n, groups * sizeof(float), "scales", err);
    w->offsets = sq_alloc_raw((size_t)w->n, groups * sizeof(float), "offsets", err);
    if (w->owned == NULL || w->scales == NULL || w->offsets == NULL) {
        sq_weight_free(w);
        return SQ_ENOMEM;
    }
    return SQ_OK;
}

sq_status sq_weight_quantized(sq_weight *w, int bits, const uint32_t *words, const float *scales,
                              const uint8_t *zeros, int64_t n, int64_t k, int64_t k_padded,
                              int64_t group, sq_error *err) {
    *w = (sq_weight){.kind = bits == 4 ? SQ_W_Q4 : SQ_W_Q8,
                     .n = n,
                     .k = k,
                     .k_padded = k_padded,
                     .group = group};
    if ((bits != 4 && bits != 8) || n < 1 || k < 1 || k_padded < k || group < 1 ||
        k_padded > INT64_MAX / 64 / n || k_padded % group != 0) {
        return sq_fail(
            err, SQ_EARG,
            "no such quantized matrix; got %d bits, %lld x %lld (%lld stored), groups of %lld",
            bits, (long long)n, (long long)k, (long long)k_padded, (long long)group);
    }
    int64_t groups = k_padded / group, row_words = (k_padded * bits + 31) / 32;
    size_t row_bytes = (size_t)sq_weight_row_bytes(w);
    sq_status st = make_room(w, err);
    if (st != SQ_OK) {
        return st;
    }
    uint8_t *codes = w->owned;
    w->centred = 1;
    for (int64_t i = 0; zeros != NULL && w->centred && i < n * groups; i++) {
        w->centred = zeros[i] == 1 << (bits - 1);
    }
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (n * k > 65536)
    for (int64_t r = 0; r < n; r++) {
        pack_row(codes + (size_t)r * row_bytes, words + r * row_words, k_padded, bits);
        for (int64_t g = r * groups; g < (r + 1) * groups; g++) {
            float zero = zeros == NULL ? (float)(1 << (bits - 1)) : (float)zeros[g];
            w->scales[g] = scales[g];
            w->offsets[g] = -zero * scales[g];
        }
    }
    return SQ_OK;
}

sq_status sq_weight_order(sq_weight *w, const int32_t *columns, sq_error *err) {
    w->place = sq_alloc_raw((size_t)w->k, sizeof *w->place, "the order of columns", err);
    for (int64_t j = 0; w->place != NULL && j < w->k; j++) {
        w->place[columns[j]] = (int32_t)j;
    }
    return w->place == NULL ? SQ_ENOMEM : SQ_OK;
}

sq_status sq_weight_blocks(sq_weight *w, sq_dtype t, const void *data, int64_t n, int64_t k,
                           sq_error *err) {
    sq_block_form form;
    int64_t block = (int64_t)sq_dtype_block(t);
    *w = (sq_weight){.n = n, .k = k, .k_padded = k};
    if (!sq_block_describe(t, &form) || n < 1 || k < 1 || k > INT64_MAX / 64 / n ||
        k % block != 0 || data == NULL) {
        return sq_fail(err, SQ_EARG, "no such block matrix; got %lld x %lld of %s", (long long)n,
                       (long long)k, sq_dtype_name(t));
    }
    w->kind = form.bits == 4 ? SQ_W_Q4 : SQ_W_Q8;
    w->group = form.group;
    sq_status st = make_room(w, err);
    if (st != SQ_OK) {
        return st;
    }
    uint8_t *codes = w->owned;
    w->centred = t == SQ_Q4_0 || t == SQ_Q8_0;
    int64_t groups = sq_weight_groups(w), per = block / form.group;
    size_t row_bytes = (size_t)sq_weight_row_bytes(w);
#pragma omp parallel for schedule(static) num_threads(sq_threads()) if (n * k > 65536)
    for (int64_t r = 0; r < n; r++) {
        const uint8_t *p = (const uint8_t *)data + (size_t)(r * (k / block)) * sq_dtype_size(t);
        for (int64_t b = 0; b < k / block; b++, p += sq_dtype_size(t)) {
            uint8_t q[SQ_MAX_BLOCK];
            int64_t g = r * groups + b * per;
            form.read(p, q, w->scales + g, w->offsets + g);
            for (int64_t i = 0; i < block; i++) {
                put_code(codes + (size_t)r * row_bytes, b * block + i, q[i], form.bits);
            }
        }
    }
    return SQ_OK;
}

float sq_weight_at(const sq_weight *w, int64_t row, int64_t c) {
    const char *p = w->data;
    uint16_t half;
    float full;
    switch (w->kind) {
    case SQ_W_F32:
        memcpy(&full, p + 4 * (row * w->k + c), 4);
        return full;
    case SQ_W_F16:
    case SQ_W_BF16:
        memcpy(&half, p + 2 * (row * w->k + c), 2);
        return w->kind == SQ_W_F16 ? sq_f16_to_f32(half) : sq_bf16_to_f32(half);
    case SQ_W_Q4:
    case SQ_W_Q8:
        break;
    }
    const uint8_t *codes = sq_weight_row(w, row);
    c = w->place == NULL ? c : w->place[c];
    int64_t g = row * sq_weight_groups(w) + c / w->group, in = c % SQ_CHUNK_COLUMNS;
    int code =
        w->kind == SQ_W_Q8
            ? codes[c]
            : codes[c / SQ_CHUNK_COLUMNS * 64 + in % 16 * 4 + in / 32] >> (in / 16 % 2 * 4) & 15;
    return fmaf((float)code, w->scales[g], w->offsets[g]);
}

void sq_weight_free(sq_weight *w) {
    sq_free(w->owned);
    sq_free(w->scales);
    sq_free(w->offsets);
    sq_free(w->sums);
    sq_free(w->place);
    *w = (sq_weight){0};
}

size_t sq_weight_bytes(const sq_weight *w) {
    size_t n = (size_t)w->n, k = (size_t)w->k;
    switch (w->kind) {
    case SQ_W_F32:
        return n * k * 4;
    case SQ_W_F16:
    case SQ_W_BF16:
        return n * k * 2;
    case SQ_W_Q4:
    case SQ_W_Q8:
        break;
    }
    return n * ((size_t)sq_weight_row_bytes(w) + (size_t)sq_weight_groups(w) * 2 * sizeof(float) +
                (w->sums == NULL ? 0 : sizeof(float))) +
           (w->place == NULL ? 0 : k * sizeof *w->place);
}

/* A quantized row; where columns are stored in another order, by way of a row of scratch. */
static void dequant_row(const sq_kernels *kn, const sq_weight *w, int64_t row, float *y) {
    float *stored = w->place == NULL ? y : sq_thread_scratch(2, (size_t)w->k);
    if (stored == NULL) {
        for (int64_t c = 0; c < w->k; c++) {
            y[c] = sq_weight_at(w, row, c);
        }
        return;
    }
    (w->kind == SQ_W_Q4 ? kn->dequant_q4 : kn->dequant_q8)(w, row, stored);
    for (int64_t c = 0; w->place != NULL && c < w->k; c++) {
        y[c] = stored[w->place[c]];
    }
}

void sq_weight_rows_f32(const sq_weight *w, int64_t row0, int64_t rows, float *out) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (row0 + r) * w->k;
        const char *p = w->data;
        float *y = out + r * w->k;
        switch (w->kind) {
        case SQ_W_F32:
            memcpy(y, p + 4 * at, (size_t)w->k * 4);
            break;
        case SQ_W_F16:
            kn->widen_f16(y, (const uint16_t *)(const void *)(p + 2 * at), w->k);
            break;
        case SQ_W_BF16:
            kn->widen_bf16(y, (const uint16_t *)(const void *)(p + 2 * at), w->k);
            break;
        case SQ_W_Q4:
        case SQ_W_Q8:
            dequant_row(kn, w, row0 + r, y);
            break;
        }
    }
}
