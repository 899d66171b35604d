/* Checked sizes, aligned allocation, a bump arena and a growable byte buffer. Large blocks are
 * mapped by themselves and go back to the system when they are freed. */
#ifndef SQ_BASE_MEM_H
#define SQ_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* a*b and a+b into *out; return 0 on overflow. */
static inline int sq_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline int sq_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline int64_t sq_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t sq_round_up(int64_t a, int64_t b) { return sq_ceil_div(a, b) * b; }

/* count*size zeroed bytes, 64-byte aligned, or NULL with err filled. Free with sq_free.
 * Counted against the limit of sq_memory_limit. */
void *sq_alloc(size_t count, size_t size, const char *what, sq_error *err);
/* As sq_alloc, without zeroing. */
void *sq_alloc_raw(size_t count, size_t size, const char *what, sq_error *err);
/* Grows a block of sq_alloc to count*size bytes, keeping `used` bytes; on failure *p is unchanged.
 */
sq_status sq_grow(void **p, size_t used, size_t count, size_t size, const char *what,
                  sq_error *err);
void sq_free(void *p);
/* From 1 to 0, calls nest: large blocks that are freed are kept for others of about their size, as
 * far as they and what is used are no more than was used at once before: clearing pages anew costs
 * a tenth of the time of quantizing. */
void sq_memory_reuse(int on);
char *sq_strdup(const char *s, sq_error *err);
int sq_ends_with(const char *s, const char *end);

/* Limit in bytes on what sq_alloc hands out in the whole process; 0 is none. */
void sq_memory_limit(size_t bytes);
size_t sq_memory_used(void);
/* The most that was used at once since the start, or since the last reset. */
size_t sq_memory_peak(void);
void sq_memory_peak_reset(void);
/* Bytes that may still be had: what is left of the limit, and not more than the system has
 * available (MemAvailable of /proc/meminfo, where there is one). */
size_t sq_memory_room(void);
/* Test hook: the n-th allocation from now fails, once; 0 turns it off. */
void sq_memory_fail_after(long n);
/* Gives the system back what small blocks have freed, where the C library can. */
void sq_memory_trim(void);
/* Peak resident set of this process in bytes. */
size_t sq_peak_rss(void);

/* An arena: everything is freed at once. A zeroed struct is a valid empty arena. */
typedef struct sq_arena {
    struct sq_arena_block *head;
} sq_arena;
void *sq_arena_alloc(sq_arena *a, size_t count, size_t size,
                     sq_error *err); /* zeroed, 64-aligned */
char *sq_arena_strdup(sq_arena *a, const char *s, sq_error *err);
char *sq_arena_printf(sq_arena *a, sq_error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void sq_arena_free(sq_arena *a);

/* A growable byte buffer; always NUL-terminated beyond `len` when data is not NULL.
 * A zeroed struct is valid. A failed append is remembered in `failed` and leaves the content. */
typedef struct sq_buf {
    char *data;
    size_t len, cap;
    int failed;
} sq_buf;
void sq_buf_put(sq_buf *b, const void *p, size_t n);
void sq_buf_puts(sq_buf *b, const char *s);
void sq_buf_printf(sq_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sq_buf_free(sq_buf *b);

#endif
