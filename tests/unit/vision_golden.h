/* What Pillow and transformers make of pictures (tests/oracle/gen_vision.py). */
#ifndef SQ_TESTS_VISION_GOLDEN_H
#define SQ_TESTS_VISION_GOLDEN_H

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"

static char *golden(const char *name) {
    static char path[4096];
    const char *root = getenv("SQ_TEST_ROOT");
    snprintf(path, sizeof path, "%s/tests/golden/vision/%s", root ? root : ".", name);
    return path;
}

static json_t *expected(void) {
    json_t *v = NULL;
    sq_error err = {0};
    if (sq_json_load(golden("expected.json"), &v, &err) != SQ_OK) {
        fail_msg("%s", err.text);
    }
    return v;
}

#endif
