/* All hot arithmetic. One table of function pointers: the C reference fills every slot, an ISA
 * overrides what it does better; the table is chosen once from the CPU's flags and the mask.
 *
 * Conventions: rows are tokens. x is [rows][k] f32 with a row stride; a weight matrix is [n][k], y
 * = x W^T. Work is split over output rows/columns, never over k, so results do not depend on the
 * thread count. */
#ifndef SQ_KERNELS_KERNELS_H
#define SQ_KERNELS_KERNELS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

/* How a weight matrix is held. Packing, compute and tile shape belong together: only kernels/ looks
 * inside. */
typedef enum sq_wkind { SQ_W_F32, SQ_W_F16, SQ_W_BF16, SQ_W_Q4, SQ_W_Q8 } sq_wkind;

/* The one type for a weight matrix [n][k]. Dense kinds borrow the file's memory; quantized kinds
 * own a packed copy. */
typedef struct sq_weight {
    sq_wkind kind;
    int64_t n, k;
    int64_t k_padded; /* columns stored: k rounded up to the group (extra columns are zero) */
    int64_t group;    /* columns a group; 0 for dense */
    const void
        *data;   /* dense: [n][k] of the kind's type, possibly unaligned; quantized: packed codes */
    void *owned; /* sq_free'd by sq_weight_free */
    float *scales;  /* kernel order */
    float *offsets; /* kernel order: (2^(bits-1) - zero) * scale; NULL when all are 0 */
    uint16_t *half; /* kernel order: the scales where all are exact in f16, then NULL above */
    uint8_t *zeros; /* kernel order: zero points beside `half`; NULL when all are the middle */
    float *sums;    /* [n, rounded up to a panel] each row's sum */
    int32_t *place; /* [k]: where column c is stored (GPTQ's act-order); NULL: at c */
    int32_t *order; /* [k]: which column is stored at c; of the same block of memory */
} sq_weight;

/* Borrows a dense matrix of F32, F16 or BF16. */
sq_status sq_weight_dense(sq_weight *w, sq_dtype t, const void *data, int64_t n, int64_t k,
                          sq_error *err);
/* Gives a row of a matrix that is packed: codes[k_padded], scales[groups] and, where the matrix has
 * any, offsets[groups]: w = (code - 2^(bits-1)) * scale + offset. Returns 0 when it has no memory.
 * Called from several threads. */
typedef int (*sq_weight_row_fn)(const void *user, int64_t row, uint8_t *codes, float *scales,
                                float *offsets);
/* Packs a matrix of 4- or 8-bit codes row by row; group divides k_padded. */
sq_status sq_weight_pack(sq_weight *w, int bits, int64_t n, int64_t k, int64_t k_padded,
                         int64_t group, int offsets, sq_weight_row_fn read, const void *user,
                         sq_error *err);
/* The same from codes[n][k_padded], a byte each, scales[n][groups] and zeros[n][groups] (NULL:
 * 2^(bits-1)): w = (code - zero) * scale. Copies everything. */
sq_status sq_weight_codes(sq_weight *w, int bits, const uint8_t *codes, const float *scales,
                          const uint8_t *zeros, int64_t n, int64_t k, int64_t k_padded,
                          int64_t group, sq_error *err);
/* A dense matrix rounded to nearest: 8 bits symmetric in groups of 128, or 4 bits asymmetric in
 * groups of 64. */
sq_status sq_weight_round(sq_weight *w, const sq_weight *dense, int bits, sq_error *err);
/* Says that the columns of a quantized matrix without padding are stored in another order:
 * columns[j] is the one at place j. Copies. */
sq_status sq_weight_order(sq_weight *w, const int32_t *columns, sq_error *err);
/* How a block type of ggml becomes codes, scales and offsets (w = code * scale + offset). `read`
 * fills block codes and block / group scales and offsets from one block's bytes. */
enum { SQ_MAX_BLOCK = 256 };
typedef struct sq_block_form {
    int bits;
    int64_t group;
    void (*read)(const uint8_t *block, uint8_t *codes, float *scales, float *offsets);
} sq_block_form;
int sq_block_describe(sq_dtype t, sq_block_form *out); /* 0: no block type */

/* Packs ggml's blocks (SQ_Q4_0 … SQ_Q6_K), [n][k / block] of them: 4-bit codes stay 4-bit, wider
 * ones become 8-bit; groups are the blocks' own (32, or 16 for Q6_K). Values are as ggml
 * dequantizes them, to f32 rounding. Copies everything. */
