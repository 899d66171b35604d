/* Reading GGUF: a cursor that cannot leave the file. */
#include "format/gguf.h"

#include <string.h>

enum { MAX_ENTRIES = 1 << 20, MAX_RANK = 4, MAX_ALIGNMENT = 1 << 20 };

typedef struct cursor {
    const unsigned char *p;
    size_t n, at;
} cursor;

static int take(cursor *c, void *out, size_t n) {
    if (n > c->n - c->at) {
        return 0;
    }
    memcpy(out, c->p + c->at, n);
    c->at += n;
    return 1;
}

static int take_text(cursor *c, sq_gguf_text *out) {
    uint64_t n;
    if (!take(c, &n, 8) || n > c->n - c->at) {
        return 0;
    }
    *out = (sq_gguf_text){(const char *)c->p + c->at, (size_t)n};
    c->at += (size_t)n;
    return 1;
}

static size_t type_size(sq_gguf_type t) {
    static const unsigned char size[SQ_GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (unsigned)t < SQ_GGUF_TYPES ? size[t] : 0;
}

/* Moves over one value of a plain type or a string. */
static int skip_value(cursor *c, sq_gguf_type t) {
    sq_gguf_text text;
    size_t n = type_size(t);
    if (t == SQ_GGUF_STRING) {
        return take_text(c, &text);
    }
    if (n == 0 || n > c->n - c->at) {
        return 0;
    }
    c->at += n;
    return 1;
}

static int read_entry(cursor *c, sq_gguf_entry *e) {
    uint32_t type;
    if (!take_text(c, &e->key) || !take(c, &type, 4) || type >= SQ_GGUF_TYPES) {
        return 0;
    }
    e->type = e->item = (sq_gguf_type)type;
    e->count = 1;
    if (e->type == SQ_GGUF_ARRAY) {
        if (!take(c, &type, 4) || type >= SQ_GGUF_TYPES || !take(c, &e->count, 8) ||
            e->count > c->n) {
            return 0;
        }
        e->item = (sq_gguf_type)type;
    }
    size_t from = c->at, size = type_size(e->item);
    if (size > 0) {
        if (e->count > (c->n - c->at) / size) {
            return 0;
        }
        c->at += (size_t)e->count * size;
    } else {
        for (uint64_t i = 0; i < e->count; i++) {
            if (!skip_value(c, e->item)) {
                return 0;
            }
        }
    }
    e->data = c->p + from;
    e->bytes = c->at - from;
    return 1;
}

/* ggml_type numbers (ggml.h). */
static const struct {
    uint32_t ggml;
    sq_dtype dtype;
} tensor_types[] = {{0, SQ_F32},   {1, SQ_F16},   {2, SQ_Q4_0}, {3, SQ_Q4_1},
                    {6, SQ_Q5_0},  {7, SQ_Q5_1},  {8, SQ_Q8_0}, {12, SQ_Q4_K},
                    {13, SQ_Q5_K}, {14, SQ_Q6_K}, {24, SQ_I8},  {25, SQ_I16},
                    {26, SQ_I32},  {27, SQ_I64},  {28, SQ_F64}, {30, SQ_BF16}};

static int tensor_type(uint32_t t, sq_dtype *out) {
    for (size_t i = 0; i < sizeof tensor_types / sizeof *tensor_types; i++) {
        if (tensor_types[i].ggml == t) {
            *out = tensor_types[i].dtype;
            return 1;
        }
    }
    return 0;
}

int sq_gguf_type_number(sq_dtype t, uint32_t *out) {
    for (size_t i = 0; i < sizeof tensor_types / sizeof *tensor_types; i++) {
        if (tensor_types[i].dtype == t) {
            *out = tensor_types[i].ggml;
            return 1;
        }
    }
    return 0;
}

static sq_status read_tensor(cursor *c, sq_gguf_tensor *t, uint64_t *offset, const char *path,
                             sq_error *err) {
    uint32_t rank, type;
    uint64_t dims[MAX_RANK];
    if (!take_text(c, &t->name) || !take(c, &rank, 4) || rank > MAX_RANK ||
        !take(c, dims, rank * sizeof *dims) || !take(c, &type, 4) || !take(c, offset, 8)) {
        return sq_fail(err, SQ_EFORMAT, "'%s': the list of tensors is cut short or damaged", path);
    }
    if (!tensor_type(type, &t->dtype)) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "'%s': tensor '%.*s' has ggml's type %u, which is not known", path,
                       (int)(t->name.n < 100 ? t->name.n : 100), t->name.p, (unsigned)type);
    }
    size_t block = sq_dtype_block(t->dtype), n = sq_dtype_size(t->dtype);
    t->rank = (int)rank;
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t d = i == 0 ? dims[0] / block : dims[i];
        if (dims[i] > INT64_MAX || (i == 0 && dims[0] % block != 0) || !sq_mul(n, (size_t)d, &n)) {
            return sq_fail(err, SQ_EFORMAT, "'%s': tensor '%.*s' has an impossible shape", path,
                           (int)(t->name.n < 100 ? t->name.n : 100), t->name.p);
        }
        t->shape[rank - 1 - i] = (int64_t)dims[i];
    }
    t->bytes = n;
    return SQ_OK;
}

static sq_status place_tensors(sq_gguf *g, const uint64_t *offsets, size_t start, const char *path,
                               sq_error *err) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        sq_gguf_tensor *t = &g->tensors[i];
        size_t room = g->map.size - start;
        if (offsets[i] > room || t->bytes > room - offsets[i]) {
            return sq_fail(err, SQ_EFORMAT,
                           "'%s': tensor '%.*s' does not fit the file; got offset %llu and %zu "
                           "bytes, wanted at most %zu",
                           path, (int)(t->name.n < 100 ? t->name.n : 100), t->name.p,
                           (unsigned long long)offsets[i], t->bytes, room);
        }
        t->data = g->map.data + start + offsets[i];
    }
    return SQ_OK;
}

