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

/* Codes of one row, a byte a column of k_padded, into their place in the panel. */
static void pack_row(sq_weight *w, int64_t row, const uint8_t *codes) {
    int64_t stride = sq_weight_stride(w), all = sq_weight_columns(w);
    uint8_t *to = (uint8_t *)w->owned + row / SQ_PANEL * sq_panel_bytes(w) + row % SQ_PANEL * 4;
    for (int64_t p = 0; p * stride < all; p++) {
        uint8_t piece[SQ_PIECE];
        int64_t n = sq_piece_columns(w, p);
        memset(piece, 0, sizeof piece);
        memcpy(piece, codes + sq_piece_start(w, p), (size_t)n);
        int64_t end = sq_piece_stored(all, stride, p);
        for (int64_t c = 0; c < end; c += w->kind == SQ_W_Q4 ? 8 : 4, to += 4 * SQ_PANEL) {
            uint64_t eight = 0;
            memcpy(&eight, piece + c, w->kind == SQ_W_Q4 ? 8 : 4);
            uint32_t word = (uint32_t)eight;
            word |= w->kind == SQ_W_Q4 ? (uint32_t)(eight >> 28) : 0;
            memcpy(to, &word, 4);
        }
    }
}

/* Room for codes, scales, offsets and sums of a weight whose dimensions are set. Rows that fill up
 * the last panel are zeros; the codes of all others are written by pack_row. */
static sq_status make_room(sq_weight *w, int offsets, sq_error *err) {
    size_t panels = (size_t)sq_weight_panels(w);
    size_t scales = SQ_PANEL * sizeof(float) * (size_t)sq_weight_groups(w);
    w->owned = sq_alloc_raw(panels, (size_t)sq_panel_bytes(w), "packed weights", err);
    w->data = w->owned;
    w->scales = sq_alloc(panels, scales, "scales", err);
    w->offsets = offsets ? sq_alloc(panels, scales, "offsets", err) : NULL;
    w->sums = sq_alloc(panels * SQ_PANEL, sizeof *w->sums, "sums of rows", err);
    if (w->owned == NULL || w->scales == NULL || w->sums == NULL ||
        (offsets && w->offsets == NULL)) {
        sq_weight_free(w);
        return SQ_ENOMEM;
    }
    if (w->n % SQ_PANEL != 0) {
        memset((char *)w->owned + (sq_weight_panels(w) - 1) * sq_panel_bytes(w), 0,
               (size_t)sq_panel_bytes(w));
    }
    return SQ_OK;
}

/* Where scale and offset of a row's group lie. */
static int64_t scale_at(const sq_weight *w, int64_t row, int64_t group) {
    return (row / SQ_PANEL * sq_weight_groups(w) + group) * SQ_PANEL + row % SQ_PANEL;
}

/* One row from its source into its panel; 0 without memory for it. */
static int pack_from(sq_weight *w, int64_t row, sq_weight_row_fn read, const void *user) {
    int64_t groups = sq_weight_groups(w);
    size_t floats = (size_t)(2 * groups + w->k_padded / (int64_t)sizeof(float) + 1);
    float *scales = sq_thread_scratch(2, floats), *offsets = scales + groups;
    uint8_t *codes = (uint8_t *)(offsets + groups);
    if (scales == NULL || !read(user, row, codes, scales, w->offsets == NULL ? NULL : offsets)) {
        return 0;
    }
    pack_row(w, row, codes);
    double sum = 0;
    for (int64_t g = 0; g < groups; g++) {
        int64_t at = scale_at(w, row, g), lo = g * w->group, hi = lo + w->group;
        int64_t in_group = 0;
        hi = hi < w->k ? hi : w->k;
        for (int64_t c = lo; c < hi; c++) {
            in_group += codes[c];
        }
        in_group -= hi > lo ? (hi - lo) * sq_weight_middle(w) : 0;
        w->scales[at] = scales[g];
        sum += (double)scales[g] * (double)in_group;
        if (w->offsets != NULL) {
            w->offsets[at] = offsets[g];
            sum += hi > lo ? (double)offsets[g] * (double)(hi - lo) : 0.0;
        }
    }
    w->sums[row] = (float)sum;
    return 1;
}

/* Scales and zero points in 3 bytes a group instead of 8, where nothing is lost by it. Without
 * memory for it all stays as it is. */
