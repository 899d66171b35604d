/* Bicubic resize in 8-bit fixed point. Coefficients follow Pillow's libImaging/Resample.c
 * (precompute_coeffs, normalize_coeffs_8bpc) and torch's UpSampleKernel (int16 weights): both are
 * two passes with 8 bits in between, and differ in the precision of the weights. */
#include <math.h>
#include <string.h>

#include "vision/image.h"

#define PILLOW_BITS 22
#define STRIP 1024 /* bytes of a row that the vertical pass sums at once */

/* Weights of one axis: output i takes count[i] inputs from first[i]. */
typedef struct axis {
    int64_t in, out, taps;
    int bits;
    int32_t *first, *count, *weight; /* weight [out][taps] */
} axis;

static void axis_free(axis *a) {
    sq_free(a->first);
    sq_free(a->weight);
}

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) {
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    }
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

/* torch: as many bits as keep the largest weight within int16. */
static int torch_bits(double largest) {
    int bits = 0;
    while (bits < 22 && (int)(0.5 + largest * (double)(1 << (bits + 1))) < (1 << 15)) {
        bits++;
    }
    return bits;
}

static double weigh(axis *a, double *w) {
    double scale = (double)a->in / (double)a->out, stretch = scale < 1.0 ? 1.0 : scale;
    double support = 2.0 * stretch, inverse = 1.0 / stretch, largest = 0.0;
    for (int64_t i = 0; i < a->out; i++) {
        double center = ((double)i + 0.5) * scale, sum = 0.0, *wi = w + i * a->taps;
        int64_t lo = (int64_t)(center - support + 0.5), hi = (int64_t)(center + support + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > a->in ? a->in : hi;
        for (int64_t j = 0; j < hi - lo; j++) {
            wi[j] = cubic(((double)(j + lo) - center + 0.5) * inverse);
            sum += wi[j];
        }
        for (int64_t j = 0; j < hi - lo; j++) {
            if (sum != 0.0) {
                wi[j] /= sum;
            }
            largest = wi[j] > largest ? wi[j] : largest;
        }
        a->first[i] = (int32_t)lo;
        a->count[i] = (int32_t)(hi - lo);
    }
    return largest;
}

static sq_status axis_make(axis *a, int64_t in, int64_t out, sq_resize_kind kind, sq_error *err) {
    double scale = (double)in / (double)out;
    *a = (axis){.in = in, .out = out};
    a->taps = (int64_t)ceil(2.0 * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
    size_t n = (size_t)out * (size_t)a->taps; /* at most about 5 * SQ_IMAGE_MAX_SIDE + out */
    double *w = sq_alloc(n, sizeof *w, "resize weights", err);
    a->first = sq_alloc((size_t)out * 2, sizeof *a->first, "resize weights", err);
    a->weight = sq_alloc(n, sizeof *a->weight, "resize weights", err);
    if (w == NULL || a->first == NULL || a->weight == NULL) {
        sq_free(w);
        return SQ_ENOMEM; /* the caller frees the axis */
    }
    a->count = a->first + out;
    double largest = weigh(a, w);
    a->bits = kind == SQ_RESIZE_TORCH8 ? torch_bits(largest) : PILLOW_BITS;
    double one = (double)(1 << a->bits);
    for (size_t i = 0; i < n; i++) {
        a->weight[i] = (int32_t)(w[i] < 0 ? -0.5 + w[i] * one : 0.5 + w[i] * one);
    }
    sq_free(w);
    return SQ_OK;
}

static uint8_t clip8(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

static void pass_x(sq_image *to, const sq_image *from, const axis *a) {
    int32_t half = a->bits > 0 ? 1 << (a->bits - 1) : 0;
#pragma omp parallel for schedule(static) if (to->width * to->height > 50000)
    for (int64_t y = 0; y < to->height; y++) {
        const uint8_t *line = from->rgb + y * from->width * 3;
        uint8_t *dst = to->rgb + y * to->width * 3;
        for (int64_t x = 0; x < to->width; x++) {
            const uint8_t *p = line + 3 * (int64_t)a->first[x];
            const int32_t *w = a->weight + x * a->taps;
            int32_t r = half, g = half, b = half;
            for (int32_t k = 0; k < a->count[x]; k++) {
                r += p[3 * k] * w[k];
                g += p[3 * k + 1] * w[k];
                b += p[3 * k + 2] * w[k];
            }
            dst[3 * x] = clip8(r >> a->bits);
            dst[3 * x + 1] = clip8(g >> a->bits);
            dst[3 * x + 2] = clip8(b >> a->bits);
        }
    }
}

static void strip_y(uint8_t *dst, const uint8_t *src, int64_t stride, const int32_t *w,
                    int32_t count, int64_t n, int bits) {
    int32_t sum[STRIP], half = bits > 0 ? 1 << (bits - 1) : 0;
    for (int64_t i = 0; i < n; i++) {
        sum[i] = half;
    }
    for (int32_t k = 0; k < count; k++) {
        const uint8_t *p = src + k * stride;
        int32_t wk = w[k];
        for (int64_t i = 0; i < n; i++) {
            sum[i] += p[i] * wk;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        dst[i] = clip8(sum[i] >> bits);
    }
}

static void pass_y(sq_image *to, const sq_image *from, const axis *a) {
    int64_t stride = from->width * 3;
#pragma omp parallel for schedule(static) if (to->width * to->height > 50000)
    for (int64_t y = 0; y < to->height; y++) {
        const uint8_t *src = from->rgb + a->first[y] * stride;
        for (int64_t x = 0; x < stride; x += STRIP) {
            int64_t n = stride - x < STRIP ? stride - x : STRIP;
            strip_y(to->rgb + y * stride + x, src + x, stride, a->weight + y * a->taps, a->count[y],
                    n, a->bits);
        }
    }
}

static sq_status both_passes(sq_image *out, const sq_image *in, const axis *ax, const axis *ay,
                             int vertical_first, sq_error *err) {
    sq_image mid = {0};
    sq_status st;
    int64_t w = ax->out, h = ay->out;
    if (in->height == h) {
        SQ_TRY(sq_image_alloc(out, w, h, err));
        pass_x(out, in, ax);
    } else if (in->width == w) {
        SQ_TRY(sq_image_alloc(out, w, h, err));
        pass_y(out, in, ay);
    } else if (vertical_first) {
        SQ_TRY(sq_image_alloc(&mid, in->width, h, err));
        SQ_TRY(sq_image_alloc(out, w, h, err));
        pass_y(&mid, in, ay);
        pass_x(out, &mid, ax);
    } else {
        SQ_TRY(sq_image_alloc(&mid, w, in->height, err));
        SQ_TRY(sq_image_alloc(out, w, h, err));
        pass_x(&mid, in, ax);
        pass_y(out, &mid, ay);
    }
fail:
    sq_image_free(&mid);
    if (st != SQ_OK) {
        sq_image_free(out);
    }
    return st;
}

sq_status sq_image_resize_as(sq_image *out, const sq_image *in, int64_t width, int64_t height,
                             sq_resize_kind kind, sq_error *err) {
    *out = (sq_image){0};
    axis ax = {0}, ay = {0};
    sq_status st;
    SQ_TRY(sq_image_check_size(in->width, in->height, "resize from", err));
    SQ_TRY(sq_image_check_size(width, height, "resize to", err));
    if (width == in->width && height == in->height) {
        SQ_TRY(sq_image_alloc(out, width, height, err));
        memcpy(out->rgb, in->rgb, (size_t)(width * height) * 3);
        return SQ_OK;
    }
    SQ_TRY(axis_make(&ax, in->width, width, kind, err));
    SQ_TRY(axis_make(&ay, in->height, height, kind, err));
    st = both_passes(out, in, &ax, &ay,
                     kind == SQ_RESIZE_PILLOW && height < in->height && width > in->width, err);
fail:
    axis_free(&ax);
    axis_free(&ay);
    return st;
}

sq_status sq_image_resize(sq_image *out, const sq_image *in, int64_t width, int64_t height,
                          sq_error *err) {
    return sq_image_resize_as(out, in, width, height, SQ_RESIZE_PILLOW, err);
}
