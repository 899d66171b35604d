#include "quant/hidden.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

static sq_status place(sq_hidden *h, size_t floats, size_t max_ram, const char *dir,
                       sq_error *err) {
    if (!sq_mul(floats, sizeof(float), &h->bytes)) {
        return sq_fail(err, SQ_ENOMEM, "the calibration data is too large; got %zu numbers",
                       floats);
    }
    if (max_ram == 0 || h->bytes < max_ram / 4) {
        h->data = sq_alloc_raw(floats, sizeof(float), "calibration activations", err);
        return h->data == NULL ? SQ_ENOMEM : SQ_OK;
    }
    char path[1024];
    snprintf(path, sizeof path, "%.980s/activations-XXXXXX", dir);
    int fd = mkstemp(path);
    if (fd < 0) {
        return sq_fail_errno(err, "cannot create", path);
    }
    unlink(path);
    int e = posix_fallocate(fd, 0, (off_t)h->bytes);
    void *p = e == 0 ? mmap(NULL, h->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    errno = e != 0 ? e : errno;
    sq_status st = p == MAP_FAILED ? sq_fail_errno(err, "cannot keep activations in", dir) : SQ_OK;
    close(fd);
    if (st == SQ_OK) {
        h->data = p;
        h->mapped = 1;
    }
    return st;
}

/* What lies in the file needs no memory until its turn comes again. */
static void let_go(const sq_hidden *h, const float *p, size_t floats) {
    if (h->mapped) {
        sq_map_release(p, floats * sizeof *p);
    }
}

static sq_status embed_one(sq_hidden *h, size_t i, sq_samples *samples, int vision, size_t *seen,
                           sq_error *err) {
    int64_t width = h->net->config.dims[SQ_D_HIDDEN];
    const sq_prompt *p = &samples->items[i].prompt;
    if (p->n_slots > 0 && p->slots[0].pixels.patches == NULL) {
        sq_status st = sq_sample_load(&samples->items[i], samples->front, samples->dir, 0, err);
        if (st == SQ_OK && (int64_t)p->ids.len != h->tokens[i]) {
            st = sq_fail(err, SQ_EIO, "a picture of the calibration data changed meanwhile");
        }
        if (st != SQ_OK) {
            return st;
        }
    }
    sq_embed(h->net, p->ids.data, h->tokens[i], h->rows[i]);
    for (size_t s = 0; s < p->n_slots; s++) {
        const sq_pixels *px = &p->slots[s].pixels;
        float *to = h->rows[i] + p->slots[s].start * width;
        sq_status st = vision ? sq_vision_embed(h->net, h->work, px, h->pictures[*seen].state, err)
                              : sq_vision_forward(h->net, h->work, px, to, NULL, err);
        if (st != SQ_OK) {
            return st;
        }
        if (vision) {
            const sq_picture *x = &h->pictures[*seen];
            let_go(h, x->state, sq_vision_state_floats(&h->net->config, &x->shape));
        }
        *seen += 1;
    }
    let_go(h, h->rows[i], (size_t)(h->tokens[i] * width));
    return sq_positions_copy(&h->positions[i], &p->positions, 0, h->tokens[i], err);
}

/* The list of pictures, and how many numbers their states take. */
static sq_status list_pictures(sq_hidden *h, const sq_samples *samples, size_t *floats,
                               sq_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++) {
        n += samples->items[i].prompt.n_slots;
    }
    h->pictures = sq_alloc(n + 1, sizeof *h->pictures, "pictures", err);
    for (size_t i = 0; h->pictures != NULL && i < h->n; i++) {
        const sq_prompt *p = &samples->items[i].prompt;
        for (size_t s = 0; s < p->n_slots; s++) {
            sq_picture *x = &h->pictures[h->n_pictures++];
            *x = (sq_picture){i, p->slots[s].start, p->slots[s].pixels, NULL};
            x->shape.patches = NULL;
            *floats += sq_vision_state_floats(&h->net->config, &x->shape);
        }
    }
    return h->pictures == NULL ? SQ_ENOMEM : SQ_OK;
}

static void divide(sq_hidden *h, size_t width) {
    float *at = h->data;
    for (size_t i = 0; i < h->n; i++) {
        h->rows[i] = at;
        at += (size_t)h->tokens[i] * width;
    }
    for (size_t i = 0; i < h->n_pictures; i++) {
        h->pictures[i].state = at;
        at += sq_vision_state_floats(&h->net->config, &h->pictures[i].shape);
    }
}

/* Gives back what a stage worked in and the pages of the weights that it read: what comes next may
 * need as much. */
static sq_status end_stage(sq_hidden *h, sq_error *err) {
    sq_work_close(&h->work);
    sq_net_release(h->net);
    return sq_work_open(&h->work, h->net, err);
}

