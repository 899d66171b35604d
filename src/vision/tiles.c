/* Pictures for towers of one size: CLIP's and SigLIP's processors (shortest edge and centre crop,
 * or squash), LLaVA-NeXT's tiles (transformers 5.23, the Pillow backends of models/clip, llava,
 * llava_next, siglip). */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/source.h"
#include "vision/patches.h"

/* ---- sizes ---- */

/* image_processing_utils.select_best_resolution: rows and columns of the grid's pixels. */
static void best_grid(const sq_preproc *p, int64_t width, int64_t height, int64_t *gh,
                      int64_t *gw) {
    double most = 0, least = INFINITY;
    *gh = *gw = p->tile;
    for (int i = 0; i < p->n_pinpoints; i++) {
        double h = (double)p->pinpoints[i][0], w = (double)p->pinpoints[i][1];
        double s = fmin(w / (double)width, h / (double)height);
        double area = floor((double)width * s) * floor((double)height * s);
        double used = fmin(area, (double)(width * height)), waste = h * w - used;
        if (used > most || (used == most && waste < least)) {
            most = used;
            least = waste;
            *gh = p->pinpoints[i][0];
            *gw = p->pinpoints[i][1];
        }
    }
}

sq_tile_view sq_tile_view_of(const sq_pixels *px, int64_t side) {
    int64_t h = px->tile_rows * side, w = px->tile_cols * side, pad;
    double ow = (double)px->width, oh = (double)px->height;
    sq_tile_view v = {0, h, 0, w};
    /* int(round(x, 7)) of unpad_image */
    if (ow / oh > (double)w / (double)h) {
        pad = (h - (int64_t)(rint(oh * ((double)w / ow) * 1e7) / 1e7)) / 2;
        v.y0 = pad;
        v.y1 = h - pad;
    } else {
        pad = (w - (int64_t)(rint(ow * ((double)h / oh) * 1e7) / 1e7)) / 2;
        v.x0 = pad;
        v.x1 = w - pad;
    }
    return v;
}

/* VILA's find_closest_aspect_ratio over the grids of as many tiles as the last level's square up to
 * MAX_TILES, smaller grids first. */
static void level_grid(const sq_preproc *p, int64_t width, int64_t height, int64_t *rows,
                       int64_t *cols) {
    enum { MAX_TILES = 12 };
    int64_t last = p->levels[p->n_levels - 1],
            most = last * last > MAX_TILES ? last * last : MAX_TILES;
    double aspect = (double)width / (double)height, best = INFINITY;
    *rows = *cols = last;
    for (int64_t n = last * last; n <= most; n++) {
        for (int64_t c = 1; c <= n; c++) {
            double off = n % c == 0 ? fabs(aspect - (double)c / ((double)n / (double)c)) : INFINITY;
            double half = 0.5 * (double)(p->tile * p->tile * n);
            if (off < best || (off == best && off < INFINITY && (double)(width * height) > half)) {
                best = off;
                *cols = c;
                *rows = n / c;
            }
        }
    }
}

static int64_t square_tiles(const sq_preproc *p) {
    int64_t n = 0;
    for (int i = 0; i + 1 < p->n_levels; i++) {
        n += p->levels[i] * p->levels[i];
    }
    return n;
}

sq_preproc sq_preproc_for(const sq_preproc *p, size_t count) {
    sq_preproc out = *p;
    if (p->kind == SQ_PREPROC_LEVELS && count != 1) {
        out.kind = SQ_PREPROC_SQUASH;
    }
    return out;
}