static void compact(sq_weight *w) {
    size_t cells = (size_t)(sq_weight_panels(w) * sq_weight_groups(w)) * SQ_PANEL;
    int middle = sq_weight_middle(w);
    uint16_t *half = sq_alloc_raw(cells, sizeof *half, "scales", NULL);
    uint8_t *zeros = w->offsets == NULL ? NULL : sq_alloc_raw(cells, 1, "zero points", NULL);
    int exact = half != NULL && (zeros != NULL) == (w->offsets != NULL);
    for (size_t i = 0; exact && i < cells; i++) {
        float s = w->scales[i];
        half[i] = sq_f32_to_f16(s);
        exact = sq_f16_to_f32(half[i]) == s;
        if (exact && zeros != NULL) {
            float z = s == 0 ? (float)middle : rintf((float)middle - w->offsets[i] / s);
            exact = z >= 0 && z <= 255 && (float)(middle - (int)z) * s == w->offsets[i];
            zeros[i] = exact ? (uint8_t)z : 0;
        }
    }
    if (!exact) {
        sq_free(half);
        sq_free(zeros);
        return;
    }
    sq_free(w->scales);
    sq_free(w->offsets);
    w->scales = w->offsets = NULL;
    w->half = half;
    w->zeros = zeros;
}

/* Scale and offset of a row's group. */
static void group_at(const sq_weight *w, int64_t row, int64_t group, float *scale, float *offset) {
    int64_t at = scale_at(w, row, group);
    *scale = w->half != NULL ? sq_f16_to_f32(w->half[at]) : w->scales[at];
    *offset = w->zeros != NULL     ? (float)(sq_weight_middle(w) - w->zeros[at]) * *scale
              : w->offsets != NULL ? w->offsets[at]
                                   : 0.0f;
}

sq_status sq_weight_pack(sq_weight *w, int bits, int64_t n, int64_t k, int64_t k_padded,
                         int64_t group, int offsets, sq_weight_row_fn read, const void *user,
                         sq_error *err) {
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
    sq_status st = make_room(w, offsets, err);
    if (st != SQ_OK) {
        return st;
    }
    int failed = 0;
#pragma omp parallel num_threads(sq_threads()) if (n * k > 65536)
    {
        int mine = 0;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < n; r++) {
            mine |= !pack_from(w, r, read, user);
        }
#pragma omp atomic
        failed |= mine;
    }
    if (failed) {
        sq_fail(err, SQ_ENOMEM, "not enough memory to pack a row of %lld columns", (long long)k);
        sq_weight_free(w);
        return SQ_ENOMEM;
    }
    compact(w);
    return SQ_OK;
}

typedef struct block_rows {
    sq_block_form form;
    const uint8_t *data;
    int64_t blocks, block, bytes; /* of a row; columns and bytes of a block */
} block_rows;

static int read_blocks(const void *user, int64_t row, uint8_t *codes, float *scales,
                       float *offsets) {
    const block_rows *b = user;
    int64_t per = b->block / b->form.group;
    const uint8_t *p = b->data + row * b->blocks * b->bytes;
    for (int64_t i = 0; i < b->blocks; i++, p += b->bytes) {
        float own[SQ_MAX_BLOCK];
        b->form.read(p, codes + i * b->block, scales + i * per, own);
        for (int64_t g = 0; offsets != NULL && g < per; g++) {
            float middle = (float)(1 << (b->form.bits - 1));
            offsets[i * per + g] = own[g] + middle * scales[i * per + g];
        }
    }
    return 1;
}

sq_status sq_weight_blocks(sq_weight *w, sq_dtype t, const void *data, int64_t n, int64_t k,
                           sq_error *err) {
    block_rows b = {
        .data = data, .block = (int64_t)sq_dtype_block(t), .bytes = (int64_t)sq_dtype_size(t)};
    *w = (sq_weight){.n = n, .k = k, .k_padded = k};
    if (!sq_block_describe(t, &b.form) || n < 1 || k < 1 || k > INT64_MAX / 64 / n ||
        k % b.block != 0 || data == NULL) {
        return sq_fail(err, SQ_EARG, "no such block matrix; got %lld x %lld of %s", (long long)n,
                       (long long)k, sq_dtype_name(t));
    }
    b.blocks = k / b.block;
    int centred = t == SQ_Q4_0 || t == SQ_Q5_0 || t == SQ_Q8_0 || t == SQ_Q6_K;
    return sq_weight_pack(w, b.form.bits, n, k, k, b.form.group, !centred, read_blocks, &b, err);
}

