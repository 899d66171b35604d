/* Images: decoding to RGB, and Pillow's bicubic resize. */
#ifndef SQ_VISION_IMAGE_H
#define SQ_VISION_IMAGE_H

#include <stdint.h>

#include "base/mem.h"

/* Interleaved 8-bit RGB, rows without padding. Zeroed is valid and empty. */
typedef struct sq_image {
    int64_t width, height;
    uint8_t *rgb; /* [height][width][3], sq_free */
} sq_image;

#define SQ_IMAGE_MAX_SIDE 32768
#define SQ_IMAGE_MAX_PIXELS ((int64_t)1 << 28)

/* PNG, JPEG or WebP by content, EXIF orientation applied (Pillow's ImageOps.exif_transpose); alpha
 * is composited on white (Pillow's paste and alpha_composite agree on every value; transformers
 * image_transforms.py convert_to_rgb, qwen_vl_utils to_rgb). Grey, palette, CMYK as Pillow's
 * convert("RGB"); 16-bit colour keeps the high byte, 16-bit grey is clipped at 255 as Pillow does.
 * Dimensions are limited to SQ_IMAGE_MAX_SIDE a side and SQ_IMAGE_MAX_PIXELS before anything is
 * allocated. A truncated or corrupt file is SQ_EFORMAT, an animated WebP SQ_EUNSUPPORTED. */
sq_status sq_image_decode(sq_image *out, const void *data, size_t size, const char *where,
                          sq_error *err);
sq_status sq_image_load(sq_image *out, const char *path, sq_error *err);
void sq_image_free(sq_image *im);
/* Width and height from the file's header alone (after EXIF rotation), without decoding pixels. */
sq_status sq_image_probe(const char *path, int64_t *width, int64_t *height, sq_error *err);

/* Fails unless 1 <= side <= SQ_IMAGE_MAX_SIDE and the area is within SQ_IMAGE_MAX_PIXELS. */
sq_status sq_image_check_size(int64_t width, int64_t height, const char *where, sq_error *err);
/* An image of that size with undefined pixels. */
sq_status sq_image_alloc(sq_image *out, int64_t width, int64_t height, sq_error *err);
/* EXIF orientation 1 to 8 applied in place; other values do nothing. */
sq_status sq_image_orient(sq_image *im, int orientation, sq_error *err);

/* Bicubic (a = -0.5) with antialias in 8-bit fixed point, bit-exact to the one named. */
typedef enum sq_resize_kind {
    SQ_RESIZE_PILLOW,   /* Pillow 13: vertical pass first where the height shrinks and the width
                           grows, horizontal first elsewhere; 22 fractional bits */
    SQ_RESIZE_PILLOW12, /* Pillow up to 12: horizontal pass first always */
    SQ_RESIZE_TORCH8    /* torchvision on uint8: 16-bit weights, horizontal pass first */
} sq_resize_kind;

/* SQ_RESIZE_PILLOW. The same size is a copy. Threaded over rows. */
sq_status sq_image_resize(sq_image *out, const sq_image *in, int64_t width, int64_t height,
                          sq_error *err);
sq_status sq_image_resize_as(sq_image *out, const sq_image *in, int64_t width, int64_t height,
                             sq_resize_kind kind, sq_error *err);

#endif