sq_status sq_weight_blocks(sq_weight *w, sq_dtype t, const void *data, int64_t n, int64_t k,
                           sq_error *err);
void sq_weight_free(sq_weight *w);
size_t sq_weight_bytes(const sq_weight *w);
/* What a packed matrix of k columns takes, known before it is: `scale` bytes a group are 2 for
 * scales that are exact in f16 and 1 more for zero points, else 4 and 4 more for offsets. */
size_t sq_packed_bytes(int bits, int64_t n, int64_t k, int64_t k_padded, int64_t group, int scale);
/* Writes rows [row0, row0+rows) as f32 [rows][k]. */
void sq_weight_rows_f32(const sq_weight *w, int64_t row0, int64_t rows, float *out);

/* y[rows][n] (stride ldy) = x[rows][k] (stride ldx) W^T + bias[n] (nullable); f32 accumulation. Few
 * rows of a dense matrix go through the table's dot kernels, all else through panels widened to f32
 * and oneDNN's sgemm. Reads exactly k columns of x. Allocates nothing but scratch that each thread
 * keeps: one panel of at most max(128 Ki, 16 k) floats, grown by the first calls; without memory
 * for it the product is computed element by element. Results do not depend on the number of
 * threads; a row's result differs by float rounding between few rows (at most 8) and many. Any
 * thread may call.
 */
void sq_matmul(const sq_weight *w, const float *x, int64_t ldx, int64_t rows, const float *bias,
               float *y, int64_t ldy);

/* The same of x rounded to bf16, for dense BF16 weights and many rows where the CPU multiplies bf16
 * pairs; else sq_matmul. */
void sq_matmul_bf16(const sq_weight *w, const float *x, int64_t ldx, int64_t rows,
                    const float *bias, float *y, int64_t ldy);

/* How inputs are rounded to integers for a product of integers. SQ_ROUND_8*: row by row to 8 bits,
 * as sq_fake_quantize_rows says (dynamic activation quantization per token). SQ_ROUND_16: to 16
 * bits, each row's each piece of at most 128 columns (a group's, where groups are smaller) with its
 * own scale, largest |x| / 32512: what is lost is 2^-16 of the piece's largest number, so that
 * W4A16 and W8A16 keep f32's accuracy but for its last digits. */
typedef enum sq_rounding { SQ_ROUND_8, SQ_ROUND_8_SYMMETRIC, SQ_ROUND_16 } sq_rounding;

typedef struct sq_product {
    const sq_weight *w;
    const float *bias; /* [n], nullable */
    float *y;
    int64_t ldy;
} sq_product;

/* The products y = x W^T + bias of `count` matrices (at most SQ_PRODUCTS, all of k columns) that
 * share an input, in one pass, with x rounded: exact sums of integers within a piece of the
 * columns, then f32 in one fixed order, so that a row's result is the same to the bit on every ISA,
 * with any number of threads or rows, and that of the rounded numbers to f32 rounding. A piece with
 * a number that is none gives NaN. Dense weights take sq_matmul, over copies rounded to 8 bits
 * where that is the rounding. */
enum { SQ_PRODUCTS = 3 };
void sq_matmul_rounded(const sq_product *products, int count, sq_rounding rounding, const float *x,
                       int64_t ldx, int64_t rows);

/* The calling thread's share of such products over at most SQ_SHARE_ROWS rows. All threads of a
 * team call it with the same products and `taken` [count], zeros before the first: each takes runs
 * of columns until none is left, so that the faster one takes more. Each rounds the inputs for
 * itself, in space of its own (the most of sq_share_floats of the matrices), and nobody waits: a
 * product is done when all have returned. */
enum { SQ_SHARE_ROWS = 8 };
void sq_matmul_share(const sq_product *products, int count, sq_rounding rounding, const float *x,
                     int64_t ldx, int64_t rows, int parts, atomic_int *taken, float *space);
int64_t sq_share_floats(const sq_weight *w, sq_rounding rounding, int64_t rows);

/* Floats of scratch that such products over `rows` rows of k columns keep at most. */
int64_t sq_rounded_floats(int64_t rows, int64_t k);

/* Rows of x[rows][k] rounded in place to 8-bit integers and back, each with its own scale (and zero
 * point, unless symmetric): dynamic activation quantization per token, as compressed-tensors and
 * torchao define it. 0 stays 0. */
