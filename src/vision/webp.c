/* WebP through libwebp: lossy, lossless, alpha on white. */
#include <string.h>

#include <webp/decode.h>

#include "vision/decoders.h"

/* Finds the EXIF chunk in the RIFF list; 1 when there is none. */
static int find_orientation(const uint8_t *p, size_t n) {
    size_t at = 12;
    while (at <= n && n - at >= 8) {
        size_t len = (size_t)p[at + 4] | (size_t)p[at + 5] << 8 | (size_t)p[at + 6] << 16 |
                     (size_t)p[at + 7] << 24;
        if (len > n - at - 8) {
            break;
        }
        if (memcmp(p + at, "EXIF", 4) == 0) {
            return sq_exif_orientation(p + at + 8, len);
        }
        at += 8 + len + (len & 1);
    }
    return 1;
}

static sq_status read_pixels(sq_image *out, const uint8_t *data, size_t size, int alpha,
                             int64_t width, int64_t height, const char *where, sq_error *err) {
    size_t n = (size_t)(width * height);
    uint8_t *rgba = NULL;
    sq_status st = sq_image_alloc(out, width, height, err);
    if (st == SQ_OK && alpha && (rgba = sq_alloc_raw(n, 4, "picture", err)) == NULL) {
        st = SQ_ENOMEM;
    }
    if (st == SQ_OK) {
        uint8_t *got = alpha ? WebPDecodeRGBAInto(data, size, rgba, 4 * n, (int)width * 4)
                             : WebPDecodeRGBInto(data, size, out->rgb, 3 * n, (int)width * 3);
        if (got == NULL) {
            st = sq_fail(err, SQ_EFORMAT,
                         "%s: WebP; got corrupt or truncated data, wanted a whole and valid file",
                         where);
        } else if (alpha) {
            sq_rgba_on_white(out->rgb, rgba, n);
        }
    }
    sq_free(rgba);
    return st;
}

sq_status sq_webp_decode(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                         const char *where, sq_error *err) {
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(data, size, &f) != VP8_STATUS_OK) {
        return sq_fail(err, SQ_EFORMAT, "%s: WebP; got a broken header, wanted a valid file",
                       where);
    }
    sq_status st = sq_image_check_size(f.width, f.height, where, err);
    if (st != SQ_OK) {
        return st;
    }
    if (f.has_animation) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s: WebP; got an animation, wanted a still picture",
                       where);
    }
    info->width = f.width;
    info->height = f.height;
    info->orientation = find_orientation(data, size);
    if (out == NULL) {
        return SQ_OK;
    }
    st = read_pixels(out, data, size, f.has_alpha, f.width, f.height, where, err);
    if (st != SQ_OK) {
        sq_image_free(out);
    }
    return st;
}
