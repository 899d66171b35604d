/* Video files through FFmpeg, and folders of frames, into patches. The file is read from memory and
 * nothing it names is opened. Total frames are counted from the packets (as torchcodec's exact
 * mode), the rate is the stream's average rate (PyAV, torchcodec); colour is converted by swscale
 * with PyAV's flags. */
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "vision/patches.h"

#define MAX_PACKETS 10000000 /* of the stream */
#define MAX_FILES 100000     /* frames of a folder */
#define IO_BYTES 65536

typedef struct clip {
    sq_map map;
    size_t at;
    AVIOContext *io;
    AVFormatContext *fmt;
    AVCodecContext *dec;
    AVPacket *packet;
    AVFrame *frame, *rgb;
    struct SwsContext *sws;
    int sws_format, sws_width, sws_height;
    int stream, flushing, orientation;
    int64_t total; /* frames */
    double fps;
    const char *path;
    sq_error *err;
} clip;

static sq_status bad(const clip *c, const char *what, int code) {
    char text[AV_ERROR_MAX_STRING_SIZE] = "corrupt data";
    if (code == AVERROR(ENOMEM)) {
        return sq_fail_nomem(c->err, what, 0);
    }
    if (code != 0) {
        av_strerror(code, text, sizeof text);
    }
    return sq_fail(c->err, SQ_EFORMAT, "%s: %s; got %s, wanted a whole and valid video", c->path,
                   what, text);
}

static int io_read(void *opaque, uint8_t *to, int n) {
    clip *c = opaque;
    size_t left = c->map.size - c->at, take = (size_t)n < left ? (size_t)n : left;
    if (take == 0) {
        return AVERROR_EOF;
    }
    memcpy(to, c->map.data + c->at, take);
    c->at += take;
    return (int)take;
}

static int64_t io_seek(void *opaque, int64_t offset, int whence) {
    clip *c = opaque;
    int64_t size = (int64_t)c->map.size;
    switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE:
        return size;
    case SEEK_SET:
        break;
    case SEEK_CUR:
        offset += (int64_t)c->at;
        break;
    case SEEK_END:
        offset += size;
        break;
    default:
        return AVERROR(EINVAL);
    }
    if (offset < 0 || offset > size) {
        return AVERROR(EINVAL);
    }
    c->at = (size_t)offset;
    return offset;
}

/* Playlists and files that point to others get nothing. */
static int io_refuse(AVFormatContext *s, AVIOContext **pb, const char *url, int flags,
                     AVDictionary **options) {
    (void)s;
    (void)pb;
    (void)url;
    (void)flags;
    (void)options;
    return AVERROR(EPERM);
}

static void close_input(clip *c) {
    avcodec_free_context(&c->dec);
    avformat_close_input(&c->fmt);
    if (c->io != NULL) {
        av_freep(&c->io->buffer);
        avio_context_free(&c->io);
    }
}

