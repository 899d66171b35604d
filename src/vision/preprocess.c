/* smart_resize, frame sampling, and patches in HF's order from pictures. */
#include "vision/preprocess.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "vision/patches.h"

/* transformers models/qwen2_vl/image_processing_qwen2_vl.py smart_resize; Python's round is half to
 * even, as rint. */
sq_status sq_smart_resize(int64_t height, int64_t width, int64_t factor, int64_t min_pixels,
                          int64_t max_pixels, int64_t *out_height, int64_t *out_width,
                          sq_error *err) {
    if (height < 1 || width < 1 || height > INT32_MAX || width > INT32_MAX || factor < 1 ||
        factor > 65536) {
        return sq_fail(err, SQ_EARG, "size of the picture; got %lldx%lld, wanted at least 1x1",
                       (long long)width, (long long)height);
    }
    double h = (double)height, w = (double)width, f = (double)factor;
    if (fmax(h, w) / fmin(h, w) > 200.0) {
        return sq_fail(err, SQ_EARG,
                       "aspect ratio of the picture; got %lldx%lld, wanted at most "
                       "200 to 1",
                       (long long)width, (long long)height);
    }
    double hb = rint(h / f) * f, wb = rint(w / f) * f;
    if (hb * wb > (double)max_pixels) {
        double beta = sqrt(h * w / (double)max_pixels);
        hb = fmax(f, floor(h / beta / f) * f);
        wb = fmax(f, floor(w / beta / f) * f);
    } else if (hb * wb < (double)min_pixels) {
        double beta = sqrt((double)min_pixels / (h * w));
        hb = ceil(h * beta / f) * f;
        wb = ceil(w * beta / f) * f;
    }
    if (!(hb >= f && wb >= f && hb <= SQ_IMAGE_MAX_SIDE && wb <= SQ_IMAGE_MAX_SIDE)) {
        return sq_fail(
            err, SQ_EARG, "size after resizing %lldx%lld; got %.0fx%.0f, wanted %lld to %d a side",
            (long long)width, (long long)height, wb, hb, (long long)factor, SQ_IMAGE_MAX_SIDE);
    }
    *out_height = (int64_t)hb;
    *out_width = (int64_t)wb;
    return SQ_OK;
}

/* sample_frames: doubles as Python's; torch.arange on doubles gives float32, then int32. */
sq_status sq_sample_frames(const sq_preproc *p, int64_t total, double video_fps, int64_t **indices,
                           int64_t *count, sq_error *err) {
    *indices = NULL;
    *count = 0;
    double t = (double)p->temporal_patch_size, n = (double)total;
    int even = p->kind != SQ_PREPROC_QWEN;
    if (total < 1) {
        return sq_fail(err, SQ_EFORMAT, "frames of the video; got none, wanted at least one");
    }
    if (even) {
        n = (double)(p->num_frames < total ? p->num_frames : total);
    } else if (p->num_frames > 0) {
        n = rint((double)p->num_frames / t) * t;
    } else if (p->fps > 0) {
        if (!(video_fps > 0)) {
            return sq_fail(err, SQ_EFORMAT, "frame rate of the video; got none, wanted one");
        }
        double most = floor((double)(p->max_frames < total ? p->max_frames : total) / t) * t;
        n = (double)total / video_fps * p->fps;
        n = fmin(fmin(fmax(n, (double)p->min_frames), most), (double)total);
        n = floor(n / t) * t;
    }
    if (!(n >= 1) || n > (double)total) {
        return sq_fail(err, SQ_EARG,
                       "frames to take of a video of %lld; got %.0f, wanted 1 to %lld",
                       (long long)total, n, (long long)total);
    }
    *indices = sq_alloc((size_t)n, sizeof **indices, "frame list", err);
    if (*indices == NULL) {
        return SQ_ENOMEM;
    }
    double step = even ? (double)(total - 1) / fmax(n - 1, 1) : (double)total / n;
    for (*count = 0; *count < (int64_t)n; ++*count) {
        double at = (double)*count * step;
        (*indices)[*count] = (int64_t)(even ? rint(at) : (double)(float)at);
    }
    return SQ_OK;
}

/* Value of every byte in every channel. Images: rescale in double, then float32 operations one by
 * one (image_transforms.py rescale, normalize). Video: mean and deviation fused with the factor
 * (TorchvisionBackend.rescale_and_normalize). */
void sq_value_table(sq_value_lut *t, const sq_preproc *p, int is_video) {
    for (int c = 0; c < 3; c++) {
        float up = (float)(1.0 / p->video_rescale);
        float mean = p->video_mean[c] * up, std = p->video_std[c] * up;
        for (int v = 0; v < 256; v++) {
            if (is_video) {
                t->v[c][v] = ((float)v - mean) / std;
            } else {
                float x = (float)((double)v * p->rescale);
                t->v[c][v] = (x - p->mean[c]) / p->std[c];
            }
        }
    }
}