sq_status sq_tiles_shape(sq_pixels *out, const sq_preproc *p, int64_t width, int64_t height,
                         int64_t frames, sq_error *err) {
    int64_t side = p->tile / p->patch_size;
    out->width = width;
    out->height = height;
    out->resized_width = out->resized_height = p->tile;
    out->grid_t = frames;
    out->grid_h = out->grid_w = side;
    out->patch_dim = 3 * p->patch_size * p->patch_size;
    out->tokens = frames * p->tile_tokens;
    if (p->kind == SQ_PREPROC_LEVELS) {
        level_grid(p, width, height, &out->tile_rows, &out->tile_cols);
        out->resized_width = out->tile_cols * p->tile;
        out->resized_height = out->tile_rows * p->tile;
        out->grid_t = square_tiles(p) + out->tile_rows * out->tile_cols;
        out->tokens = out->tile_rows * out->tile_cols * p->tile_tokens;
        return SQ_OK;
    }
    if (p->kind != SQ_PREPROC_ANYRES) {
        return SQ_OK;
    }
    int64_t gh, gw;
    best_grid(p, width, height, &gh, &gw);
    out->tile_rows = gh / p->tile;
    out->tile_cols = gw / p->tile;
    out->resized_width = gw;
    out->resized_height = gh;
    out->grid_t = 1 + out->tile_rows * out->tile_cols;
    sq_tile_view v = sq_tile_view_of(out, side);
    if (v.y1 <= v.y0 || v.x1 <= v.x0) {
        return sq_fail(err, SQ_EARG,
                       "aspect ratio of the picture; got %lldx%lld: nothing is left of "
                       "it among the tiles",
                       (long long)width, (long long)height);
    }
    out->tokens = side * side + (v.y1 - v.y0) * (v.x1 - v.x0 + 1);
    return SQ_OK;
}

/* ---- pixels ---- */

/* A picture of w x h with `im` at (x, y); what lies outside of either is left out or coloured. */
static sq_status place(sq_image *out, const sq_image *im, int64_t w, int64_t h, int64_t x,
                       int64_t y, const uint8_t colour[3], sq_error *err) {
    sq_status st = sq_image_alloc(out, w, h, err);
    if (st != SQ_OK) {
        return st;
    }
    for (int64_t r = 0; r < h; r++) {
        for (int64_t c = 0; c < w; c++) {
            int64_t sy = r - y, sx = c - x;
            int in = sy >= 0 && sy < im->height && sx >= 0 && sx < im->width;
            memcpy(out->rgb + 3 * (r * w + c), in ? im->rgb + 3 * (sy * im->width + sx) : colour,
                   3);
        }
    }
    return SQ_OK;
}

static sq_status squash(sq_image *out, const sq_preproc *p, const sq_image *im, int64_t w,
                        int64_t h, sq_error *err) {
    return sq_image_resize_as(out, im, w, h, p->image_resize, err);
}

/* Onto a square of the mean colour (LlavaImageProcessor.pad_to_square). */
static sq_status pad_square(sq_image *out, const sq_preproc *p, const sq_image *im, sq_error *err) {
    int64_t side = im->width > im->height ? im->width : im->height;
    uint8_t colour[3];
    for (int c = 0; c < 3; c++) {
        colour[c] = (uint8_t)(int)(p->mean_exact[c] * 255);
    }
    return place(out, im, side, side, (side - im->width) / 2, (side - im->height) / 2, colour, err);
}

/* Shortest edge to p->shortest, then the middle of it. */
static sq_status crop(sq_image *out, const sq_preproc *p, const sq_image *im, sq_error *err) {
    static const uint8_t black[3] = {0, 0, 0};
    sq_image small = {0};
    int64_t lo = im->width < im->height ? im->width : im->height, hi = im->width + im->height - lo;
    int64_t longer = (int64_t)((double)(p->shortest * hi) / (double)lo);
    int64_t w = im->width < im->height ? p->shortest : longer;
    int64_t h = im->width < im->height ? longer : p->shortest;
    sq_status st = squash(&small, p, im, w, h, err);
    if (st == SQ_OK) {
        int64_t left = (w - p->tile) / 2, top = (h - p->tile) / 2;
        st = place(out, &small, p->tile, p->tile, -left, -top, black, err);
    }
    sq_image_free(&small);
    return st;
}

static sq_status one_tile(sq_image *out, const sq_preproc *p, const sq_image *im, sq_error *err) {
    sq_image square = {0};
    sq_status st = SQ_OK;
    if (p->pad_square && im->width != im->height) {
        st = pad_square(&square, p, im, err);
        im = &square;
    }
    if (st == SQ_OK) {
        st = p->kind == SQ_PREPROC_CROP ? crop(out, p, im, err)
                                        : squash(out, p, im, p->tile, p->tile, err);
    }
    sq_image_free(&square);
    return st;
}

/* The grid of tiles: resized with its aspect, centred on black (get_patch_output_size,
 * _get_padding_size). */
