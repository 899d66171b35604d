/* Progress and messages travel by callback: nothing below the CLI prints. */
#ifndef SQ_BASE_LOG_H
#define SQ_BASE_LOG_H

#include <stdint.h>

#include "squint/progress.h"

/* Reports `done` of `total` units of a stage. Returns 0 when the callback asks to stop. A NULL
 * progress or callback is fine and never stops. */
int sq_progress_tick(const sq_progress *p, const char *stage, int64_t done, int64_t total,
                     const char *detail);
/* A message for the user's log. */
void sq_progress_note(const sq_progress *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Seconds on a monotonic clock. */
double sq_now(void);

#endif
