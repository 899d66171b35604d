/* PNG through libpng, with Pillow's conventions for 16 bits, palettes and transparency. */
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "vision/decoders.h"

/* All state that is used after a longjmp lives here, not in locals. */
typedef struct png_job {
    const uint8_t *data;
    size_t size, at;
    const char *where;
    sq_error *err;
    png_structp png;
    png_infop info;
    uint8_t *pixels; /* rows as libpng gives them */
    uint8_t **rows;
    sq_image_info *head;
    sq_image *out;
    int channels, wide_grey, failed;
} png_job;

static void on_error(png_structp png, png_const_charp text) {
    png_job *j = png_get_error_ptr(png);
    if (!j->failed) {
        j->failed = 1;
        sq_fail(j->err, SQ_EFORMAT, "%s: PNG; got %s, wanted a whole and valid file", j->where,
                text);
    }
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep to, size_t n) {
    png_job *j = png_get_io_ptr(png);
    if (n > j->size - j->at) {
        png_error(png, "an end of file too early");
    }
    memcpy(to, j->data + j->at, n);
    j->at += n;
}

static void read_head(png_job *j) {
    png_set_read_fn(j->png, j, on_read);
    png_set_user_limits(j->png, SQ_IMAGE_MAX_SIDE, SQ_IMAGE_MAX_SIDE);
    png_set_chunk_malloc_max(j->png, 64u << 20);
    png_set_chunk_cache_max(j->png, 1000);
    png_read_info(j->png, j->info);
    j->head->width = png_get_image_width(j->png, j->info);
    j->head->height = png_get_image_height(j->png, j->info);
    png_bytep exif = NULL;
    png_uint_32 n = 0;
    if (png_get_eXIf_1(j->png, j->info, &n, &exif) != 0 && exif != NULL) {
        j->head->orientation = sq_exif_orientation(exif, n);
    }
}

/* Everything becomes RGB, RGBA, or (wide_grey) 16-bit grey. */
static void set_transforms(png_job *j) {
    int type = png_get_color_type(j->png, j->info), depth = png_get_bit_depth(j->png, j->info);
    int trns = png_get_valid(j->png, j->info, PNG_INFO_tRNS) != 0;
    j->wide_grey = type == PNG_COLOR_TYPE_GRAY && depth == 16;
    png_set_expand(j->png); /* palette, low depths, tRNS to alpha */
    if (j->wide_grey) {
        j->channels = trns ? 2 : 1;
    } else {
        png_set_strip_16(j->png); /* the high byte, as Pillow's ";16B" raw modes */
        if (type == PNG_COLOR_TYPE_GRAY || type == PNG_COLOR_TYPE_GRAY_ALPHA) {
            png_set_gray_to_rgb(j->png);
        }
        j->channels = trns || (type & PNG_COLOR_MASK_ALPHA) ? 4 : 3;
    }
    png_set_interlace_handling(j->png);
    png_read_update_info(j->png, j->info);
    size_t want = (size_t)j->head->width * (size_t)j->channels * (j->wide_grey ? 2 : 1);
    if (png_get_rowbytes(j->png, j->info) != want) {
        png_error(j->png, "rows of an unexpected length");
    }
}

/* Pillow converts mode I;16 to RGB by clipping at 255; a transparent grey is white. */
static void narrow_grey(png_job *j) {
    size_t n = (size_t)(j->head->width * j->head->height), step = (size_t)j->channels * 2;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = j->pixels + i * step;
        int clear = j->channels == 2 && p[2] == 0 && p[3] == 0;
        memset(j->out->rgb + 3 * i, clear || p[0] != 0 ? 255 : p[1], 3);
    }
}

static sq_status make_room(png_job *j) {
    size_t w = (size_t)j->head->width, h = (size_t)j->head->height;
    size_t row = w * (size_t)j->channels * (j->wide_grey ? 2 : 1);
    sq_status st = sq_image_alloc(j->out, (int64_t)w, (int64_t)h, j->err);
    if (st != SQ_OK) {
        return st;
    }
    int direct = j->channels == 3;
    j->rows = sq_alloc(h, sizeof *j->rows, "rows", j->err);
    j->pixels = direct ? j->out->rgb : sq_alloc(h, row, "picture", j->err);
    if (j->rows == NULL || j->pixels == NULL) {
        return SQ_ENOMEM;
    }
    if (direct) {
        memset(j->pixels, 0, h * row);
    }
    for (size_t y = 0; y < h; y++) {
        j->rows[y] = j->pixels + y * row;
    }
    return SQ_OK;
}

static sq_status run(png_job *j) {
    if (setjmp(png_jmpbuf(j->png))) {
        return SQ_EFORMAT;
    }
    read_head(j);
    sq_status st = sq_image_check_size(j->head->width, j->head->height, j->where, j->err);
    if (st != SQ_OK || j->out == NULL) {
        return st;
    }
    set_transforms(j);
    st = make_room(j);
    if (st != SQ_OK) {
        return st;
    }
    png_read_image(j->png, j->rows);
    png_read_end(j->png, NULL);
    if (j->wide_grey) {
        narrow_grey(j);
    } else if (j->channels == 4) {
        sq_rgba_on_white(j->out->rgb, j->pixels, (size_t)(j->head->width * j->head->height));
    }
    return SQ_OK;
}

sq_status sq_png_decode(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                        const char *where, sq_error *err) {
    png_job j = {.data = data, .size = size, .where = where, .err = err, .head = info, .out = out};
    j.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    if (j.png == NULL) {
        return sq_fail_nomem(err, "PNG decoder", 0);
    }
    sq_status st;
    j.info = png_create_info_struct(j.png);
    if (j.info == NULL) {
        st = sq_fail_nomem(err, "PNG decoder", 0);
    } else {
        st = run(&j);
    }
    png_destroy_read_struct(&j.png, &j.info, NULL);
    sq_free(j.rows);
    if (j.pixels != NULL && (out == NULL || j.pixels != out->rgb)) {
        sq_free(j.pixels);
    }
    if (st != SQ_OK && out != NULL) {
        sq_image_free(out);
    }
    return st;
}