void sq_fake_quantize_rows(float *x, int64_t ldx, int64_t rows, int64_t k, int symmetric);

/* C[m][n] (+)= A[m][k] B[n][k]^T or, with trans_b = 0, A[m][k] B[k][n]; plain f32 through oneDNN.
 */
void sq_sgemm(int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
              int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* C[k][k] += X[rows][k]^T X[rows][k], the calibration's second moment, on and above the diagonal
 * (what lies below is not defined until sq_syrk_mirror). Where the CPU multiplies bf16 pairs, of X
 * rounded to bf16, summed in f32; else in f32. */
void sq_syrk_accumulate(const float *x, int64_t ldx, int64_t rows, int64_t k, float *c);
/* C below the diagonal from above it. */
void sq_syrk_mirror(int64_t k, float *c);
/* trace(D C D^T) of D[m][k] and a symmetric C[k][k], D C in blocks of columns of which only
 * what is not below the diagonal is computed. tmp [m][k]. */
double sq_quadratic(const float *d, int64_t m, const float *c, int64_t k, float *tmp);

/* A matrix B[k][n] made ready for many products with parts of it: as panels of bf16 pairs where the
 * CPU multiplies those, else B itself, which is borrowed in any case. */
typedef struct sq_operand {
    const float *b;
    int64_t k, n, ldb;
    uint32_t *panels; /* [panels of 16 columns][pairs of rows][16]; NULL: none */
} sq_operand;
/* lower: no row before a part's last column is asked for. */
sq_status sq_operand_open(sq_operand *o, const float *b, int64_t ldb, int64_t k, int64_t n,
                          int lower, sq_error *err);
void sq_operand_close(sq_operand *o);
/* C[m][columns] += A[m][rows] B[row .. row + rows)[column .. column + columns) on the calling
 * thread; A and B rounded to bf16 where there are panels and `row` is even and `column` a multiple
 * of 16. */
void sq_operand_add(const sq_operand *o, int64_t row, int64_t rows, int64_t column, int64_t columns,
                    const float *a, int64_t lda, int64_t m, float *c, int64_t ldc);

/* Rows of inputs as integers, side by side: x = scale * (low + 256 high) of its piece, the columns
 * in the order of the packed weights (internal.h). */
typedef struct sq_rounded {
    int rows, planes; /* 1, 2, 4 or 8 rows; planes 1: low alone, 2: low and high; at most 8 lanes */
    int64_t pieces;   /* of a row, those with one sum: sq_scale_pieces */
    int64_t columns;  /* stored of such a piece, but for the last ones: sq_piece_stored */
    int64_t stored;   /* of all pieces: sq_weight_columns */
    int few;          /* a tile or two: the weights come from memory for them */
    int8_t *codes;    /* [columns / 4][planes][rows][4], or as the table's wide_inputs says */
    int32_t *sums;    /* [pieces][rows] of low + 256 high */
    float *scales;    /* planes 1: [rows]; planes 2: [pieces][rows] */
    float *worth; /* [pieces][rows], for offsets: the sum, times the piece's scale with planes 2 */
    float *zeros; /* [rows] scale * zero point of a row; NULL when all are 0 */
} sq_rounded;

enum { SQ_GPTQ_LANES = 16 };
typedef struct sq_gptq_block {
    int64_t n, ldl;
    const float *l; /* the factor's diagonal block, lower triangle */
    const float *w, *scales, *zeros;
    float *carry; /* used up */
    float *codes, *errors;
    float top;
} sq_gptq_block;

/* A product of attention over a block of the KV cache: c[rows][n] = scale * A B, or with `add`
 * c + scale * A B. A is [rows][k], B [k][n] of stride ldb with n a multiple of 16. A step of k is
 * a word: one number for f32 and f16, a pair of bf16 (the first in the low half), four integers of
 * 8 bits; B's words lie side by side for the columns. Integers: A's row is two planes of k words,
 * low and high (signed bytes, low + 256 high), B's are bytes, less 128. */
typedef struct sq_kv_product {
    int64_t rows, n, k;
    const void *a;        /* words of 32 bits; f32 beside f16 */
    const void *b;        /* words of 32 bits; of 16 for f16 */
    int64_t lda, ldb;     /* in these words; lda at least 2 k for integers */
    int add;              /* 0: c is written only */
    const float *scale;   /* [rows], nullable: 1 */
    const float *columns; /* [n], integers alone, nullable: each column's factor beside the scale */
    const int32_t *sums;  /* [rows], integers alone: the sum of a row's numbers */
    float *c;
    int64_t ldc;
    const void *next; /* nullable: what is read later, as large as B: fetched meanwhile */
    /* Where the table has kv_rest, kv_bf16 alone, k a multiple of 16: more B that A's rows go on
     * with, k words for each. Without a scale the same to the bit as one added after the other. */
    const void *const *rest;
    int64_t n_rest;
} sq_kv_product;
enum { SQ_KV_TOKENS = 64 }; /* of a block */

/* The table. Every function works on one row or one tile; callers split the work over threads. */
typedef struct sq_kernels {
    const char *name;                                               /* "c", "avx2", "neon", … */
    float (*dot_f32)(const float *a, const float *b, int64_t n);    /* a may be unaligned */
    float (*dot_f16)(const uint16_t *w, const float *x, int64_t n); /* w may be unaligned */
    float (*dot_bf16)(const uint16_t *w, const float *x, int64_t n);
    /* Widen n elements. */
    void (*widen_f16)(float *dst, const uint16_t *src, int64_t n);
    void (*widen_bf16)(float *dst, const uint16_t *src, int64_t n);
    void (*widen_i8)(float *dst, const int8_t *src, float scale, int64_t n); /* dst = scale * src */
    /* Rounded inputs. lo <= 0 and hi >= 0 of x, both NaN when a number is none. */
    void (*range)(const float *x, int64_t n, float *lo, float *hi);
    /* q = x / scale + zero, to the nearest even whole number of -128..127; returns their sum. */
    int32_t (*round_i8)(int8_t *q, const float *x, float scale, float zero, int64_t n);
    /* high * 256 + low = x * inverse to the nearest even whole number; at most 32512 in size.
     * Returns their sum (modulo 2^32). */
    int32_t (*round_i16)(int8_t *low, int8_t *high, const float *x, float inverse, int64_t n);
    /* y[row * ldy + c] of the panels' columns c (of all n): over pieces p in order, d_p the exact
     * sum of (code - zero point) * x, f = (float)d_p, with planes 2 times x scale; acc = fma(w
     * scale, f, acc); with offsets acc = fma(offset, x worth, acc). At the end, with planes 1, acc
     * *= x scale; with x zeros acc = fma(-x zero, w sum, acc); and the bias (nullable). */
    void (*int_tile)(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy);
    /* The same of so many tiles, one behind the other. NULL: int_tile is as good. */
    void (*int_tiles)(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                      int64_t tiles, const float *bias, float *y, int64_t ldy);
    /* The same of many rows in tiles of sixteen, zeros behind the last one, x codes
     * [pieces of w][planes][steps of 64 columns][16 rows][64]. Returns 0 without memory. NULL: the
     * others are as good. */
    int (*int_many)(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                    int64_t rows, const float *bias, float *y, int64_t ldy);
    /* int_tile and int_tiles take tiles of at most SQ_WIDE_ROWS rows and, unless 4-bit codes meet
     * planes 1, x codes as 16-bit numbers, low + 256 high: [columns / 2][rows][2], of each four
     * columns 0, 2, 1, 3. */
    int wide_inputs;
    /* Products of bf16 pairs summed in f32; all NULL where the CPU has none. narrow_bf16: n numbers
     * rounded to nearest even. pair_bf16: out[n, rounded up to 16] =
     * n columns of two rows as pairs (even in the low half; odd NULL: 0), 0 beyond n.
     * tile_bf16: c[rows][columns] (stride ldc) += over pairs p of a[row * a_row + p] times b,
     * panels of [pairs][16 columns], b_panel words from one to the next. */
    void (*narrow_bf16)(uint16_t *dst, const float *src, int64_t n);
    /* n <= 16 rows w[n][k] of stride ldw as a panel of [pairs of columns][16 rows], 0 beyond n and
     * k
     */
    void (*panel_bf16)(const uint16_t *w, int64_t ldw, int64_t n, int64_t k, uint32_t *out);
    void (*pair_bf16)(const float *even, const float *odd, int64_t n, uint32_t *out);
    void (*tile_bf16)(int64_t rows, int64_t columns, int64_t pairs, const uint32_t *a,
                      int64_t a_row, const uint32_t *b, int64_t b_panel, float *c, int64_t ldc);
    /* Attention over the KV cache. kv_i8: c + ((float)(exact sum) * scale) * column. */
    void (*kv_f32)(const sq_kv_product *p);
    void (*kv_f16)(const sq_kv_product *p);
    void (*kv_bf16)(const sq_kv_product *p);
    void (*kv_i8)(const sq_kv_product *p);
    int kv_rest; /* kv_bf16 takes `rest`: sums of many blocks stay where they are */
    /* A part of a row's softmax, x[all] of which the first n count, all a multiple of SQ_KV_TOKENS:
     * *top is the largest of them, x becomes exp(x - *top), 0 from n on. Returns the sum; NaN if
     * any is. */
    float (*softmax_step)(float *x, int64_t n, int64_t all, float *top);
    /* The same to bf16, x as it is; NULL where the CPU has no bf16. */
    float (*softmax_bf16)(const float *x, uint16_t *out, int64_t n, int64_t all, float *top);
    /* SQ_KV_TOKENS products x * factor, none below 0: high * 256 + low is each as a whole number
     * (to nearest, ties to even) of *worth, the largest of them / 32512 (0 where none is above
     * 1e-30; NaN where one is no finite number, and the integers are not told). Returns the
     * integers' sum.
     */
    int32_t (*round_weights)(int8_t *low, int8_t *high, const float *x, const float *factor,
                             float *worth);
    void (*axpy)(float *y, float a, const float *x, int64_t n); /* y += a x */
    /* y = x / sqrt(mean(x^2) + eps) * w, one row (HF LlamaRMSNorm in f32) */
    void (*rmsnorm)(float *y, const float *x, const float *w, float eps, int64_t n);
    /* y = (x - mean) / sqrt(var + eps) * w + b, one row; b may be NULL */
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, float eps,
                      int64_t n);
    /* softmax in place, returns nothing; -inf entries give 0, also when all are; NaN gives NaN */
    void (*softmax)(float *x, int64_t n);
    /* gate[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(float *gate, const float *up, int64_t n);
    void (*quick_gelu)(float *x, int64_t n);
    void (*gelu_erf)(float *x, int64_t n);
    void (*gelu_tanh)(float *x, int64_t n);
    /* rotate-half over one head of dim d: pairs (i, i + d/2), cos/sin [d/2] */
    void (*rope)(float *x, const float *cos, const float *sin, int64_t d);
    /* Search for scales: finite w on the grid (q - zero) * scale, q whole in 0..top. back[i] is
     * what w[i] becomes, and the sum of h (back - w)^2; both round w / scale half to even. */
    void (*round_back)(const float *w, int64_t n, float scale, float zero, float top, float *back);
    float (*round_loss)(const float *w, const float *h, int64_t n, float scale, float zero,
                        float top);
    /* GPTQ within a block of n columns of SQ_GPTQ_LANES rows, from the last column to the first:
     * q = clamp(round(want / scale) + zero, 0, top), half to even, want = w + carry / l[i][i];
     * error = w - (q - zero) scale; carry of every column j < i grows by error * l[i][j]. All
     * arrays but l (row stride ldl) are [n][SQ_GPTQ_LANES]. */
    void (*gptq_block)(const sq_gptq_block *b);
} sq_kernels;

