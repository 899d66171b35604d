/* Writing GGUF, version 3, little endian: metadata, then tensors in the order in which they were
 * announced, as a stream. The file has its name only once it is complete. */
#ifndef SQ_FORMAT_GGUF_WRITE_H
#define SQ_FORMAT_GGUF_WRITE_H

#include "base/dtype.h"
#include "base/mem.h"
#include "format/gguf.h"

typedef struct sq_gguf_writer sq_gguf_writer;

/* Nothing is on the disk yet. Refuses a path that exists. */
sq_status sq_gguf_writer_open(sq_gguf_writer **out, const char *path, sq_error *err);

/* Metadata; a failure (no memory) is kept for sq_gguf_writer_begin. */
void sq_gguf_put_u32(sq_gguf_writer *w, const char *key, uint32_t v);
void sq_gguf_put_f32(sq_gguf_writer *w, const char *key, float v);
void sq_gguf_put_bool(sq_gguf_writer *w, const char *key, int v);
void sq_gguf_put_text(sq_gguf_writer *w, const char *key, const char *text, size_t n);
void sq_gguf_put_string(sq_gguf_writer *w, const char *key, const char *text);
void sq_gguf_put_strings(sq_gguf_writer *w, const char *key, const sq_gguf_text *v, size_t n);
void sq_gguf_put_f32s(sq_gguf_writer *w, const char *key, const float *v, size_t n);
void sq_gguf_put_i32s(sq_gguf_writer *w, const char *key, const int32_t *v, size_t n);

/* Announces a tensor; shape is slowest first. A type or name that ggml does not have, and columns
 * that a block does not divide, are SQ_EUNSUPPORTED. */
sq_status sq_gguf_add_tensor(sq_gguf_writer *w, const char *name, sq_dtype type, int rank,
                             const int64_t *shape, sq_error *err);
/* Checks that no key and no name is there twice, reserves the space (SQ_ENOSPC before any work) and
 * writes all but the data. */
sq_status sq_gguf_writer_begin(sq_gguf_writer *w, sq_error *err);
/* The next bytes of the announced tensors' data; one call never reaches from one tensor into the
 * next. */
sq_status sq_gguf_write(sq_gguf_writer *w, const void *data, size_t bytes, sq_error *err);
/* Checks that all data came, syncs, gives the file its name. */
sq_status sq_gguf_writer_finish(sq_gguf_writer **w, sq_error *err);
/* Abandons and removes what is not finished. */
void sq_gguf_writer_close(sq_gguf_writer **w);

#endif
