/* Products of bf16 pairs against sums in double: what lies behind the operands' rows and panels is
 * no number, what lies beside the result stays; and how rows become pairs and panels. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkasm.h"

enum { ROWS = 100, COLUMNS = 80, PAIRS = 130, BESIDE = 3 };

typedef struct operands {
    uint32_t a[ROWS * (PAIRS + BESIDE)], b[COLUMNS * (PAIRS + BESIDE)];
    float c[ROWS * (COLUMNS + BESIDE)], before[ROWS * (COLUMNS + BESIDE)];
} operands;

static uint32_t random_pair(void) {
    float x[2] = {uniform(), uniform()};
    uint16_t h[2];
    uint32_t word;
    sq_from_f32(h, SQ_BF16, x, 2);
    memcpy(&word, h, sizeof word);
    return word;
}

static double number(uint32_t word, int half) {
    return (double)sq_bf16_to_f32((uint16_t)(half ? word >> 16 : word));
}

/* One element's sum, and that of its terms' sizes. */
static double sum_of(const operands *o, int64_t pairs, int64_t r, int64_t j, double *size) {
    double sum = 0;
    *size = 0;
    for (int64_t p = 0; p < pairs; p++) {
        uint32_t x = o->a[r * (pairs + BESIDE) + p];
        uint32_t y = o->b[j / 16 * 16 * (pairs + BESIDE) + 16 * p + j % 16];
        for (int half = 0; half < 2; half++) {
            sum += number(x, half) * number(y, half);
            *size += fabs(number(x, half) * number(y, half));
        }
    }
    return sum;
}

static void tile(operands *o, int64_t rows, int64_t columns, int64_t pairs) {
    const int64_t ldc = columns + BESIDE, a_row = pairs + BESIDE, b_panel = 16 * a_row;
    memset(o->a, 0xff, sizeof o->a);
    memset(o->b, 0xff, sizeof o->b);
    for (int64_t i = 0; i < rows * pairs; i++) {
        o->a[i / pairs * a_row + i % pairs] = random_pair();
    }
    for (int64_t i = 0; i < sq_round_up(columns, 16) * pairs; i++) {
        int64_t panel = i / (16 * pairs), in = i % (16 * pairs);
        o->b[panel * b_panel + in] = 16 * panel + in % 16 < columns ? random_pair() : 0;
    }
    for (int64_t i = 0; i < ROWS * ldc; i++) {
        o->c[i] = o->before[i] = i / ldc < rows && i % ldc < columns ? 5 * uniform() : NAN;
    }
    isa->tile_bf16(rows, columns, pairs, o->a, a_row, o->b, b_panel, o->c, ldc);
    for (int64_t i = 0; i < ROWS * ldc; i++) {
        int64_t r = i / ldc, j = i % ldc;
        double size, want;
        if (r >= rows || j >= columns) {
            verdict("beside tile_bf16", pairs, memcmp(&o->c[i], &o->before[i], 4) == 0, 0, 0);
            continue;
        }
        want = sum_of(o, pairs, r, j, &size) + (double)o->before[i];
        double tol = 1.2e-7 * (size + fabs((double)o->before[i])) * (3 + sqrt(2.0 * (double)pairs)),
               e = fabs((double)o->c[i] - want);
        verdict("tile_bf16", pairs, e <= tol, e, tol);
    }
}

/* n rows of k columns of stride ldw as a panel. */
static void panel(int64_t n, int64_t k, int64_t ldw) {
    uint16_t w[16 * 90];
    uint32_t out[16 * 41 + 16];
    int64_t pairs = (k + 1) / 2;
    for (int64_t i = 0; i < n * ldw; i++) {
        w[i] = (uint16_t)(1 + i);
    }
    memset(out, 0x5a, sizeof out);
    isa->panel_bf16(w, ldw, n, k, out);
    for (int64_t i = 0; i < 16 * pairs + 16; i++) {
        int64_t r = i % 16, c = i / 16 * 2;
        uint32_t low = r < n ? w[r * ldw + c] : 0,
                 high = r < n && c + 1 < k ? w[r * ldw + c + 1] : 0;
        verdict("panel_bf16", k, out[i] == (c < k ? low | high << 16 : 0x5a5a5a5au), 0, 0);
    }
}

static void pairs_of(int64_t n) {
    enum { MOST = 80 };
    float even[MOST], odd[MOST];
    uint16_t h[2][MOST + 1];
    uint32_t out[MOST + 1];
    const int64_t all = sq_round_up(n, 16);
    for (int i = 0; i < MOST; i++) {
        even[i] = uniform();
        odd[i] = i == 3 ? INFINITY : 1e-3f * uniform();
    }
    for (int both = 0; both < 2; both++) {
        out[all] = 12345;
        isa->pair_bf16(even, both ? odd : NULL, n, out);
        sq_from_f32(h[0], SQ_BF16, even, MOST);
        sq_from_f32(h[1], SQ_BF16, odd, MOST);
        for (int i = 0; i < all; i++) {
            uint32_t want = i >= n ? 0 : h[0][i] | (both ? (uint32_t)h[1][i] << 16 : 0);
            verdict("pair_bf16", n, out[i] == want, 0, 0);
        }
        verdict("beside pair_bf16", n, out[all] == 12345, 0, 0);
    }
    h[1][n] = 12345;
    isa->narrow_bf16(h[1], even, n);
    verdict("narrow_bf16", n, memcmp(h[0], h[1], (size_t)n * 2) == 0 && h[1][n] == 12345, 0, 0);
}

void test_bf16(void) {
    operands *o = calloc(1, sizeof *o);
    for (int64_t i = 0; o != NULL && isa->tile_bf16 != NULL && i < 3 * 36; i++) {
        int64_t rows = i % 36 < 34 ? 1 + i % 36 : i % 36 == 34 ? 64 : 100;
        for (int64_t columns = 1 + i % 3; columns <= 52; columns += 3) {
            tile(o, rows, columns, 1 + (rows * 13 + columns * 7 + i) % 49);
        }
        tile(o, rows, i % 2 ? 64 : 80, i % 3 == 0 ? 32 : i % 3 == 1 ? 128 : 130);
    }
    for (int64_t i = 1; o != NULL && isa->panel_bf16 != NULL && i <= 80; i++) {
        panel(1 + i % 16, i, i);
        panel(16 - i % 16, i, i + 1 + i % 9);
        pairs_of(i);
    }
    free(o);
}
