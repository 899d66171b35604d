/* ggml's block types (ggml-common.h, dequantize_row_* of ggml-quants.c) as codes, scales and
 * offsets. */
#include <string.h>

#include "kernels/internal.h"

static float half_at(const uint8_t *p) { return sq_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

/* Two halves of a block of 32 in the low and the high nibbles. */
static void nibbles(const uint8_t *p, uint8_t *codes, int64_t n) {
    for (int64_t i = 0; i < n / 2; i++) {
        codes[i] = p[i] & 15;
        codes[i + n / 2] = p[i] >> 4;
    }
}

/* The fifth bits of a block of 32. */
static void fifth_bits(const uint8_t *p, uint8_t *codes) {
    for (int i = 0; i < 32; i++) {
        codes[i] |= (uint8_t)((p[i / 8] >> (i % 8) & 1) << 4);
    }
}

static void read_q4_0(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    *scales = half_at(p);
    *offsets = -8.0f * *scales;
    nibbles(p + 2, codes, 32);
}

static void read_q4_1(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    *scales = half_at(p);
    *offsets = half_at(p + 2);
    nibbles(p + 4, codes, 32);
}

/* Codes lie around 128, as those of 8 bits: no offset then rounds what they stand for. */
static void read_q5_0(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    *scales = half_at(p);
    *offsets = -128.0f * *scales;
    nibbles(p + 6, codes, 32);
    fifth_bits(p + 2, codes);
    for (int i = 0; i < 32; i++) {
        codes[i] = (uint8_t)(codes[i] + 128 - 16);
    }
}

static void read_q5_1(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    *scales = half_at(p);
    *offsets = half_at(p + 2);
    nibbles(p + 8, codes, 32);
    fifth_bits(p + 4, codes);
}

static void read_q8_0(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    *scales = half_at(p);
    *offsets = -128.0f * *scales;
    for (int i = 0; i < 32; i++) {
        codes[i] = p[2 + i] ^ 0x80; /* int8 + 128 */
    }
}

/* Eight 6-bit scales and minima in 12 bytes (get_scale_min_k4). */
static void k_scales(const uint8_t *p, float *scales, float *offsets) {
    float d = half_at(p), dmin = half_at(p + 2);
    const uint8_t *s = p + 4;
    for (int j = 0; j < 8; j++) {
        int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        int m = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
        scales[j] = d * (float)sc;
        offsets[j] = -dmin * (float)m;
    }
}

static void read_q4_k(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    k_scales(p, scales, offsets);
    for (int c = 0; c < 4; c++) {
        nibbles(p + 16 + 32 * c, codes + 64 * c, 64);
    }
}

static void read_q5_k(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    k_scales(p, scales, offsets);
    for (int c = 0; c < 4; c++) {
        nibbles(p + 48 + 32 * c, codes + 64 * c, 64);
        for (int i = 0; i < 64; i++) {
            codes[64 * c + i] |= (uint8_t)((p[16 + i % 32] >> (2 * c + i / 32) & 1) << 4);
        }
    }
}

/* 128 low nibbles and 64 high bit pairs for each half; 16 int8 scales. Codes lie around 128, as
 * Q5_0's. */
static void read_q6_k(const uint8_t *p, uint8_t *codes, float *scales, float *offsets) {
    const uint8_t *lo = p, *hi = p + 128;
    float d = half_at(p + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, at = i % 128, quarter = at / 32, l = at % 32;
        uint8_t low = lo[64 * half + l + quarter % 2 * 32];
        low = quarter < 2 ? low & 15 : low >> 4;
        codes[i] = (uint8_t)(96 + (low | (hi[32 * half + l] >> (2 * quarter) & 3) << 4));
    }
    for (int j = 0; j < 16; j++) {
        int8_t s;
        memcpy(&s, p + 192 + j, 1);
        scales[j] = d * (float)s;
        offsets[j] = -128.0f * scales[j];
    }
}

int sq_block_describe(sq_dtype t, sq_block_form *out) {
    switch (t) {
    case SQ_Q4_0:
        *out = (sq_block_form){4, 32, read_q4_0};
        return 1;
    case SQ_Q4_1:
        *out = (sq_block_form){4, 32, read_q4_1};
        return 1;
    case SQ_Q5_0:
        *out = (sq_block_form){8, 32, read_q5_0};
        return 1;
    case SQ_Q5_1:
        *out = (sq_block_form){8, 32, read_q5_1};
        return 1;
    case SQ_Q8_0:
        *out = (sq_block_form){8, 32, read_q8_0};
        return 1;
    case SQ_Q4_K:
        *out = (sq_block_form){4, 32, read_q4_k};
        return 1;
    case SQ_Q5_K:
        *out = (sq_block_form){8, 32, read_q5_k};
        return 1;
    case SQ_Q6_K:
        *out = (sq_block_form){8, 16, read_q6_k};
        return 1;
    default:
        return 0;
    }
}
