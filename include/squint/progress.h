/* Progress callbacks of long operations. */
#ifndef SQUINT_PROGRESS_H
#define SQUINT_PROGRESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sq_progress {
    /* Called as `done` of `total` units of `stage` are finished ("calibrate", "quantize", "write",
     * "verify", …); `detail` may be NULL. Return non-zero to cancel. May be NULL. */
    int (*tick)(void *user, const char *stage, int64_t done, int64_t total, const char *detail);
    /* Called with one line of text for the log. May be NULL. */
    void (*note)(void *user, const char *text);
    void *user;
} sq_progress;

#ifdef __cplusplus
}
#endif
#endif
