/* Writing: the layout is fixed first, the space reserved, the headers written; data comes tensor by
 * tensor in any order. One file, or shards with an index. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "format/safetensors.h"

typedef struct out_file {
    char *path, *name;
    int fd;
    char *header; /* length word and JSON */
    size_t header_size;
    uint64_t data_size;
} out_file;

typedef struct out_tensor {
    const char *name;
    size_t bytes;
    uint64_t offset; /* in the file */
    int file, put;
} out_tensor;

struct sq_st_writer {
    sq_arena arena;
    char *dir;
    out_file *files;
    int n_files, resume, kept;
    out_tensor *tensors; /* sorted by name */
    size_t n;
};

static sq_status spec_bytes(const sq_tensor_spec *s, size_t *out, sq_error *err) {
    size_t bytes = sq_dtype_size(s->dtype);
    int bad = bytes == 0 || s->rank < 0 || s->rank > SQ_MAX_RANK;
    for (int i = 0; !bad && i < s->rank; i++) {
        bad = s->shape[i] < 0 || !sq_mul(bytes, (size_t)s->shape[i], &bytes);
    }
    *out = bytes;
    return bad ? sq_fail(err, SQ_EARG, "tensor '%s' has an impossible shape", s->name) : SQ_OK;
}

/* Header of the tensors [lo, hi): offsets in their order, padded with spaces to a multiple of 8
 * bytes. */
static sq_status make_header(sq_st_writer *w, out_file *f, const sq_tensor_spec *specs,
                             const size_t *bytes, size_t lo, size_t hi, sq_error *err) {
    json_t *h = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t at = 0;
    for (size_t i = lo; h != NULL && i < hi; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < specs[i].rank; d++) {
            json_array_append_new(shape, json_integer(specs[i].shape[d]));
        }
        json_object_set_new(h, specs[i].name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype",
                                      sq_dtype_name(specs[i].dtype), "shape", shape, "data_offsets",
                                      (json_int_t)at, (json_int_t)(at + bytes[i])));
        at += bytes[i];
    }
    char *text = h == NULL ? NULL : json_dumps(h, JSON_COMPACT);
    json_decref(h);
    if (text == NULL) {
        return sq_fail_nomem(err, "a header", hi - lo);
    }
    size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    f->header = sq_arena_alloc(&w->arena, 8 + padded, 1, err);
    if (f->header != NULL) {
        for (int i = 0; i < 8; i++) {
            f->header[i] = (char)(padded >> (8 * i) & 0xff);
        }
        memcpy(f->header + 8, text, n);
        memset(f->header + 8 + n, ' ', padded - n);
    }
    free(text);
    f->header_size = 8 + padded;
    f->data_size = at;
    return f->header == NULL ? SQ_ENOMEM : SQ_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const out_tensor *)a)->name, ((const out_tensor *)b)->name);
}

