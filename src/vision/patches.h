/* Between preprocess.c and video.c: shape of the patches and writing one picture into them. */
#ifndef SQ_VISION_PATCHES_H
#define SQ_VISION_PATCHES_H

#include "vision/preprocess.h"

/* Normalised value of every byte by channel. */
typedef struct sq_value_lut {
    float v[3][256];
} sq_value_lut;

void sq_value_table(sq_value_lut *t, const sq_preproc *p, int is_video);
/* Fills all of *out but patches and second_per_grid. */
sq_status sq_pixels_shape(sq_pixels *out, const sq_preproc *p, int64_t width, int64_t height,
                          int64_t frames, int is_video, sq_error *err);
/* Allocates the patches. */
sq_status sq_pixels_room(sq_pixels *out, sq_error *err);
/* Writes a picture of the resized size as frame `frame`, into `slots` temporal places from its own
 * on. */
void sq_patches_put(sq_pixels *out, const sq_preproc *p, const sq_value_lut *lut,
                    const sq_image *im, int64_t frame, int64_t slots);

/* The kinds with tiles: shape alone, and a whole picture. */
sq_status sq_tiles_shape(sq_pixels *out, const sq_preproc *p, int64_t width, int64_t height,
                         int64_t frames, sq_error *err);
sq_status sq_tiles_image(sq_pixels *out, const sq_preproc *p, const sq_image *im, sq_error *err);
/* image_mean, image_std, rescale_factor, and what must be true. */
sq_status sq_preproc_colours(sq_preproc *p, const json_t *o, const char *where, sq_error *err);

#endif
