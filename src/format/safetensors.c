/* Reading: every offset, size, shape, type and name is checked against the file before anything
 * uses it. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { MAX_HEADER = 100 * 1000 * 1000 }; /* the reference library's limit */

typedef struct shard {
    const char *name;
    sq_map map;
} shard;

struct sq_checkpoint {
    sq_arena arena;
    shard *shards;
    int n_shards;
    sq_tensor *tensors;
    size_t n, cap;
};

typedef struct span {
    uint64_t lo, hi;
    const char *name;
} span;

static int by_lo(const void *a, const void *b) {
    const span *x = a, *y = b;
    if (x->lo != y->lo) {
        return x->lo < y->lo ? -1 : 1;
    }
    return x->hi < y->hi ? -1 : x->hi > y->hi;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const sq_tensor *)a)->name, ((const sq_tensor *)b)->name);
}

/* dtype, shape and data_offsets of one header entry. */
static sq_status read_entry(sq_tensor *t, span *s, const char *name, const json_t *v,
                            const char *path, const unsigned char *data, uint64_t data_size,
                            sq_error *err) {
    const char *type = sq_json_str(v, "dtype", NULL);
    const json_t *shape = json_object_get(v, "shape"), *off = json_object_get(v, "data_offsets");
    const json_t *lo = json_array_get(off, 0), *hi = json_array_get(off, 1);
    if (type == NULL || !json_is_array(shape) || json_array_size(off) != 2 ||
        !json_is_integer(lo) || !json_is_integer(hi)) {
        return sq_fail(err, SQ_EFORMAT, "'%s': tensor '%s' lacks dtype, shape or data_offsets",
                       path, name);
    }
    if (!sq_dtype_parse(type, &t->dtype)) {
        return sq_fail(err, SQ_EUNSUPPORTED, "'%s': tensor '%s' has the unknown type '%s'", path,
                       name, type);
    }
    if (json_array_size(shape) > SQ_MAX_RANK) {
        return sq_fail(err, SQ_EFORMAT,
                       "'%s': tensor '%s' has too many dimensions; got %zu, wanted %d", path, name,
                       json_array_size(shape), SQ_MAX_RANK);
    }
    size_t bytes = sq_dtype_size(t->dtype), i;
    json_t *d;
    json_array_foreach(shape, i, d) {
        json_int_t n = json_is_integer(d) ? json_integer_value(d) : -1;
        if (n < 0 || !sq_mul(bytes, (size_t)n, &bytes) || bytes > INT64_MAX) {
            return sq_fail(err, SQ_EFORMAT, "'%s': tensor '%s' has an impossible shape", path,
                           name);
        }
        t->shape[i] = n;
    }
    t->rank = (int)json_array_size(shape);
    json_int_t a = json_integer_value(lo), b = json_integer_value(hi);
    if (a < 0 || b < a || (uint64_t)b > data_size || (uint64_t)(b - a) != bytes) {
        return sq_fail(
            err, SQ_EFORMAT,
            "'%s': tensor '%s' does not fit the file; got bytes %lld..%lld, wanted %zu bytes "
            "within %llu",
            path, name, (long long)a, (long long)b, bytes, (unsigned long long)data_size);
    }
    t->data = data + a;
    t->bytes = bytes;
    *s = (span){(uint64_t)a, (uint64_t)b, name};
    return SQ_OK;
}

/* The reference library demands that tensors cover the data without holes or overlaps. */
static sq_status check_cover(span *spans, size_t n, uint64_t size, const char *path,
                             sq_error *err) {
    uint64_t at = 0;
    if (n > 1) {
        qsort(spans, n, sizeof *spans, by_lo);
    }
    for (size_t i = 0; i < n; i++) {
        if (spans[i].lo != at) {
            return sq_fail(err, SQ_EFORMAT, "'%s': tensor '%s' %s; got offset %llu, wanted %llu",
                           path, spans[i].name,
                           spans[i].lo < at ? "overlaps another" : "leaves a hole before it",
                           (unsigned long long)spans[i].lo, (unsigned long long)at);
        }
        at = spans[i].hi;
    }
    if (at != size) {
        return sq_fail(err, SQ_EFORMAT,
                       "'%s': the tensors do not cover the file; got %llu bytes, wanted %llu", path,
                       (unsigned long long)at, (unsigned long long)size);
    }
    return SQ_OK;
}