typedef struct code_rows {
    const uint8_t *codes, *zeros;
    const float *scales;
    int64_t columns, groups;
    int middle;
} code_rows;

static int read_codes(const void *user, int64_t row, uint8_t *codes, float *scales,
                      float *offsets) {
    const code_rows *c = user;
    memcpy(codes, c->codes + row * c->columns, (size_t)c->columns);
    memcpy(scales, c->scales + row * c->groups, (size_t)c->groups * sizeof *scales);
    for (int64_t g = 0; offsets != NULL && g < c->groups; g++) {
        offsets[g] = (float)(c->middle - c->zeros[row * c->groups + g]) * scales[g];
    }
    return 1;
}

sq_status sq_weight_codes(sq_weight *w, int bits, const uint8_t *codes, const float *scales,
                          const uint8_t *zeros, int64_t n, int64_t k, int64_t k_padded,
                          int64_t group, sq_error *err) {
    code_rows c = {codes,          zeros, scales, k_padded, group < 1 ? 0 : k_padded / group,
                   1 << (bits - 1)};
    int offsets = 0;
    for (int64_t i = 0; zeros != NULL && !offsets && i < n * c.groups; i++) {
        offsets = zeros[i] != c.middle;
    }
    return sq_weight_pack(w, bits, n, k, k_padded, group, offsets, read_codes, &c, err);
}

typedef struct dense_rows {
    const sq_weight *from;
    int64_t group, groups;
    int bits;
} dense_rows;