static sq_status open_input(clip *c) {
    c->at = 0;
    c->flushing = 0;
    uint8_t *buffer = av_malloc(IO_BYTES);
    c->io = buffer ? avio_alloc_context(buffer, IO_BYTES, 0, c, io_read, NULL, io_seek) : NULL;
    c->fmt = c->io ? avformat_alloc_context() : NULL;
    if (c->fmt == NULL) {
        if (c->io == NULL) {
            av_free(buffer);
        }
        return sq_fail_nomem(c->err, "video reader", 0);
    }
    c->fmt->pb = c->io;
    c->fmt->io_open = io_refuse;
    c->fmt->flags |= AVFMT_FLAG_CUSTOM_IO;
    int r = avformat_open_input(&c->fmt, NULL, NULL, NULL);
    if (r < 0) {
        return bad(c, "opening the video", r);
    }
    r = avformat_find_stream_info(c->fmt, NULL);
    if (r < 0) {
        return bad(c, "finding the streams", r);
    }
    c->stream = av_find_best_stream(c->fmt, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (c->stream < 0) {
        return bad(c, "finding a video stream", c->stream);
    }
    for (unsigned i = 0; i < c->fmt->nb_streams; i++) {
        c->fmt->streams[i]->discard = (int)i == c->stream ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
    }
    return SQ_OK;
}

/* The display matrix as an EXIF orientation; mirrored matrices are taken as not mirrored. */
static int read_rotation(const AVStream *s) {
    size_t n = 0;
    const uint8_t *data = av_stream_get_side_data(s, AV_PKT_DATA_DISPLAYMATRIX, &n);
    int32_t matrix[9];
    if (data == NULL || n < sizeof matrix) {
        return 1;
    }
    memcpy(matrix, data, sizeof matrix);
    double angle = av_display_rotation_get(matrix); /* counter-clockwise, -180 to 180, or NaN */
    if (!(fabs(angle) <= 360)) {
        return 1;
    }
    static const int orientation[4] = {1, 8, 3, 6};
    return orientation[((int)lrint(angle / 90) + 8) % 4];
}

/* Reads the whole file once without decoding. */
static sq_status count_frames(clip *c) {
    int64_t shown = 0, seen = 0;
    int r;
    while ((r = av_read_frame(c->fmt, c->packet)) >= 0) {
        if (c->packet->stream_index == c->stream) {
            int flags = c->packet->flags;
            seen++;
            shown += (flags & AV_PKT_FLAG_DISCARD) == 0;
            if (flags & AV_PKT_FLAG_CORRUPT) {
                r = AVERROR_INVALIDDATA;
            }
        }
        av_packet_unref(c->packet);
        if (r < 0 || seen > MAX_PACKETS) {
            return bad(c, "reading the stream", r < 0 ? r : AVERROR_INVALIDDATA);
        }
    }
    if (r != AVERROR_EOF) {
        return bad(c, "reading the stream", r);
    }
    const AVStream *s = c->fmt->streams[c->stream];
    /* QuickTime and MP4 know their count; elsewhere the header's figure is an estimate */
    if (strstr(c->fmt->iformat->name, "mp4") != NULL && s->nb_frames > seen) {
        return sq_fail(c->err, SQ_EFORMAT, "%s: frames; got %lld, wanted the %lld of the header",
                       c->path, (long long)seen, (long long)s->nb_frames);
    }
    if (shown < 1) {
        return bad(c, "frames of the video", 0);
    }
    AVRational rate = s->avg_frame_rate.num > 0 ? s->avg_frame_rate : s->r_frame_rate;
    c->fps = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0.0;
    c->total = shown;
    c->orientation = read_rotation(s);
    return SQ_OK;
}

static sq_status open_decoder(clip *c) {
    const AVCodecParameters *par = c->fmt->streams[c->stream]->codecpar;
    const AVCodec *codec = avcodec_find_decoder(par->codec_id);
    if (codec == NULL) {
        return sq_fail(c->err, SQ_EUNSUPPORTED, "%s: codec; got %s, wanted one that FFmpeg decodes",
                       c->path, avcodec_get_name(par->codec_id));
    }
    sq_status st = sq_image_check_size(par->width, par->height, c->path, c->err);
    if (st != SQ_OK) {
        return st;
    }
    c->dec = avcodec_alloc_context3(codec);
    if (c->dec == NULL) {
        return sq_fail_nomem(c->err, "video decoder", 0);
    }
    int r = avcodec_parameters_to_context(c->dec, par);
    c->dec->pkt_timebase = c->fmt->streams[c->stream]->time_base;
    c->dec->max_pixels = SQ_IMAGE_MAX_PIXELS;
    c->dec->thread_count = 0;
    if (r >= 0) {
        r = avcodec_open2(c->dec, codec, NULL);
    }
    return r < 0 ? bad(c, "opening the decoder", r) : SQ_OK;
}

/* The next frame in c->frame; *end at the end of the stream. */
static sq_status next_frame(clip *c, int *end) {
    for (;;) {
        int r = avcodec_receive_frame(c->dec, c->frame);
        if (r == AVERROR_EOF) {
            *end = 1;
            return SQ_OK;
        }
        if (r >= 0) {
            int broken =
                c->frame->decode_error_flags != 0 || (c->frame->flags & AV_FRAME_FLAG_CORRUPT) != 0;
            return broken ? bad(c, "decoding a frame", 0) : SQ_OK;
        }
        if (r != AVERROR(EAGAIN) || c->flushing) {
            return bad(c, "decoding a frame", r);
        }
        do {
            av_packet_unref(c->packet);
            r = av_read_frame(c->fmt, c->packet);
        } while (r >= 0 && c->packet->stream_index != c->stream);
        if (r < 0 && r != AVERROR_EOF) {
            return bad(c, "reading the stream", r);
        }
        c->flushing = r < 0;
        r = avcodec_send_packet(c->dec, r < 0 ? NULL : c->packet);
        av_packet_unref(c->packet);
        if (r < 0 && r != AVERROR_EOF) {
            return bad(c, "decoding a frame", r);
        }
    }
}

/* Where chroma samples lie, in 1/256 of a luma sample; newer swscale takes it from the frame. */
static void set_siting(struct SwsContext *sws, const AVFrame *f) {
    const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(f->format);
    int loc = f->chroma_location, x = 128, y = 128;
    if (d == NULL) {
        return;
    }
    if (loc > AVCHROMA_LOC_UNSPECIFIED && loc < AVCHROMA_LOC_NB) {
        x = (loc - 1) & 1 ? 128 : 0;
        y = loc >= AVCHROMA_LOC_BOTTOMLEFT ? 256 : loc >= AVCHROMA_LOC_TOPLEFT ? 0 : 128;
    }
    av_opt_set_int(sws, "src_h_chr_pos", d->log2_chroma_w ? x : -513, 0);
    av_opt_set_int(sws, "src_v_chr_pos", d->log2_chroma_h ? y : -513, 0);
}

/* swscale as PyAV's reformat: bilinear; coefficients, range and siting of the frame. */
static sq_status open_scaler(clip *c) {
    const AVFrame *f = c->frame;
    int *inv, *table, src_range, dst_range, brightness, contrast, saturation;
    c->sws = sws_alloc_context();
    if (c->sws == NULL) {
        return sq_fail_nomem(c->err, "colour conversion", 0);
    }
    av_opt_set_int(c->sws, "srcw", f->width, 0);
    av_opt_set_int(c->sws, "srch", f->height, 0);
    av_opt_set_int(c->sws, "dstw", f->width, 0);
    av_opt_set_int(c->sws, "dsth", f->height, 0);
    av_opt_set_int(c->sws, "src_format", f->format, 0);
    av_opt_set_int(c->sws, "dst_format", AV_PIX_FMT_RGB24, 0);
    av_opt_set_int(c->sws, "sws_flags", SWS_BILINEAR, 0);
    set_siting(c->sws, f);
    if (sws_init_context(c->sws, NULL, NULL) < 0) {
        const char *name = av_get_pix_fmt_name(f->format);
        return sq_fail(c->err, SQ_EUNSUPPORTED,
                       "%s: pixel format; got %s, wanted one that FFmpeg converts to RGB", c->path,
                       name ? name : "none");
    }
    if (sws_getColorspaceDetails(c->sws, &inv, &src_range, &table, &dst_range, &brightness,
                                 &contrast, &saturation) >= 0) {
        src_range |= f->color_range == AVCOL_RANGE_JPEG;
        sws_setColorspaceDetails(c->sws, sws_getCoefficients(f->colorspace), src_range, table,
                                 dst_range, brightness, contrast, saturation);
    }
    c->sws_format = f->format;
    c->sws_width = f->width;
    c->sws_height = f->height;
    return SQ_OK;
}

static sq_status convert(clip *c, sq_image *out) {
    const AVFrame *f = c->frame;
    if (c->sws == NULL || c->sws_format != f->format || c->sws_width != f->width ||
        c->sws_height != f->height) {
        sws_freeContext(c->sws);
        sq_status made = open_scaler(c);
        if (made != SQ_OK) {
            return made;
        }
    }
    if (c->rgb->width != f->width || c->rgb->height != f->height) {
        av_frame_unref(c->rgb);
        c->rgb->format = AV_PIX_FMT_RGB24;
        c->rgb->width = f->width;
        c->rgb->height = f->height;
        if (av_frame_get_buffer(c->rgb, 0) < 0) {
            return sq_fail_nomem(c->err, "frame", 0);
        }
    }
    int r = sws_scale(c->sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height,
                      c->rgb->data, c->rgb->linesize);
    if (r != f->height) {
        return bad(c, "converting a frame", r < 0 ? r : 0);
    }
    sq_status st = sq_image_alloc(out, f->width, f->height, c->err);
    for (int y = 0; st == SQ_OK && y < f->height; y++) {
        memcpy(out->rgb + (size_t)y * (size_t)f->width * 3,
               c->rgb->data[0] + (ptrdiff_t)y * c->rgb->linesize[0], (size_t)f->width * 3);
    }
    return st == SQ_OK ? sq_image_orient(out, c->orientation, c->err) : st;
}

/* Where the frames of one video go: into the patches of `out`, or one picture each. */
typedef struct sink {
    sq_pixels *out;
    sq_image *frames; /* [count], when they are wanted apart */
    const sq_preproc *p;
    sq_value_lut lut;
    int64_t count; /* frames that will come */
} sink;

/* The k-th of the frames taken as a picture of its own. */
static sq_status keep_frame(sink *s, sq_image *im, int64_t k, sq_error *err) {
    if (k == 0) {
        s->frames = sq_alloc((size_t)s->count, sizeof *s->frames, "frames", err);
        if (s->frames == NULL) {
            return SQ_ENOMEM;
        }
    }
    s->frames[k] = *im;
    *im = (sq_image){0};
    return SQ_OK;
}

static void drop_frames(sink *s) {
    for (int64_t i = 0; s->frames != NULL && i < s->count; i++) {
        sq_image_free(&s->frames[i]);
    }
    sq_free(s->frames);
    s->frames = NULL;
}

/* The k-th of the frames taken; the first decides the size. */
static sq_status put_frame(sink *s, sq_image *im, int64_t k, const char *path, sq_error *err) {
    sq_image small = {0};
    const sq_preproc *p = s->p;
    sq_status st;
    if (s->out == NULL) {
        return keep_frame(s, im, k, err);
    }
    if (k == 0) {
        SQ_TRY(sq_pixels_shape(s->out, p, im->width, im->height, s->count, 1, err));
        SQ_TRY(sq_pixels_room(s->out, err));
        sq_value_table(&s->lut, p, 1);
    }
    if (im->width != s->out->width || im->height != s->out->height) {
        return sq_fail(err, SQ_EFORMAT, "%s: size of frame %lld; got %lldx%lld, wanted %lldx%lld",
                       path, (long long)k, (long long)im->width, (long long)im->height,
                       (long long)s->out->width, (long long)s->out->height);
    }
    SQ_TRY(sq_image_resize_as(&small, im, s->out->resized_width, s->out->resized_height,
                              p->video_resize, err));
    int64_t tp = p->temporal_patch_size;
    sq_patches_put(s->out, p, &s->lut, &small, k, k == s->count - 1 ? tp - k % tp : 1);
fail:
    sq_image_free(&small);
    return st;
}

/* Takes the frames of the list; *decoded is how many the file turned out to have, when it ends
 * before the last of the list. */
static sq_status take_frames(clip *c, sink *s, const int64_t *indices, int64_t *decoded) {
    int end = 0;
    sq_status st = open_decoder(c);
    for (int64_t i = 0, k = 0; st == SQ_OK && k < s->count; i++) {
        st = next_frame(c, &end);
        if (end) {
            *decoded = i;
            break;
        }
        if (st == SQ_OK && i == indices[k]) {
            sq_image im = {0};
            st = convert(c, &im);
            if (st == SQ_OK) {
                st = put_frame(s, &im, k++, c->path, c->err);
            }
            sq_image_free(&im);
        }
        av_frame_unref(c->frame);
    }
    return st;
}

/* Some formats have packets without a picture of their own: then once more with the true count. */
static sq_status decode_clip(clip *c, sink *s) {
    sq_status st = SQ_OK;
    for (int attempt = 0; attempt < 2; attempt++) {
        int64_t *indices, decoded = -1;
        st = sq_sample_frames(s->p, c->total, c->fps, &indices, &s->count, c->err);
        if (st != SQ_OK) {
            return st;
        }
        close_input(c);
        st = open_input(c);
        if (st == SQ_OK) {
            st = take_frames(c, s, indices, &decoded);
        }
        sq_free(indices);
        if (st != SQ_OK || decoded < 0) {
            return st;
        }
        if (s->out != NULL) {
            sq_pixels_free(s->out);
        }
        drop_frames(s);
        c->total = decoded;
    }
    return bad(c, "frames of the video", 0);
}

static sq_status video_file(sink *s, const char *path, sq_error *err) {
    clip c = {.path = path, .err = err};
    sq_status st;
    av_log_set_level(AV_LOG_QUIET);
    SQ_TRY(sq_map_open(&c.map, path, err));
    c.packet = av_packet_alloc();
    c.frame = av_frame_alloc();
    c.rgb = av_frame_alloc();
    if (c.packet == NULL || c.frame == NULL || c.rgb == NULL) {
        st = sq_fail_nomem(err, "video reader", 0);
        goto fail;
    }
    SQ_TRY(open_input(&c));
    SQ_TRY(count_frames(&c));
    SQ_TRY(decode_clip(&c, s));
    double rate = (double)s->count / (double)c.total * (c.fps > 0 ? c.fps : 24.0);
    if (s->out != NULL) {
        s->out->second_per_grid = (double)s->p->temporal_patch_size / rate;
    }
fail:
    close_input(&c);
    sws_freeContext(c.sws);
    av_frame_free(&c.rgb);
    av_frame_free(&c.frame);
    av_packet_free(&c.packet);
    sq_map_close(&c.map);
    return st;
}

static sq_status frame_folder(sink *s, const char *dir, sq_error *err) {
    sq_arena a = {0};
    char **names;
    size_t n = 0, k = 0;
    sq_status st;
    SQ_TRY(sq_list_dir(&a, dir, &names, &n, err));
    for (size_t i = 0; i < n; i++) {
        s->count += names[i][0] != '.';
    }
    if (s->count < 1 || s->count > MAX_FILES) {
        st = sq_fail(err, SQ_EARG, "%s: frames in the folder; got %lld, wanted 1 to %d", dir,
                     (long long)s->count, MAX_FILES);
        goto fail;
    }
    for (size_t i = 0; i < n; i++) {
        if (names[i][0] == '.') {
            continue;
        }
        sq_image im = {0};
        char *path = sq_path_join(&a, dir, names[i], err);
        st = path == NULL ? SQ_ENOMEM : sq_image_load(&im, path, err);
        if (st == SQ_OK) {
            st = put_frame(s, &im, (int64_t)k++, path, err);
        }
        sq_image_free(&im);
        if (st != SQ_OK) {
            goto fail;
        }
    }
    if (s->out != NULL) {
        s->out->second_per_grid = (double)s->p->temporal_patch_size / 24.0;
    }
fail:
    sq_arena_free(&a);
    return st;
}

static sq_status read_frames(sink *s, const char *path, sq_error *err) {
    return sq_is_dir(path) ? frame_folder(s, path, err) : video_file(s, path, err);
}

sq_status sq_pixels_video_file(sq_pixels *out, const sq_preproc *p, const char *path,
                               sq_error *err) {
    *out = (sq_pixels){0};
    sink s = {.out = out, .p = p};
    sq_status st = read_frames(&s, path, err);
    if (st != SQ_OK) {
        sq_pixels_free(out);
    }
    return st;
}

sq_status sq_video_frames(sq_image **frames, int64_t *count, const sq_preproc *p, const char *path,
                          sq_error *err) {
    sink s = {.p = p};
    sq_status st = read_frames(&s, path, err);
    if (st != SQ_OK) {
        drop_frames(&s);
        s.count = 0;
    }
    *frames = s.frames;
    *count = s.count;
    return st;
}
