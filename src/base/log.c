#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

int sq_progress_tick(const sq_progress *p, const char *stage, int64_t done, int64_t total,
                     const char *detail) {
    return p == NULL || p->tick == NULL || p->tick(p->user, stage, done, total, detail) == 0;
}

void sq_progress_note(const sq_progress *p, const char *fmt, ...) {
    if (p == NULL || p->note == NULL) {
        return;
    }
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    p->note(p->user, line);
}

double sq_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