static sq_status more_tensors(sq_checkpoint *c, size_t more, sq_error *err) {
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

static sq_status parse_header(const sq_map *m, const char *path, json_t **out, uint64_t *start,
                              sq_error *err) {
    uint64_t n = 0;
    for (size_t i = 0; i < 8 && i < m->size; i++) {
        n |= (uint64_t)m->data[i] << (8 * i);
    }
    if (m->size < 8 || n > m->size - 8 || n > MAX_HEADER) {
        return sq_fail(
            err, SQ_EFORMAT,
            "'%s' is no safetensors file or is cut short; got %zu bytes with a header of %llu",
            path, m->size, (unsigned long long)n);
    }
    json_error_t je;
    *out = json_loadb((const char *)m->data + 8, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return sq_fail(err, SQ_EFORMAT, "'%s': the header is damaged; byte %d: %s", path,
                       je.position, je.text);
    }
    *start = 8 + n;
    return SQ_OK;
}

static sq_status read_shard(sq_checkpoint *c, int index, const char *path, sq_error *err) {
    shard *s = &c->shards[index];
    json_t *header = NULL, *v;
    const char *key;
    uint64_t start = 0;
    span *spans = NULL;
    sq_status st;
    size_t n = 0;
    SQ_TRY(sq_map_open(&s->map, path, err));
    SQ_TRY(parse_header(&s->map, path, &header, &start, err));
    SQ_TRY(more_tensors(c, json_object_size(header), err));
    spans = sq_alloc(json_object_size(header) + 1, sizeof *spans, "tensors", err);
    if (spans == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    json_object_foreach(header, key, v) {
        if (strcmp(key, "__metadata__") == 0) {
            continue;
        }
        sq_tensor *t = &c->tensors[c->n];
        *t = (sq_tensor){.shard = index, .name = sq_arena_strdup(&c->arena, key, err)};
        if (t->name == NULL) {
            st = SQ_ENOMEM;
            goto fail;
        }
        SQ_TRY(read_entry(t, &spans[n], t->name, v, path, s->map.data + start, s->map.size - start,
                          err));
        n++;
        c->n++;
    }
    st = check_cover(spans, n, s->map.size - start, path, err);
fail:
    sq_free(spans);
    json_decref(header);
    return st;
}

static sq_status add_shard(sq_checkpoint *c, const char *dir, const char *name, sq_error *err) {
    if (name[0] == '/' || strstr(name, "..") != NULL) {
        return sq_fail(err, SQ_EFORMAT, "'%s': the index names a file outside the folder; got '%s'",
                       dir, name);
    }
    char *path = sq_path_join(&c->arena, dir, name, err);
    c->shards[c->n_shards].name = sq_arena_strdup(&c->arena, name, err);
    if (path == NULL || c->shards[c->n_shards].name == NULL) {
        return SQ_ENOMEM;
    }
    c->n_shards++;
    return read_shard(c, c->n_shards - 1, path, err);
}

static int shard_index(const sq_checkpoint *c, const char *name) {
    for (int i = 0; i < c->n_shards; i++) {
        if (strcmp(c->shards[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* Shards in the order that the index first names them; afterwards index and headers must say the
 * same. */
static sq_status open_sharded(sq_checkpoint *c, const char *dir, const char *index, sq_error *err) {
    json_t *root = NULL, *v;
    const char *key;
    sq_status st;
    SQ_TRY(sq_json_load(index, &root, err));
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' has no weight_map", index);
        goto fail;
    }
    c->shards = sq_arena_alloc(&c->arena, json_object_size(map), sizeof *c->shards, err);
    if (c->shards == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    json_object_foreach(map, key, v) {
        if (!json_is_string(v)) {
            st = sq_fail(err, SQ_EFORMAT, "'%s': the file of '%s' is no string", index, key);
            goto fail;
        }
        if (shard_index(c, json_string_value(v)) < 0) {
            SQ_TRY(add_shard(c, dir, json_string_value(v), err));
        }
    }
    if (c->n > 1) {
        qsort(c->tensors, c->n, sizeof *c->tensors, by_name);
    }
    json_object_foreach(map, key, v) {
        const sq_tensor *t = sq_checkpoint_find(c, key);
        if (t == NULL || strcmp(c->shards[t->shard].name, json_string_value(v)) != 0) {
            st = sq_fail(err, SQ_EFORMAT, "'%s': tensor '%s' is not in '%s'", index, key,
                         json_string_value(v));
            goto fail;
        }
    }
    if (c->n != json_object_size(map)) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' does not list every tensor; got %zu, wanted %zu", index,
                     json_object_size(map), c->n);
    }
fail:
    json_decref(root);
    return st;
}

static int ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* The one *.safetensors file of a folder that has neither the usual name nor an index. */
static sq_status find_only(sq_checkpoint *c, const char *dir, const char **name, sq_error *err) {
    char **names;
    size_t n, found = 0;
    sq_status st = sq_list_dir(&c->arena, dir, &names, &n, err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        if (ends_with(names[i], ".safetensors")) {
            *name = names[i];
            found++;
        }
    }
    if (st == SQ_OK && found != 1) {
        st = sq_fail(
            err, SQ_EFORMAT,
            "'%s' holds no checkpoint; got %zu .safetensors files, wanted model.safetensors or "
            "model.safetensors.index.json",
            dir, found);
    }
    return st;
}

static sq_status open_any(sq_checkpoint *c, const char *path, sq_error *err) {
    const char *dir = path, *name = "model.safetensors";
    sq_status st;
    if (!sq_is_dir(path)) {
        const char *slash = strrchr(path, '/');
        name = slash == NULL ? path : slash + 1;
        dir = sq_path_dir(&c->arena, path, err);
    } else {
        char *index = sq_path_join(&c->arena, path, "model.safetensors.index.json", err);
        char *single = sq_path_join(&c->arena, path, name, err);
        if (index == NULL || single == NULL) {
            return SQ_ENOMEM;
        }
        if (!sq_file_exists(single)) {
            if (sq_file_exists(index)) {
                return open_sharded(c, path, index, err);
            }
            SQ_TRY(find_only(c, path, &name, err));
        }
    }
    c->shards = sq_arena_alloc(&c->arena, 1, sizeof *c->shards, err);
    if (c->shards == NULL || dir == NULL) {
        return SQ_ENOMEM;
    }
    SQ_TRY(add_shard(c, dir, name, err));
    if (c->n > 1) {
        qsort(c->tensors, c->n, sizeof *c->tensors, by_name);
    }
fail:
    return st;
}

sq_status sq_checkpoint_open(sq_checkpoint **out, const char *path, sq_error *err) {
    *out = NULL;
    sq_checkpoint *c = sq_alloc(1, sizeof *c, "a checkpoint", err);
    if (c == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = open_any(c, path, err);
    for (size_t i = 1; st == SQ_OK && i < c->n; i++) {
        if (strcmp(c->tensors[i - 1].name, c->tensors[i].name) == 0) {
            st = sq_fail(err, SQ_EFORMAT, "'%s': tensor '%s' is in two files", path,
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
