#include "format/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSION = 3, ALIGNMENT = 32, MAX_NAME = 64 /* GGML_MAX_NAME, with its 0 */ };

typedef struct out_tensor {
    const char *name;
    uint32_t type;
    int rank;
    int64_t shape[4];
    uint64_t offset; /* in the data */
    size_t bytes;
} out_tensor;

struct sq_gguf_writer {
    sq_arena arena;
    char *path, *partial;
    int fd;
    sq_buf meta;
    const char **keys;
    size_t n_keys, cap_keys, n, cap;
    out_tensor *tensors;
    uint64_t start;      /* of the data */
    size_t at, put;      /* the tensor that is being written, and its bytes so far */
    int failed, created; /* metadata ran out of memory; the partial file is there */
};

sq_status sq_gguf_writer_open(sq_gguf_writer **out, const char *path, sq_error *err) {
    *out = NULL;
    if (sq_file_exists(path)) {
        sq_fail(err, SQ_EARG, "'%s' exists already; wanted a new file", path);
        sq_hint(err, "remove it, or choose another -o");
        return SQ_EARG;
    }
    sq_gguf_writer *w = sq_alloc(1, sizeof *w, "a writer", err);
    if (w == NULL) {
        return SQ_ENOMEM;
    }
    w->fd = -1;
    w->path = sq_arena_strdup(&w->arena, path, err);
    w->partial = sq_arena_printf(&w->arena, err, "%s.partial", path);
    if (w->path == NULL || w->partial == NULL) {
        sq_gguf_writer_close(&w);
        return SQ_ENOMEM;
    }
    *out = w;
    return SQ_OK;
}

/* ---- metadata ---- */

static void put_u32(sq_buf *b, uint32_t v) { sq_buf_put(b, &v, sizeof v); }
static void put_u64(sq_buf *b, uint64_t v) { sq_buf_put(b, &v, sizeof v); }
static void put_text(sq_buf *b, const char *text, size_t n) {
    put_u64(b, n);
    sq_buf_put(b, text, n);
}

static void put_key(sq_gguf_writer *w, const char *key, sq_gguf_type type) {
    if (w->n_keys == w->cap_keys) {
        void *p = (void *)w->keys;
        size_t cap = 2 * w->cap_keys + 32;
        if (sq_grow(&p, w->n_keys * sizeof *w->keys, cap, sizeof *w->keys, "keys", NULL) != SQ_OK) {
            w->failed = 1;
            return;
        }
        w->keys = p;
        w->cap_keys = cap;
    }
    const char *copy = sq_arena_strdup(&w->arena, key, NULL);
    if (copy == NULL) {
        w->failed = 1;
        return;
    }
    w->keys[w->n_keys++] = copy;
    put_text(&w->meta, key, strlen(key));
    put_u32(&w->meta, (uint32_t)type);
}

static void put_array(sq_gguf_writer *w, const char *key, sq_gguf_type item, size_t n) {
    put_key(w, key, SQ_GGUF_ARRAY);
    put_u32(&w->meta, (uint32_t)item);
    put_u64(&w->meta, n);
}

void sq_gguf_put_u32(sq_gguf_writer *w, const char *key, uint32_t v) {
    put_key(w, key, SQ_GGUF_U32);
    put_u32(&w->meta, v);
}

void sq_gguf_put_f32(sq_gguf_writer *w, const char *key, float v) {
    put_key(w, key, SQ_GGUF_F32);
    sq_buf_put(&w->meta, &v, sizeof v);
}

void sq_gguf_put_bool(sq_gguf_writer *w, const char *key, int v) {
    unsigned char byte = v != 0;
    put_key(w, key, SQ_GGUF_BOOL);
    sq_buf_put(&w->meta, &byte, 1);
}

void sq_gguf_put_text(sq_gguf_writer *w, const char *key, const char *text, size_t n) {
    put_key(w, key, SQ_GGUF_STRING);
    put_text(&w->meta, text, n);
}

void sq_gguf_put_string(sq_gguf_writer *w, const char *key, const char *text) {
    sq_gguf_put_text(w, key, text, strlen(text));
}