static sq_status grid(sq_image *out, const sq_preproc *p, const sq_pixels *px, const sq_image *im,
                      sq_error *err) {
    static const uint8_t black[3] = {0, 0, 0};
    sq_image small = {0};
    double tw = (double)px->resized_width, th = (double)px->resized_height;
    double sw = tw / (double)im->width, sh = th / (double)im->height;
    int64_t w = (int64_t)(sw < sh ? tw : fmin(ceil((double)im->width * sh), tw));
    int64_t h = (int64_t)(sw < sh ? fmin(ceil((double)im->height * sw), th) : th);
    sq_status st = squash(&small, p, im, w, h, err);
    if (st == SQ_OK) {
        st = place(out, &small, px->resized_width, px->resized_height, (px->resized_width - w) / 2,
                   (px->resized_height - h) / 2, black, err);
    }
    sq_image_free(&small);
    return st;
}

/* rows x cols tiles of `all`, as frames from `first` on. */
static sq_status put_tiles(sq_pixels *out, const sq_preproc *p, const sq_value_lut *lut,
                           const sq_image *all, int64_t rows, int64_t cols, int64_t first,
                           sq_error *err) {
    static const uint8_t black[3] = {0, 0, 0};
    sq_status st = SQ_OK;
    for (int64_t i = 0; st == SQ_OK && i < rows * cols; i++) {
        sq_image tile = {0};
        st = place(&tile, all, p->tile, p->tile, -(i % cols) * p->tile, -(i / cols) * p->tile,
                   black, err);
        if (st == SQ_OK) {
            sq_patches_put(out, p, lut, &tile, first + i, 1);
        }
        sq_image_free(&tile);
    }
    return st;
}

static sq_status put_grid(sq_pixels *out, const sq_preproc *p, const sq_value_lut *lut,
                          const sq_image *im, sq_error *err) {
    sq_image all = {0};
    sq_status st = grid(&all, p, out, im, err);
    if (st == SQ_OK) {
        st = put_tiles(out, p, lut, &all, out->tile_rows, out->tile_cols, 1, err);
    }
    sq_image_free(&all);
    return st;
}

/* Each level squashed to its grid (mm_utils.dynamic_s2_preprocess). */
static sq_status put_levels(sq_pixels *out, const sq_preproc *p, const sq_value_lut *lut,
                            const sq_image *im, sq_error *err) {
    int64_t first = 0;
    sq_status st = SQ_OK;
    for (int i = 0; st == SQ_OK && i < p->n_levels; i++) {
        int last = i + 1 == p->n_levels;
        int64_t rows = last ? out->tile_rows : p->levels[i],
                cols = last ? out->tile_cols : p->levels[i];
        sq_image all = {0};
        st = squash(&all, p, im, cols * p->tile, rows * p->tile, err);
        if (st == SQ_OK) {
            st = put_tiles(out, p, lut, &all, rows, cols, first, err);
        }
        sq_image_free(&all);
        first += rows * cols;
    }
    return st;
}

sq_status sq_tiles_image(sq_pixels *out, const sq_preproc *p, const sq_image *im, sq_error *err) {
    sq_image tile = {0};
    sq_value_lut lut;
    sq_status st;
    SQ_TRY(sq_tiles_shape(out, p, im->width, im->height, 1, err));
    SQ_TRY(sq_pixels_room(out, err));
    sq_value_table(&lut, p, 0);
    if (p->kind == SQ_PREPROC_ANYRES) {
        SQ_TRY(squash(&tile, p, im, p->tile, p->tile, err));
        sq_patches_put(out, p, &lut, &tile, 0, 1);
        st = put_grid(out, p, &lut, im, err);
    } else if (p->kind == SQ_PREPROC_LEVELS) {
        st = put_levels(out, p, &lut, im, err);
    } else {
        SQ_TRY(one_tile(&tile, p, im, err));
        sq_patches_put(out, p, &lut, &tile, 0, 1);
    }
fail:
    sq_image_free(&tile);
    return st;
}

/* ---- configuration ---- */

static int64_t edge(const json_t *o, const char *key, const char *name, int64_t dflt) {
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? (int64_t)json_integer_value(v) : sq_json_int(v, name, dflt);
}

