/* GPTQ (Frantar et al. 2022) from X'X alone: column after column is rounded, and what is left of
 * the error goes into the columns that are still to come. Scales and zero points stay as given
 * ("static groups"), so that the order of columns is free and nothing of it needs to be stored. */
#ifndef SQ_QUANT_GPTQ_H
#define SQ_QUANT_GPTQ_H

#include "quant/codes.h"
#include "quant/stats.h"

typedef struct sq_gptq_options {
    double damp;       /* share of the mean diagonal that is added to it; 0: 0.01 */
    int natural_order; /* columns as they lie, instead of the largest diagonal first */
} sq_gptq_options;

/* The lower Cholesky factor of H = S^-1 X'X S^-1 + damping, columns in the reverse order of
 * rounding. */
typedef struct sq_gptq {
    int64_t k;
    float *factor;  /* [k][k], nothing above the diagonal; NULL: not usable */
    int32_t *order; /* [k]: the column at each index of the factor; the last one is rounded first */
    uint8_t *dead;  /* [k] by index: a column that no input ever used */
    double damp;    /* what it took */
} sq_gptq;

/* Factors for a scale (nullable) that the columns of W are multiplied with. Where H cannot be
 * factored the damping grows tenfold, in f64, up to the mean diagonal itself; then factor stays
 * NULL and the status is SQ_OK: the caller rounds to nearest. */
sq_status sq_gptq_open(sq_gptq *g, const sq_stat *stat, const float *scale,
                       const sq_gptq_options *o, sq_error *err);
void sq_gptq_close(sq_gptq *g);

/* left[k]: the factor's squared diagonal by column, the share of a column's error that no other
 * column can make up for. */
void sq_gptq_left(const sq_gptq *g, float *left);

/* Writes the codes of ws[c->n][k] for the scales and zero points that c holds. */
sq_status sq_gptq_codes(const sq_gptq *g, const float *ws, sq_codes *c, sq_error *err);

#endif
