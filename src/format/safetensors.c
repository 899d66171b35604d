/* Reading: every offset, size, shape, type and name is checked against the file before anything
 * uses it. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "format/checkpoint.h"

enum { MAX_HEADER = 100 * 1000 * 1000 }; /* the reference library's limit */

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

static sq_status read_shard(sq_checkpoint *c, sq_shard *s, const char *path, const char *prefix,
                            sq_error *err) {
    json_t *header = NULL, *v;
    const char *key;
    uint64_t start = 0;
    span *spans = NULL;
    sq_status st;
    size_t n = 0;
    SQ_TRY(sq_map_open(&s->map, path, err));
    SQ_TRY(parse_header(&s->map, path, &header, &start, err));
    SQ_TRY(sq_checkpoint_reserve(c, json_object_size(header), err));
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
        *t = (sq_tensor){.shard = (int)(s - c->shards),
                         .name = sq_arena_printf(&c->arena, err, "%s%s", prefix, key)};
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

static sq_status add_shard(sq_checkpoint *c, const char *dir, const char *name, const char *prefix,
                           sq_error *err) {
    if (name[0] == '/' || strstr(name, "..") != NULL) {
        return sq_fail(err, SQ_EFORMAT, "'%s': the index names a file outside the folder; got '%s'",
                       dir, name);
    }
    char *path = sq_path_join(&c->arena, dir, name, err);
    sq_shard *s = path == NULL ? NULL : sq_checkpoint_add_shard(c, name, err);
    return s == NULL ? SQ_ENOMEM : read_shard(c, s, path, prefix, err);
}

/* A shard of this reading (from `first` on) by its file name; -1 when it is new. */
static int shard_index(const sq_checkpoint *c, int first, const char *name) {
    for (int i = first; i < c->n_shards; i++) {
        if (strcmp(c->shards[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* The index and the headers must say the same: each tensor of the map is in the file it names. */
static sq_status check_index(const sq_checkpoint *c, int first_shard, size_t first, json_t *map,
                             const char *prefix, const char *index, sq_error *err) {
    size_t skip = strlen(prefix);
    for (size_t i = first; i < c->n; i++) {
        const sq_tensor *t = &c->tensors[i];
        const char *file = sq_json_str(map, t->name + skip, NULL);
        if (file == NULL || shard_index(c, first_shard, file) != t->shard) {
            return sq_fail(err, SQ_EFORMAT,
                           "'%s': tensor '%s' is not where the index says; got '%s'", index,
                           t->name, file == NULL ? "no entry" : file);
        }
    }
    if (c->n - first != json_object_size(map)) {
        return sq_fail(
            err, SQ_EFORMAT,
            "'%s' and the files do not hold the same tensors; got %zu names for %zu tensors", index,
            json_object_size(map), c->n - first);
    }
    return SQ_OK;
}

/* Shards in the order that the index first names them. */
static sq_status open_sharded(sq_checkpoint *c, const char *dir, const char *index,
                              const char *prefix, sq_error *err) {
    json_t *root = NULL, *v;
    const char *key;
    int first_shard = c->n_shards;
    size_t first = c->n;
    sq_status st;
    SQ_TRY(sq_json_load(index, &root, err));
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' has no weight_map", index);
        goto fail;
    }
    json_object_foreach(map, key, v) {
        if (!json_is_string(v)) {
            st = sq_fail(err, SQ_EFORMAT, "'%s': the file of '%s' is no string", index, key);
            goto fail;
        }
        if (shard_index(c, first_shard, json_string_value(v)) < 0) {
            SQ_TRY(add_shard(c, dir, json_string_value(v), prefix, err));
        }
    }
    st = check_index(c, first_shard, first, map, prefix, index, err);
fail:
    json_decref(root);
    return st;
}

/* The one *.safetensors file of a folder that has neither the usual name nor an index. */
static sq_status find_only(sq_checkpoint *c, const char *dir, const char **name, sq_error *err) {
    char **names;
    size_t n, found = 0;
    sq_status st = sq_list_dir(&c->arena, dir, &names, &n, err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        if (sq_ends_with(names[i], ".safetensors")) {
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

sq_status sq_safetensors_read(sq_checkpoint *c, const char *path, const char *prefix,
                              sq_error *err) {
    const char *dir = path, *name = "model.safetensors";
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
                return open_sharded(c, path, index, prefix, err);
            }
            sq_status st = find_only(c, path, &name, err);
            if (st != SQ_OK) {
                return st;
            }
        }
    }
    return dir == NULL ? SQ_ENOMEM : add_shard(c, dir, name, prefix, err);
}