static sq_status read_all(sq_gguf *g, const char *path, sq_error *err) {
    cursor c = {g->map.data, g->map.size, 4};
    uint32_t version;
    uint64_t tensors, entries, *offsets = NULL;
    if (g->map.size < 4 || memcmp(g->map.data, "GGUF", 4) != 0 || !take(&c, &version, 4) ||
        !take(&c, &tensors, 8) || !take(&c, &entries, 8)) {
        return sq_fail(err, SQ_EFORMAT, "'%s' is no GGUF file or is cut short", path);
    }
    if (version < 2 || version > 3) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "'%s': GGUF version; got %u, wanted 2 or 3 (little endian)", path,
                       (unsigned)version);
    }
    if (tensors > MAX_ENTRIES || entries > MAX_ENTRIES) {
        return sq_fail(err, SQ_EFORMAT, "'%s': too many entries; got %llu and %llu", path,
                       (unsigned long long)tensors, (unsigned long long)entries);
    }
    sq_status st = SQ_OK;
    g->entries = sq_arena_alloc(&g->arena, (size_t)entries + 1, sizeof *g->entries, err);
    g->tensors = sq_arena_alloc(&g->arena, (size_t)tensors + 1, sizeof *g->tensors, err);
    offsets = sq_alloc((size_t)tensors + 1, sizeof *offsets, "tensors", err);
    if (g->entries == NULL || g->tensors == NULL || offsets == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    for (; g->n_entries < entries; g->n_entries++) {
        if (!read_entry(&c, &g->entries[g->n_entries])) {
            st = sq_fail(err, SQ_EFORMAT, "'%s': metadata entry %zu is cut short or damaged", path,
                         g->n_entries);
            goto fail;
        }
    }
    for (; g->n_tensors < tensors; g->n_tensors++) {
        SQ_TRY(read_tensor(&c, &g->tensors[g->n_tensors], &offsets[g->n_tensors], path, err));
    }
    double align = sq_gguf_number(sq_gguf_find(g, "general.alignment"), 0, 32);
    if (!(align >= 1 && align <= MAX_ALIGNMENT)) {
        st = sq_fail(err, SQ_EFORMAT, "'%s': general.alignment out of range; got %g", path, align);
        goto fail;
    }
    size_t start = (size_t)sq_round_up((int64_t)c.at, (int64_t)align);
    st = start > g->map.size && tensors > 0
             ? sq_fail(err, SQ_EFORMAT, "'%s' ends before its data", path)
             : place_tensors(g, offsets, tensors > 0 ? start : 0, path, err);
fail:
    sq_free(offsets);
    return st;
}

sq_status sq_gguf_open(sq_gguf *g, const char *path, sq_error *err) {
    *g = (sq_gguf){0};
    sq_status st = sq_map_open(&g->map, path, err);
    if (st == SQ_OK) {
        st = read_all(g, path, err);
    }
    if (st != SQ_OK) {
        sq_gguf_close(g);
    }
    return st;
}

void sq_gguf_close(sq_gguf *g) {
    sq_map_close(&g->map);
    sq_arena_free(&g->arena);
    *g = (sq_gguf){0};
}

const sq_gguf_entry *sq_gguf_find(const sq_gguf *g, const char *key) {
    size_t n = strlen(key);
    for (size_t i = 0; i < g->n_entries; i++) {
        if (g->entries[i].key.n == n && memcmp(g->entries[i].key.p, key, n) == 0) {
            return &g->entries[i];
        }
    }
    return NULL;
}

#define READ(type)                                                                                 \
    do {                                                                                           \
        type v;                                                                                    \
        memcpy(&v, p, sizeof v);                                                                   \
        return (double)v;                                                                          \
    } while (0)

double sq_gguf_number(const sq_gguf_entry *e, uint64_t i, double dflt) {
    if (e == NULL || i >= e->count || type_size(e->item) == 0) {
        return dflt;
    }
    const unsigned char *p = e->data + (size_t)i * type_size(e->item);
    switch (e->item) {
    case SQ_GGUF_U8:
    case SQ_GGUF_BOOL:
        return (double)*p;
    case SQ_GGUF_I8:
        READ(int8_t);
    case SQ_GGUF_U16:
        READ(uint16_t);
    case SQ_GGUF_I16:
        READ(int16_t);
    case SQ_GGUF_U32:
        READ(uint32_t);
    case SQ_GGUF_I32:
        READ(int32_t);
    case SQ_GGUF_F32:
        READ(float);
    case SQ_GGUF_U64:
        READ(uint64_t);
    case SQ_GGUF_I64:
        READ(int64_t);
    case SQ_GGUF_F64:
        READ(double);
    case SQ_GGUF_STRING:
    case SQ_GGUF_ARRAY:
    case SQ_GGUF_TYPES:
        break;
    }
    return dflt;
}

sq_gguf_text sq_gguf_string(const sq_gguf_entry *e) {
    size_t at = 0;
    sq_gguf_text t = {"", 0};
    if (e != NULL && e->type == SQ_GGUF_STRING) {
        sq_gguf_next_string(e, &at, &t);
    }
    return t;
}

int sq_gguf_next_string(const sq_gguf_entry *e, size_t *at, sq_gguf_text *out) {
    if (e == NULL || e->item != SQ_GGUF_STRING || *at >= e->bytes) {
        return 0;
    }
    cursor c = {e->data, e->bytes, *at};
    int ok = take_text(&c, out);
    *at = c.at;
    return ok;
}