static sq_status read_pinpoints(sq_preproc *p, const json_t *v, const char *where, sq_error *err) {
    size_t n = json_array_size(v);
    if (n < 1 || n > SQ_MAX_PINPOINTS) {
        return sq_fail(err, SQ_EFORMAT, "%s: image_grid_pinpoints; got %zu, wanted 1 to %d", where,
                       n, SQ_MAX_PINPOINTS);
    }
    p->n_pinpoints = (int)n;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < 2; k++) {
            const json_t *e = json_array_get(json_array_get(v, i), k);
            int64_t side = json_is_integer(e) ? (int64_t)json_integer_value(e) : 0;
            if (side < p->tile || side > SQ_IMAGE_MAX_SIDE || side % p->tile != 0) {
                return sq_fail(err, SQ_EFORMAT,
                               "%s: image_grid_pinpoints[%zu]; got %lld, wanted a multiple of %lld",
                               where, i, (long long)side, (long long)p->tile);
            }
            p->pinpoints[i][k] = side;
        }
    }
    return SQ_OK;
}

/* CLIP's or SigLIP's keys: size and crop_size are a number, an edge, or both sides. */
static sq_status read_sizes(sq_preproc *p, const json_t *o, const char *where, sq_error *err) {
    int64_t height = edge(o, "size", "height", p->tile), width = edge(o, "size", "width", p->tile);
    int centre = sq_json_bool(o, "do_center_crop",
                              p->kind == SQ_PREPROC_CROP || p->kind == SQ_PREPROC_ANYRES);
    int both = json_object_get(json_object_get(o, "size"), "height") != NULL;
    int64_t seen = centre ? edge(o, "crop_size", "height", p->tile) : height;
    p->shortest = edge(o, "size", "shortest_edge", p->tile);
    if (p->kind == SQ_PREPROC_CROP && both) {
        p->kind = SQ_PREPROC_SQUASH;
    }
    p->pad_square = sq_json_bool(o, "do_pad", 0) && p->kind != SQ_PREPROC_ANYRES;
    if (seen != p->tile || (both && (height != p->tile || width != p->tile)) || p->shortest < 1 ||
        p->shortest > SQ_IMAGE_MAX_SIDE) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: the processor's size does not fit the tower; got %lld, wanted %lld",
                       where, (long long)(seen != p->tile ? seen : height), (long long)p->tile);
    }
    return SQ_OK;
}

sq_status sq_preproc_load_tiles(sq_preproc *out, const char *dir, const sq_tile_options *o,
                                sq_error *err) {
    sq_arena a = {0};
    json_t *file = NULL;
    char *path = NULL;
    static const char *const names[] = {"processor_config.json", "preprocessor_config.json",
                                        "vision_tower/preprocessor_config.json"};
    sq_status st = SQ_OK;
    const json_t *image = NULL, *points = o->pinpoints;
    sq_preproc_default(out);
    out->kind = o->kind;
    out->tile = o->tile;
    out->tile_tokens = o->tile_tokens;
    out->patch_size = o->patch;
    out->merge_size = out->temporal_patch_size = 1;
    out->num_frames = o->num_frames;
    for (out->n_levels = 0; out->n_levels < o->n_levels; out->n_levels++) {
        out->levels[out->n_levels] = o->levels[out->n_levels];
    }
    int siglip = o->kind == SQ_PREPROC_SQUASH || o->kind == SQ_PREPROC_LEVELS;
    for (int c = 0; siglip && c < 3; c++) {
        out->mean[c] = out->std[c] = 0.5f;
    }
    for (size_t i = 0; st == SQ_OK && image == NULL && i < 3; i++) {
        json_decref(file);
        file = NULL;
        path = sq_path_join(&a, dir, names[i], err);
        st = path == NULL ? SQ_ENOMEM : sq_source_json(dir, names[i], &file, err);
        image = i == 0 ? json_object_get(file, "image_processor") : file;
    }
    SQ_TRY(st);
    SQ_TRY(sq_preproc_colours(out, image, path, err));
    SQ_TRY(read_sizes(out, image, path, err));
    out->pad_square |= o->pad;
    for (int c = 0; c < 3; c++) {
        const json_t *m = json_array_get(json_object_get(image, "image_mean"), (size_t)c);
        out->mean_exact[c] = json_is_number(m) ? json_number_value(m) : (double)out->mean[c];
    }
    if (out->kind == SQ_PREPROC_ANYRES) {
        const json_t *own = json_object_get(image, "image_grid_pinpoints");
        SQ_TRY(read_pinpoints(out, own != NULL ? own : points, path, err));
    }
fail:
    json_decref(file);
    sq_arena_free(&a);
    return st;
}
