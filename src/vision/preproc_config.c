/* The processor files of a checkpoint's folder. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/source.h"
#include "vision/patches.h"

#define MAX_AREA ((int64_t)1 << 40)

/* CLIP's mean and deviation (transformers utils/constants.py). */
static const double clip_mean[3] = {0.48145466, 0.4578275, 0.40821073};
static const double clip_std[3] = {0.26862954, 0.26130258, 0.27577711};

void sq_preproc_default(sq_preproc *out) {
    *out = (sq_preproc){
        .patch_size = 14,
        .temporal_patch_size = 2,
        .merge_size = 2,
        .min_pixels = 56 * 56,
        .max_pixels = 28 * 28 * 1280,
        .video_min_pixels = 128 * 28 * 28,
        .video_max_pixels = 28 * 28 * 768,
        .fps = 2.0,
        .min_frames = 4,
        .max_frames = 768,
        .rescale = 1.0 / 255.0,
        .video_rescale = 1.0 / 255.0,
        .max_video_tokens = 128000,
        .image_resize = SQ_RESIZE_PILLOW,
        .video_resize = SQ_RESIZE_TORCH8,
    };
    for (int c = 0; c < 3; c++) {
        out->mean[c] = out->video_mean[c] = (float)clip_mean[c];
        out->std[c] = out->video_std[c] = (float)clip_std[c];
    }
}

/* A whole number in [lo, hi] at obj[key] when it is there and not null. */
static sq_status take_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *v,
                          const char *where, sq_error *err) {
    const json_t *j = json_object_get(obj, key);
    if (j == NULL || json_is_null(j)) {
        return SQ_OK;
    }
    double d = json_is_number(j) ? json_number_value(j) : NAN;
    if (!(d >= (double)lo && d <= (double)hi) || d != floor(d)) {
        return sq_fail(err, SQ_EFORMAT, "%s: %s; got %s %g, wanted a whole number in %lld to %lld",
                       where, key, json_is_number(j) ? "" : "no number", d, (long long)lo,
                       (long long)hi);
    }
    *v = (int64_t)d;
    return SQ_OK;
}

static sq_status take_real(const json_t *obj, const char *key, double hi, double *v,
                           const char *where, sq_error *err) {
    const json_t *j = json_object_get(obj, key);
    if (j == NULL || json_is_null(j)) {
        return SQ_OK;
    }
    double d = json_is_number(j) ? json_number_value(j) : NAN;
    if (!(d > 0 && d <= hi)) {
        return sq_fail(err, SQ_EFORMAT, "%s: %s; got %g, wanted a number above 0, at most %g",
                       where, key, d, hi);
    }
    *v = d;
    return SQ_OK;
}

static sq_status take_colour(const json_t *obj, const char *key, double lo, float v[3],
                             const char *where, sq_error *err) {
    const json_t *j = json_object_get(obj, key);
    if (j == NULL || json_is_null(j)) {
        return SQ_OK;
    }
    for (size_t c = 0; c < 3; c++) {
        const json_t *e = json_array_get(j, c);
        double d = json_is_number(e) ? json_number_value(e) : NAN;
        if (json_array_size(j) != 3 || !(d >= lo && d <= 1e6)) {
            return sq_fail(err, SQ_EFORMAT, "%s: %s; got something else, wanted 3 numbers from %g",
                           where, key, lo);
        }
        v[c] = (float)d;
    }
    return SQ_OK;
}

static sq_status want_true(const json_t *obj, const char *key, const char *where, sq_error *err) {
    return sq_json_bool(obj, key, 1)
               ? SQ_OK
               : sq_fail(err, SQ_EUNSUPPORTED, "%s: %s; got false, wanted true", where, key);
}

/* What every processor has. */
static sq_status take_colours(const json_t *o, float mean[3], float std[3], double *rescale,
                              const char *where, sq_error *err) {
    sq_status st;
    int64_t resample = 3;
    SQ_TRY(want_true(o, "do_resize", where, err));
    SQ_TRY(want_true(o, "do_rescale", where, err));
    SQ_TRY(want_true(o, "do_normalize", where, err));
    SQ_TRY(take_int(o, "resample", 0, 10, &resample, where, err));
    if (resample != 3) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s: resample; got %lld, wanted 3 (bicubic)", where,
                       (long long)resample);
    }
    SQ_TRY(take_colour(o, "image_mean", -1e6, mean, where, err));
    SQ_TRY(take_colour(o, "image_std", 1e-6, std, where, err));
    SQ_TRY(take_real(o, "rescale_factor", 1e6, rescale, where, err));
fail:
    return st;
}

sq_status sq_preproc_colours(sq_preproc *p, const json_t *o, const char *where, sq_error *err) {
    return take_colours(o, p->mean, p->std, &p->rescale, where, err);
}

