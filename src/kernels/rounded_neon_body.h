/* Sums of integers for rounded_body.h, NEON. Four registers are one word of the sixteen rows of a
 * panel; an ISA file defines add_four(sums, codes, x, lane, bits), which adds to each of four
 * 32-bit sums the four codes of its row times word `lane` of x, then includes this. Codes are
 * signed there: 0..15, or -128..127 about the middle of 8 bits. */

/* gcc keeps an array of registers in memory when a loop over it is unrolled late: eight lanes of up
 * to four sums by name. */
#define EACH_LANE(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define START(i)                                                                                   \
    int32x4_t a##i = vdupq_n_s32(bits == 4 && i < lanes ? start[i] : 0), b##i = a##i, c##i = a##i, \
              e##i = a##i;
#define ADD(i)                                                                                     \
    if (i < lanes) {                                                                               \
        a##i = add_four(a##i, q[0], v[i / 4], i % 4, bits);                                        \
        b##i = add_four(b##i, q[1], v[i / 4], i % 4, bits);                                        \
        c##i = parts == 4 ? add_four(c##i, q[2], v[i / 4], i % 4, bits) : c##i;                    \
        e##i = parts == 4 ? add_four(e##i, q[3], v[i / 4], i % 4, bits) : e##i;                    \
    }
#define KEEP(i)                                                                                    \
    if (i < lanes) {                                                                               \
        vst1q_s32(d[i] + row, a##i);                                                               \
        vst1q_s32(d[i] + row + 4, b##i);                                                           \
        if (parts == 4) {                                                                          \
            vst1q_s32(d[i] + row + 8, c##i);                                                       \
            vst1q_s32(d[i] + row + 12, e##i);                                                      \
        }                                                                                          \
    }

/* Four columns of up to eight lanes. */
static inline __attribute__((always_inline)) void load_lanes(int lanes, const int8_t *x,
                                                             int8x16_t v[2]) {
    int8x8_t none = vdup_n_s8(0);
    v[0] = lanes == 1   ? vcombine_s8(vreinterpret_s8_u8(v_word(x)), none)
           : lanes == 2 ? vcombine_s8(vld1_s8(x), none)
                        : vld1q_s8(x);
    v[1] = lanes == 8 ? vld1q_s8(x + 16) : v[0];
}

/* Rows [row, row + 4 parts) of the panel; parts are 2 or 4. */
static inline __attribute__((always_inline)) void part_sums(int row, int parts, int lanes, int bits,
                                                            int64_t columns, const uint8_t *w,
                                                            const int8_t *x, const int32_t *start,
                                                            int32_t d[][SQ_PANEL]) {
    const uint8_t *end = w + columns * SQ_PANEL * bits / 8;
    EACH_LANE(START)
    for (; w < end; w += 4 * SQ_PANEL, x += 4 * lanes) {
        uint8x16_t all[4];
        int8x16_t q[4], v[2];
        for (int j = 0; j < 4; j++) {
            all[j] = vld1q_u8(w + 4 * row + 16 * (j % parts));
            q[j] = vreinterpretq_s8_u8(bits == 4 ? vandq_u8(all[j], vdupq_n_u8(15))
                                                 : veorq_u8(all[j], vdupq_n_u8(128)));
        }
        load_lanes(lanes, x, v);
        EACH_LANE(ADD)
        if (bits == 4) {
            x += 4 * lanes;
            for (int j = 0; j < 4; j++) {
                q[j] = vreinterpretq_s8_u8(vshrq_n_u8(all[j], 4));
            }
            load_lanes(lanes, x, v);
            EACH_LANE(ADD)
        }
    }
    EACH_LANE(KEEP)
}

/* Eight lanes' sums fit the registers for half of a panel. */
static inline __attribute__((always_inline)) void piece_sums(int lanes, int bits, int64_t columns,
                                                             const uint8_t *w, const int8_t *x,
                                                             const int32_t *start,
                                                             int32_t d[][SQ_PANEL]) {
    const int parts = lanes == 8 ? 2 : 4;
    for (int row = 0; row < SQ_PANEL; row += 4 * parts) {
        part_sums(row, parts, lanes, bits, columns, w, x, start, d);
    }
}

#include "kernels/rounded_body.h"
