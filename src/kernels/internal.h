/* What the files of this folder share: the table rows, the layout of packed weights, per-thread
 * scratch. */
#ifndef SQ_KERNELS_INTERNAL_H
#define SQ_KERNELS_INTERNAL_H

#include <math.h>

#include "base/mem.h"
#include "kernels/kernels.h"

/* One row an ISA: the set of CPU flags that it needs, and what it does better than the rows before.
 * cpu_ARCHITECTURE.c lists those of its architecture from the plainest to the best, up to one
 * without a name; the C reference comes before all. */
typedef struct sq_isa {
    const char *name;
    unsigned needs;
    void (*init)(sq_kernels *k);
} sq_isa;
enum { SQ_MOST_ISAS = 8 }; /* with the C reference */
extern const sq_isa sq_isas[];
/* Flags of this CPU, and the name of each bit up to NULL. */
unsigned sq_cpu_detect(void);
extern const char *const sq_cpu_flag_names[];
/* Takes a table as the chosen one, also one of a test's own. */
void sq_kernels_use(const sq_kernels *t);

/* Each fills the slots that the ISA does better. */
void sq_kernels_init_c(sq_kernels *k);
void sq_kernels_init_avx2(sq_kernels *k);
void sq_kernels_init_avx2_vnni(sq_kernels *k);
void sq_kernels_init_avx512(sq_kernels *k);
void sq_kernels_init_avx512_vnni(sq_kernels *k);
void sq_kernels_init_avx512_bf16(sq_kernels *k);
void sq_kernels_init_amx(sq_kernels *k);
void sq_kernels_init_neon(sq_kernels *k);
void sq_kernels_init_neon_dotprod(sq_kernels *k);
/* The products with rounded inputs of these rows. */
void sq_rounded_init_avx2(sq_kernels *k);
void sq_rounded_init_avx2_tiles(sq_kernels *k);
void sq_rounded_init_neon(sq_kernels *k);
/* Attention over the KV cache: the C reference, and the integers of the AVX2 and VNNI rows. */
void sq_kv_init_c(sq_kernels *k);
void sq_kv_init_avx2(sq_kernels *k);
void sq_kv_init_avx512_vnni(sq_kernels *k);
/* For few rows AMX is no faster. */
void sq_kv_i8_avx512(const sq_kv_product *p);
/* The parts of the AMX row. */
void sq_rounded_init_amx(sq_kernels *k);
void sq_bf16_init_amx(sq_kernels *k);
void sq_kv_init_amx(sq_kernels *k);

/* Layout of packed codes. A group's columns are cut into pieces of at most 128, each filled up with
 * zeros to `stride` columns; behind the matrix' last column no word is stored, so that the last
 * pieces may be shorter, or nothing; x is held in the same order. Sixteen rows of the matrix are a
 * panel (the last one is filled up with zeros), [pieces][words of a piece][16 rows] of 32 bits, so
 * that a register is one word of every row. 4 bits: a word is eight columns, byte b of it columns b
 * (low half) and 4 + b (high half). 8 bits: four columns, byte after byte. Scales, zero points and
 * offsets are [panels][groups][16]; w = (code - middle) * scale + offset, the offset of a zero
 * point (middle - zero) * scale. */
enum { SQ_PANEL = 16, SQ_PIECE = 128 };

