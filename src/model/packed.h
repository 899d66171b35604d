/* Packed linears in a file beside the model (FOLDER/squint.packed, FILE.packed), mapped at the next
 * start instead of being packed again. Its key is made of the model's files (names, sizes, times,
 * their first and last bytes) and of the layout. A file that is of another key, cut off or damaged
 * is as good as none. */
#ifndef SQ_MODEL_PACKED_H
#define SQ_MODEL_PACKED_H

#include "base/file.h"
#include "kernels/kernels.h"

typedef struct sq_packed_record sq_packed_record;
typedef struct sq_packed {
    char *path;
    uint64_t key;
    sq_map map;
    const sq_packed_record *records; /* sorted by name */
    size_t n;
    int missed;         /* something was asked for that is not there */
    const char *reason; /* why a file that is there was not taken; NULL */
} sq_packed;

/* Whether or not there is such a file; everything in it is checked. Fails without memory, or when
 * the model's own files cannot be read. */
sq_status sq_packed_open(sq_packed **out, const char *model, sq_error *err);
void sq_packed_close(sq_packed **p);
/* The matrix that was kept by this name, if it has these dimensions; borrowed until the file is
 * closed. p may be NULL. Returns 0 when there is none. */
int sq_packed_take(sq_packed *p, const char *name, int bits, int64_t n, int64_t k, sq_weight *w);

typedef struct sq_packed_item {
    const char *name;
    const sq_weight *weight;
} sq_packed_item;
/* Writes the file anew; it appears under its name when it is complete. */
sq_status sq_packed_write(const sq_packed *p, const sq_packed_item *items, size_t n, sq_error *err);

#endif