void sq_gguf_put_strings(sq_gguf_writer *w, const char *key, const sq_gguf_text *v, size_t n) {
    put_array(w, key, SQ_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        put_text(&w->meta, v[i].p, v[i].n);
    }
}

void sq_gguf_put_f32s(sq_gguf_writer *w, const char *key, const float *v, size_t n) {
    put_array(w, key, SQ_GGUF_F32, n);
    sq_buf_put(&w->meta, v, n * sizeof *v);
}

void sq_gguf_put_i32s(sq_gguf_writer *w, const char *key, const int32_t *v, size_t n) {
    put_array(w, key, SQ_GGUF_I32, n);
    sq_buf_put(&w->meta, v, n * sizeof *v);
}

/* ---- tensors ---- */

sq_status sq_gguf_add_tensor(sq_gguf_writer *w, const char *name, sq_dtype type, int rank,
                             const int64_t *shape, sq_error *err) {
    out_tensor t = {.rank = rank, .bytes = sq_dtype_size(type)};
    int64_t block = (int64_t)sq_dtype_block(type);
    if (strlen(name) >= MAX_NAME) {
        return sq_fail(err, SQ_EUNSUPPORTED, "tensor '%s': name of %zu bytes, wanted at most %d",
                       name, strlen(name), MAX_NAME - 1);
    }
    if (!sq_gguf_type_number(type, &t.type) || rank < 1 || rank > 4) {
        return sq_fail(err, SQ_EUNSUPPORTED, "tensor '%s': GGUF has no %s of rank %d", name,
                       sq_dtype_name(type), rank);
    }
    for (int i = 0; i < rank; i++) {
        int last = i == rank - 1;
        if (shape[i] < 1 || (last && shape[i] % block != 0) ||
            !sq_mul(t.bytes, (size_t)(last ? shape[i] / block : shape[i]), &t.bytes)) {
            return sq_fail(err, SQ_EUNSUPPORTED,
                           "tensor '%s': %s wants columns in whole blocks of %lld; got %lld", name,
                           sq_dtype_name(type), (long long)block, (long long)shape[rank - 1]);
        }
        t.shape[i] = shape[i];
    }
    if (w->n == w->cap) {
        void *p = w->tensors;
        size_t cap = 2 * w->cap + 64;
        sq_status st =
            sq_grow(&p, w->n * sizeof *w->tensors, cap, sizeof *w->tensors, "tensors", err);
        if (st != SQ_OK) {
            return st;
        }
        w->tensors = p;
        w->cap = cap;
    }
    t.name = sq_arena_strdup(&w->arena, name, err);
    if (t.name == NULL) {
        return SQ_ENOMEM;
    }
    w->tensors[w->n++] = t;
    return SQ_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names sorted; one that is there twice is a defect of the caller or two things of the model
 * that GGUF calls alike. */
static sq_status refuse_twice(const char **names, size_t n, const char *what, sq_error *err) {
    if (n > 1) {
        qsort((void *)names, n, sizeof *names, by_text);
    }
    for (size_t i = 1; i < n; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            return sq_fail(err, SQ_EUNSUPPORTED, "two %s would be '%s' in GGUF", what, names[i]);
        }
    }
    return SQ_OK;
}

static sq_status check_names(sq_gguf_writer *w, sq_error *err) {
    const char **names = sq_alloc(w->n + 1, sizeof *names, "names", err);
    if (names == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < w->n; i++) {
        names[i] = w->tensors[i].name;
    }
    sq_status st = refuse_twice(names, w->n, "tensors", err);
    sq_free((void *)names);
    return st == SQ_OK ? refuse_twice(w->keys, w->n_keys, "metadata entries", err) : st;
}

static uint64_t aligned(uint64_t n) { return (uint64_t)sq_round_up((int64_t)n, ALIGNMENT); }