/* The chosen table; sq_kernels_select is called on first use with no mask. */
const sq_kernels *sq_kernels_get(void);
/* Chooses by mask: NULL or "" for what SQUINT_CPU allows, or the best; else a comma list of names
 * of sq_kernels_available that may be used. The environment variable SQUINT_CPU is the default
 * mask. An unknown or unavailable name is SQ_EARG. */
sq_status sq_kernels_select(const char *mask, sq_error *err);
/* All tables that this CPU can run, "c" first; for checkasm and `devices`. */
size_t sq_kernels_available(const sq_kernels **tables, size_t max);
/* Space-separated CPU flags that matter here. */
const char *sq_cpu_flags(void);
/* Measured on the spot, all threads: bytes read a second; GFLOP/s of an f32 product, of the bf16
 * tile in the cache (0: the CPU has none), and of a product with weights of 4 or 8 bits whose
 * inputs are rounded so. */
double sq_measure_bandwidth(void);
double sq_measure_sgemm(void);
double sq_measure_bf16(void);
double sq_measure_rounded(int bits, sq_rounding how);
/* Threads of every later product and measurement, whichever thread calls; 0: as OpenMP starts with
 * (OMP_NUM_THREADS or all). */
void sq_set_threads(int n);
int sq_threads(void);

#endif
