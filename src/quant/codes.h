/* Quantized matrices: rounding to nearest in groups, with scales rounded to the type that they are
 * stored in before any code is computed; all rounding is half to even (formats.md 2.1). */
#ifndef SQ_QUANT_CODES_H
#define SQ_QUANT_CODES_H

#include "base/dtype.h"
#include "base/mem.h"

/* What a linear gets. */
typedef struct sq_grid {
    int bits, symmetric;
    int act_bits, act_symmetric; /* 8: inputs are rounded, row by row; 0: they are not */
    int64_t group;               /* columns a group; divides k_padded */
    int64_t k, k_padded;         /* padded columns are zero */
    sq_dtype scale_type;
    int scale_bits; /* significant bits of a scale at most; 0: all that its type has */
} sq_grid;

typedef struct sq_codes {
    sq_grid grid;
    int64_t n;
    uint8_t *codes; /* [n][k_padded], unsigned */
    float *scales;  /* [n][groups] */
    uint8_t *zeros; /* [n][groups] */
} sq_codes;
sq_status sq_codes_open(sq_codes *c, const sq_grid *grid, int64_t n, sq_error *err);
void sq_codes_close(sq_codes *c);

/* A scale as it is stored. */
float sq_grid_scale(const sq_grid *g, float s);
/* Scale and zero of the range [lo, hi] with 0 forced into it. */
void sq_grid_range(const sq_grid *g, float lo, float hi, float *scale, uint8_t *zero);
/* The values that a group's codes reach. */
typedef struct sq_range {
    float lo, hi;
} sq_range;
/* From the least to the largest finite value, with 0. */
sq_range sq_range_of(const float *w, int64_t n);
/* Quantizes one group of n values that `range` (NULL: all of them) clips: codes, and what they
 * stand for. Either output may be NULL. */
void sq_quantize_group(const sq_grid *g, const float *w, int64_t n, const sq_range *range,
                       uint8_t *codes, float *back, float *scale, uint8_t *zero);
/* Quantizes w[n][k]; ranges[n][groups] (nullable) clip each group. */
void sq_quantize_rows(sq_codes *c, const float *w, const sq_range *ranges);
/* Row r as numbers, k of them. */
void sq_codes_row(const sq_codes *c, int64_t r, float *out);

#endif
