/* Files: read-only maps, whole reads, and output that appears under its name only when complete. */
#ifndef SQ_BASE_FILE_H
#define SQ_BASE_FILE_H

#include "base/mem.h"

/* A read-only map of a whole file. A zeroed struct is valid and empty. */
typedef struct sq_map {
    const unsigned char *data;
    size_t size;
} sq_map;
sq_status sq_map_open(sq_map *out, const char *path, sq_error *err);
void sq_map_close(sq_map *m);
/* Tells the kernel that the pages of [p, p+n) inside a map are no longer needed. */
void sq_map_release(const void *p, size_t n);

/* Whole file as an owned, NUL-terminated buffer (sq_free); refuses more than `max` bytes. */
sq_status sq_file_read(const char *path, size_t max, char **data, size_t *size, sq_error *err);
/* Writes to `path.tmp`, syncs, renames. */
sq_status sq_file_write(const char *path, const void *data, size_t size, sq_error *err);
/* All n bytes at `at` of an open file; `path` for the error. */
sq_status sq_file_put(int fd, const void *data, size_t n, uint64_t at, const char *path,
                      sq_error *err);
/* Byte-for-byte copy (to a temporary name, then renamed). */
sq_status sq_file_copy(const char *from, const char *to, sq_error *err);
int sq_file_exists(const char *path); /* any kind of file */
int sq_is_dir(const char *path);
sq_status sq_make_dirs(const char *path, sq_error *err);
/* Removes a folder and everything in it; a missing one is no error. */
sq_status sq_remove_tree(const char *path, sq_error *err);
/* Sorted names of a folder's entries, without '.' and '..'; owned by the arena. */
sq_status sq_list_dir(sq_arena *a, const char *path, char ***names, size_t *count, sq_error *err);
/* dir/name in the arena. An absolute name is returned as it is. */
char *sq_path_join(sq_arena *a, const char *dir, const char *name, sq_error *err);
/* The folder part of a path ("." when there is none), in the arena. */
char *sq_path_dir(sq_arena *a, const char *path, sq_error *err);

#endif
