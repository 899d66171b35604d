#include "format/layouts.h"

#include <string.h>

#include "base/mem.h"

const char *const sq_layout_suffix[SQ_LAYOUT_PARTS] = {".qweight", ".qzeros", ".scales", ".g_idx"};

static const char *const names[SQ_LAYOUT_COUNT] = {"compressed-tensors", "awq-gemm", "awq-gemv",
                                                   "gptq", "gptq-v2"};

const char *sq_layout_name(sq_layout l) { return names[l]; }

int sq_layout_parse(const char *name, sq_layout *out) {
    if (strcmp(name, "awq") == 0) {
        *out = SQ_LAYOUT_AWQ_GEMM;
        return 1;
    }
    for (int i = 0; i < SQ_LAYOUT_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (sq_layout)i;
            return 1;
        }
    }
    return 0;
}

/* ---- what a layout holds ---- */

/* AutoAWQ's calculate_zeros_width: words of zero points a row of gemv; 0 for a group that it does
 * not know. */
static int64_t gemv_zero_words(int64_t k, int64_t group) {
    int64_t m = group >= 128 ? 1 : group == 64 ? 2 : group == 32 ? 4 : 0;
    return m == 0 ? 0 : sq_round_up(sq_ceil_div(k / group, 8), m);
}

sq_status sq_layout_check(const sq_layout_form *f, int writing, sq_error *err) {
    const char *name = names[f->layout];
    int64_t per = f->bits == 8 ? 4 : 8;
    int gptq = sq_layout_is_gptq(f->layout), gemm = f->layout == SQ_LAYOUT_AWQ_GEMM;
    int64_t rows = f->layout == SQ_LAYOUT_AWQ_GEMV ? 1 : writing ? 32 : per;
    int64_t columns = gemm ? 1 : gptq && writing ? 32 : per;
    if (f->layout == SQ_LAYOUT_CT) {
        return SQ_OK;
    }
    if (f->bits != 4 && (f->bits != 8 || !gptq)) {
        return sq_fail(err, SQ_EUNSUPPORTED, "%s holds %s; got %d bits", name,
                       gptq ? "4 or 8 bits" : "4 bits alone", f->bits);
    }
    if (f->group < 1 || f->k % f->group != 0) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s has no padding; got groups of %lld in %lld columns, wanted a group that "
                       "divides them",
                       name, (long long)f->group, (long long)f->k);
    }
    if (f->n % rows != 0 || f->k % columns != 0) {
        int by_rows = f->n % rows != 0;
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s packs whole words; got %lld %s, wanted a multiple of %lld", name,
                       (long long)(by_rows ? f->n : f->k), by_rows ? "outputs" : "inputs",
                       (long long)(by_rows ? rows : columns));
    }
    if (f->layout == SQ_LAYOUT_AWQ_GEMV && gemv_zero_words(f->k, f->group) == 0) {
        return sq_fail(err, SQ_EUNSUPPORTED,
                       "%s knows groups of 32, 64 and from 128 on; got groups of %lld", name,
                       (long long)f->group);
    }
    return SQ_OK;
}

void sq_layout_shapes(const sq_layout_form *f, sq_layout_shape out[SQ_LAYOUT_PARTS]) {
    int64_t per = 32 / f->bits, groups = f->k / f->group;
    memset(out, 0, SQ_LAYOUT_PARTS * sizeof *out);
    if (f->layout == SQ_LAYOUT_AWQ_GEMM) {
        out[SQ_LAYOUT_QWEIGHT] = (sq_layout_shape){2, {f->k, f->n / per}};
    } else if (f->layout == SQ_LAYOUT_AWQ_GEMV) {
        int64_t words = gemv_zero_words(f->k, f->group);
        out[SQ_LAYOUT_QWEIGHT] = (sq_layout_shape){2, {f->n, f->k / per}};
        out[SQ_LAYOUT_QZEROS] = (sq_layout_shape){2, {f->n, words}};
        out[SQ_LAYOUT_SCALES] = (sq_layout_shape){2, {f->n, words * per}};
        return;
    } else {
        out[SQ_LAYOUT_QWEIGHT] = (sq_layout_shape){2, {f->k / per, f->n}};
        out[SQ_LAYOUT_G_IDX] = (sq_layout_shape){1, {f->k, 0}};
    }
    out[SQ_LAYOUT_QZEROS] = (sq_layout_shape){2, {groups, f->n / per}};
    out[SQ_LAYOUT_SCALES] = (sq_layout_shape){2, {groups, f->n}};
}

/* ---- bits ---- */

/* Where a code lies: its word and the bit in it. */
typedef struct place {
    int64_t word;
    int shift;
} place;

/* AutoAWQ's order: nibble i of a word is output 0, 2, 4, 6, 1, 3, 5, 7. */
static int awq_shift(int64_t r) {
    static const int nibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return 4 * nibble[r % 8];
}

static inline place code_at(const sq_layout_form *f, int64_t r, int64_t c) {
    int64_t per = 32 / f->bits;
    switch (f->layout) {
    case SQ_LAYOUT_AWQ_GEMM:
        return (place){c * (f->n / 8) + r / 8, awq_shift(r)};
    case SQ_LAYOUT_AWQ_GEMV:
        return (place){r * (f->k / 8) + c / 8, (int)(c % 8) * 4};
    default:
        return (place){c / per * f->n + r, (int)(c % per) * f->bits};
    }
}

static inline place zero_at(const sq_layout_form *f, int64_t r, int64_t g) {
    int64_t per = 32 / f->bits;
    switch (f->layout) {
    case SQ_LAYOUT_AWQ_GEMM:
        return (place){g * (f->n / 8) + r / 8, awq_shift(r)};
    case SQ_LAYOUT_AWQ_GEMV:
        return (place){r * gemv_zero_words(f->k, f->group) + g / 8, (int)(g % 8) * 4};
    default:
        return (place){g * (f->n / per) + r / per, (int)(r % per) * f->bits};
    }
}

