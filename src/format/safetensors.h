/* Safetensors: a checkpoint folder (one file, or shards with an index) read by mmap, and a writer
 * that fixes its layout first and takes the data tensor by tensor in any order. Layout: u64 header
 * length (LE), JSON header, raw little-endian data (safetensors 0.4 format). */
#ifndef SQ_FORMAT_SAFETENSORS_H
#define SQ_FORMAT_SAFETENSORS_H

#include "base/dtype.h"
#include "base/file.h"

enum { SQ_MAX_RANK = 8 };

/* A tensor inside a mapped file; valid until the checkpoint is closed. `data` may be unaligned. */
typedef struct sq_tensor {
    const char *name;
    sq_dtype dtype;
    int rank;
    int64_t shape[SQ_MAX_RANK];
    const void *data;
    size_t bytes;
    int shard;
    int owned; /* `data` is a copy of the checkpoint's, not a view of the file */
} sq_tensor;

/* Tells the kernel that the tensor's pages may go; they come back from the file. */
void sq_tensor_release(const sq_tensor *t);

typedef struct sq_checkpoint sq_checkpoint;

/* Opens dir/model.safetensors, or the shards of dir/model.safetensors.index.json, or (neither) the
 * one other *.safetensors file, or a path to a single .safetensors file. Every offset, size, shape,
 * dtype and name is checked against the file: overlaps, holes past the end, duplicates and index
 * entries without a tensor are SQ_EFORMAT and name the tensor. */
sq_status sq_checkpoint_open(sq_checkpoint **out, const char *path, sq_error *err);
void sq_checkpoint_close(sq_checkpoint **c);
size_t sq_checkpoint_count(const sq_checkpoint *c);
const sq_tensor *sq_checkpoint_at(const sq_checkpoint *c, size_t i); /* sorted by name */
const sq_tensor *sq_checkpoint_find(const sq_checkpoint *c,
                                    const char *name); /* NULL when absent */
int sq_checkpoint_shards(const sq_checkpoint *c);
const char *sq_checkpoint_shard_name(const sq_checkpoint *c, int shard); /* file name, no folder */
uint64_t sq_checkpoint_bytes(const sq_checkpoint *c);                    /* of tensor data */

/* What is to be written: name, dtype, shape. */
typedef struct sq_tensor_spec {
    const char *name;
    sq_dtype dtype;
    int rank;
    int64_t shape[SQ_MAX_RANK];
} sq_tensor_spec;

typedef struct sq_st_writer sq_st_writer;

/* Lays out all tensors in files of at most shard_bytes each (0: one file "model.safetensors"; with
 * more than one shard: model-0000i-of-0000n.safetensors and the index), reserves the disk space
 * (SQ_ENOSPC before any work) and writes the headers with __metadata__ {"format":"pt"}. The folder
 * must exist. With `resume`, files of the right size and header that are already there are kept and
 * only reopened. */
sq_status sq_st_writer_open(sq_st_writer **out, const char *dir, const sq_tensor_spec *specs,
                            size_t n, uint64_t shard_bytes, int resume, sq_error *err);
/* 1 when `resume` found every file as it was announced. */
int sq_st_writer_kept(const sq_st_writer *w);
/* Writes the whole data of one tensor; size must match the spec. Thread-compatible. */
sq_status sq_st_writer_put(sq_st_writer *w, const char *name, const void *data, size_t bytes,
                           sq_error *err);
/* The same of a view of a mapped file: goes through it in slices whose pages are released. */
sq_status sq_st_writer_put_mapped(sq_st_writer *w, const char *name, const void *data, size_t bytes,
                                  sq_error *err);
/* Flushes what was put so far to the disk. */
sq_status sq_st_writer_sync(sq_st_writer *w, sq_error *err);
/* Checks (unless `resume` was given) that every tensor was put, writes the index, syncs and closes.
 */
sq_status sq_st_writer_finish(sq_st_writer **w, sq_error *err);
void sq_st_writer_close(sq_st_writer **w); /* abandons; the files stay for a resume */

/* Writes a single file with all its data at once, atomically (small files: logits, statistics). */
sq_status sq_st_save(const char *path, const sq_tensor_spec *specs, const void *const *data,
                     size_t n, sq_error *err);

#endif
