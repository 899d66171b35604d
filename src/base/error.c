#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

sq_status sq_fail(sq_error *err, sq_status status, const char *fmt, ...) {
    if (err != NULL) {
        va_list ap;
        va_start(ap, fmt);
        /* Formatted aside first: an argument may be the text that is being replaced. */
        char text[sizeof err->text];
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        memcpy(err->text, text, sizeof text);
        err->status = status;
        err->hint[0] = '\0';
    }
    return status;
}

void sq_hint(sq_error *err, const char *fmt, ...) {
    if (err == NULL) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->hint, sizeof err->hint, fmt, ap);
    va_end(ap);
}

void sq_error_prefix(sq_error *err, const char *fmt, ...) {
    if (err == NULL) {
        return;
    }
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->text) {
        snprintf(err->text + n, sizeof err->text - (size_t)n, "%s", old);
    }
}

sq_status sq_fail_nomem(sq_error *err, const char *what, size_t bytes) {
    return sq_fail(err, SQ_ENOMEM, "not enough memory for %s; wanted %zu bytes", what, bytes);
}

sq_status sq_fail_errno(sq_error *err, const char *what, const char *path) {
    int e = errno;
    sq_status st = e == ENOSPC || e == EDQUOT ? SQ_ENOSPC : e == ENOMEM ? SQ_ENOMEM : SQ_EIO;
    return sq_fail(err, st, "%s '%s': %s", what, path, strerror(e));
}
