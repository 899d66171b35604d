/* What the files of this folder share: the table rows, the layout of packed weights, per-thread
 * scratch. */
#ifndef SQ_KERNELS_INTERNAL_H
#define SQ_KERNELS_INTERNAL_H

#include "base/mem.h"
#include <math.h>

#include "kernels/kernels.h"

/* CPU features as bits; an ISA row needs a set of them. */
enum {
    SQ_CPU_AVX2 = 1 << 0,
    SQ_CPU_FMA = 1 << 1,
    SQ_CPU_F16C = 1 << 2,
    SQ_CPU_AVX512 = 1 << 3, /* F, BW, DQ, VL and the OS saves the registers */
    SQ_CPU_AVX512_VNNI = 1 << 4,
    SQ_CPU_AVX512_BF16 = 1 << 5,
    SQ_CPU_AVX_VNNI = 1 << 6,
};
unsigned sq_cpu_detect(void);

/* Each fills the slots that the ISA does better. */
void sq_kernels_init_c(sq_kernels *k);
void sq_kernels_init_avx2(sq_kernels *k);
void sq_kernels_init_avx512(sq_kernels *k);
void sq_kernels_init_avx512_vnni(sq_kernels *k);
void sq_kernels_init_avx512_bf16(sq_kernels *k);
/* The products with rounded inputs of the AVX2 row. */
void sq_rounded_init_avx2(sq_kernels *k);

/* Layout of packed codes: a row is ceil(k_padded / 128) chunks. 4-bit: 64 bytes a chunk, read as 16
 * 32-bit lanes; nibble j of lane i is column 16 j + i of the chunk. 8-bit: 128 bytes a chunk,
 * column after column. Codes beyond k_padded are 0, and x is 0 there. */
enum { SQ_CHUNK_COLUMNS = 128 };

static inline int64_t sq_weight_chunks(const sq_weight *w) {
    return (w->k_padded + SQ_CHUNK_COLUMNS - 1) / SQ_CHUNK_COLUMNS;
}
static inline int64_t sq_weight_groups(const sq_weight *w) { return w->k_padded / w->group; }
static inline int64_t sq_weight_row_bytes(const sq_weight *w) {
    return sq_weight_chunks(w) * (w->kind == SQ_W_Q4 ? 64 : 128);
}
static inline const uint8_t *sq_weight_row(const sq_weight *w, int64_t row) {
    return (const uint8_t *)w->data + row * sq_weight_row_bytes(w);
}

/* Products with rounded inputs sum exact integers over a piece of the columns: a group, or 32
 * columns where 32 but not 128 divides the group. In a row of codes each piece is filled up to
 * `stride`. */
static inline int64_t sq_weight_piece(const sq_weight *w) {
    int split = w->group % 32 == 0 && w->group % SQ_CHUNK_COLUMNS != 0 && w->group < w->k_padded;
    return split ? 32 : w->group;
}
static inline int64_t sq_weight_pieces(const sq_weight *w) {
    return w->k_padded / sq_weight_piece(w);
}
static inline int64_t sq_weight_stride(const sq_weight *w) {
    return sq_round_up(sq_weight_piece(w), 32);
}
/* Four bits: codes -8..7; eight: -128..127. */
static inline int sq_weight_middle(const sq_weight *w) { return w->kind == SQ_W_Q4 ? 8 : 128; }

/* Rows of 8-bit codes, from a row's sum of code * x over n columns. */
typedef int32_t (*sq_dot_i8)(const uint8_t *codes, const int8_t *x, int64_t n);
static inline void sq_gemv_i8(sq_dot_i8 dot, const sq_weight *w, int64_t row0, int64_t rows,
                              const sq_rounded *x, float *y) {
    int64_t piece = sq_weight_piece(w), stride = sq_weight_stride(w), pieces = sq_weight_pieces(w),
            per = w->group / piece;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *codes = sq_weight_row(w, row0 + r);
        const float *scales = w->scales + (row0 + r) * sq_weight_groups(w);
        float acc[4] = {0};
        for (int64_t p = 0; p < pieces; p++) {
            int32_t d = dot(codes + p * piece, x->codes + p * stride, piece);
            d -= 128 * x->sums[p];
            acc[p % 4] = fmaf(scales[p / per], (float)d, acc[p % 4]);
        }
        y[r] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
    }
}

/* A panel: up to two bytes a code of 16 rows, then scales [pieces][16]. */
enum { SQ_PANEL = 16 };
static inline size_t sq_panel_codes(const sq_weight *w) {
    return 2 * SQ_PANEL * (size_t)(sq_weight_pieces(w) * sq_weight_stride(w));
}
static inline size_t sq_panel_bytes(const sq_weight *w) {
    return sq_panel_codes(w) + SQ_PANEL * sizeof(float) * (size_t)sq_weight_pieces(w);
}
void sq_panel_scales(const sq_weight *w, int64_t row0, int64_t n, uint8_t *panel);
/* Codes as [columns / 4][16 rows][4] bytes or, wide, [columns / 2][16 rows][2] of 16 bits. */
void sq_panel_quads(const sq_weight *w, int64_t row0, int64_t n, int wide, uint8_t *panel);

/* How a block type of ggml becomes codes, scales and offsets (w = code * scale + offset). `read`
 * fills block codes and block / group scales and offsets from one block's bytes. */
enum { SQ_MAX_BLOCK = 256 };
typedef struct sq_block_form {
    int bits;
    int64_t group;
    void (*read)(const uint8_t *block, uint8_t *codes, float *scales, float *offsets);
} sq_block_form;
int sq_block_describe(sq_dtype t, sq_block_form *out); /* 0: no block type */

/* Weight [row][c] as f32. */
float sq_weight_at(const sq_weight *w, int64_t row, int64_t c);

/* C = alpha A op(B) + beta C on the calling thread alone (oneDNN), row-major. The one place that
 * knows its API. */
void sq_sgemm_serial(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc);

/* At least n floats of the calling thread's own scratch `slot` (0..2), or NULL. */
float *sq_thread_scratch(int slot, size_t n);

#endif
