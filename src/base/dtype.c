#include "base/dtype.h"

static const struct {
    const char *name;
    size_t size, block;
} table[SQ_DTYPE_COUNT] = {
    [SQ_F32] = {"F32", 4, 1},       [SQ_F16] = {"F16", 2, 1},       [SQ_BF16] = {"BF16", 2, 1},
    [SQ_F64] = {"F64", 8, 1},       [SQ_I8] = {"I8", 1, 1},         [SQ_U8] = {"U8", 1, 1},
    [SQ_I16] = {"I16", 2, 1},       [SQ_U16] = {"U16", 2, 1},       [SQ_I32] = {"I32", 4, 1},
    [SQ_U32] = {"U32", 4, 1},       [SQ_I64] = {"I64", 8, 1},       [SQ_U64] = {"U64", 8, 1},
    [SQ_BOOL] = {"BOOL", 1, 1},     [SQ_Q4_0] = {"Q4_0", 18, 32},   [SQ_Q4_1] = {"Q4_1", 20, 32},
    [SQ_Q5_0] = {"Q5_0", 22, 32},   [SQ_Q5_1] = {"Q5_1", 24, 32},   [SQ_Q8_0] = {"Q8_0", 34, 32},
    [SQ_Q4_K] = {"Q4_K", 144, 256}, [SQ_Q5_K] = {"Q5_K", 176, 256}, [SQ_Q6_K] = {"Q6_K", 210, 256},
};

size_t sq_dtype_size(sq_dtype t) { return (unsigned)t < SQ_DTYPE_COUNT ? table[t].size : 0; }

size_t sq_dtype_block(sq_dtype t) {
    return (unsigned)t < SQ_DTYPE_COUNT && table[t].block > 0 ? table[t].block : 1;
}

const char *sq_dtype_name(sq_dtype t) { return (unsigned)t < SQ_DTYPE_COUNT ? table[t].name : "?"; }

int sq_dtype_parse(const char *name, sq_dtype *out) {
    for (int i = 0; i <= SQ_BOOL; i++) {
        if (strcmp(name, table[i].name) == 0) {
            *out = (sq_dtype)i;
            return 1;
        }
    }
    return 0;
}

float sq_f16_to_f32(uint16_t v) {
    uint32_t sign = (uint32_t)(v & 0x8000u) << 16;
    uint32_t exp = (v >> 10) & 0x1fu, man = v & 0x3ffu, u;
    if (exp == 0x1f) {
        u = sign | 0x7f800000u | (man << 13);
    } else if (exp != 0) {
        u = sign | ((exp + 112u) << 23) | (man << 13);
    } else {
        float f = (float)man * 0x1p-24f;
        memcpy(&u, &f, sizeof u);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t sq_f32_to_f16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (u >= 0x477ff000u) { /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (u < 0x38800000u) { /* subnormal or zero: let the FPU round to a multiple of 2^-24 */
        float a;
        memcpy(&a, &u, sizeof a);
        a += 0.5f; /* 2^-1 has an ulp of 2^-24 */
        uint32_t r;
        memcpy(&r, &a, sizeof r);
        return (uint16_t)(sign | (r - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1u);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

int sq_to_f32(float *dst, const void *src, sq_dtype t, size_t n) {
    const unsigned char *p = src; /* file data need not be aligned */
    if (t == SQ_F32) {
        memcpy(dst, src, n * sizeof *dst);
        return 1;
    }
    if (t != SQ_F16 && t != SQ_BF16) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, p + 2 * i, 2);
        dst[i] = t == SQ_F16 ? sq_f16_to_f32(v) : sq_bf16_to_f32(v);
    }
    return 1;
}

int sq_from_f32(void *dst, sq_dtype t, const float *src, size_t n) {
    unsigned char *p = dst;
    if (t == SQ_F32) {
        memcpy(dst, src, n * sizeof *src);
        return 1;
    }
    if (t != SQ_F16 && t != SQ_BF16) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t v = t == SQ_F16 ? sq_f32_to_f16(src[i]) : sq_f32_to_bf16(src[i]);
        memcpy(p + 2 * i, &v, 2);
    }
    return 1;
}
