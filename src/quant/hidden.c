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

static sq_status embed_one(sq_hidden *h, size_t i, sq_prompt *p, sq_error *err) {
    int64_t width = h->net->config.dims[SQ_D_HIDDEN];
    sq_embed(h->net, p->ids.data, h->tokens[i], h->rows[i]);
    for (size_t s = 0; s < p->n_slots; s++) {
        sq_pixels *px = &p->slots[s].pixels;
        sq_status st = sq_vision_forward(h->net, h->work, px,
                                         h->rows[i] + p->slots[s].start * width, NULL, err);
        if (st != SQ_OK) {
            return st;
        }
    }
    return sq_positions_copy(&h->positions[i], &p->positions, 0, h->tokens[i], err);
}

sq_status sq_hidden_open(sq_hidden *h, const sq_net *net, const sq_frontend *f, sq_samples *samples,
                         size_t max_ram, const char *dir, const sq_progress *progress,
                         sq_error *err) {
    *h = (sq_hidden){.net = net, .n = samples->n};
    size_t width = (size_t)net->config.dims[SQ_D_HIDDEN], floats = 0;
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
    SQ_TRY(place(h, floats, max_ram, dir, err));
    size_t at = 0;
    for (size_t i = 0; i < h->n; i++) {
        h->rows[i] = h->data + at;
        at += (size_t)h->tokens[i] * width;
        SQ_TRY(embed_one(h, i, &samples->items[i].prompt, err));
        sq_prompt_free(&samples->items[i].prompt);
        if (!sq_progress_tick(progress, "embed", (int64_t)i + 1, (int64_t)h->n, NULL)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    (void)f;
    return SQ_OK;
fail:
    sq_hidden_close(h);
    return st;
}

sq_status sq_hidden_layer(sq_hidden *h, int layer, const sq_tap_sink *sink, int look,
                          sq_error *err) {
    const sq_config *c = &h->net->config;
    size_t half = (size_t)c->head_dim / 2, width = (size_t)c->dims[SQ_D_HIDDEN], longest = 0;
    for (size_t i = 0; i < h->n; i++) {
        longest = (size_t)h->tokens[i] > longest ? (size_t)h->tokens[i] : longest;
    }
    sq_kv kv;
    sq_kv_init(&kv, 1, c->kv_heads, c->head_dim);
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
    }
    sq_kv_free(&kv);
    sq_free(cos_rows);
    sq_free(sin_rows);
    sq_free(copy);
    return st;
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
    sq_free(h->rows);
    sq_free(h->tokens);
    sq_work_close(&h->work);
    *h = (sq_hidden){0};
}
