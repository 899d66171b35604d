#include "quant/from_blocks.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/kernels.h"

/* The zero point of w = code * scale + offset; -1 when it is none of 0..most. */
static int zero_of(float scale, float offset, int most) {
    if (scale == 0) {
        return offset == 0 ? (most + 1) / 2 : -1;
    }
    long z = lrintf(-offset / scale);
    return z >= 0 && z <= most && scale * (float)z == -offset ? (int)z : -1;
}

/* One row: codes as stored and zero points for them. Returns the first group without one, or -1. */
static int64_t read_row(sq_qlinear *q, const sq_block_form *form, const sq_tensor *t, int64_t r) {
    int64_t block = (int64_t)sq_dtype_block(t->dtype), groups = q->k / q->group;
    const uint8_t *p =
        (const uint8_t *)t->data + (size_t)(r * (q->k / block)) * sq_dtype_size(t->dtype);
    int most = (1 << form->bits) - 1;
    float offsets[SQ_MAX_BLOCK];
    for (int64_t at = 0; at < q->k; at += block, p += sq_dtype_size(t->dtype)) {
        int64_t first = at / q->group;
        form->read(p, q->codes + r * q->k + at, q->scales + r * groups + first, offsets);
        for (int64_t g = 0; g < block / q->group; g++) {
            int64_t cell = r * groups + first + g;
            int z = zero_of(q->scales[cell], offsets[g], most);
            if (z < 0) {
                return first + g;
            }
            q->zeros[cell] = (uint8_t)z;
        }
    }
    return -1;
}

/* The zero point in 0..most with which a group's codes, moved along, are in 0..most as well; -1. */
static int moved_zero(const uint8_t *codes, int64_t n, int zero, int most) {
    int low = 255, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = codes[i] < low ? codes[i] : low;
        high = codes[i] > high ? codes[i] : high;
    }
    int z = zero - low < 0 ? 0 : zero - low;
    return z <= most && high - zero + z <= most ? z : -1;
}

/* Codes wider than 4 bits: 4 where every group allows, else 8 about the middle. */
static int settle_bits(sq_qlinear *q) {
    int64_t cells = q->n * (q->k / q->group);
    int fits = 1, most;
    for (int64_t i = 0; fits && i < cells; i++) {
        fits = moved_zero(q->codes + i * q->group, q->group, q->zeros[i], 15) >= 0;
    }
    q->bits = fits ? 4 : 8;
    most = (1 << q->bits) - 1;
    for (int64_t i = 0; i < cells; i++) {
        uint8_t *c = q->codes + i * q->group;
        int middle = 128 - q->zeros[i];
        int z = fits ? moved_zero(c, q->group, q->zeros[i], most) : 128;
        for (int64_t k = 0; !fits && k < q->group; k++) {
            if (c[k] + middle < 0 || c[k] + middle > 255) {
                return 0;
            }
        }
        for (int64_t k = 0; k < q->group; k++) {
            c[k] = (uint8_t)(c[k] + z - q->zeros[i]);
        }
        q->zeros[i] = (uint8_t)z;
    }
    return 1;
}

/* Whether each run of m groups has one scale and one zero point. */
static int runs_agree(const sq_qlinear *q, int64_t m) {
    int64_t cells = q->n * (q->k / q->group);
    for (int64_t i = 0; i < cells; i++) {
        int64_t first = i / m * m;
        if (q->scales[i] != q->scales[first] || q->zeros[i] != q->zeros[first]) {
            return 0;
        }
    }
    return 1;
}

static void merge_groups(sq_qlinear *q) {
    int64_t groups = q->k / q->group, m = groups;
    if (!runs_agree(q, m)) {
        for (m = 1; groups % (2 * m) == 0 && runs_agree(q, 2 * m); m *= 2) {
        }
    }
    for (int64_t i = 0; i < q->n * groups / m; i++) {
        q->scales[i] = q->scales[i * m];
        q->zeros[i] = q->zeros[i * m];
    }
    q->group *= m;
}

sq_status sq_blocks_read(sq_qlinear *q, const sq_tensor *t, const char *what, sq_error *err) {
    sq_block_form form;
    int64_t row = -1, n = t->shape[0], k = t->shape[1];
    if (t->rank != 2 || !sq_block_describe(t->dtype, &form)) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s: %s is no matrix of blocks", what,
                       sq_dtype_name(t->dtype));
    }
    *q = (sq_qlinear){.bits = form.bits,
                      .n = n,
                      .k = k,
                      .k_padded = k,
                      .group = form.group,
                      .scale_type = SQ_F16};
    size_t cells = (size_t)(n * (k / form.group));
    q->codes = sq_alloc_raw((size_t)n, (size_t)k, "codes", err);
    q->zeros = sq_alloc_raw(cells, 1, "zero points", err);
    q->scales = sq_alloc_raw(cells, sizeof *q->scales, "scales", err);
    sq_status st = q->codes == NULL || q->zeros == NULL || q->scales == NULL ? SQ_ENOMEM : SQ_OK;
    for (int64_t r = 0; st == SQ_OK && row < 0 && r < n; r++) {
        row = read_row(q, &form, t, r) < 0 ? -1 : r;
    }
    if (st == SQ_OK && (row >= 0 || (form.bits == 8 && !settle_bits(q)))) {
        sq_fail(err, SQ_EUNSUPPORTED,
                "%s: its %s blocks are not codes about a whole zero point (row %lld)", what,
                sq_dtype_name(t->dtype), (long long)(row < 0 ? 0 : row));
        sq_hint(err, "squint convert FILE.gguf -o OUT widens them to floats");
        st = SQ_EUNSUPPORTED;
    }
    if (st != SQ_OK) {
        sq_qlinear_free(q);
        return st;
    }
    merge_groups(q);
    for (int64_t i = 0; i < n * (k / q->group); i++) {
        if (sq_f16_to_f32(sq_f32_to_f16(q->scales[i])) != q->scales[i]) {
            q->scale_type = SQ_F32;
        }
    }
    return SQ_OK;
}