sq_status sq_hidden_open(sq_hidden *h, const sq_net *net, sq_samples *samples,
                         const sq_hidden_options *o, const sq_progress *progress, sq_error *err) {
    *h = (sq_hidden){.net = net, .n = samples->n};
    size_t width = (size_t)net->config.dims[SQ_D_HIDDEN], floats = 0, seen = 0;
    sq_status st;
    SQ_TRY(sq_work_open(&h->work, net, err));
    h->tokens = sq_alloc(h->n, sizeof *h->tokens, "samples", err);
    h->rows = sq_alloc(h->n, sizeof *h->rows, "samples", err);
    h->positions = sq_alloc(h->n, sizeof *h->positions, "samples", err);
    if (h->tokens == NULL || h->rows == NULL || h->positions == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    for (size_t i = 0; i < h->n; i++) {
        h->tokens[i] = (int64_t)samples->items[i].prompt.ids.len;
        floats += (size_t)h->tokens[i] * width;
    }
    if (o->vision) {
        SQ_TRY(list_pictures(h, samples, &floats, err));
    }
    SQ_TRY(place(h, floats, o->max_ram, o->dir, err));
    divide(h, width);
    for (size_t i = 0; i < h->n; i++) {
        SQ_TRY(embed_one(h, i, samples, o->vision, &seen, err));
        sq_prompt_free(&samples->items[i].prompt);
        if (!sq_progress_tick(progress, "embed", (int64_t)i + 1, (int64_t)h->n, NULL)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    SQ_TRY(end_stage(h, err));
    return SQ_OK;
fail:
    sq_hidden_close(h);
    return st;
}

static sq_status text_layer(sq_hidden *h, int layer, const sq_tap_sink *sink, int look,
                            sq_error *err) {
    const sq_config *c = &h->net->config;
    size_t half = (size_t)c->head_dim / 2, width = (size_t)c->dims[SQ_D_HIDDEN], longest = 0;
    for (size_t i = 0; i < h->n; i++) {
        longest = (size_t)h->tokens[i] > longest ? (size_t)h->tokens[i] : longest;
    }
    sq_kv kv;
    sq_kv_init(&kv, SQ_KV_F32, 1, c->kv_heads, c->head_dim);
    float *cos_rows = sq_alloc(longest, half * sizeof *cos_rows, "rotary tables", err);
    float *sin_rows = sq_alloc(longest, half * sizeof *sin_rows, "rotary tables", err);
    float *copy = look ? sq_alloc_raw(longest, width * sizeof *copy, "activations", err) : NULL;
    sq_status st = cos_rows == NULL || sin_rows == NULL || (look && copy == NULL)
                       ? SQ_ENOMEM
                       : sq_kv_reserve(&kv, (int64_t)longest, err);
    for (size_t i = 0; st == SQ_OK && i < h->n; i++) {
        const int32_t *p[3] = {h->positions[i].p[0], h->positions[i].p[1], h->positions[i].p[2]};
        sq_rope_rows(h->net, p, h->tokens[i], cos_rows, sin_rows);
        float *rows = look ? copy : h->rows[i];
        if (look) {
            memcpy(rows, h->rows[i], (size_t)h->tokens[i] * width * sizeof *rows);
        }
        st = sq_text_layer(h->net, h->work, layer, &kv, 0, cos_rows, sin_rows, rows, h->tokens[i],
                           sink, err);
        let_go(h, h->rows[i], (size_t)h->tokens[i] * width);
    }
    sq_kv_free(&kv);
    sq_free(cos_rows);
    sq_free(sin_rows);
    sq_free(copy);
    return st;
}

/* Pictures through a block of the tower, or from the last one to tokens among the rows. */
static sq_status pictures(sq_hidden *h, const sq_stage *stage, const sq_tap_sink *sink, int look,
                          sq_error *err) {
    size_t width = (size_t)h->net->config.dims[SQ_D_HIDDEN];
    int merge = stage->part == SQ_PART_MERGER;
    float *copy = NULL;
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < h->n_pictures; i++) {
        const sq_picture *p = &h->pictures[i];
        size_t n = sq_vision_state_floats(&h->net->config, &p->shape);
        float *state = p->state, *to = h->rows[p->sample] + (size_t)p->start * width;
        if (look) {
            sq_free(copy);
            state = copy = sq_alloc_raw(n, sizeof *copy, "activations", err);
            if (copy == NULL) {
                return SQ_ENOMEM;
            }
            memcpy(copy, p->state, n * sizeof *copy);
        }
        st = merge ? sq_vision_project(h->net, h->work, &p->shape, state, to, sink, err)
                   : sq_vision_layer(h->net, h->work, &p->shape, stage->index, state, sink, err);
        if (merge && !look) {
            sq_map_release(p->state, n * sizeof *state); /* used up */
        }
        let_go(h, p->state, n);
    }
    sq_free(copy);
    return st;
}

sq_status sq_hidden_stage(sq_hidden *h, const sq_stage *stage, const sq_tap_sink *sink, int look,
                          sq_error *err) {
    sq_status st = stage->part == SQ_PART_TEXT ? text_layer(h, (int)stage->index, sink, look, err)
                                               : pictures(h, stage, sink, look, err);
    return st == SQ_OK ? end_stage(h, err) : st;
}

void sq_hidden_close(sq_hidden *h) {
    for (size_t i = 0; h->positions != NULL && i < h->n; i++) {
        sq_positions_free(&h->positions[i]);
    }
    if (h->mapped) {
        munmap(h->data, h->bytes);
    } else {
        sq_free(h->data);
    }
    sq_free(h->positions);
    sq_free(h->pictures);
    sq_free(h->rows);
    sq_free(h->tokens);
    sq_work_close(&h->work);
    *h = (sq_hidden){0};
}
