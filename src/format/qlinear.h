/* A quantized linear by itself, whatever layout it is stored in: read from the tensors of a
 * checkpoint, and made into those of another layout. Codes and zero points are the same integers in
 * all of them. */
#ifndef SQ_FORMAT_QLINEAR_H
#define SQ_FORMAT_QLINEAR_H

#include "format/ct.h"
#include "format/layouts.h"
#include "format/safetensors.h"

/* w[r][c] = (codes[r][p] - zeros[r][p / group]) * scales[r][p / group], where p is c, or the place
 * of c in `columns`. */
typedef struct sq_qlinear {
    int bits, symmetric; /* symmetric: every zero point is 2^(bits-1) */
    int act_bits;        /* not 0: compressed-tensors' int-quantized */
    int64_t n, k, k_padded, group;
    sq_dtype scale_type; /* that the scales are stored in */
    uint8_t *codes;      /* [n][k_padded] */
    uint8_t *zeros;      /* [n][k_padded / group] */
    float *scales;       /* [n][k_padded / group] */
    int32_t *columns;    /* [k]: the column that stands at each place (act-order); NULL: its own */
} sq_qlinear;
void sq_qlinear_free(sq_qlinear *q);

/* The stored tensors of a linear; NULL where the layout or the scheme has none. */
typedef struct sq_qparts {
    const sq_tensor *codes;  /* .weight_packed, .weight (int8), .qweight */
    const sq_tensor *scales; /* .weight_scale, .scales */
    const sq_tensor *zeros;  /* .weight_zero_point, .qzeros */
    const sq_tensor *extra;  /* .weight_shape, .g_idx */
} sq_qparts;
/* How they end in this layout; `bytes`: compressed-tensors' int8. */
void sq_qparts_suffixes(sq_layout layout, int bytes, const char *out[4]);
/* 1 when `name` is `stem` with one of any layout's endings; *codes: of the tensor of codes. */
int sq_qparts_owns(const char *stem, const char *name, int *codes);

/* Checks types and shapes against n, k and the scheme. `what`: the linear's name for the error. */
sq_status sq_qlinear_read(sq_qlinear *out, const sq_qparts *p, sq_layout layout,
                          const sq_ct_scheme *s, int64_t n, int64_t k, const char *what,
                          sq_error *err);

/* A tensor that a linear is stored as. */
typedef struct sq_qtensor {
    const char *suffix;
    sq_dtype dtype;
    int rank;
    int64_t shape[2];
    void *data; /* owned; see sq_qtensors_free */
    size_t bytes;
} sq_qtensor;
enum { SQ_QTENSORS = 4 };

/* Which tensors of which shape; data stay NULL. Returns how many. */
int sq_qlinear_specs(const sq_qlinear *q, sq_layout layout, sq_qtensor out[SQ_QTENSORS]);
/* And their data. What the layout cannot hold is SQ_EUNSUPPORTED and names `what`. */
sq_status sq_qlinear_store(const sq_qlinear *q, sq_layout layout, const char *what,
                           sq_qtensor out[SQ_QTENSORS], int *n, sq_error *err);
/* Whether it would, without storing it. */
sq_status sq_qlinear_check(const sq_qlinear *q, sq_layout layout, const char *what, sq_error *err);
void sq_qtensors_free(sq_qtensor *t, int n);

#endif
