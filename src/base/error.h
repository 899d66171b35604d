/* Error reporting below the API: fill the caller's sq_error and return the status. */
#ifndef SQ_BASE_ERROR_H
#define SQ_BASE_ERROR_H

#include <stddef.h>

#include "squint/status.h"

/* Formats the text into err (nullable) and returns status. An error that is already set is
 * replaced. */
sq_status sq_fail(sq_error *err, sq_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Sets the next command to try on an error that is already filled. */
void sq_hint(sq_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts a prefix such as a path in front of the text of a filled error. */
void sq_error_prefix(sq_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Out of memory while allocating `bytes` for `what`. */
sq_status sq_fail_nomem(sq_error *err, const char *what, size_t bytes);

/* errno text for an operation on a path; ENOSPC and EDQUOT give SQ_ENOSPC, ENOMEM gives SQ_ENOMEM.
 */
sq_status sq_fail_errno(sq_error *err, const char *what, const char *path);

/* Evaluates expr once; on failure stores it in `st` and jumps to the function's one `fail` label.
 */
#define SQ_TRY(expr)                                                                               \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st != SQ_OK) {                                                                         \
            goto fail;                                                                             \
        }                                                                                          \
    } while (0)

#endif
