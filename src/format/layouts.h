/* How other packages lay out a quantized linear: AutoAWQ's gemm and gemv, GPTQ v1 and v2, beside
 * compressed-tensors. All hold the same codes and zero points; only the order of bits differs, and
 * v1 keeps a zero point less one. Sources: AutoAWQ 0.2.9 (modules/linear, utils/packing_utils),
 * GPTQModel 7.7.0 (nn_modules/qlinear, utils/model.py). */
#ifndef SQ_FORMAT_LAYOUTS_H
#define SQ_FORMAT_LAYOUTS_H

#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

typedef enum sq_layout {
    SQ_LAYOUT_CT,
    SQ_LAYOUT_AWQ_GEMM,
    SQ_LAYOUT_AWQ_GEMV,
    SQ_LAYOUT_GPTQ,
    SQ_LAYOUT_GPTQ_V2,
    SQ_LAYOUT_COUNT
} sq_layout;

/* "compressed-tensors", "awq-gemm", "awq-gemv", "gptq", "gptq-v2". */
const char *sq_layout_name(sq_layout l);
/* Also "awq" for "awq-gemm"; 0 when there is none of this name. */
int sq_layout_parse(const char *name, sq_layout *out);
static inline int sq_layout_is_awq(sq_layout l) {
    return l == SQ_LAYOUT_AWQ_GEMM || l == SQ_LAYOUT_AWQ_GEMV;
}
static inline int sq_layout_is_gptq(sq_layout l) {
    return l == SQ_LAYOUT_GPTQ || l == SQ_LAYOUT_GPTQ_V2;
}

/* Weight [n][k] in groups of `group` columns. */
typedef struct sq_layout_form {
    sq_layout layout;
    int bits;
    int64_t n, k, group;
} sq_layout_form;

/* The tensors of a linear, by index of the arrays below. */
typedef enum sq_layout_part {
    SQ_LAYOUT_QWEIGHT, /* ".qweight" */
    SQ_LAYOUT_QZEROS,  /* ".qzeros" */
    SQ_LAYOUT_SCALES,  /* ".scales" */
    SQ_LAYOUT_G_IDX,   /* ".g_idx", of GPTQ alone */
    SQ_LAYOUT_PARTS
} sq_layout_part;
extern const char *const sq_layout_suffix[SQ_LAYOUT_PARTS];

typedef struct sq_layout_shape {
    int rank; /* 0: the layout has no such tensor */
    int64_t dims[2];
} sq_layout_shape;

/* What keeps the form from being held, as "what; got …, wanted …" in err (SQ_EUNSUPPORTED); the
 * caller names the linear. `writing`: by the rules of the packages' own packers, which want whole
 * words of 32 in more places than their loaders. */
sq_status sq_layout_check(const sq_layout_form *f, int writing, sq_error *err);
/* Shapes of a form that sq_layout_check let pass. scales are floats, the others I32. */
void sq_layout_shapes(const sq_layout_form *f, sq_layout_shape out[SQ_LAYOUT_PARTS]);
static inline size_t sq_layout_cells(const sq_layout_shape *s) {
    return s->rank == 0 ? 0 : (size_t)s->dims[0] * (size_t)(s->rank == 1 ? 1 : s->dims[1]);
}

/* codes[n][k] and zeros[n][k / group] from 0; scales[n][k / group]. The packed tensors have the
 * shapes above; what the layout pads is 0. */
void sq_layout_pack_codes(const sq_layout_form *f, uint32_t *words, const uint8_t *codes);
void sq_layout_unpack_codes(const sq_layout_form *f, uint8_t *codes, const uint32_t *words);
/* v1 cannot hold the zero point 0: packing gives 0 and *row, *group say where it is. */
int sq_layout_pack_zeros(const sq_layout_form *f, uint32_t *words, const uint8_t *zeros,
                         int64_t *row, int64_t *group);
void sq_layout_unpack_zeros(const sq_layout_form *f, uint8_t *zeros, const uint32_t *words);
void sq_layout_pack_scales(const sq_layout_form *f, float *stored, const float *scales);
void sq_layout_unpack_scales(const sq_layout_form *f, float *scales, const float *stored);

/* g_idx[k] of groups that lie in the order of columns. */
void sq_layout_plain_order(const sq_layout_form *f, int32_t *g_idx);
/* The order of columns in which groups are whole: columns[j] is the j-th column to read, those of
 * group 0 first. 1: it is the plain order; 0: another; -1: g_idx does not name each group `group`
 * times. columns may be NULL. */
int sq_layout_order(const sq_layout_form *f, const int32_t *g_idx, int32_t *columns);

#endif