/* min-max, half to even; a group of zeros has scale 0. */
static void round_group(const float *x, int64_t n, int bits, uint8_t *codes, float *scale,
                        float *offset) {
    float lo = 0, hi = 0, top = (float)((1 << bits) - 1), zero = (float)(1 << (bits - 1));
    for (int64_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    float s = offset == NULL ? fmaxf(-lo, hi) / (zero - 1) : (hi - lo) / top;
    s = s > 6.2e-5f ? sq_f16_to_f32(sq_f32_to_f16(s)) : s; /* a normal number there */
    float middle = zero, inverse = s > 0 ? 1.0f / s : 0.0f;
    if (offset != NULL) {
        zero = rintf(-lo * inverse);
        *offset = (middle - zero) * s;
    }
    for (int64_t i = 0; i < n; i++) {
        codes[i] = (uint8_t)fminf(fmaxf(rintf(x[i] * inverse) + zero, 0.0f), top);
    }
    *scale = s;
}

static int read_dense(const void *user, int64_t row, uint8_t *codes, float *scales,
                      float *offsets) {
    const dense_rows *d = user;
    int64_t k = d->from->k;
    float *x = sq_thread_scratch(1, (size_t)k);
    if (x == NULL) {
        return 0;
    }
    memset(codes, 0, (size_t)(d->group * d->groups));
    sq_weight_rows_f32(d->from, row, 1, x);
    for (int64_t g = 0; g < d->groups; g++) {
        int64_t at = g * d->group, n = k - at < d->group ? k - at : d->group;
        round_group(x + at, n, d->bits, codes + at, scales + g,
                    offsets == NULL ? NULL : offsets + g);
    }
    return 1;
}

sq_status sq_weight_round(sq_weight *w, const sq_weight *dense, int bits, sq_error *err) {
    int64_t group = bits == 8 ? 128 : 64, kp = sq_round_up(dense->k, group);
    dense_rows d = {dense, group, kp / group, bits};
    return sq_weight_pack(w, bits, dense->n, dense->k, kp, group, bits == 4, read_dense, &d, err);
}

sq_status sq_weight_order(sq_weight *w, const int32_t *columns, sq_error *err) {
    w->place = sq_alloc_raw((size_t)w->k, 2 * sizeof *w->place, "the order of columns", err);
    if (w->place == NULL) {
        return SQ_ENOMEM;
    }
    w->order = w->place + w->k;
    for (int64_t j = 0; j < w->k; j++) {
        w->place[columns[j]] = (int32_t)j;
        w->order[j] = columns[j];
    }
    return SQ_OK;
}

/* The code of column c of piece p. */
static int code_at(const sq_weight *w, int64_t row, int64_t p, int64_t c) {
    const uint8_t *words = sq_weight_panel(w, row / SQ_PANEL) +
                           p * sq_weight_stride(w) * SQ_PANEL / (w->kind == SQ_W_Q4 ? 2 : 1) +
                           row % SQ_PANEL * 4;
    return w->kind == SQ_W_Q8 ? words[c / 4 * 4 * SQ_PANEL + c % 4]
                              : words[c / 8 * 4 * SQ_PANEL + c % 4] >> (c % 8 / 4 * 4) & 15;
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
    c = w->place == NULL ? c : w->place[c];
    int64_t g = c / w->group, in = c % w->group, stride = sq_weight_stride(w);
    float scale, offset;
    group_at(w, row, g, &scale, &offset);
    int code = code_at(w, row, g * sq_weight_split(w) + in / stride, in % stride);
    return (float)(code - sq_weight_middle(w)) * scale + offset;
}

void sq_weight_free(sq_weight *w) {
    if (w->owned != NULL || w->data == NULL) { /* else all of it is borrowed */
        sq_free(w->owned);
        sq_free(w->scales);
        sq_free(w->offsets);
        sq_free(w->half);
        sq_free(w->zeros);
        sq_free(w->sums);
        sq_free(w->place);
    }
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
    int scale = w->half != NULL ? 2 + (w->zeros != NULL) : w->offsets == NULL ? 4 : 8;
    return sq_packed_bytes(w->kind == SQ_W_Q4 ? 4 : 8, w->n, w->k, w->k_padded, w->group, scale) +
           (w->place == NULL ? 0 : 2 * k * sizeof *w->place);
}

size_t sq_packed_bytes(int bits, int64_t n, int64_t k, int64_t k_padded, int64_t group, int scale) {
    sq_weight w = {.kind = bits == 4 ? SQ_W_Q4 : SQ_W_Q8,
                   .n = n,
                   .k = k,
                   .k_padded = k_padded,
                   .group = group};
    int64_t scales = SQ_PANEL * (sq_weight_groups(&w) * scale + (int64_t)sizeof *w.sums);
    return (size_t)(sq_weight_panels(&w) * (sq_panel_bytes(&w) + scales));
}

/* A word's columns as numbers. */
static inline void widen_word(const sq_weight *w, const uint8_t *word, float scale, float offset,
                              float *y) {
    for (int b = 0; b < 4; b++) {
        int q = word[b];
        y[b] = (float)(w->kind == SQ_W_Q4 ? (q & 15) - 8 : q - 128) * scale + offset;
        if (w->kind == SQ_W_Q4) {
            y[4 + b] = (float)((q >> 4) - 8) * scale + offset;
        }
    }
}

/* A row as it is stored: y[k_padded], or less where the caller's row ends. */
static void widen_row(const sq_weight *w, int64_t row, float *y) {
    int64_t all = sq_weight_columns(w), stride = sq_weight_stride(w), split = sq_weight_split(w);
    int64_t per = w->kind == SQ_W_Q4 ? 8 : 4;
    const uint8_t *word = sq_weight_panel(w, row / SQ_PANEL) + row % SQ_PANEL * 4;
    for (int64_t p = 0; p * stride < all; p++) {
        float scale, offset;
        int64_t first = sq_piece_start(w, p);
        group_at(w, row, p / split, &scale, &offset);
        int64_t n = sq_piece_columns(w, p);
        n = first + n > w->k ? w->k - first : n;
        int64_t end = sq_piece_stored(all, stride, p);
        for (int64_t c = 0; c < end; c += per, word += 4 * SQ_PANEL) {
            if (c + per <= n) {
                widen_word(w, word, scale, offset, y + first + c);
            } else if (c < n) {
                float eight[8];
                widen_word(w, word, scale, offset, eight);
                memcpy(y + first + c, eight, (size_t)(n - c) * sizeof *y);
            }
        }
    }
}

/* A quantized row; where columns are stored in another order, by way of a row of scratch. */
static void dequant_row(const sq_weight *w, int64_t row, float *y) {
    float *stored = w->place == NULL ? y : sq_thread_scratch(2, (size_t)w->k);
    if (stored == NULL) {
        for (int64_t c = 0; c < w->k; c++) {
            y[c] = sq_weight_at(w, row, c);
        }
        return;
    }
    widen_row(w, row, stored);
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
            dequant_row(w, row0 + r, y);
            break;
        }
    }
}
