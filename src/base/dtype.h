/* Element types as safetensors names them, and 16-bit float conversions. */
#ifndef SQ_BASE_DTYPE_H
#define SQ_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum sq_dtype {
    SQ_F32,
    SQ_F16,
    SQ_BF16,
    SQ_F64,
    SQ_I8,
    SQ_U8,
    SQ_I16,
    SQ_U16,
    SQ_I32,
    SQ_U32,
    SQ_I64,
    SQ_U64,
    SQ_BOOL,
    /* ggml's blocks of quantized weights (ggml-common.h): only in GGUF files */
    SQ_Q4_0,
    SQ_Q4_1,
    SQ_Q5_0,
    SQ_Q5_1,
    SQ_Q8_0,
    SQ_Q4_K,
    SQ_Q5_K,
    SQ_Q6_K,
    SQ_DTYPE_COUNT
} sq_dtype;

/* Bytes an element, or a block of ggml's types; 0 for an unknown type. */
size_t sq_dtype_size(sq_dtype t);
/* Elements a block; 1 for plain types. */
size_t sq_dtype_block(sq_dtype t);
/* "F32", "BF16", …; "?" for an unknown type. */
const char *sq_dtype_name(sq_dtype t);
/* Finds a plain type by its safetensors name; returns 0 when there is none. */
int sq_dtype_parse(const char *name, sq_dtype *out);

static inline float sq_bf16_to_f32(uint16_t v) {
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t sq_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((u >> 16) | 0x40u);
    }
    u += 0x7fffu + ((u >> 16) & 1u);
    return (uint16_t)(u >> 16);
}

float sq_f16_to_f32(uint16_t v);
/* Round to nearest even; overflow gives infinity. */
uint16_t sq_f32_to_f16(float f);

/* Widens n elements of F32, F16 or BF16 to f32; returns 0 for any other type. Portable reference;
 * the hot path uses the kernel table. */
int sq_to_f32(float *dst, const void *src, sq_dtype t, size_t n);
/* Narrows n f32 to F32, F16 or BF16; returns 0 for any other type. */
int sq_from_f32(void *dst, sq_dtype t, const float *src, size_t n);

#endif
