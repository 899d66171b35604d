/* CLIP and SigLIP towers (transformers models/clip, siglip: CLIPVisionTransformer,
 * SiglipVisionTransformer) over tiles of one size, and the projectors of LLaVA
 * (LlavaMultiModalProjector) and VILA (base_projector.py). */
#include <string.h>

#include "model/tower.h"

/* A tile's rows: class token if there is one, then patches, each with its position. */
void sq_vit_embed(const sq_tower_run *t, const sq_pixels *px) {
    const sq_net *n = t->net;
    int64_t w = t->width, side = sq_config_tile_side(&n->config), cells = side * side;
    int64_t rows = sq_config_tile_rows(&n->config), dim = px->patch_dim, first = rows - cells;
    for (int64_t tile = 0; tile < px->grid_t; tile++) {
        float *x = t->x + tile * rows * w;
        if (first > 0) {
            memcpy(x, n->class_embed, (size_t)w * sizeof *x);
        }
        sq_matmul(&n->patch_embed.weight, px->patches + tile * cells * dim, dim, cells,
                  n->patch_embed.bias, x + first * w, w);
        for (int64_t i = 0; i < rows * w; i++) {
            x[i] += n->v_positions[i];
        }
    }
    if (n->pre_norm.weight != NULL) {
        sq_tower_norm(t, t->x, t->x, t->rows, w, &n->pre_norm, n->config.v_eps);
    }
}

/* Token k of a tile as the projector takes it: one row of `wide`, or merge x merge rows next to
 * each other with zeros beyond the edge. */
static void gather(const sq_tower_run *t, const float *tile, int64_t wide, int64_t k, float *to) {
    const sq_config *c = &t->net->config;
    int64_t side = sq_config_tile_side(c), m = c->merge;
    if (m == 1) {
        memcpy(to, tile + (k + c->drop_first) * wide, (size_t)wide * sizeof *to);
        return;
    }
    int64_t cells = sq_ceil_div(side, m), first = sq_config_tile_rows(c) - side * side;
    int64_t row = c->column_major ? k % cells : k / cells,
            col = c->column_major ? k / cells : k % cells;
    for (int64_t i = 0; i < m * m; i++) {
        int64_t y = row * m + i / m, x = col * m + i % m;
        if (y < side && x < side) {
            memcpy(to + i * wide, tile + (first + y * side + x) * wide, (size_t)wide * sizeof *to);
        } else {
            memset(to + i * wide, 0, (size_t)wide * sizeof *to);
        }
    }
}

/* `rows` rows through norms, linears and activations; a and b are scratch of the widest row each.
 */
static sq_status project(const sq_tower_run *t, float *a, float *b, int64_t rows, float *out,
                         sq_error *err) {
    const sq_net *n = t->net;
    const sq_config *c = &n->config;
    const sq_block_rows *p = &c->projector->rows;
    for (size_t i = 0; i < p->n_linears; i++) {
        const sq_linear *l = &n->merger.linears[p->linears[i].role];
        int64_t k = l->weight.k, m = l->weight.n;
        for (size_t j = 0; j < p->n_norms; j++) {
            if (p->norms[j].tap == p->linears[i].tap) {
                sq_tower_norm(t, a, a, rows, k, &n->merger.norms[j], 1e-5f); /* torch's default */
            }
        }
        sq_status st = sq_tower_tap(t, l, a, rows, k, err);
        if (st != SQ_OK) {
            return st;
        }
        int last = i + 1 == p->n_linears;
        float *y = last ? out : b;
        sq_linear_rows(l, a, k, rows, y, m);
        if (!last) {
            sq_activate(c->projector_act, y, rows * m);
        }
        b = a;
        a = y;
    }
    return SQ_OK;
}

