/* Opening a checkpoint of any kind, and looking its tensors up. */
#include "format/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "format/source.h"

sq_status sq_checkpoint_reserve(sq_checkpoint *c, size_t more, sq_error *err) {
    size_t want = c->n + more;
    if (want <= c->cap) {
        return SQ_OK;
    }
    void *p = c->tensors;
    sq_status st =
        sq_grow(&p, c->n * sizeof *c->tensors, 2 * want, sizeof *c->tensors, "tensors", err);
    if (st == SQ_OK) {
        c->tensors = p;
        c->cap = 2 * want;
    }
    return st;
}

sq_shard *sq_checkpoint_add_shard(sq_checkpoint *c, const char *name, sq_error *err) {
    size_t n = (size_t)c->n_shards;
    void *p = c->shards;
    if (sq_grow(&p, n * sizeof *c->shards, n + 1, sizeof *c->shards, "files", err) != SQ_OK) {
        return NULL;
    }
    c->shards = p;
    c->shards[n] = (sq_shard){.name = sq_arena_strdup(&c->arena, name, err)};
    if (c->shards[n].name == NULL) {
        return NULL;
    }
    return &c->shards[c->n_shards++];
}

void sq_rows_to_halves(void *dst, const void *src, int64_t heads, int64_t head_dim,
                       size_t row_bytes) {
    char *to = dst;
    const char *from = src;
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < head_dim; i++) {
            int64_t p = i / (head_dim / 2), j = i % (head_dim / 2);
            memcpy(to + (size_t)(h * head_dim + i) * row_bytes,
                   from + (size_t)(h * head_dim + 2 * j + p) * row_bytes, row_bytes);
        }
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const sq_tensor *)a)->name, ((const sq_tensor *)b)->name);
}

/* VILA keeps its parts in folders of their own: names get the folder as a prefix. */
static sq_status read_parts(sq_checkpoint *c, const char *dir, sq_error *err) {
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && sq_source_parts[i] != NULL; i++) {
        char *path = sq_path_join(&c->arena, dir, sq_source_parts[i], err);
        char *prefix = sq_arena_printf(&c->arena, err, "%s.", sq_source_parts[i]);
        st = path == NULL || prefix == NULL ? SQ_ENOMEM : sq_safetensors_read(c, path, prefix, err);
    }
    return st;
}

static sq_status read_any(sq_checkpoint *c, const char *path, sq_error *err) {
    switch (sq_source_kind_of(path)) {
    case SQ_SOURCE_GGUF:
        return sq_gguf_read(c, path, err);
    case SQ_SOURCE_LLAMA2C:
        return sq_llama2c_read(c, path, err);
    case SQ_SOURCE_PARTS:
        return read_parts(c, path, err);
    case SQ_SOURCE_HF:
        break;
    }
    return sq_safetensors_read(c, path, "", err);
}

sq_status sq_checkpoint_open(sq_checkpoint **out, const char *path, sq_error *err) {
    *out = NULL;
    sq_checkpoint *c = sq_alloc(1, sizeof *c, "a checkpoint", err);
    if (c == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = read_any(c, path, err);
    if (st == SQ_OK && c->n > 1) {
        qsort(c->tensors, c->n, sizeof *c->tensors, by_name);
    }
    for (size_t i = 1; st == SQ_OK && i < c->n; i++) {
        if (strcmp(c->tensors[i - 1].name, c->tensors[i].name) == 0) {
            st = sq_fail(err, SQ_EFORMAT, "'%s': tensor '%s' is there twice", path,
                         c->tensors[i].name);
        }
    }
    if (st != SQ_OK) {
        sq_checkpoint_close(&c);
    }
    *out = c;
    return st;
}

void sq_checkpoint_close(sq_checkpoint **pc) {
    sq_checkpoint *c = *pc;
    if (c == NULL) {
        return;
    }
    for (int i = 0; i < c->n_shards; i++) {
        sq_map_close(&c->shards[i].map);
    }
    sq_free(c->shards);
    sq_free(c->tensors);
    sq_arena_free(&c->arena);
    sq_free(c);
    *pc = NULL;
}

size_t sq_checkpoint_count(const sq_checkpoint *c) { return c->n; }

const sq_tensor *sq_checkpoint_at(const sq_checkpoint *c, size_t i) {
    return i < c->n ? &c->tensors[i] : NULL;
}

const sq_tensor *sq_checkpoint_find(const sq_checkpoint *c, const char *name) {
    sq_tensor key = {.name = name};
    return c->n == 0 ? NULL : bsearch(&key, c->tensors, c->n, sizeof key, by_name);
}

int sq_checkpoint_shards(const sq_checkpoint *c) { return c->n_shards; }

const char *sq_checkpoint_shard_name(const sq_checkpoint *c, int i) {
    return i >= 0 && i < c->n_shards ? c->shards[i].name : NULL;
}

uint64_t sq_checkpoint_bytes(const sq_checkpoint *c) {
    uint64_t sum = 0;
    for (size_t i = 0; i < c->n; i++) {
        sum += c->tensors[i].bytes;
    }
    return sum;
}

void sq_tensor_release(const sq_tensor *t) {
    if (!t->owned) {
        sq_map_release(t->data, t->bytes);
    }
}
