/* What the vision tower is fed: patches in HF's order, with the grid and what the user is told of
 * it. */
#ifndef SQ_VISION_PREPROCESS_H
#define SQ_VISION_PREPROCESS_H

#include <jansson.h>

#include "vision/image.h"

typedef enum sq_preproc_kind {
    SQ_PREPROC_QWEN,   /* any size in multiples of patch * merge */
    SQ_PREPROC_CROP,   /* shortest edge, then the middle: one tile */
    SQ_PREPROC_ANYRES, /* the whole as one tile, then a grid of tiles */
    SQ_PREPROC_SQUASH, /* one tile whatever the aspect */
    SQ_PREPROC_LEVELS  /* squares of growing numbers of tiles, the last level in the picture's shape
                        */
} sq_preproc_kind;

enum { SQ_MAX_PINPOINTS = 64, SQ_MAX_LEVELS = 4 };

/* From preprocessor_config.json (and video_preprocessor_config.json), with flags laid over it. */
typedef struct sq_preproc {
    int64_t patch_size, temporal_patch_size, merge_size;
    int64_t min_pixels, max_pixels;             /* of an image */
    int64_t video_min_pixels, video_max_pixels; /* of a frame */
    double fps;                                 /* frames a second taken from a video */
    int64_t min_frames, max_frames;
    float mean[3], std[3];
    double rescale;
    int64_t num_frames;         /* frames taken from a video whatever its length; 0 follows fps */
    int cap_pixels_per_frame;   /* a frame's share of max_video_tokens bounds its size */
    int64_t max_video_tokens;   /* as HF's Qwen2VLVideoProcessor */
    int64_t video_total_pixels; /* of all frames together, as qwen_vl_utils' total_pixels; 0: no
                                   limit */
    float video_mean[3], video_std[3];
    double video_rescale;
    sq_resize_kind image_resize; /* SQ_RESIZE_PILLOW, with the arithmetic of HF's PIL backend */
    sq_resize_kind video_resize; /* SQ_RESIZE_TORCH8: HF has no other for video */
    sq_preproc_kind kind;
    /* of the kinds with tiles */
    int64_t tile;        /* pixels a side */
    int64_t tile_tokens; /* that the model makes of one */
    int64_t shortest;    /* edge before the crop */
    int pad_square;      /* first onto a square of the mean colour */
    double mean_exact[3];
    int64_t pinpoints[SQ_MAX_PINPOINTS][2]; /* height and width of the grids, in pixels */
    int n_pinpoints;
    int64_t levels[SQ_MAX_LEVELS]; /* tiles a side: 1, 2, 3 */
    int n_levels;
} sq_preproc;

/* What sq_preproc_load gives for an empty folder, but for fps, which is 2 in both: HF leaves it
 * unset and then takes every frame, the model's own documentation takes 2 a second. fps 0 takes
 * every frame. */
void sq_preproc_default(sq_preproc *out);

/* Reads the folder's files as transformers 5.23 does. Image: "image_processor" of
 * processor_config.json, else preprocessor_config.json. Video: "video_processor" of
 * processor_config.json, else video_preprocessor_config.json, else preprocessor_config.json (so the
 * limits of a frame are then those of an image). min_pixels and max_pixels go before
 * size{shortest_edge, longest_edge}, which are areas too. Absent files or keys take the class
 * defaults of Qwen2VLImageProcessor and Qwen2VLVideoProcessor. do_sample_frames is not followed:
 * frames are always sampled unless fps is 0. Keys that would change the arithmetic in a way that is
 * not implemented (do_resize false, another resample) are SQ_EUNSUPPORTED. */
sq_status sq_preproc_load(sq_preproc *out, const char *dir, sq_error *err);