sq_status sq_pixels_shape(sq_pixels *out, const sq_preproc *p, int64_t width, int64_t height,
                          int64_t frames, int is_video, sq_error *err) {
    if (p->kind != SQ_PREPROC_QWEN) {
        return sq_tiles_shape(out, p, width, height, 1, err);
    }
    int64_t lo = is_video ? p->video_min_pixels : p->min_pixels;
    int64_t hi = is_video ? p->video_max_pixels : p->max_pixels;
    int64_t f = p->patch_size * p->merge_size;
    if (is_video && p->cap_pixels_per_frame) {
        int64_t all = (int64_t)((double)(p->max_video_tokens * f * f) * 0.9);
        int64_t share = all * p->temporal_patch_size / frames,
                floor_ = (int64_t)((double)lo * 1.05);
        hi = hi < share ? hi : share;
        hi = hi > floor_ ? hi : floor_;
    }
    if (is_video && p->video_total_pixels > 0) {
        int64_t share = p->video_total_pixels / frames * p->temporal_patch_size;
        int64_t least = (int64_t)((double)lo * 1.05);
        share = share > least ? share : least;
        hi = hi < share ? hi : share;
    }
    sq_status st =
        sq_smart_resize(height, width, f, lo, hi, &out->resized_height, &out->resized_width, err);
    if (st != SQ_OK) {
        return st;
    }
    st = sq_image_check_size(out->resized_width, out->resized_height, "resized picture", err);
    out->is_video = is_video;
    out->width = width;
    out->height = height;
    out->grid_t = is_video ? sq_ceil_div(frames, p->temporal_patch_size) : 1;
    out->grid_h = out->resized_height / p->patch_size;
    out->grid_w = out->resized_width / p->patch_size;
    out->patch_dim = 3 * p->temporal_patch_size * p->patch_size * p->patch_size;
    out->tokens = out->grid_t * out->grid_h * out->grid_w / (p->merge_size * p->merge_size);
    out->frames = is_video ? frames : 0;
    return st;
}

sq_status sq_pixels_room(sq_pixels *out, sq_error *err) {
    size_t n;
    if (!sq_mul((size_t)(out->grid_t * out->grid_h * out->grid_w), (size_t)out->patch_dim, &n)) {
        return sq_fail_nomem(err, "patches", SIZE_MAX);
    }
    out->patches = sq_alloc_raw(n, sizeof *out->patches, "patches", err);
    return out->patches == NULL ? SQ_ENOMEM : SQ_OK;
}

/* Rows follow block-row, block-column, then the patches inside a block; a row is (c, t, y, x). */
void sq_patches_put(sq_pixels *out, const sq_preproc *p, const sq_value_lut *lut,
                    const sq_image *im, int64_t frame, int64_t slots) {
    int64_t ps = p->patch_size, m = p->merge_size, tp = p->temporal_patch_size;
    int64_t t = frame / tp, slot = frame % tp, area = ps * ps;
#pragma omp parallel for schedule(static) if (out->grid_h * out->grid_w * area > 50000)
    for (int64_t gy = 0; gy < out->grid_h; gy++) {
        for (int64_t gx = 0; gx < out->grid_w; gx++) {
            int64_t row = ((t * (out->grid_h / m) + gy / m) * (out->grid_w / m) + gx / m) * m * m +
                          gy % m * m + gx % m;
            float *to = out->patches + row * out->patch_dim + slot * area;
            const uint8_t *from = im->rgb + 3 * (gy * ps * im->width + gx * ps);
            for (int64_t i = 0; i < area; i++) {
                const uint8_t *px = from + 3 * (i / ps * im->width + i % ps);
                for (int64_t c = 0; c < 3; c++) {
                    to[c * tp * area + i] = lut->v[c][px[c]];
                }
            }
            for (int64_t c = 0; c < 3; c++) {
                for (int64_t s = 1; s < slots; s++) {
                    memcpy(to + (c * tp + s) * area, to + c * tp * area, (size_t)area * sizeof *to);
                }
            }
        }
    }
}

sq_status sq_pixels_image(sq_pixels *out, const sq_preproc *p, const sq_image *im, sq_error *err) {
    sq_image small = {0};
    sq_value_lut lut;
    *out = (sq_pixels){0};
    sq_status st;
    SQ_TRY(sq_image_check_size(im->width, im->height, "picture", err));
    if (p->kind != SQ_PREPROC_QWEN) {
        st = sq_tiles_image(out, p, im, err);
        goto fail;
    }
    SQ_TRY(sq_pixels_shape(out, p, im->width, im->height, 1, 0, err));
    const sq_image *use = im;
    if (out->resized_width != im->width || out->resized_height != im->height) {
        SQ_TRY(sq_image_resize_as(&small, im, out->resized_width, out->resized_height,
                                  p->image_resize, err));
        use = &small;
    }
    SQ_TRY(sq_pixels_room(out, err));
    sq_value_table(&lut, p, 0);
    sq_patches_put(out, p, &lut, use, 0, p->temporal_patch_size);
fail:
    sq_image_free(&small);
    if (st != SQ_OK) {
        sq_pixels_free(out);
    }
    return st;
}

sq_status sq_pixels_image_file(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err) {
    sq_image im;
    *out = (sq_pixels){0};
    sq_status st = sq_image_load(&im, path, err);
    if (st == SQ_OK) {
        st = sq_pixels_image(out, p, &im, err);
        if (st != SQ_OK) {
            sq_error_prefix(err, "%s: ", path);
        }
    }
    sq_image_free(&im);
    return st;
}

sq_status sq_pixels_plan_image(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err) {
    int64_t width, height;
    *out = (sq_pixels){0};
    sq_status st = sq_image_probe(path, &width, &height, err);
    if (st == SQ_OK) {
        st = sq_pixels_shape(out, p, width, height, 1, 0, err);
        if (st != SQ_OK) {
            sq_error_prefix(err, "%s: ", path);
            *out = (sq_pixels){0};
        }
    }
    return st;
}

sq_status sq_pixels_plan_size(sq_pixels *out, const sq_preproc *p, int64_t width, int64_t height,
                              int64_t frames, sq_error *err) {
    *out = (sq_pixels){0};
    sq_status st = sq_image_check_size(width, height, "picture", err);
    return st == SQ_OK
               ? sq_pixels_shape(out, p, width, height, frames > 0 ? frames : 1, frames > 0, err)
               : st;
}

void sq_pixels_free(sq_pixels *px) {
    if (px != NULL) {
        sq_free(px->patches);
        *px = (sq_pixels){0};
    }
}
