#include "quant/fingerprint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/media.h"

const uint64_t sq_hash_start = 0xcbf29ce484222325u;
enum { SLICE = 16 << 20, TASTE = 64 };

uint64_t sq_hash_words(uint64_t h, const void *p, size_t n) {
    const unsigned char *s = p;
    uint64_t word;
    for (; n >= sizeof word; n -= sizeof word, s += sizeof word) {
        memcpy(&word, s, sizeof word);
        h = (h ^ word) * 0x100000001b3u;
    }
    if (n > 0) {
        word = 0;
        memcpy(&word, s, n);
        h = (h ^ word) * 0x100000001b3u;
    }
    return h;
}

static uint64_t hash_text(uint64_t h, const char *s) {
    size_t n = s == NULL ? 0 : strlen(s);
    return sq_hash_words(sq_hash_words(h, &n, sizeof n), s, n);
}

sq_status sq_model_mark(const sq_net *net, uint64_t *out, sq_error *err) {
    char *config = json_dumps(net->config.json, JSON_COMPACT | JSON_SORT_KEYS);
    if (config == NULL) {
        return sq_fail_nomem(err, "a fingerprint", 0);
    }
    uint64_t h = hash_text(sq_hash_start, config);
    free(config);
    for (size_t i = 0; i < sq_checkpoint_count(net->ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(net->ckpt, i);
        h = hash_text(h, t->name);
        h = sq_hash_words(h, &t->bytes, sizeof t->bytes);
        h = sq_hash_words(h, t->data, t->bytes < TASTE ? t->bytes : TASTE);
    }
    *out = h;
    return SQ_OK;
}

/* ---- files ---- */

static sq_status hash_file(uint64_t *h, const char *path, sq_error *err) {
    sq_map m;
    sq_status st = sq_map_open(&m, path, err);
    if (st != SQ_OK) {
        return st;
    }
    for (size_t at = 0; at < m.size; at += SLICE) {
        size_t n = m.size - at < SLICE ? m.size - at : SLICE;
        *h = sq_hash_words(*h, m.data + at, n);
        sq_map_release(m.data + at, n);
    }
    *h = sq_hash_words(*h, &m.size, sizeof m.size);
    sq_map_close(&m);
    return SQ_OK;
}

/* The pictures and videos of one line. What is wrong with the line or a file is said where it is
 * read. */
static void hash_media(uint64_t *h, const char *line, size_t n, const char *dir, sq_arena *a) {
    json_t *v = NULL, *m, *part;
    size_t i, k;
    if (sq_json_parse(line, n, "", &v, NULL) != SQ_OK) {
        return;
    }
    json_array_foreach(json_object_get(v, "messages"), i, m) {
        json_array_foreach(json_object_get(m, "content"), k, part) {
            const char *file = sq_media_path(part, sq_json_str(part, "type", ""));
            char *path = file == NULL ? NULL : sq_path_join(a, dir, file, NULL);
            if (path != NULL) {
                hash_file(h, path, NULL);
            }
        }
    }
    json_decref(v);
}

static sq_status hash_data(uint64_t *h, const char *path, sq_error *err) {
    sq_arena a = {0};
    sq_map m = {0};
    char *dir = sq_path_dir(&a, path, err);
    sq_status st = dir == NULL ? SQ_ENOMEM : sq_map_open(&m, path, err);
    for (size_t at = 0, n; st == SQ_OK && at < m.size; at += n + 1) {
        const char *line = (const char *)m.data + at, *end = memchr(line, '\n', m.size - at);
        n = end == NULL ? m.size - at : (size_t)(end - line);
        hash_media(h, line, n, dir, &a);
    }
    sq_map_close(&m);
    sq_arena_free(&a);
    return st == SQ_OK ? hash_file(h, path, err) : st;
}

sq_status sq_fingerprint(const char *verb, const sq_net *net, const sq_quantize_options *o,
                         uint64_t stats, char out[17], sq_error *err) {
    uint64_t h = hash_text(hash_text(sq_hash_start, SQ_VERSION), verb), model;
    sq_status st = sq_model_mark(net, &model, err);
    const char *const words[] = {sq_kernels_get()->name,
                                 o->method == NULL ? "awq" : o->method,
                                 o->scheme == NULL ? "w4a16" : o->scheme,
                                 o->vision == NULL ? "keep" : o->vision,
                                 o->embedding == NULL ? "keep" : o->embedding,
                                 o->lm_head == NULL ? "keep" : o->lm_head,
                                 o->target,
                                 o->format};
    const int64_t numbers[] = {o->group_size, o->samples,      o->seq,         o->indivisible,
                               o->symmetric,  o->no_clip,      o->mse_range,   o->tp,
                               o->sequential, o->no_act_order, (int64_t)model, (int64_t)stats};
    const double reals[] = {o->target_bits, o->damp};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        h = hash_text(h, words[i]);
    }
    h = sq_hash_words(h, numbers, sizeof numbers);
    h = sq_hash_words(h, reals, sizeof reals);
    if (st == SQ_OK && o->calib != NULL) {
        st = hash_data(&h, o->calib, err);
    }
    if (st == SQ_OK && o->profile != NULL) {
        st = hash_file(&h, o->profile, err);
    }
    snprintf(out, 17, "%016" PRIx64, h);
    return st;
}
