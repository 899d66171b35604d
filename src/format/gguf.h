/* GGUF files (ggml's docs/gguf.md, versions 2 and 3): metadata and tensors, every length checked.
 */
#ifndef SQ_FORMAT_GGUF_H
#define SQ_FORMAT_GGUF_H

#include <jansson.h>

#include "base/dtype.h"
#include "base/file.h"

typedef enum sq_gguf_type {
    SQ_GGUF_U8,
    SQ_GGUF_I8,
    SQ_GGUF_U16,
    SQ_GGUF_I16,
    SQ_GGUF_U32,
    SQ_GGUF_I32,
    SQ_GGUF_F32,
    SQ_GGUF_BOOL,
    SQ_GGUF_STRING,
    SQ_GGUF_ARRAY,
    SQ_GGUF_U64,
    SQ_GGUF_I64,
    SQ_GGUF_F64,
    SQ_GGUF_TYPES
} sq_gguf_type;

typedef struct sq_gguf_text {
    const char *p; /* not terminated */
    size_t n;
} sq_gguf_text;

/* A metadata entry. Numbers and strings lie in the map; an array has `count` items of `item`. */
typedef struct sq_gguf_entry {
    sq_gguf_text key;
    sq_gguf_type type, item;
    uint64_t count;
    const unsigned char *data;
    size_t bytes;
} sq_gguf_entry;

typedef struct sq_gguf_tensor {
    sq_gguf_text name;
    sq_dtype dtype;
    int rank;
    int64_t shape[4]; /* slowest first, as everywhere here: the reverse of the file's order */
    const unsigned char *data;
    size_t bytes;
} sq_gguf_tensor;

typedef struct sq_gguf {
    sq_map map;
    sq_arena arena;
    sq_gguf_entry *entries;
    size_t n_entries;
    sq_gguf_tensor *tensors;
    size_t n_tensors;
} sq_gguf;

sq_status sq_gguf_open(sq_gguf *g, const char *path, sq_error *err);
void sq_gguf_close(sq_gguf *g);

const sq_gguf_entry *sq_gguf_find(const sq_gguf *g, const char *key);
/* Item i of a number or an array of numbers; the default when it is another kind. */
double sq_gguf_number(const sq_gguf_entry *e, uint64_t i, double dflt);
/* A string's text; an empty one when it is another kind. */
sq_gguf_text sq_gguf_string(const sq_gguf_entry *e);
/* Walks the strings of an array: *at starts at 0 and is moved on; 0 at the end. */
int sq_gguf_next_string(const sq_gguf_entry *e, size_t *at, sq_gguf_text *out);

/* ggml's number of a type; 0 when it has none. */
int sq_gguf_type_number(sq_dtype t, uint32_t *out);

/* A file of sq_source_json, from the metadata. */
sq_status sq_gguf_json(const char *path, const char *name, json_t **out, sq_error *err);

#endif
