/* A folder of a test program's own, and the embedded model. */
#ifndef SQ_TESTS_WORKDIR_H
#define SQ_TESTS_WORKDIR_H

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

static char dir[] = "/tmp/squint-test-XXXXXX";
static char model[512];

static int setup(void **state) {
    (void)state;
    snprintf(model, sizeof model, "%s/models/squint-vl-5m", getenv("SQ_TEST_ROOT"));
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    return sq_remove_tree(dir, NULL) == SQ_OK ? 0 : -1;
}

/* A path in it; four live at once. */
static const char *in(const char *name) {
    static char bufs[4][700];
    static int next;
    char *b = bufs[next++ % 4];
    snprintf(b, sizeof bufs[0], "%s/%s", dir, name);
    return b;
}

#endif