/* All tokens of all tiles: out [tiles * tokens][hidden]. */
static sq_status project_tiles(const sq_tower_run *t, const float *feats, int64_t wide,
                               int64_t tiles, float *out, sq_error *err) {
    const sq_config *c = &t->net->config;
    const int64_t *d = c->dims;
    int64_t tokens = sq_config_tile_tokens(c), in = d[SQ_D_V_MERGED], widest = in;
    int64_t tile_floats = sq_config_tile_rows(c) * wide;
    widest = d[SQ_D_V_MID] > widest ? d[SQ_D_V_MID] : widest;
    widest = d[SQ_D_V_OUT] > widest ? d[SQ_D_V_OUT] : widest;
    float *a = sq_alloc((size_t)tokens, (size_t)widest * sizeof *a, "vision activations", err);
    float *b = sq_alloc((size_t)tokens, (size_t)widest * sizeof *b, "vision activations", err);
    sq_status st = a == NULL || b == NULL ? SQ_ENOMEM : SQ_OK;
    for (int64_t i = 0; st == SQ_OK && i < tiles; i++) {
        for (int64_t k = 0; k < tokens; k++) {
            gather(t, feats + i * tile_floats, wide, k, a + k * in);
        }
        st = project(t, a, b, tokens, out + i * tokens * d[SQ_D_V_OUT], err);
    }
    sq_free(a);
    sq_free(b);
    return st;
}

/* LlavaNextModel.pack_image_features: the whole picture's tokens, then the tiles' grid without its
 * padding, a newline behind each row. */
static void pack(const sq_net *n, const sq_pixels *px, const float *tiles, float *out) {
    int64_t side = sq_config_tile_side(&n->config), hid = n->config.dims[SQ_D_V_OUT];
    int64_t cells = side * side;
    sq_tile_view v = sq_tile_view_of(px, side);
    size_t row = (size_t)hid * sizeof *out;
    memcpy(out, tiles, (size_t)cells * row);
    out += cells * hid;
    for (int64_t y = v.y0; y < v.y1; y++) {
        for (int64_t x = v.x0; x < v.x1; x++, out += hid) {
            int64_t tile = 1 + y / side * px->tile_cols + x / side;
            memcpy(out, tiles + (tile * cells + y % side * side + x % side) * hid, row);
        }
        memcpy(out, n->newline, row);
        out += hid;
    }
}

/* ---- levels (NVILA's dynamic_s2: merge_features_for_dynamic_s2 of llava_arch.py) ---- */

/* Mean of the cells of a map of h x w that lie under cell (y, x) of a map of oh x ow ("area"
 * interpolation); `cell` gives a row of n floats. */
typedef struct level {
    const float *tiles; /* of this level, in row-major order */
    int64_t rows, cols, side, n;
} level;

static const float *cell(const level *l, int64_t y, int64_t x) {
    int64_t tile = y / l->side * l->cols + x / l->side;
    return l->tiles + ((tile * l->side + y % l->side) * l->side + x % l->side) * l->n;
}

static void area(const level *l, int64_t y, int64_t x, int64_t oh, int64_t ow, float *to) {
    int64_t h = l->rows * l->side, w = l->cols * l->side;
    int64_t y0 = y * h / oh, y1 = sq_ceil_div((y + 1) * h, oh), x0 = x * w / ow,
            x1 = sq_ceil_div((x + 1) * w, ow);
    float share = 1.0f / (float)((y1 - y0) * (x1 - x0));
    memset(to, 0, (size_t)l->n * sizeof *to);
    for (int64_t i = y0; i < y1; i++) {
        for (int64_t j = x0; j < x1; j++) {
            const float *from = cell(l, i, j);
            for (int64_t k = 0; k < l->n; k++) {
                to[k] += from[k] * share;
            }
        }
    }
}

/* Every level in the last one's size, channels side by side: out [tile][cell][n_scales * n]. A
 * single tile is its own every level. */
static void join_levels(const sq_tower_run *t, const sq_pixels *px, const float *feats,
                        float *out) {
    const sq_config *c = &t->net->config;
    int64_t side = sq_config_tile_side(c), n = c->n_select * t->width;
    int levels = px->tile_cols > 0 ? c->n_scales : 1;
    int64_t rows = px->tile_cols > 0 ? px->tile_rows : 1,
            cols = px->tile_cols > 0 ? px->tile_cols : 1;
    int64_t wide = n * c->n_scales;
    for (int s = 0; s < c->n_scales; s++) {
        int last = levels == 1 || s + 1 == levels;
        level l = {feats, last ? rows : c->scales[s], last ? cols : c->scales[s], side, n};
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows * cols * side * side; i++) {
            int64_t tile = i / (side * side), in = i % (side * side);
            area(&l, tile / cols * side + in / side, tile % cols * side + in % side, rows * side,
                 cols * side, out + i * wide + s * n);
        }
        feats += levels == 1 ? 0 : l.rows * l.cols * side * side * n;
    }
}

