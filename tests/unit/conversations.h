/* A folder of a test program's own, a small model that sees, and conversations about a picture. */
#ifndef SQ_TESTS_CONVERSATIONS_H
#define SQ_TESTS_CONVERSATIONS_H

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

static char dir[] = "/tmp/squint-test-XXXXXX";
static char model[512], calib[512];

static int setup_conversations(int n) {
    snprintf(model, sizeof model, "%s/tests/golden/models/qwen25vl-nested-f32",
             getenv("SQ_TEST_ROOT"));
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(calib, sizeof calib, "%s/calib.jsonl", dir);
    sq_buf b = {0};
    for (int i = 0; i < n; i++) {
        sq_buf_printf(
            &b,
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\", \"image\": "
            "\"%s/../media/even.png\"}, {\"type\": \"text\", \"text\": \"Number %d, what is "
            "it?\"}]}, {\"role\": \"assistant\", \"content\": \"It is the answer %d of "
            "many.\"}]}\n",
            model, i, i * 7);
    }
    sq_status st = sq_file_write(calib, b.data, b.len, NULL);
    sq_buf_free(&b);
    return st == SQ_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return sq_remove_tree(dir, NULL) == SQ_OK ? 0 : -1;
}

#endif