/* Cuts the specs into files and places every tensor. */
static sq_status lay_out(sq_st_writer *w, const sq_tensor_spec *specs, uint64_t shard_bytes,
                         sq_error *err) {
    size_t *bytes = sq_arena_alloc(&w->arena, w->n + 1, sizeof *bytes, err);
    size_t *ends = sq_arena_alloc(&w->arena, w->n + 1, sizeof *ends, err);
    if (bytes == NULL || ends == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st;
    uint64_t size = 0;
    for (size_t i = 0; i < w->n; i++) {
        SQ_TRY(spec_bytes(&specs[i], &bytes[i], err));
        if (shard_bytes != 0 && size != 0 && size + bytes[i] > shard_bytes) {
            ends[w->n_files++] = i;
            size = 0;
        }
        size += bytes[i];
    }
    ends[w->n_files++] = w->n;
    w->files = sq_arena_alloc(&w->arena, (size_t)w->n_files, sizeof *w->files, err);
    if (w->files == NULL) {
        return SQ_ENOMEM;
    }
    for (int f = 0; f < w->n_files; f++) {
        w->files[f].fd = -1;
    }
    for (int f = 0; f < w->n_files; f++) {
        size_t lo = f == 0 ? 0 : ends[f - 1];
        out_file *file = &w->files[f];
        SQ_TRY(make_header(w, file, specs, bytes, lo, ends[f], err));
        file->name = w->n_files == 1
                         ? sq_arena_strdup(&w->arena, "model.safetensors", err)
                         : sq_arena_printf(&w->arena, err, "model-%05d-of-%05d.safetensors", f + 1,
                                           w->n_files);
        file->path = file->name == NULL ? NULL : sq_path_join(&w->arena, w->dir, file->name, err);
        if (file->path == NULL) {
            return SQ_ENOMEM;
        }
        uint64_t at = file->header_size;
        for (size_t i = lo; i < ends[f]; i++) {
            const char *name = sq_arena_strdup(&w->arena, specs[i].name, err);
            if (name == NULL) {
                return SQ_ENOMEM;
            }
            w->tensors[i] = (out_tensor){name, bytes[i], at, f, 0};
            at += bytes[i];
        }
    }
    if (w->n > 1) {
        qsort(w->tensors, w->n, sizeof *w->tensors, by_name);
    }
    for (size_t i = 1; i < w->n; i++) {
        if (strcmp(w->tensors[i - 1].name, w->tensors[i].name) == 0) {
            return sq_fail(err, SQ_EARG, "tensor '%s' is given twice", w->tensors[i].name);
        }
    }
    return SQ_OK;
fail:
    return st;
}

/* 1 when the file on disk has this very header and size. */
static int same_file(const out_file *f) {
    sq_map m;
    if (sq_map_open(&m, f->path, NULL) != SQ_OK) {
        return 0;
    }
    int same =
        m.size == f->header_size + f->data_size && memcmp(m.data, f->header, f->header_size) == 0;
    sq_map_close(&m);
    return same;
}

static sq_status open_file(sq_st_writer *w, out_file *f, sq_error *err) {
    int keep = w->resume && same_file(f);
    w->kept &= keep;
    f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC | (keep ? 0 : O_TRUNC), 0644);
    if (f->fd < 0) {
        return sq_fail_errno(err, "cannot create", f->path);
    }
    if (keep) {
        return SQ_OK;
    }
    int e = posix_fallocate(f->fd, 0, (off_t)(f->header_size + f->data_size));
    if (e != 0 && e != EOPNOTSUPP && e != EINVAL) {
        errno = e;
        return sq_fail_errno(err, "cannot reserve space for", f->path);
    }
    return sq_file_put(f->fd, f->header, f->header_size, 0, f->path, err);
}

sq_status sq_st_writer_open(sq_st_writer **out, const char *dir, const sq_tensor_spec *specs,
                            size_t n, uint64_t shard_bytes, int resume, sq_error *err) {
    *out = NULL;
    sq_st_writer *w = sq_alloc(1, sizeof *w, "a writer", err);
    if (w == NULL) {
        return SQ_ENOMEM;
    }
    w->n = n;
    w->resume = w->kept = resume != 0;
    w->dir = sq_arena_strdup(&w->arena, dir, err);
    w->tensors = sq_arena_alloc(&w->arena, n + 1, sizeof *w->tensors, err);
    sq_status st =
        w->dir == NULL || w->tensors == NULL ? SQ_ENOMEM : lay_out(w, specs, shard_bytes, err);
    for (int f = 0; st == SQ_OK && f < w->n_files; f++) {
        st = open_file(w, &w->files[f], err);
    }
    if (st != SQ_OK) {
        sq_st_writer_close(&w);
    }
    *out = w;
    return st;
}

int sq_st_writer_kept(const sq_st_writer *w) { return w->kept; }

sq_status sq_st_writer_put(sq_st_writer *w, const char *name, const void *data, size_t bytes,
                           sq_error *err) {
    out_tensor key = {.name = name};
    out_tensor *t = w->n == 0 ? NULL : bsearch(&key, w->tensors, w->n, sizeof key, by_name);
    if (t == NULL || t->bytes != bytes) {
        return sq_fail(err, SQ_EARG, "tensor '%s' was not announced so; got %zu bytes, wanted %zu",
                       name, bytes, t == NULL ? 0 : t->bytes);
    }
    const out_file *f = &w->files[t->file];
    sq_status st = sq_file_put(f->fd, data, bytes, t->offset, f->path, err);
    t->put = st == SQ_OK ? 1 : t->put;
    return st;
}

