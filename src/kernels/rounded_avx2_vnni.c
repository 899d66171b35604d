/* Products with rounded inputs, AVX2 and AVX-VNNI: dpbusd adds four codes (unsigned) times inputs
 * (signed) to a 32-bit lane, exactly; two registers are one word of the sixteen rows of a panel. */
#include <math.h>

#include "kernels/internal.h"
#include "kernels/simd_avx2.h"

enum { WORDS = 64 }; /* bytes of a word of sixteen rows */

/* gcc keeps an array of registers in memory when a loop over it is unrolled late: the sums of four
 * lanes by name. Up to two lanes have two sets of them, so that no sum waits for the one before. */
#define EACH_LANE(M) M(0) M(1) M(2) M(3)
#define START(i)                                                                                   \
    __m256i a##i = _mm256_set1_epi32(i < n ? start[i] : 0), b##i = a##i;                           \
    __m256i c##i = _mm256_setzero_si256(), e##i = c##i;
#define ADD_EVEN(i)                                                                                \
    if (i < n) {                                                                                   \
        __m256i v = v_four(x + 4 * i);                                                             \
        a##i = _mm256_dpbusd_epi32(a##i, qa, v);                                                   \
        b##i = _mm256_dpbusd_epi32(b##i, qb, v);                                                   \
    }
#define ADD_ODD(i)                                                                                 \
    if (i < n) {                                                                                   \
        __m256i v = v_four(x + 4 * (lanes + i));                                                   \
        if (n > 2) {                                                                               \
            a##i = _mm256_dpbusd_epi32(a##i, qa, v);                                               \
            b##i = _mm256_dpbusd_epi32(b##i, qb, v);                                               \
        } else {                                                                                   \
            c##i = _mm256_dpbusd_epi32(c##i, qa, v);                                               \
            e##i = _mm256_dpbusd_epi32(e##i, qb, v);                                               \
        }                                                                                          \
    }
#define KEEP(i)                                                                                    \
    if (i < n) {                                                                                   \
        a##i = n > 2 ? a##i : _mm256_add_epi32(a##i, c##i);                                        \
        b##i = n > 2 ? b##i : _mm256_add_epi32(b##i, e##i);                                        \
        _mm256_storeu_si256((__m256i *)(void *)d[i], a##i);                                        \
        _mm256_storeu_si256((__m256i *)(void *)(d[i] + 8), b##i);                                  \
    }

static inline __m256i load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* n <= 4 of the lanes, eight columns at a time: a word of 4-bit codes or two of 8 bits. */
static inline __attribute__((always_inline)) void some_lanes(int n, int lanes, int bits,
                                                             int64_t columns, const uint8_t *w,
                                                             const int8_t *x, const int32_t *start,
                                                             int32_t d[][SQ_PANEL]) {
    const __m256i low = _mm256_set1_epi8(15);
    EACH_LANE(START)
    for (int64_t k = 0; k < columns; k += 8, w += WORDS * bits / 4, x += 8 * lanes) {
        __m256i a = load(w), b = load(w + 32);
        __m256i qa = bits == 4 ? _mm256_and_si256(a, low) : a;
        __m256i qb = bits == 4 ? _mm256_and_si256(b, low) : b;
        EACH_LANE(ADD_EVEN)
        qa = bits == 4 ? _mm256_and_si256(_mm256_srli_epi16(a, 4), low) : load(w + WORDS);
        qb = bits == 4 ? _mm256_and_si256(_mm256_srli_epi16(b, 4), low) : load(w + WORDS + 32);
        EACH_LANE(ADD_ODD)
    }
    EACH_LANE(KEEP)
}

static inline __attribute__((always_inline)) void piece_sums(int lanes, int bits, int64_t columns,
                                                             const uint8_t *w, const int8_t *x,
                                                             const int32_t *start,
                                                             int32_t d[][SQ_PANEL]) {
    for (int i = 0; i < lanes; i += 4) {
        int n = lanes - i < 4 ? lanes - i : 4;
        some_lanes(n, lanes, bits, columns, w, x + 4 * i, start + i, d + i);
    }
}

#include "kernels/rounded_body.h"

void sq_kernels_init_avx2_vnni(sq_kernels *k) {
    k->int_tile = int_tile;
    k->int_tiles = NULL;
    k->wide_inputs = 0;
}
