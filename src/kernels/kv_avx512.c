/* Attention over a KV cache of 8-bit integers, AVX-512 VNNI: dpbusd adds four codes (unsigned)
 * times numbers (signed) to a 32-bit lane, exactly. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kv_tiles.h"

static inline __m512i word(const char *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* In place: left to itself, gcc copies the sums about. */
static inline void add(__m512i *sum, __m512i codes, __m512i numbers) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(codes), "v"(numbers));
}

static inline __attribute__((always_inline)) void put(const sq_kv_product *p, int64_t row,
                                                      int64_t column, __m512i sum) {
    float *c = p->c + row * p->ldc + column;
    /* in whole numbers that may wrap, as the sum does not */
    __m512i excess = _mm512_set1_epi32((int)(128u * (uint32_t)p->sums[row]));
    __m512 f = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, excess));
    f = p->scale == NULL ? f : _mm512_mul_ps(f, _mm512_set1_ps(p->scale[row]));
    f = p->columns == NULL ? f : _mm512_mul_ps(f, _mm512_loadu_ps(p->columns + column));
    _mm512_storeu_ps(c, p->add ? _mm512_add_ps(_mm512_loadu_ps(c), f) : f);
}

#define START(r) __m512i s##r = _mm512_setzero_si512(), t##r = s##r, u##r = s##r, w##r = s##r;
#define ADD(r)                                                                                     \
    if (r < m) {                                                                                   \
        __m512i v = word(a + r * lda + 4 * k);                                                     \
        add(&s##r, b0, v);                                                                         \
        if (wide > 1) {                                                                            \
            add(&t##r, b1, v);                                                                     \
            add(&u##r, b2, v);                                                                     \
            add(&w##r, b3, v);                                                                     \
        }                                                                                          \
    }
#define SHIFT(r)                                                                                   \
    s##r = _mm512_slli_epi32(s##r, 8);                                                             \
    t##r = _mm512_slli_epi32(t##r, 8);                                                             \
    u##r = _mm512_slli_epi32(u##r, 8);                                                             \
    w##r = _mm512_slli_epi32(w##r, 8);
#define PUT(r)                                                                                     \
    if (r < m) {                                                                                   \
        put(p, row + r, column, s##r);                                                             \
        if (wide > 1) {                                                                            \
            put(p, row + r, column + 16, t##r);                                                    \
            put(p, row + r, column + 32, u##r);                                                    \
            put(p, row + r, column + 48, w##r);                                                    \
        }                                                                                          \
    }

/* One or four panels, first times the high bytes, then, 256 times that, times the low ones. */
static inline __attribute__((always_inline)) void tile(int m, int wide, const sq_kv_product *p,
                                                       int64_t row, int64_t column) {
    const int64_t lda = 4 * p->lda, ldb = 4 * p->ldb;
    const char *a = (const char *)p->a + row * lda + 4 * p->k, *from = (const char *)p->b;
    from += 4 * column;
    SQ_EACH_KV_ROW(START)
    for (int low = 0; low < 2; low++) {
        const char *b = from;
        for (int64_t k = 0; k < p->k; k++, b += ldb) {
            __m512i b0 = _mm512_loadu_si512(b), b1 = wide > 1 ? _mm512_loadu_si512(b + 64) : b0,
                    b2 = wide > 1 ? _mm512_loadu_si512(b + 128) : b0,
                    b3 = wide > 1 ? _mm512_loadu_si512(b + 192) : b0;
            if ((k & 1) == low) { /* half of it in each turn */
                sq_kv_fetch(p, k, ldb, 4 * column, 64 * wide);
            }
            SQ_EACH_KV_ROW(ADD)
        }
        if (!low) {
            SQ_EACH_KV_ROW(SHIFT)
            a -= 4 * p->k;
        }
    }
    SQ_EACH_KV_ROW(PUT)
}
SQ_KV_KERNEL(kv_i8, tile, 4)
void sq_kv_i8_avx512(const sq_kv_product *p) { kv_i8(p); }

static int32_t round_weights(int8_t *low, int8_t *high, const float *x, const float *factor,
                             float *worth) {
    const __m512i half = _mm512_set1_epi32(128);
    __m512i sum = _mm512_setzero_si512();
    __m512 v[SQ_KV_TOKENS / 16], top = _mm512_setzero_ps();
    __mmask16 bad = 0;
    for (int i = 0; i < SQ_KV_TOKENS / 16; i++) {
        v[i] = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), _mm512_loadu_ps(factor + 16 * i));
        top = _mm512_max_ps(top, v[i]);
        bad |= _mm512_cmp_ps_mask(v[i], v[i], _CMP_UNORD_Q);
    }
    float inverse = sq_weights_scale(bad ? NAN : _mm512_reduce_max_ps(top), worth);
    for (int i = 0; i < SQ_KV_TOKENS / 16; i++) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], _mm512_set1_ps(inverse)));
        __m512i h = _mm512_srai_epi32(_mm512_add_epi32(q, half), 8);
        /* the low byte of q is that of q - 256 h */
        _mm_storeu_si128((__m128i *)(void *)(low + 16 * i), _mm512_cvtepi32_epi8(q));
        _mm_storeu_si128((__m128i *)(void *)(high + 16 * i), _mm512_cvtepi32_epi8(h));
        sum = _mm512_add_epi32(sum, q);
    }
    return _mm512_reduce_add_epi32(sum);
}

void sq_kv_init_avx512_vnni(sq_kernels *k) {
    k->kv_i8 = kv_i8;
    k->round_weights = round_weights;
}
