#include "format/gguf_blocks.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32, SUPER = 256 };

static int64_t groups_of(const sq_qlinear *q) { return q->k_padded / q->group; }

static float half(float v) { return sq_f16_to_f32(sq_f32_to_f16(v)); }

static sq_status check_shape(const sq_qlinear *q, const char *what, sq_error *err) {
    if (q->columns != NULL) {
        sq_fail(err, SQ_EUNSUPPORTED,
                "%s: its columns are in GPTQ's act-order (g_idx); GGUF's blocks hold neighbours",
                what);
        sq_hint(err, "quantize without act-order (squint quantize --no-act-order --format gguf)");
        return SQ_EUNSUPPORTED;
    }
    if (q->k % BLOCK != 0 || q->group % BLOCK != 0) {
        sq_fail(err, SQ_EUNSUPPORTED,
                "%s: GGUF's blocks are of 32 columns; got %lld columns in groups of %lld", what,
                (long long)q->k, (long long)q->group);
        sq_hint(err, "squint quantize ORIGINAL --group-size 32 --on-indivisible keep");
        return SQ_EUNSUPPORTED;
    }
    return SQ_OK;
}

typedef struct counts {
    int64_t cells, scales, minima; /* scales and minima that float16 does not hold */
    int middle, bytes;             /* all zero points are the middle; code - zero fits 8 bits */
    float worst;
} counts;

static counts count(const sq_qlinear *q) {
    int64_t groups = groups_of(q), mid = (int64_t)1 << (q->bits - 1);
    counts c = {.cells = q->n * groups, .middle = 1, .bytes = 1};
    for (int64_t i = 0; i < c.cells; i++) {
        float s = q->scales[i], d = half(s), m = d * (float)q->zeros[i];
        if (d != s) {
            c.worst = s;
            c.scales++;
        }
        c.minima += half(m) != m;
        c.middle &= q->zeros[i] == mid;
    }
    for (int64_t r = 0; q->bits == 8 && !c.middle && r < q->n; r++) {
        for (int64_t i = 0; i < q->k; i++) {
            int v = q->codes[r * q->k_padded + i] - q->zeros[r * groups + i / q->group];
            c.bytes &= v >= -128 && v <= 127;
        }
    }
    return c;
}

sq_status sq_gguf_block_type(const sq_qlinear *q, int lossy, const char *what, sq_dtype *out,
                             int64_t *rounded, sq_error *err) {
    sq_status st = check_shape(q, what, err);
    if (st != SQ_OK) {
        return st;
    }
    counts c = count(q);
    if (c.scales > 0 && !lossy) {
        sq_fail(err, SQ_EUNSUPPORTED,
                "%s: GGUF stores scales in float16; got %lld of %lld in %s that it cannot hold "
                "exactly, such as %g",
                what, (long long)c.scales, (long long)c.cells, sq_dtype_name(q->scale_type),
                (double)c.worst);
        sq_hint(err, "add --lossy to round them, or squint quantize ORIGINAL --format gguf");
        return SQ_EUNSUPPORTED;
    }
    if (q->bits == 8 && !c.bytes) {
        sq_fail(err, SQ_EUNSUPPORTED,
                "%s: asymmetric 8-bit codes; GGUF's Q8_0 has no zero points, wanted symmetric ones",
                what);
        sq_hint(err, "squint quantize ORIGINAL --scheme w8a16 --sym --format gguf");
        return SQ_EUNSUPPORTED;
    }
    *out = q->bits == 8                                 ? SQ_Q8_0
           : c.middle                                   ? SQ_Q4_0
           : q->k % SUPER == 0 && q->group % SUPER == 0 ? SQ_Q4_K
           : c.minima == 0 || lossy                     ? SQ_Q4_1
                                                        : SQ_Q5_0;
    if (rounded != NULL) {
        *rounded = c.scales + (*out == SQ_Q4_1 ? c.minima : 0);
    }
    return SQ_OK;
}

static void put_half(uint8_t *p, float v) {
    uint16_t h = sq_f32_to_f16(v);
    p[0] = (uint8_t)(h & 255);
    p[1] = (uint8_t)(h >> 8);
}

/* Low nibbles are the first half of n codes, high ones the second. */
static void nibbles(uint8_t *p, const uint8_t *codes, int n) {
    for (int i = 0; i < n / 2; i++) {
        p[i] = (uint8_t)((codes[i] & 15) | (codes[i + n / 2] & 15) << 4);
    }
}

static void put_q5_0(uint8_t *p, const uint8_t *codes, int zero) {
    uint8_t low[BLOCK];
    memset(p, 0, 4);
    for (int i = 0; i < BLOCK; i++) {
        int v = codes[i] - zero + 16;
        low[i] = (uint8_t)(v & 15);
        p[i / 8] = (uint8_t)(p[i / 8] | (v >> 4) << (i % 8));
    }
    nibbles(p + 4, low, BLOCK);
}

/* One scale and minimum for all eight parts: 6-bit scales 1, minima the zero point (at most 15, so
 * that the upper two bits are 0). */
static void put_q4_k(uint8_t *p, const uint8_t *codes, float scale, uint8_t zero) {
    put_half(p, scale);
    put_half(p + 2, scale);
    for (int j = 0; j < 4; j++) {
        p[4 + j] = 1;
        p[8 + j] = zero;
        p[12 + j] = (uint8_t)(1 | zero << 4);
    }
    for (int c = 0; c < SUPER / 64; c++) {
        nibbles(p + 16 + 32 * c, codes + 64 * c, 64);
    }
}

void sq_gguf_block_row(const sq_qlinear *q, sq_dtype type, int64_t r, uint8_t *out) {
    int64_t block = (int64_t)sq_dtype_block(type), groups = groups_of(q);
    for (int64_t at = 0; at < q->k; at += block, out += sq_dtype_size(type)) {
        const uint8_t *codes = q->codes + r * q->k_padded + at;
        int64_t cell = r * groups + at / q->group;
        float s = q->scales[cell];
        uint8_t z = q->zeros[cell];
        if (type == SQ_Q4_K) {
            put_q4_k(out, codes, s, z);
            continue;
        }
        put_half(out, s);
        if (type == SQ_Q4_0) {
            nibbles(out + 2, codes, BLOCK);
        } else if (type == SQ_Q4_1) {
            put_half(out + 2, 0.0f - half(s) * (float)z); /* not -0: ggml has 0 */
            nibbles(out + 4, codes, BLOCK);
        } else if (type == SQ_Q5_0) {
            put_q5_0(out + 2, codes, z);
        } else {
            for (int i = 0; i < BLOCK; i++) {
                out[2 + i] = (uint8_t)(codes[i] - z);
            }
        }
    }
}

void sq_gguf_round_q8_0(const float *x, int64_t n, uint8_t *out) {
    for (int64_t at = 0; at < n; at += BLOCK, out += BLOCK + 2) {
        float most = 0;
        for (int i = 0; i < BLOCK; i++) {
            most = fmaxf(most, fabsf(x[at + i]));
        }
        float d = most / 127, inv = d > 0 ? 1 / d : 0;
        put_half(out, d);
        for (int i = 0; i < BLOCK; i++) {
            out[2 + i] = (uint8_t)(int8_t)roundf(x[at + i] * inv);
        }
    }
}