static size_t cells(const sq_layout_form *f, sq_layout_part p) {
    sq_layout_shape s[SQ_LAYOUT_PARTS];
    sq_layout_shapes(f, s);
    return sq_layout_cells(&s[p]);
}

/* Threads take blocks of rows that share no word: a word of gemm and of GPTQ's zero points holds
 * eight rows. */
enum { BLOCK = 32 };

void sq_layout_pack_codes(const sq_layout_form *f, uint32_t *words, const uint8_t *codes) {
    memset(words, 0, cells(f, SQ_LAYOUT_QWEIGHT) * sizeof *words);
    int64_t blocks = sq_ceil_div(f->n, BLOCK);
#pragma omp parallel for schedule(static) if (f->n * f->k > 65536)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * BLOCK < f->n ? (b + 1) * BLOCK : f->n;
        for (int64_t c = 0; c < f->k; c++) {
            for (int64_t r = b * BLOCK; r < end; r++) {
                place p = code_at(f, r, c);
                words[p.word] |= (uint32_t)codes[r * f->k + c] << p.shift;
            }
        }
    }
}

void sq_layout_unpack_codes(const sq_layout_form *f, uint8_t *codes, const uint32_t *words) {
    uint32_t mask = (1u << f->bits) - 1;
    int64_t blocks = sq_ceil_div(f->n, BLOCK);
#pragma omp parallel for schedule(static) if (f->n * f->k > 65536)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t end = (b + 1) * BLOCK < f->n ? (b + 1) * BLOCK : f->n;
        for (int64_t c = 0; c < f->k; c++) {
            for (int64_t r = b * BLOCK; r < end; r++) {
                place p = code_at(f, r, c);
                codes[r * f->k + c] = (uint8_t)(words[p.word] >> p.shift & mask);
            }
        }
    }
}

int sq_layout_pack_zeros(const sq_layout_form *f, uint32_t *words, const uint8_t *zeros,
                         int64_t *row, int64_t *group) {
    int64_t groups = f->k / f->group;
    int less = f->layout == SQ_LAYOUT_GPTQ;
    memset(words, 0, cells(f, SQ_LAYOUT_QZEROS) * sizeof *words);
    for (int64_t r = 0; r < f->n; r++) {
        for (int64_t g = 0; g < groups; g++) {
            int z = zeros[r * groups + g] - less;
            if (z < 0) {
                *row = r;
                *group = g;
                return 0;
            }
            place p = zero_at(f, r, g);
            words[p.word] |= (uint32_t)z << p.shift;
        }
    }
    return 1;
}

void sq_layout_unpack_zeros(const sq_layout_form *f, uint8_t *zeros, const uint32_t *words) {
    int64_t groups = f->k / f->group;
    uint32_t mask = (1u << f->bits) - 1;
    /* GPTQModel takes one off whole words and adds it to whole words: what a 0 borrowed from its
     * neighbour comes back. */
    uint32_t less = f->layout != SQ_LAYOUT_GPTQ ? 0 : f->bits == 4 ? 0x11111111u : 0x01010101u;
    for (int64_t r = 0; r < f->n; r++) {
        for (int64_t g = 0; g < groups; g++) {
            place p = zero_at(f, r, g);
            zeros[r * groups + g] = (uint8_t)((words[p.word] + less) >> p.shift & mask);
        }
    }
}

static inline int64_t scale_at(const sq_layout_form *f, int64_t r, int64_t g) {
    return f->layout == SQ_LAYOUT_AWQ_GEMV ? r * 8 * gemv_zero_words(f->k, f->group) + g
                                           : g * f->n + r;
}

void sq_layout_pack_scales(const sq_layout_form *f, float *stored, const float *scales) {
    int64_t groups = f->k / f->group;
    memset(stored, 0, cells(f, SQ_LAYOUT_SCALES) * sizeof *stored);
    for (int64_t i = 0; i < f->n * groups; i++) {
        stored[scale_at(f, i / groups, i % groups)] = scales[i];
    }
}

void sq_layout_unpack_scales(const sq_layout_form *f, float *scales, const float *stored) {
    int64_t groups = f->k / f->group;
    for (int64_t i = 0; i < f->n * groups; i++) {
        scales[i] = stored[scale_at(f, i / groups, i % groups)];
    }
}

/* ---- act-order ---- */

void sq_layout_plain_order(const sq_layout_form *f, int32_t *g_idx) {
    for (int64_t c = 0; c < f->k; c++) {
        g_idx[c] = (int32_t)(c / f->group);
    }
}

int sq_layout_order(const sq_layout_form *f, const int32_t *g_idx, int32_t *columns) {
    int64_t groups = f->k / f->group;
    int plain = 1;
    for (int64_t c = 0; c < f->k; c++) {
        plain &= g_idx[c] == c / f->group;
        if (g_idx[c] < 0 || g_idx[c] >= groups) {
            return -1;
        }
    }
    int64_t at = 0;
    for (int64_t g = 0; !plain && g < groups; g++) {
        for (int64_t c = 0; c < f->k; c++) {
            if (g_idx[c] == g && at < f->k) {
                if (columns != NULL) {
                    columns[at] = (int32_t)c;
                }
                at++;
            }
        }
        if (at != (g + 1) * f->group) {
            return -1;
        }
    }
    for (int64_t c = 0; plain && columns != NULL && c < f->k; c++) {
        columns[c] = (int32_t)c;
    }
    return plain;
}
