#include "quant/codes.h"

#include <math.h>
#include <string.h>

static int64_t groups_of(const sq_grid *g) { return g->k_padded / g->group; }

sq_status sq_codes_open(sq_codes *c, const sq_grid *grid, int64_t n, sq_error *err) {
    *c = (sq_codes){.grid = *grid, .n = n};
    size_t cells = (size_t)(n * groups_of(grid));
    c->codes = sq_alloc((size_t)n, (size_t)grid->k_padded, "codes", err);
    c->scales = sq_alloc(cells, sizeof *c->scales, "scales", err);
    c->zeros = sq_alloc(cells, 1, "zero points", err);
    if (c->codes == NULL || c->scales == NULL || c->zeros == NULL) {
        sq_codes_close(c);
        return SQ_ENOMEM;
    }
    return SQ_OK;
}

void sq_codes_close(sq_codes *c) {
    sq_free(c->codes);
    sq_free(c->scales);
    sq_free(c->zeros);
    *c = (sq_codes){0};
}

float sq_grid_scale(const sq_grid *g, float v) {
    sq_dtype t = g->scale_type;
    if (g->scale_bits > 0 && isfinite(v)) {
        int e;
        float m = frexpf(v, &e);
        v = ldexpf(rintf(ldexpf(m, g->scale_bits)), e - g->scale_bits);
    }
    return t == SQ_BF16  ? sq_bf16_to_f32(sq_f32_to_bf16(v))
           : t == SQ_F16 ? sq_f16_to_f32(sq_f32_to_f16(v))
                         : v;
}

void sq_grid_range(const sq_grid *g, float lo, float hi, float *scale, uint8_t *zero) {
    float top = (float)((1 << g->bits) - 1), half = (float)(1 << (g->bits - 1));
    float s = g->symmetric ? fmaxf(-lo, hi) / (top / 2) : (hi - lo) / top;
    s = sq_grid_scale(g, s);
    if (!(s > 0) || !isfinite(s)) { /* a group of zeros, or a range below or above the type's */
        s = g->scale_type == SQ_F16 ? 6.103515625e-5f : 1.1754943508e-38f;
    }
    float z = g->symmetric ? half : rintf(-lo / s);
    *scale = s;
    *zero = (uint8_t)fminf(fmaxf(z, 0), top);
}

sq_range sq_range_of(const float *w, int64_t n) {
    sq_range r = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        int usable = isfinite(w[i]); /* a broken weight must not cost its group's others */
        r.lo = usable && w[i] < r.lo ? w[i] : r.lo;
        r.hi = usable && w[i] > r.hi ? w[i] : r.hi;
    }
    return r;
}

void sq_quantize_group(const sq_grid *g, const float *w, int64_t n, const sq_range *range,
                       uint8_t *codes, float *back, float *scale, uint8_t *zero) {
    sq_range r = range == NULL ? sq_range_of(w, n) : *range;
    float s;
    uint8_t z;
    sq_grid_range(g, r.lo, r.hi, &s, &z);
    float top = (float)((1 << g->bits) - 1), half = (float)(1 << (g->bits - 1)), zf = (float)z;
    for (int64_t i = 0; i < n; i++) {
        /* compressed-tensors rounds the sum with its signed zero point: ties fall by that sum. NaN
         * stands for 0. */
        float q = isnan(w[i]) ? zf : rintf(w[i] / s + (zf - half)) + half;
        q = q > 0 ? q : 0;
        q = q < top ? q : top;
        if (codes != NULL) {
            codes[i] = (uint8_t)q;
        }
        if (back != NULL) {
            back[i] = (q - zf) * s;
        }
    }
    if (scale != NULL) {
        *scale = s;
        *zero = z;
    }
}

void sq_quantize_rows(sq_codes *c, const float *w, const sq_range *ranges) {
    const sq_grid *g = &c->grid;
    int64_t groups = groups_of(g);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < c->n; r++) {
        for (int64_t j = 0; j < groups; j++) {
            int64_t at = j * g->group, n = g->k - at < g->group ? g->k - at : g->group,
                    cell = r * groups + j;
            uint8_t *codes = c->codes + r * g->k_padded + at;
            n = n < 0 ? 0 : n;
            sq_quantize_group(g, w + r * g->k + at, n, ranges == NULL ? NULL : &ranges[cell], codes,
                              NULL, &c->scales[cell], &c->zeros[cell]);
            memset(codes + n, c->zeros[cell], (size_t)(g->group - n)); /* padding stands for 0 */
        }
    }
}

void sq_codes_row(const sq_codes *c, int64_t r, float *out) {
    const sq_grid *g = &c->grid;
    for (int64_t i = 0; i < g->k; i++) {
        int64_t cell = r * groups_of(g) + i / g->group;
        out[i] = ((float)c->codes[r * g->k_padded + i] - (float)c->zeros[cell]) * c->scales[cell];
    }
}