static inline int64_t sq_weight_groups(const sq_weight *w) { return w->k_padded / w->group; }
static inline int64_t sq_weight_panels(const sq_weight *w) { return sq_ceil_div(w->n, SQ_PANEL); }
/* Pieces of a group, and of a row. */
static inline int64_t sq_weight_split(const sq_weight *w) {
    return sq_ceil_div(w->group, SQ_PIECE);
}
static inline int64_t sq_weight_pieces(const sq_weight *w) {
    return sq_weight_groups(w) * sq_weight_split(w);
}
static inline int64_t sq_weight_stride(const sq_weight *w) {
    return sq_round_up(sq_ceil_div(w->group, sq_weight_split(w)), 8);
}
/* First column of piece p, of k_padded, and how many it has. */
static inline int64_t sq_piece_start(const sq_weight *w, int64_t p) {
    return p / sq_weight_split(w) * w->group + p % sq_weight_split(w) * sq_weight_stride(w);
}
static inline int64_t sq_piece_columns(const sq_weight *w, int64_t p) {
    int64_t left = w->group - p % sq_weight_split(w) * sq_weight_stride(w);
    return left < 0 ? 0 : left < sq_weight_stride(w) ? left : sq_weight_stride(w);
}
/* Columns stored of all pieces: up to the matrix' last, whole words. */
static inline int64_t sq_weight_columns(const sq_weight *w) {
    int64_t last = w->k - 1, stride = sq_weight_stride(w);
    int64_t piece = last / w->group * sq_weight_split(w) + last % w->group / stride;
    return piece * stride + sq_round_up(last - sq_piece_start(w, piece) + 1, 8);
}
/* Of `all`, those of piece p where each but the last ones has `columns`. */
static inline int64_t sq_piece_stored(int64_t all, int64_t columns, int64_t p) {
    int64_t left = all - p * columns;
    return left < 0 ? 0 : left < columns ? left : columns;
}
/* Scales of a row's inputs: where a row has one alone, all pieces of a group are summed as
 * integers, as far as 32 bits hold the sum, and 23 that of the inputs (rounded_avx2_tiles.c). */
static inline int64_t sq_scale_pieces(const sq_weight *w, int planes) {
    return planes == 1 && w->group < 1 << 15 ? sq_weight_groups(w) : sq_weight_pieces(w);
}
static inline int64_t sq_panel_bytes(const sq_weight *w) {
    return sq_weight_columns(w) * SQ_PANEL / (w->kind == SQ_W_Q4 ? 2 : 1);
}
static inline const uint8_t *sq_weight_panel(const sq_weight *w, int64_t panel) {
    return (const uint8_t *)w->data + panel * sq_panel_bytes(w);
}
/* Codes -8..7 and -128..127 about it. */
static inline int sq_weight_middle(const sq_weight *w) { return w->kind == SQ_W_Q4 ? 8 : 128; }

/* Where the table has wide_inputs: rows of a tile; whether these inputs are. */
enum { SQ_WIDE_ROWS = 4 };
static inline int sq_wide_inputs(const sq_weight *w, int planes) {
    return planes == 2 || w->kind == SQ_W_Q8;
}

/* Where the table has int_many: rows from which it is asked, and of its tiles; columns of one of
 * its steps, which a piece has one or two of (the last one filled up with zeros). */
enum { SQ_MANY_FROM = 9, SQ_MANY_ROWS = 16, SQ_STEP = 64 };
static inline int64_t sq_weight_steps(const sq_weight *w) {
    return sq_ceil_div(sq_weight_stride(w), SQ_STEP);
}

/* Weight [row][c] as f32. */
float sq_weight_at(const sq_weight *w, int64_t row, int64_t c);

/* round_weights: what the largest product makes of *worth; returns its inverse, or 0. */
static inline float sq_weights_scale(float top, float *worth) {
    const float most = 32512.0f;
    int fine = top < INFINITY, some = fine && top > 1e-30f;
    *worth = some ? top / most : fine ? 0.0f : NAN;
    return some ? most / top : 0.0f;
}

/* C = alpha A op(B) + beta C on the calling thread alone (oneDNN), row-major. The one place that
 * knows its API. */
void sq_sgemm_serial(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc);

/* Columns [lo, hi) of y = x W^T + bias by the dot kernels over a dense matrix, on the calling
 * thread. */
void sq_matmul_dots(const sq_weight *w, const float *x, int64_t ldx, int64_t rows,
                    const float *bias, float *y, int64_t ldy, int64_t lo, int64_t hi);

/* At least n floats of the calling thread's own scratch `slot` (0..2), or NULL. */
float *sq_thread_scratch(int slot, size_t n);

#endif