/* All before the data, padded; the size of the file in *size. */
static void make_header(sq_gguf_writer *w, sq_buf *h, uint64_t *size) {
    static const char zeros[ALIGNMENT];
    sq_buf_puts(h, "GGUF");
    put_u32(h, VERSION);
    put_u64(h, w->n);
    put_u64(h, w->n_keys);
    sq_buf_put(h, w->meta.data, w->meta.len);
    uint64_t at = 0;
    for (size_t i = 0; i < w->n; i++) {
        out_tensor *t = &w->tensors[i];
        put_text(h, t->name, strlen(t->name));
        put_u32(h, (uint32_t)t->rank);
        for (int d = t->rank - 1; d >= 0; d--) { /* the file's order is fastest first */
            put_u64(h, (uint64_t)t->shape[d]);
        }
        put_u32(h, t->type);
        t->offset = at;
        put_u64(h, at);
        at = aligned(at + t->bytes);
    }
    sq_buf_put(h, zeros, (size_t)(aligned(h->len) - h->len));
    w->start = h->len;
    *size = w->start + at;
}

sq_status sq_gguf_writer_begin(sq_gguf_writer *w, sq_error *err) {
    sq_buf h = {0};
    uint64_t size;
    sq_status st;
    SQ_TRY(check_names(w, err));
    make_header(w, &h, &size);
    if (w->failed || w->meta.failed || h.failed) {
        st = sq_fail_nomem(err, "metadata", w->meta.len);
        goto fail;
    }
    w->fd = open(w->partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        st = sq_fail_errno(err, "cannot create", w->partial);
        goto fail;
    }
    w->created = 1;
    int e = posix_fallocate(w->fd, 0, (off_t)size);
    if (e != 0 && (e == EOPNOTSUPP || e == EINVAL)) {
        e = ftruncate(w->fd, (off_t)size) == 0 ? 0 : errno; /* holes where space is not reserved */
    }
    if (e != 0) {
        errno = e;
        st = sq_fail_errno(err, "cannot reserve space for", w->partial);
        goto fail;
    }
    st = sq_file_put(w->fd, h.data, h.len, 0, w->partial, err);
fail:
    sq_buf_free(&h);
    return st;
}

sq_status sq_gguf_write(sq_gguf_writer *w, const void *data, size_t bytes, sq_error *err) {
    out_tensor *t = w->at < w->n ? &w->tensors[w->at] : NULL;
    if (t == NULL || bytes > t->bytes - w->put) {
        return sq_fail(err, SQ_EINTERNAL, "tensor '%s' was not announced so; got %zu bytes more",
                       t == NULL ? "-" : t->name, bytes);
    }
    sq_status st = sq_file_put(w->fd, data, bytes, w->start + t->offset + w->put, w->partial, err);
    w->put += bytes;
    if (w->put == t->bytes) {
        w->at++;
        w->put = 0;
    }
    return st;
}

sq_status sq_gguf_writer_finish(sq_gguf_writer **pw, sq_error *err) {
    sq_gguf_writer *w = *pw;
    sq_status st = SQ_OK;
    if (w->fd < 0 || w->at < w->n) {
        st = sq_fail(err, SQ_EINTERNAL, "tensor '%s' was never written",
                     w->at < w->n ? w->tensors[w->at].name : "-");
        goto fail;
    }
    int fd = w->fd, synced = fsync(fd);
    w->fd = -1;
    if (synced != 0 || close(fd) != 0) {
        st = sq_fail_errno(err, "cannot sync", w->partial);
    } else if (rename(w->partial, w->path) != 0) {
        st = sq_fail_errno(err, "cannot rename to", w->path);
    } else {
        w->created = 0;
    }
fail:
    sq_gguf_writer_close(pw);
    return st;
}

void sq_gguf_writer_close(sq_gguf_writer **pw) {
    sq_gguf_writer *w = *pw;
    if (w == NULL) {
        return;
    }
    if (w->fd >= 0) {
        close(w->fd);
    }
    if (w->created) {
        unlink(w->partial);
    }
    sq_buf_free(&w->meta);
    sq_free((void *)w->keys);
    sq_free(w->tensors);
    sq_arena_free(&w->arena);
    sq_free(w);
    *pw = NULL;
}