/* What a tower of fixed size says of its pictures. */
typedef struct sq_tile_options {
    sq_preproc_kind kind;
    int64_t tile, patch, tile_tokens;
    int64_t num_frames;    /* taken from a video */
    const int64_t *levels; /* [n_levels] tiles a side */
    int n_levels;
    int pad;                 /* image_aspect_ratio "pad" */
    const json_t *pinpoints; /* of config.json, where the processor's file has none */
} sq_tile_options;
/* The same for CLIP's, SigLIP's and LLaVA's processors: preprocessor_config.json (VILA:
 * vision_tower/preprocessor_config.json) or processor_config.json. */
sq_status sq_preproc_load_tiles(sq_preproc *out, const char *dir, const sq_tile_options *o,
                                sq_error *err);

/* HF's smart_resize: both sides multiples of factor, area within the limits. */
sq_status sq_smart_resize(int64_t height, int64_t width, int64_t factor, int64_t min_pixels,
                          int64_t max_pixels, int64_t *out_height, int64_t *out_width,
                          sq_error *err);

/* One image or video as the tower takes it. Zeroed is valid. */
typedef struct sq_pixels {
    int is_video;
    int64_t width, height;                 /* of the original */
    int64_t resized_width, resized_height; /* pixels after smart_resize */
    int64_t grid_t, grid_h, grid_w;        /* in patches; rows of `patches` = their product; grid_t:
                                              temporal slots, or tiles */
    int64_t patch_dim;                     /* channels * temporal * patch * patch */
    int64_t tokens;                        /* grid_t * grid_h * grid_w / merge^2 */
    double second_per_grid;                /* temporal_patch_size / sampled fps; 0 for images */
    int64_t frames;                        /* sampled frames, 0 for images */
    int64_t tile_rows, tile_cols;          /* of the grid behind the first tile; 0: no grid */
    float *patches; /* [rows][patch_dim], order (c, t, y, x) inside a row; sq_free */
} sq_pixels;

/* The part of a grid of tiles, in patches, that is picture and not padding: [y0, y1) x [x0, x1). */
typedef struct sq_tile_view {
    int64_t y0, y1, x0, x1;
} sq_tile_view;
sq_tile_view sq_tile_view_of(const sq_pixels *px, int64_t side);

/* How one picture among `count` is seen: levels are for a picture alone. */
sq_preproc sq_preproc_for(const sq_preproc *p, size_t count);

/* Frames to take of `total` at `video_fps` frames a second (Qwen2VLVideoProcessor.sample_frames;
 * for kinds with tiles num_frames of them evenly from first to last, VILA's utils/media.py):
 * *indices [*count] in growing order, sq_free. SQ_EARG when the video has too few frames. */
sq_status sq_sample_frames(const sq_preproc *p, int64_t total, double video_fps, int64_t **indices,
                           int64_t *count, sq_error *err);

sq_status sq_pixels_image(sq_pixels *out, const sq_preproc *p, const sq_image *im, sq_error *err);
sq_status sq_pixels_image_file(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err);
/* Any container that FFmpeg reads (first video stream; frames turned by the display matrix as
 * torchcodec does, PyAV does not), or a folder of frames: pictures of one size in the order of
 * their names, all taken, 24 a second as HF assumes of a list of frames. An odd count repeats the
 * last frame. Files that end early or decode with errors are SQ_EFORMAT. */
sq_status sq_pixels_video_file(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err);
/* The same frames as pictures, for models that take a video as pictures: *frames [*count], each to
 * be freed by sq_image_free, the list by sq_free. */
sq_status sq_video_frames(sq_image **frames, int64_t *count, const sq_preproc *p, const char *path,
                          sq_error *err);
/* Grid and token count alone, before any pixel is decoded (patches stays NULL). */
sq_status sq_pixels_plan_image(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err);
/* The same for a picture of that size, or with frames > 0 a video of that many taken frames. */
sq_status sq_pixels_plan_size(sq_pixels *out, const sq_preproc *p, int64_t width, int64_t height,
                              int64_t frames, sq_error *err);
void sq_pixels_free(sq_pixels *px);

#endif
