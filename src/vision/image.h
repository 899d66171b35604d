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

/* PNG, JPEG (EXIF orientation applied) or WebP by content; alpha is composited on white as
 * qwen_vl_utils does. Grey, palette, 16-bit, CMYK as Pillow's convert("RGB"). Dimensions are
 * limited to 32,768 a side and 2^28 pixels before anything is allocated. */
sq_status sq_image_decode(sq_image *out, const void *data, size_t size, const char *where,
                          sq_error *err);
sq_status sq_image_load(sq_image *out, const char *path, sq_error *err);
void sq_image_free(sq_image *im);
/* Width and height from the file's header alone (after EXIF rotation), without decoding pixels. */
sq_status sq_image_probe(const char *path, int64_t *width, int64_t *height, sq_error *err);

/* Bicubic (a = -0.5) with antialias, bit-exact to Pillow's Image.resize for 8-bit channels
 * (horizontal pass first). The same size is a copy. */
sq_status sq_image_resize(sq_image *out, const sq_image *in, int64_t width, int64_t height,
                          sq_error *err);

#endif