sq_status sq_st_writer_put_mapped(sq_st_writer *w, const char *name, const void *data, size_t bytes,
                                  sq_error *err) {
    enum { SLICE = 16 << 20 };
    out_tensor key = {.name = name};
    out_tensor *t = w->n == 0 ? NULL : bsearch(&key, w->tensors, w->n, sizeof key, by_name);
    if (t == NULL || t->bytes != bytes) {
        return sq_st_writer_put(w, name, data, bytes, err); /* the error */
    }
    const out_file *f = &w->files[t->file];
    sq_status st = SQ_OK;
    for (size_t at = 0; st == SQ_OK && at < bytes; at += SLICE) {
        const char *p = (const char *)data + at;
        size_t n = bytes - at < SLICE ? bytes - at : SLICE;
        st = sq_file_put(f->fd, p, n, t->offset + at, f->path, err);
        sq_map_release(p, n);
    }
    t->put = st == SQ_OK ? 1 : t->put;
    return st;
}

sq_status sq_st_writer_sync(sq_st_writer *w, sq_error *err) {
    for (int f = 0; f < w->n_files; f++) {
        if (fdatasync(w->files[f].fd) != 0) {
            return sq_fail_errno(err, "cannot sync", w->files[f].path);
        }
    }
    return SQ_OK;
}

static sq_status write_index(sq_st_writer *w, sq_error *err) {
    if (w->n_files == 1) {
        return SQ_OK;
    }
    uint64_t total = 0;
    json_t *map = json_object();
    for (size_t i = 0; i < w->n; i++) {
        total += w->tensors[i].bytes;
        json_object_set_new(map, w->tensors[i].name,
                            json_string(w->files[w->tensors[i].file].name));
    }
    json_t *root =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *path = sq_path_join(&w->arena, w->dir, "model.safetensors.index.json", err);
    sq_status st = root == NULL || path == NULL ? SQ_ENOMEM : sq_json_save(path, root, err);
    json_decref(root);
    return st;
}

sq_status sq_st_writer_finish(sq_st_writer **pw, sq_error *err) {
    sq_st_writer *w = *pw;
    sq_status st = SQ_OK;
    for (size_t i = 0; !w->resume && i < w->n; i++) {
        if (!w->tensors[i].put && w->tensors[i].bytes != 0) {
            st = sq_fail(err, SQ_EINTERNAL, "tensor '%s' was never written", w->tensors[i].name);
            goto fail;
        }
    }
    SQ_TRY(write_index(w, err));
    SQ_TRY(sq_st_writer_sync(w, err));
    for (int f = 0; f < w->n_files; f++) {
        int fd = w->files[f].fd;
        w->files[f].fd = -1;
        if (close(fd) != 0) {
            st = sq_fail_errno(err, "cannot close", w->files[f].path);
            goto fail;
        }
    }
fail:
    sq_st_writer_close(pw);
    return st;
}

void sq_st_writer_close(sq_st_writer **pw) {
    sq_st_writer *w = *pw;
    if (w == NULL) {
        return;
    }
    for (int f = 0; w->files != NULL && f < w->n_files; f++) {
        if (w->files[f].fd >= 0) {
            close(w->files[f].fd);
        }
    }
    sq_arena_free(&w->arena);
    sq_free(w);
    *pw = NULL;
}

sq_status sq_st_save(const char *path, const sq_tensor_spec *specs, const void *const *data,
                     size_t n, sq_error *err) {
    sq_st_writer w = {.n = n};
    out_file f = {0};
    sq_buf all = {0};
    size_t *bytes = sq_arena_alloc(&w.arena, n + 1, sizeof *bytes, err);
    sq_status st = bytes == NULL ? SQ_ENOMEM : SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        st = spec_bytes(&specs[i], &bytes[i], err);
    }
    if (st == SQ_OK) {
        st = make_header(&w, &f, specs, bytes, 0, n, err);
    }
    if (st == SQ_OK) {
        sq_buf_put(&all, f.header, f.header_size);
        for (size_t i = 0; i < n; i++) {
            sq_buf_put(&all, data[i], bytes[i]);
        }
        st = all.failed ? sq_fail_nomem(err, path, all.len)
                        : sq_file_write(path, all.data, all.len, err);
    }
    sq_buf_free(&all);
    sq_arena_free(&w.arena);
    return st;
}
