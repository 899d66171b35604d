/* A tower's attention in products of bf16 beside the one in f32. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/work.h"

static float value(int64_t row, int64_t column) {
    return sinf((float)(row * 13 + column * 7)) * (float)(1 + column % 5);
}

/* Heads of hd columns side by side, as q, k and v of a tower lie: nothing but out's own head may be
 * written. */
static void beside_f32(int64_t rows, int64_t hd) {
    enum { HEADS = 2 };
    int64_t width = HEADS * hd, ld = 3 * width;
    float *qkv = malloc((size_t)(rows * ld) * sizeof *qkv);
    float *want = malloc((size_t)(rows * width) * sizeof *want);
    float *got = malloc((size_t)(rows * width) * sizeof *got);
    float *scores = malloc((size_t)(rows * rows) * sizeof *scores);
    uint32_t *words = malloc((size_t)sq_attend_words(rows, hd) * sizeof *words);
    for (int64_t i = 0; i < rows * ld; i++) {
        qkv[i] = value(i / ld, i % ld);
    }
    for (int64_t i = 0; i < rows * width; i++) {
        got[i] = 1234.5f;
    }
    memset(words, 0xff, (size_t)sq_attend_words(rows, hd) * sizeof *words); /* NaN */
    float scale = 0.2f / sqrtf((float)hd);
    sq_attend(&(sq_attn_tile){.q = qkv,
                              .k = qkv + width,
                              .v = qkv + 2 * width,
                              .ld = ld,
                              .rows = rows,
                              .hd = hd,
                              .total = rows,
                              .out = want,
                              .ldo = width,
                              .scores = scores,
                              .scale = scale});
    sq_attend_bf16(&(sq_attn_bf16){.q = qkv,
                                   .k = qkv + width,
                                   .v = qkv + 2 * width,
                                   .ld = ld,
                                   .rows = rows,
                                   .hd = hd,
                                   .out = got,
                                   .ldo = width,
                                   .scale = scale,
                                   .words = words});
    for (int64_t i = 0; i < rows * width; i++) {
        if (i % width < hd) { /* values reach 5 */
            assert_true(fabsf(got[i] - want[i]) <= 0.04f);
        } else {
            assert_true(got[i] == 1234.5f);
        }
    }
    free(qkv);
    free(want);
    free(got);
    free(scores);
    free(words);
}

static void any_number_of_rows_and_columns(void **state) {
    static const int64_t rows[] = {1, 2, 7, 24, 25, 63, 64, 65, 150},
                         columns[] = {2, 16, 72, 80, 126};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t j = 0; j < sizeof columns / sizeof *columns; j++) {
            beside_f32(rows[i], columns[j]);
        }
    }
}

int main(void) {
    if (sq_kernels_get()->tile_bf16 == NULL) {
        puts("1..0 # SKIP this CPU multiplies no pairs of bf16");
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_number_of_rows_and_columns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
