/* Attention over a KV cache of 8-bit integers, NEON: an ISA file defines add_words(sums, codes, x),
 * which adds to each of four 32-bit sums its four codes (signed) times the four of x, then includes
 * this. */
#include <string.h>

#include "kernels/kv_tiles.h"

static inline __attribute__((always_inline)) void kv_put(const sq_kv_product *p, int64_t row,
                                                         int64_t column, int32x4_t sum) {
    float *c = p->c + row * p->ldc + column;
    float32x4_t f = vcvtq_f32_s32(sum);
    f = p->scale == NULL ? f : vmulq_n_f32(f, p->scale[row]);
    f = p->columns == NULL ? f : vmulq_f32(f, vld1q_f32(p->columns + column));
    vst1q_f32(c, p->add ? vaddq_f32(vld1q_f32(c), f) : f);
}

/* Four numbers of a row, four times. */
static inline int8x16_t kv_word(const char *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

static inline int8x16_t kv_codes(const char *p) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8((const uint8_t *)p), vdupq_n_u8(128)));
}

#define KV_START(r) int32x4_t s##r = vdupq_n_s32(0), t##r = s##r, u##r = s##r, w##r = s##r;
#define KV_ADD(r)                                                                                  \
    if (r < m) {                                                                                   \
        int8x16_t v = kv_word(a + r * lda + 4 * k);                                                \
        s##r = add_words(s##r, b0, v);                                                             \
        t##r = add_words(t##r, b1, v);                                                             \
        u##r = add_words(u##r, b2, v);                                                             \
        w##r = add_words(w##r, b3, v);                                                             \
    }
#define KV_SHIFT(r)                                                                                \
    s##r = vshlq_n_s32(s##r, 8);                                                                   \
    t##r = vshlq_n_s32(t##r, 8);                                                                   \
    u##r = vshlq_n_s32(u##r, 8);                                                                   \
    w##r = vshlq_n_s32(w##r, 8);
#define KV_PUT(r)                                                                                  \
    if (r < m) {                                                                                   \
        kv_put(p, row + r, column, s##r);                                                          \
        kv_put(p, row + r, column + 4, t##r);                                                      \
        kv_put(p, row + r, column + 8, u##r);                                                      \
        kv_put(p, row + r, column + 12, w##r);                                                     \
    }

/* A panel, first times the high bytes, then, 256 times that, times the low ones. */
static inline __attribute__((always_inline)) void kv_tile(int m, const sq_kv_product *p,
                                                          int64_t row, int64_t column) {
    const int64_t lda = 4 * p->lda, ldb = 4 * p->ldb;
    const char *a = (const char *)p->a + row * lda + 4 * p->k, *from = (const char *)p->b;
    from += 4 * column;
    SQ_EACH_KV_ROW(KV_START)
    for (int low = 0; low < 2; low++) {
        const char *b = from;
        for (int64_t k = 0; k < p->k; k++, b += ldb) {
            int8x16_t b0 = kv_codes(b), b1 = kv_codes(b + 16), b2 = kv_codes(b + 32),
                      b3 = kv_codes(b + 48);
            if ((k & 1) == low) { /* half of it in each turn */
                sq_kv_fetch(p, k, ldb, 4 * column, 64);
            }
            SQ_EACH_KV_ROW(KV_ADD)
        }
        if (!low) {
            SQ_EACH_KV_ROW(KV_SHIFT)
            a -= 4 * p->k;
        }
    }
    SQ_EACH_KV_ROW(KV_PUT)
}
#define KV_TILE(m, wide, p, i, j) kv_tile(m, p, i, j)
SQ_KV_KERNEL(kv_i8, KV_TILE, 1)
