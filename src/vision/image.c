/* Images: which decoder, size limits, EXIF orientation, alpha on white. */
#include "vision/decoders.h"

#include <string.h>

#include "base/file.h"

sq_status sq_image_check_size(int64_t width, int64_t height, const char *where, sq_error *err) {
    if (width < 1 || height < 1 || width > SQ_IMAGE_MAX_SIDE || height > SQ_IMAGE_MAX_SIDE ||
        width * height > SQ_IMAGE_MAX_PIXELS) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: size of the picture; got %lldx%lld, wanted 1 to %d a side and at most "
                       "%lld pixels",
                       where, (long long)width, (long long)height, SQ_IMAGE_MAX_SIDE,
                       (long long)SQ_IMAGE_MAX_PIXELS);
    }
    return SQ_OK;
}

sq_status sq_image_alloc(sq_image *out, int64_t width, int64_t height, sq_error *err) {
    *out = (sq_image){0};
    sq_status st = sq_image_check_size(width, height, "image", err);
    if (st != SQ_OK) {
        return st;
    }
    out->rgb = sq_alloc_raw((size_t)(width * height), 3, "picture", err);
    if (out->rgb == NULL) {
        return SQ_ENOMEM;
    }
    out->width = width;
    out->height = height;
    return SQ_OK;
}

void sq_image_free(sq_image *im) {
    if (im != NULL) {
        sq_free(im->rgb);
        *im = (sq_image){0};
    }
}

void sq_rgba_on_white(uint8_t *rgb, const uint8_t *rgba, size_t pixels) {
    for (size_t i = 0; i < pixels; i++) {
        unsigned a = rgba[4 * i + 3];
        for (size_t c = 0; c < 3; c++) {
            unsigned t = rgba[4 * i + c] * a + 255u * (255u - a) + 128u;
            rgb[3 * i + c] = (uint8_t)(((t >> 8) + t) >> 8);
        }
    }
}

/* TIFF 6.0: byte order, 42, offset of the first directory; entries of 12 bytes. */
int sq_exif_orientation(const uint8_t *p, size_t n) {
    if (n >= 6 && memcmp(p, "Exif\0\0", 6) == 0) {
        p += 6;
        n -= 6;
    }
    if (n < 8 || (memcmp(p, "II", 2) != 0 && memcmp(p, "MM", 2) != 0)) {
        return 1;
    }
    int le = p[0] == 'I';
#define U16(o) (le ? (size_t)p[o] | (size_t)p[(o) + 1] << 8 : (size_t)p[o] << 8 | p[(o) + 1])
#define U32(o) (le ? U16(o) | U16((o) + 2) << 16 : U16(o) << 16 | U16((o) + 2))
    size_t at = U32(4);
    if (U16(2) != 42 || at > n - 2) {
        return 1;
    }
    size_t count = U16(at);
    for (at += 2; count > 0 && n - at >= 12 && at <= n; count--, at += 12) {
        if (U16(at) == 0x0112) {
            size_t type = U16(at + 2);
            size_t v = type == 3 ? U16(at + 8) : type == 4 ? U32(at + 8) : 1;
            return v >= 1 && v <= 8 ? (int)v : 1;
        }
    }
#undef U16
#undef U32
    return 1;
}

/* Where pixel (x, y) of the turned picture comes from. Orientations 5 to 8 swap the sides. */
static void turn_rows(sq_image *to, const sq_image *from, int orientation) {
    int64_t w = from->width, h = from->height;
#pragma omp parallel for schedule(static) if (w * h > 100000)
    for (int64_t y = 0; y < to->height; y++) {
        for (int64_t x = 0; x < to->width; x++) {
            int64_t sx = orientation >= 5 ? y : x, sy = orientation >= 5 ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) {
                sx = w - 1 - sx;
            }
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) {
                sy = h - 1 - sy;
            }
            memcpy(to->rgb + 3 * (y * to->width + x), from->rgb + 3 * (sy * w + sx), 3);
        }
    }
}

sq_status sq_image_orient(sq_image *im, int orientation, sq_error *err) {
    if (orientation < 2 || orientation > 8) {
        return SQ_OK;
    }
    int swap = orientation >= 5;
    sq_image turned;
    sq_status st =
        sq_image_alloc(&turned, swap ? im->height : im->width, swap ? im->width : im->height, err);
    if (st != SQ_OK) {
        return st;
    }
    turn_rows(&turned, im, orientation);
    sq_free(im->rgb);
    *im = turned;
    return SQ_OK;
}

static sq_status dispatch(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                          const char *where, sq_error *err) {
    *info = (sq_image_info){.orientation = 1};
    if (size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0) {
        return sq_png_decode(out, info, data, size, where, err);
    }
    if (size >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0) {
        return sq_jpeg_decode(out, info, data, size, where, err);
    }
    if (size >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0) {
        return sq_webp_decode(out, info, data, size, where, err);
    }
    return sq_fail(err, SQ_EUNSUPPORTED,
                   "%s: kind of picture; got %zu bytes of an unknown kind, "
                   "wanted PNG, JPEG or WebP",
                   where, size);
}

sq_status sq_image_decode(sq_image *out, const void *data, size_t size, const char *where,
                          sq_error *err) {
    sq_image_info info;
    *out = (sq_image){0};
    sq_status st = dispatch(out, &info, data, size, where, err);
    if (st == SQ_OK) {
        st = sq_image_orient(out, info.orientation, err);
    }
    if (st != SQ_OK) {
        sq_image_free(out);
    }
    return st;
}

sq_status sq_image_load(sq_image *out, const char *path, sq_error *err) {
    sq_map map = {0};
    *out = (sq_image){0};
    sq_status st = sq_map_open(&map, path, err);
    if (st != SQ_OK) {
        return st;
    }
    st = sq_image_decode(out, map.data, map.size, path, err);
    sq_map_close(&map);
    return st;
}

sq_status sq_image_probe(const char *path, int64_t *width, int64_t *height, sq_error *err) {
    sq_map map = {0};
    sq_image_info info;
    sq_status st = sq_map_open(&map, path, err);
    if (st != SQ_OK) {
        return st;
    }
    st = dispatch(NULL, &info, map.data, map.size, path, err);
    sq_map_close(&map);
    if (st == SQ_OK) {
        *width = info.orientation >= 5 ? info.height : info.width;
        *height = info.orientation >= 5 ? info.width : info.height;
    }
    return st;
}
