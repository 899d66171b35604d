/* Attention over the KV cache, written once over vectors of VN floats: after simd_body.h, with its
 * words and v_even v_odd (the first or second numbers of VN pairs of bf16 at p). */
#include "kernels/kv_tiles.h"

enum { KV_F32, KV_F16, KV_EVEN, KV_ODD };

static inline __attribute__((always_inline)) V kv_load(int kind, const char *p) {
    return kind == KV_F32    ? v_load((const float *)(const void *)p)
           : kind == KV_F16  ? v_f16((const uint16_t *)(const void *)p)
           : kind == KV_EVEN ? v_even(p)
                             : v_odd(p);
}

static inline __attribute__((always_inline)) V kv_number(int kind, const char *p) {
    uint32_t word;
    float f;
    memcpy(&word, p, 4);
    word = kind == KV_EVEN ? word << 16 : kind == KV_ODD ? word & 0xffff0000u : word;
    memcpy(&f, &word, 4);
    return v_set1(f);
}

static inline __attribute__((always_inline)) void kv_put(const sq_kv_product *p, int64_t row,
                                                         int64_t column, V sum) {
    float *c = p->c + row * p->ldc + column;
    V f = p->scale == NULL ? sum : v_mul(sum, v_set1(p->scale[row]));
    v_store(c, p->add ? v_add(v_load(c), f) : f);
}

#define KV_START(r) V s##r = v_set1(0), t##r = s##r, u##r = s##r, w##r = s##r;
#define KV_ADD(r)                                                                                  \
    if (r < m) {                                                                                   \
        V v = kv_number(half, a + r * lda);                                                        \
        s##r = v_fma(v, b0, s##r);                                                                 \
        t##r = vectors > 1 ? v_fma(v, b1, t##r) : t##r;                                            \
        u##r = vectors > 2 ? v_fma(v, b2, u##r) : u##r;                                            \
        w##r = vectors > 2 ? v_fma(v, b3, w##r) : w##r;                                            \
    }
#define KV_PUT(r)                                                                                  \
    if (r < m) {                                                                                   \
        kv_put(p, row + r, column, s##r);                                                          \
        if (vectors > 1) {                                                                         \
            kv_put(p, row + r, column + VN, t##r);                                                 \
        }                                                                                          \
        if (vectors > 2) {                                                                         \
            kv_put(p, row + r, column + 2 * VN, u##r);                                             \
            kv_put(p, row + r, column + 3 * VN, w##r);                                             \
        }                                                                                          \
    }

/* kind: KV_F32, KV_F16, or KV_EVEN for pairs. */
static inline __attribute__((always_inline)) void
kv_tile(int kind, int m, int wide, const sq_kv_product *p, int64_t row, int64_t column) {
    const int vectors = wide * 16 / VN, size = kind == KV_F16 ? 2 : 4;
    const int64_t lda = 4 * p->lda, ldb = size * p->ldb;
    const char *a = (const char *)p->a + row * lda, *b = (const char *)p->b + size * column;
    SQ_EACH_KV_ROW(KV_START)
    for (int64_t k = 0; k < p->k; k++, a += 4, b += ldb) {
        sq_kv_fetch(p, k, ldb, size * column, 16 * wide * size);
        for (int half = kind; half <= (kind == KV_EVEN ? KV_ODD : kind); half++) {
            V b0 = kv_load(half, b), b1 = vectors > 1 ? kv_load(half, b + VN * size) : b0,
              b2 = vectors > 2 ? kv_load(half, b + 2 * VN * size) : b0,
              b3 = vectors > 2 ? kv_load(half, b + 3 * VN * size) : b0;
            SQ_EACH_KV_ROW(KV_ADD)
        }
    }
    SQ_EACH_KV_ROW(KV_PUT)
}

/* Sums in registers: four vectors of 16 lanes, two of 8. */
enum { KV_WIDE = VN == 16 ? 4 : 1 };
#define KV_TILE_F32(m, wide, p, i, j) kv_tile(KV_F32, m, wide, p, i, j)
#define KV_TILE_F16(m, wide, p, i, j) kv_tile(KV_F16, m, wide, p, i, j)
#define KV_TILE_BF16(m, wide, p, i, j) kv_tile(KV_EVEN, m, wide, p, i, j)
SQ_KV_KERNEL(k_kv_f32, KV_TILE_F32, KV_WIDE)
SQ_KV_KERNEL(k_kv_f16, KV_TILE_F16, KV_WIDE)
SQ_KV_KERNEL(k_kv_bf16, KV_TILE_BF16, KV_WIDE)

static float k_softmax_step(float *x, int64_t n, int64_t all, float *top) {
    for (int64_t i = n; i < all; i++) {
        x[i] = -INFINITY;
    }
    V most = v_set1(-INFINITY), more = most, sum = v_set1(0), next = sum;
    for (int64_t i = 0; i < all; i += 2 * VN) {
        most = v_max(most, v_load(x + i));
        more = v_max(more, v_load(x + i + VN));
    }
    *top = v_top(v_max(most, more));
    V base = v_set1(*top == -INFINITY ? 0.0f : *top);
    for (int64_t i = 0; i < all; i += 2 * VN) {
        V e = v_exp(v_sub(v_load(x + i), base)), f = v_exp(v_sub(v_load(x + i + VN), base));
        v_store(x + i, e);
        v_store(x + i + VN, f);
        sum = v_add(sum, e);
        next = v_add(next, f);
    }
    return v_sum(v_add(sum, next));
}

static void fill_kv(sq_kernels *k) {
    k->kv_f32 = k_kv_f32;
    k->kv_f16 = k_kv_f16;
    k->kv_bf16 = k_kv_bf16;
    k->softmax_step = k_softmax_step;
}
