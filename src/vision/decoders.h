/* The three decoders behind sq_image_decode. Each takes a whole file in memory. */
#ifndef SQ_VISION_DECODERS_H
#define SQ_VISION_DECODERS_H

#include "vision/image.h"

/* What a file's header says; orientation is EXIF's, 1 when there is none. */
typedef struct sq_image_info {
    int64_t width, height;
    int orientation;
} sq_image_info;

/* With out == NULL only the header is read. The image is not yet turned. */
sq_status sq_png_decode(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                        const char *where, sq_error *err);
sq_status sq_jpeg_decode(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                         const char *where, sq_error *err);
sq_status sq_webp_decode(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                         const char *where, sq_error *err);

/* Orientation from a TIFF block, with or without "Exif\0\0" in front; 1 when absent or broken. */
int sq_exif_orientation(const uint8_t *p, size_t n);

/* rgb[i] = rgba[i] over white, as Pillow's paste rounds it; in place is allowed. */
void sq_rgba_on_white(uint8_t *rgb, const uint8_t *rgba, size_t pixels);

#endif