/* Tokens of a grid of tiles, tile by tile, to row-major order of the whole. */
static void join_tiles(const sq_net *n, const sq_pixels *px, const float *tiles, float *out) {
    int64_t hid = n->config.dims[SQ_D_V_OUT], tokens = sq_config_tile_tokens(&n->config), m = 1;
    while (m * m < tokens) {
        m++;
    }
    for (int64_t y = 0; y < px->tile_rows * m; y++) {
        for (int64_t x = 0; x < px->tile_cols * m; x++, out += hid) {
            int64_t tile = y / m * px->tile_cols + x / m;
            memcpy(out, tiles + (tile * tokens + y % m * m + x % m) * hid,
                   (size_t)hid * sizeof *out);
        }
    }
}

/* Features to tokens where there are levels. */
static sq_status project_levels(const sq_tower_run *t, const sq_pixels *px, const float *feats,
                                float *out, sq_error *err) {
    const sq_config *c = &t->net->config;
    int64_t tiles = px->tile_cols > 0 ? px->tile_rows * px->tile_cols : 1;
    int64_t wide = c->n_select * t->width * c->n_scales;
    float *joined = sq_alloc_raw((size_t)(tiles * sq_config_tile_rows(c)),
                                 (size_t)wide * sizeof *joined, "vision features", err);
    float *all = sq_alloc_raw((size_t)(tiles * sq_config_tile_tokens(c)),
                              (size_t)c->dims[SQ_D_V_OUT] * sizeof *all, "vision features", err);
    sq_status st = joined == NULL || all == NULL ? SQ_ENOMEM : SQ_OK;
    if (st == SQ_OK) {
        join_levels(t, px, feats, joined);
        st = project_tiles(t, joined, wide, tiles, tiles == 1 ? out : all, err);
    }
    if (st == SQ_OK && tiles > 1) {
        join_tiles(t->net, px, all, out);
    }
    sq_free(joined);
    sq_free(all);
    return st;
}

/* Features to tokens, however the view lays them out. */
sq_status sq_vit_project(const sq_tower_run *t, const sq_pixels *px, float *out, sq_error *err) {
    const sq_config *c = &t->net->config;
    int64_t wide = c->n_select * t->width, tiles = px->grid_t;
    if (c->n_scales > 1) {
        return project_levels(t, px, t->feats, out, err);
    }
    if (px->tile_cols == 0) {
        return project_tiles(t, t->feats, wide, tiles, out, err);
    }
    float *all = sq_alloc_raw((size_t)(tiles * sq_config_tile_tokens(c)),
                              (size_t)c->dims[SQ_D_V_OUT] * sizeof *all, "vision features", err);
    sq_status st = all == NULL ? SQ_ENOMEM : project_tiles(t, t->feats, wide, tiles, all, err);
    if (st == SQ_OK) {
        pack(t->net, px, all, out);
    }
    sq_free(all);
    return st;
}

sq_status sq_vit_lay_out(sq_tower_run *t, sq_arena *a, const sq_pixels *px, sq_error *err) {
    const sq_config *c = &t->net->config;
    int64_t rows = sq_config_tile_rows(c), tiles = px->grid_t;
    if (tiles < 1 || px->grid_h != sq_config_tile_side(c) || px->grid_w != px->grid_h) {
        return sq_fail(err, SQ_EARG, "no such tiles for this model; got %lld of %lld x %lld",
                       (long long)tiles, (long long)px->grid_h, (long long)px->grid_w);
    }
    t->n_slots = tiles;
    t->slots = sq_arena_alloc(a, (size_t)tiles + 1, sizeof *t->slots, err);
    for (int64_t i = 0; t->slots != NULL && i <= tiles; i++) {
        t->slots[i] = i * rows;
    }
    return t->slots == NULL ? SQ_ENOMEM : sq_tower_reserve(t, err);
}