/* What both kinds of Qwen's processors have. */
static sq_status take_common(const json_t *o, int64_t *lo, int64_t *hi, float mean[3], float std[3],
                             double *rescale, const char *where, sq_error *err) {
    sq_status st;
    const json_t *size = json_object_get(o, "size");
    SQ_TRY(take_colours(o, mean, std, rescale, where, err));
    static const char *const names[2][2] = {{"min_pixels", "shortest_edge"},
                                            {"max_pixels", "longest_edge"}};
    for (int i = 0; i < 2; i++) {
        int64_t *v = i ? hi : lo;
        SQ_TRY(take_int(size, names[i][0], 1, MAX_AREA, v, where, err));
        SQ_TRY(take_int(size, names[i][1], 1, MAX_AREA, v, where, err));
        SQ_TRY(take_int(o, names[i][0], 1, MAX_AREA, v, where, err));
    }
    if (*lo > *hi) {
        return sq_fail(err, SQ_EFORMAT, "%s: pixel limits; got %lld to %lld, wanted min <= max",
                       where, (long long)*lo, (long long)*hi);
    }
fail:
    return st;
}

static sq_status take_geometry(const json_t *o, sq_preproc *p, const char *where, sq_error *err) {
    sq_status st;
    SQ_TRY(take_int(o, "patch_size", 1, 256, &p->patch_size, where, err));
    SQ_TRY(take_int(o, "temporal_patch_size", 1, 16, &p->temporal_patch_size, where, err));
    SQ_TRY(take_int(o, "merge_size", 1, 16, &p->merge_size, where, err));
fail:
    return st;
}

static sq_status read_video(const json_t *o, sq_preproc *p, const char *where, sq_error *err) {
    sq_status st;
    sq_preproc g = *p;
    SQ_TRY(take_common(o, &p->video_min_pixels, &p->video_max_pixels, p->video_mean, p->video_std,
                       &p->video_rescale, where, err));
    SQ_TRY(take_geometry(o, &g, where, err));
    if (g.patch_size != p->patch_size || g.merge_size != p->merge_size ||
        g.temporal_patch_size != p->temporal_patch_size) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s: patch, temporal and merge size of video; got %lld, %lld, %lld, wanted "
                       "those of images",
                       where, (long long)g.patch_size, (long long)g.temporal_patch_size,
                       (long long)g.merge_size);
    }
    SQ_TRY(take_real(o, "fps", 10000, &p->fps, where, err));
    SQ_TRY(take_int(o, "num_frames", 1, 100000, &p->num_frames, where, err));
    SQ_TRY(take_int(o, "min_frames", 1, 100000, &p->min_frames, where, err));
    SQ_TRY(take_int(o, "max_frames", 1, 100000, &p->max_frames, where, err));
    SQ_TRY(take_int(o, "max_video_tokens", 1, MAX_AREA >> 20, &p->max_video_tokens, where, err));
    p->cap_pixels_per_frame = sq_json_bool(o, "cap_pixels_per_frame", 0);
fail:
    return st;
}

/* dir/name as an object; *out stays NULL when the file is absent. */
static sq_status open_file(sq_arena *a, const char *dir, const char *name, char **path,
                           json_t **out, sq_error *err) {
    *out = NULL;
    *path = sq_path_join(a, dir, name, err);
    if (*path == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = sq_source_json(dir, name, out, err);
    if (st == SQ_OK && *out != NULL && !json_is_object(*out)) {
        st = sq_fail(err, SQ_EFORMAT, "%s; got another kind of value, wanted an object", *path);
    }
    return st;
}

sq_status sq_preproc_load(sq_preproc *out, const char *dir, sq_error *err) {
    static const char *const names[3] = {"processor_config.json", "preprocessor_config.json",
                                         "video_preprocessor_config.json"};
    sq_arena a = {0};
    json_t *file[3] = {0};
    char *path[3];
    sq_status st;
    sq_preproc_default(out);
    for (int i = 0; i < 3; i++) {
        SQ_TRY(open_file(&a, dir, names[i], &path[i], &file[i], err));
    }
    const json_t *image = json_object_get(file[0], "image_processor");
    const json_t *video = json_object_get(file[0], "video_processor");
    int image_at = json_is_object(image) ? 0 : 1;
    int video_at = json_is_object(video) ? 0 : file[2] != NULL ? 2 : 1;
    image = image_at == 0 ? image : file[1];
    video = video_at == 0 ? video : file[video_at];
    SQ_TRY(take_common(image, &out->min_pixels, &out->max_pixels, out->mean, out->std,
                       &out->rescale, path[image_at], err));
    SQ_TRY(take_geometry(image, out, path[image_at], err));
    SQ_TRY(read_video(video, out, path[video_at], err));
fail:
    for (int i = 0; i < 3; i++) {
        json_decref(file[i]);
    }
    sq_arena_free(&a);
    return st;
}
