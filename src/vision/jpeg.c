/* JPEG through libjpeg(-turbo): slow integer DCT and fancy upsampling, as Pillow; CMYK always with
 * Adobe's polarity, as Pillow. Errors come back by longjmp. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

#include "vision/decoders.h"

#define MAX_SCANS 500 /* a progressive file can ask for any number of passes over the picture */

typedef struct jpeg_job {
    struct jpeg_error_mgr mgr; /* first: libjpeg hands back this address */
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct dec;
    jmp_buf jump;
    const char *where;
    sq_error *err;
    sq_image_info *head;
    sq_image *out;
    uint8_t *row; /* one row of CMYK */
} jpeg_job;

static void stop(jpeg_job *j, const char *text) {
    sq_fail(j->err, SQ_EFORMAT, "%s: JPEG; got %s, wanted a whole and valid file", j->where, text);
    longjmp(j->jump, 1);
}

static void on_error(j_common_ptr c) {
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    stop((jpeg_job *)c->err, text);
}

/* Warnings are let pass as Pillow does, but for the end of the file. */
static void on_message(j_common_ptr c, int level) {
    if (level < 0 && c->err->msg_code == JWRN_JPEG_EOF) {
        stop((jpeg_job *)c->err, "an end of file too early");
    }
}

static void on_progress(j_common_ptr c) {
    if (((j_decompress_ptr)c)->input_scan_number > MAX_SCANS) {
        stop((jpeg_job *)c->err, "too many scans");
    }
}

static void read_exif(jpeg_job *j) {
    for (jpeg_saved_marker_ptr m = j->dec.marker_list; m != NULL; m = m->next) {
        if (m->marker == JPEG_APP0 + 1 && m->data_length >= 6 &&
            memcmp(m->data, "Exif\0\0", 6) == 0) {
            j->head->orientation = sq_exif_orientation(m->data, m->data_length);
            return;
        }
    }
}

static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned nk = cmyk[4 * i + 3]; /* inverted: 255 - K */
        for (size_t c = 0; c < 3; c++) {
            unsigned t = (255u - cmyk[4 * i + c]) * nk + 128u;
            rgb[3 * i + c] = (uint8_t)(nk - (((t >> 8) + t) >> 8));
        }
    }
}

static sq_status read_pixels(jpeg_job *j) {
    size_t w = (size_t)j->head->width;
    int cmyk = j->dec.num_components == 4;
    j->dec.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    sq_status st = sq_image_alloc(j->out, j->head->width, j->head->height, j->err);
    if (st != SQ_OK) {
        return st;
    }
    if (cmyk && (j->row = sq_alloc(w, 4, "row", j->err)) == NULL) {
        return SQ_ENOMEM;
    }
    jpeg_start_decompress(&j->dec);
    if (j->dec.output_width != w || (int64_t)j->dec.output_height != j->head->height) {
        stop(j, "another size than its header says");
    }
    while (j->dec.output_scanline < j->dec.output_height) {
        uint8_t *to = j->out->rgb + 3 * w * j->dec.output_scanline;
        JSAMPROW line = cmyk ? j->row : to;
        if (jpeg_read_scanlines(&j->dec, &line, 1) != 1) {
            stop(j, "a missing row");
        }
        if (cmyk) {
            cmyk_to_rgb(to, j->row, w);
        }
    }
    jpeg_finish_decompress(&j->dec);
    return SQ_OK;
}

static sq_status run(jpeg_job *j, const uint8_t *data, size_t size) {
    if (setjmp(j->jump)) {
        return SQ_EFORMAT;
    }
    jpeg_create_decompress(&j->dec);
    j->dec.progress = &j->progress;
    jpeg_save_markers(&j->dec, JPEG_APP0 + 1, 0xffff);
    jpeg_mem_src(&j->dec, data, size);
    jpeg_read_header(&j->dec, TRUE);
    j->head->width = j->dec.image_width;
    j->head->height = j->dec.image_height;
    read_exif(j);
    sq_status st = sq_image_check_size(j->head->width, j->head->height, j->where, j->err);
    int n = j->dec.num_components;
    if (st == SQ_OK && n != 1 && n != 3 && n != 4) {
        st = sq_fail(j->err, SQ_EUNSUPPORTED, "%s: JPEG components; got %d, wanted 1, 3 or 4",
                     j->where, n);
    }
    return st != SQ_OK || j->out == NULL ? st : read_pixels(j);
}

sq_status sq_jpeg_decode(sq_image *out, sq_image_info *info, const uint8_t *data, size_t size,
                         const char *where, sq_error *err) {
    jpeg_job j = {.where = where, .err = err, .head = info, .out = out};
    j.dec.err = jpeg_std_error(&j.mgr);
    j.mgr.error_exit = on_error;
    j.mgr.emit_message = on_message;
    j.progress.progress_monitor = on_progress;
    sq_status st = run(&j, data, size);
    jpeg_destroy_decompress(&j.dec);
    sq_free(j.row);
    if (st != SQ_OK && out != NULL) {
        sq_image_free(out);
    }
    return st;
}
