/* What the vision tower is fed: patches in HF's order, with the grid and what the user is told of
 * it. */
#ifndef SQ_VISION_PREPROCESS_H
#define SQ_VISION_PREPROCESS_H

#include "vision/image.h"

/* From preprocessor_config.json (and video_preprocessor_config.json), with flags laid over it. */
typedef struct sq_preproc {
    int64_t patch_size, temporal_patch_size, merge_size;
    int64_t min_pixels, max_pixels;             /* of an image */
    int64_t video_min_pixels, video_max_pixels; /* of a frame */
    double fps;                                 /* frames a second taken from a video */
    int64_t min_frames, max_frames;
    float mean[3], std[3];
    double rescale;
} sq_preproc;

/* Reads the folder's files; absent files or keys take the class defaults of HF's
 * Qwen2VLImageProcessor and Qwen2VLVideoProcessor (models.md 4.4, 4.5; the installed transformers
 * decides). */
sq_status sq_preproc_load(sq_preproc *out, const char *dir, sq_error *err);

/* HF's smart_resize: both sides multiples of factor, area within the limits. */
sq_status sq_smart_resize(int64_t height, int64_t width, int64_t factor, int64_t min_pixels,
                          int64_t max_pixels, int64_t *out_height, int64_t *out_width,
                          sq_error *err);

/* One image or video as the tower takes it. Zeroed is valid. */
typedef struct sq_pixels {
    int is_video;
    int64_t width, height;                 /* of the original */
    int64_t resized_width, resized_height; /* pixels after smart_resize */
    int64_t grid_t, grid_h, grid_w;        /* in patches; rows of `patches` = their product */
    int64_t patch_dim;                     /* channels * temporal * patch * patch */
    int64_t tokens;                        /* grid_t * grid_h * grid_w / merge^2 */
    double second_per_grid;                /* temporal_patch_size / sampled fps; 0 for images */
    int64_t frames;                        /* sampled frames, 0 for images */
    float *patches; /* [rows][patch_dim], order (c, t, y, x) inside a row; sq_free */
} sq_pixels;

sq_status sq_pixels_image(sq_pixels *out, const sq_preproc *p, const sq_image *im, sq_error *err);
sq_status sq_pixels_image_file(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err);
/* Any container that FFmpeg reads, or a folder of frames; frames sampled as HF's
 * Qwen2VLVideoProcessor does from a file. */
sq_status sq_pixels_video_file(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err);
/* Grid and token count alone, before any pixel is decoded (patches stays NULL). */
sq_status sq_pixels_plan_image(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err);
void sq_pixels_free(sq_pixels *px);

#endif
