/* Attention over the KV cache, for one token row or many: blocks of keys and values through the
 * table's products, with a running softmax. transformers' eager_attention_forward: softmax(q k^T *
 * scale) v, without the rows of scores.
 *
 * The query heads that share a key head are rows of one product: a block is read once for all of
 * them, and the same code serves decoding and prompts. Tokens are cut into ranges of a fixed size:
 * scores of all of a range's keys, its softmax, then all of its values. Ranges are joined in their
 * order: a single row's may be different threads', and the result is the same. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/dtype.h"
#include "model/work.h"

enum {
    RANGE = 8,                    /* blocks */
    TOKENS = RANGE * SQ_KV_BLOCK, /* of a range */
    WORDS = SQ_KV_BLOCK / 2,      /* of a row's weights in a block, bf16 or 16 bits */
    /* From a row to the next, an odd number of lines of the cache: a column's rows do not share a
     * set of it. */
    SCORES = TOKENS + 16,
    WEIGHTS = RANGE * WORDS + 16,
    TILE_ROWS = 96,      /* rows of a product in prompts, about */
    FEW_WORK = 1 << 18,  /* products below this are not worth waking threads */
    CONVERTED_ROWS = 16, /* at least, for a block to be rounded to bf16 for them */
    LARGEST = 32512      /* of 16-bit queries and weights (kernels.h, round_i16) */
};

/* What the products are of. */
typedef enum form { IN_F32, IN_F16, IN_BF16, IN_INT8, CONVERTED } form;

/* The softmax of some tokens: the row's largest score, the sum of exp(score - top), and the values
 * weighted by them. */
typedef struct part {
    float *top, *sum; /* [rows] */
    float *values;    /* [rows][width] */
} part;

typedef struct tile {
    const sq_cached *a;
    form form;
    int64_t head;       /* of keys */
    int64_t row0, rows; /* rows: the heads that share it, of each of the token rows from row0 on */
    int64_t share, width;
    float *q;                          /* [rows] of width numbers or less */
    float *q_scale;                    /* [rows] of integers */
    int32_t *q_sums;                   /* [rows] of integers */
    float *scores;                     /* [rows][SCORES] */
    uint32_t *weights, *keys, *values; /* [rows][WEIGHTS]; a block in bf16 */
    float *scale;                      /* [RANGE][rows] of integers: what a weight is worth */
    int32_t *sums;                     /* [RANGE][rows] of integers: sums of weights */
    part range, all;
} tile;

static int64_t tile_floats(int64_t rows, int64_t width) {
    return rows * (3 * width + SCORES + WEIGHTS + 2 * RANGE + 6) +
           SQ_KV_BLOCK * (width + SQ_KV_PANEL) / 2;
}

static float *take(float **at, int64_t n) {
    float *p = *at;
    *at += n;
    return p;
}

static void lay_out(tile *t, float *space) {
    int64_t rows = t->rows, width = t->width;
    t->q = take(&space, rows * width);
    t->range.values = take(&space, rows * width);
    t->all.values = take(&space, rows * width);
    t->keys = (uint32_t *)(void *)take(&space, SQ_KV_BLOCK * width / 2);
    t->values = (uint32_t *)(void *)take(&space, SQ_KV_BLOCK * SQ_KV_PANEL / 2);
    t->scores = take(&space, rows * SCORES);
    t->weights = (uint32_t *)(void *)take(&space, rows * WEIGHTS);
    t->range.top = take(&space, rows);
    t->range.sum = take(&space, rows);
    t->all.top = take(&space, rows);
    t->all.sum = take(&space, rows);
    t->scale = take(&space, RANGE * rows);
    t->q_scale = take(&space, rows);
    t->q_sums = (int32_t *)(void *)take(&space, rows);
    t->sums = (int32_t *)(void *)take(&space, RANGE * rows);
}

/* Tokens that the rows of a tile may see, from the first to the last. */
static int64_t seen_of(const tile *t, int64_t row) {
    return t->a->at + t->row0 + row / t->share + 1;
}

static void narrow(uint32_t *to, const float *x, int64_t n) {
    const sq_kernels *kn = sq_kernels_get();
    if (kn->narrow_bf16 != NULL) {
        kn->narrow_bf16((uint16_t *)to, x, n);
    } else {
        sq_from_f32(to, SQ_BF16, x, (size_t)n);
    }
}

/* To 16 bits; sums of so many columns fit in 32. Words: two planes. */
static void round_query(const tile *t, int64_t row, const float *x, int8_t *to) {
    const sq_kernels *kn = sq_kernels_get();
    float lo, hi, most = t->width <= 512 ? LARGEST : (float)LARGEST * 512.0f / (float)t->width;
    kn->range(x, t->width, &lo, &hi);
    float top = fmaxf(-lo, hi);
    t->q_scale[row] = lo != lo || !isfinite(top) ? NAN : top / most;
    t->q_sums[row] = 0;
    memset(to, 0, (size_t)(2 * t->width));
    if (top >= 1e-30f && isfinite(top)) { /* else its inverse may not be a number */
        t->q_sums[row] = kn->round_i16(to, to + t->width, x, most / top, t->width);
    }
}

static int64_t query_words(const tile *t) {
    return t->form == IN_BF16 || t->form == CONVERTED || t->form == IN_INT8 ? t->width / 2
                                                                            : t->width;
}

/* The tile's queries, rotated, times 1 / sqrt(head_dim), as the products take them. */
static void take_queries(tile *t) {
    const sq_cached *a = t->a;
    const sq_kernels *kn = sq_kernels_get();
    int64_t hd = a->kv->head_dim, words = query_words(t);
    float *x = t->range.values, scale = 1.0f / sqrtf((float)hd); /* not used yet */
    for (int64_t r = 0; r < t->rows; r++) {
        int64_t token = t->row0 + r / t->share;
        const float *from = a->qkv + token * a->ld + (t->head * t->share + r % t->share) * hd;
        float *to = t->q + r * words;
        float *row = words == t->width ? to : x;
        memcpy(row, from, (size_t)hd * sizeof *row);
        kn->rope(row, a->cos + token * (hd / 2), a->sin + token * (hd / 2), hd);
        for (int64_t i = 0; i < hd; i++) {
            row[i] *= scale;
        }
        memset(row + hd, 0, (size_t)(t->width - hd) * sizeof *row);
        if (t->form == IN_INT8) {
            round_query(t, r, row, (int8_t *)to);
        } else if (words < t->width) {
            narrow((uint32_t *)(void *)to, row, t->width);
        }
    }
}

static void multiply(form f, const sq_kv_product *p) {
    const sq_kernels *kn = sq_kernels_get();
    switch (f) {
    case IN_F32:
        kn->kv_f32(p);
        break;
    case IN_F16:
        kn->kv_f16(p);
        break;
    case IN_BF16:
    case CONVERTED:
        kn->kv_bf16(p);
        break;
    case IN_INT8:
        kn->kv_i8(p);
        break;
    }
}

/* Rows [k][n] of a matrix as pairs of rows of bf16; k may be odd, n is 64 at most. */
static void pair_rows(sq_kv_type type, const void *matrix, int64_t k, int64_t n, uint32_t *to) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t i = 0; i < k; i += 2, to += n) {
        float wide[2 * SQ_KV_BLOCK];
        const float *even = (const float *)matrix + i * n;
        if (type == SQ_KV_F16) {
            kn->widen_f16(wide, (const uint16_t *)matrix + i * n, i + 1 < k ? 2 * n : n);
            even = wide;
        }
        kn->pair_bf16(even, i + 1 < k ? even + n : NULL, n, to);
    }
}

/* Scores of a block's first n tokens, beside those of the range's blocks before it. */
static void score(const tile *t, int64_t block, int64_t n, const void *next) {
    const sq_cached *a = t->a;
    const void *keys = sq_kv_matrix(a->kv, block, a->layer, 0, t->head);
    int64_t words = query_words(t);
    if (t->form == CONVERTED) {
        pair_rows(a->kv->type, keys, t->width, SQ_KV_BLOCK, t->keys);
        keys = t->keys;
        next = NULL;
    }
    int integers = t->form == IN_INT8;
    multiply(t->form,
             &(sq_kv_product){.rows = t->rows,
                              .n = sq_round_up(n, 16),
                              .k = integers ? t->width / 4 : words,
                              .a = t->q,
                              .lda = words,
                              .b = keys,
                              .ldb = SQ_KV_BLOCK,
                              .scale = integers ? t->q_scale : NULL,
                              .columns = integers ? sq_kv_scales(a->kv, block, a->layer, 0, t->head)
                                                  : NULL,
                              .sums = t->q_sums,
                              .c = t->scores + block % RANGE * SQ_KV_BLOCK,
                              .ldc = SCORES,
                              .next = next});
}

/* A row's weights of a block, of which it sees n tokens, times the scales of the values. */
static void round_row(const tile *t, int64_t row, int64_t block, int64_t n) {
    const float *scales = sq_kv_scales(t->a->kv, block, t->a->layer, 1, t->head);
    const int64_t in = block % RANGE;
    int8_t *w = (int8_t *)(t->weights + row * WEIGHTS + in * WORDS);
    float seen[SQ_KV_BLOCK] = {0};
    if (n < SQ_KV_BLOCK) { /* what lies beyond may be none */
        memcpy(seen, scales, (size_t)(n < 0 ? 0 : n) * sizeof *seen);
        scales = seen;
    }
    t->sums[in * t->rows + row] = sq_kernels_get()->round_weights(
        w, w + SQ_KV_BLOCK, t->scores + row * SCORES + in * SQ_KV_BLOCK, scales,
        &t->scale[in * t->rows + row]);
}

/* The scores of a range become weights relative to the largest, as its values are multiplied by. */
static void soften(const tile *t, int64_t range, int64_t blocks) {
    const sq_kernels *kn = sq_kernels_get();
    for (int64_t r = 0; r < t->rows; r++) {
        float *x = t->scores + r * SCORES;
        int64_t n = seen_of(t, r) - range * TOKENS, all = blocks * SQ_KV_BLOCK;
        n = n < 0 ? 0 : n > all ? all : n;
        if ((t->form == IN_BF16 || t->form == CONVERTED) && kn->softmax_bf16 != NULL) {
            uint16_t *to = (uint16_t *)(t->weights + r * WEIGHTS);
            t->range.sum[r] = kn->softmax_bf16(x, to, n, all, &t->range.top[r]);
            continue;
        }
        t->range.sum[r] = kn->softmax_step(x, n, all, &t->range.top[r]);
        if (t->form == IN_BF16 || t->form == CONVERTED) {
            narrow(t->weights + r * WEIGHTS, x, all);
        }
        for (int64_t b = 0; t->form == IN_INT8 && b < blocks; b++) {
            round_row(t, r, range * RANGE + b, n - b * SQ_KV_BLOCK);
        }
    }
}

/* Of a block, the tokens that any row sees. */
static int64_t seen_in(const tile *t, int64_t block) {
    int64_t n = seen_of(t, t->rows - 1) - block * SQ_KV_BLOCK;
    return n < SQ_KV_BLOCK ? n : SQ_KV_BLOCK;
}

/* Adds the values of `count` blocks, n tokens of each, to those of the range's blocks before them.
 * next: the matrix that is read after them. */
static void mix(const tile *t, int64_t block, int64_t count, int64_t n, const char *next) {
    const sq_cached *a = t->a;
    const int64_t in = block % RANGE;
    const char *values[RANGE];
    const void *rest[RANGE];
    for (int64_t i = 0; i < count; i++) {
        values[i] = sq_kv_matrix(a->kv, block + i, a->layer, 1, t->head);
    }
    int numbers = t->form == IN_F32 || t->form == IN_F16, integers = t->form == IN_INT8;
    int64_t size = a->kv->type == SQ_KV_F32 ? 4 : integers ? 1 : 2; /* bytes of a value */
    sq_kv_product p = {.rows = t->rows,
                       .k = numbers    ? n
                            : integers ? SQ_KV_BLOCK / 4
                                       : sq_ceil_div(n, 2),
                       .a = numbers ? (const void *)(t->scores + in * SQ_KV_BLOCK)
                                    : t->weights + in * WORDS,
                       .lda = numbers ? SCORES : WEIGHTS,
                       .add = in > 0,
                       .scale = integers ? t->scale + in * t->rows : NULL,
                       .sums = t->sums + in * t->rows,
                       .ldc = t->width,
                       .rest = rest,
                       .n_rest = count - 1};
    for (int64_t c = 0; c < t->width; c += SQ_KV_PANEL) {
        int64_t at = SQ_KV_BLOCK * c * size;
        p.n = p.ldb = sq_kv_panel(t->width, c);
        p.c = t->range.values + c;
        p.b = values[0] + at;
        for (int64_t i = 1; i < count; i++) {
            rest[i - 1] = values[i] + at;
        }
        if (t->form == CONVERTED) {
            pair_rows(a->kv->type, p.b, n, p.n, t->values);
            p.b = t->values;
        } else if (count > 1 && c + SQ_KV_PANEL < t->width) {
            p.next = values[0] + SQ_KV_BLOCK * (c + SQ_KV_PANEL) * size;
        } else {
            p.next = next == NULL ? NULL : next + (count > 1 ? 0 : at);
        }
        multiply(t->form, &p);
    }
}

/* Blocks from b on whose values are one product. */
static int64_t together(const tile *t, int64_t b, int64_t end) {
    int64_t n = 1, most = t->form == IN_BF16 && sq_kernels_get()->kv_rest ? end - b : 1;
    while (n < most && seen_in(t, b + n) == SQ_KV_BLOCK) {
        n++;
    }
    return n;
}

/* The softmax over range i's tokens, as far as the rows see them. Each product fetches what the
 * next one reads. */
static void attend_range(const tile *t, int64_t i) {
    const sq_cached *a = t->a;
    int64_t blocks = sq_ceil_div(seen_of(t, t->rows - 1), SQ_KV_BLOCK), first = i * RANGE;
    int64_t end = first + RANGE < blocks ? first + RANGE : blocks;
    for (int64_t b = first; b < end; b++) {
        score(t, b, seen_in(t, b),
              b + 1 < end ? sq_kv_matrix(a->kv, b + 1, a->layer, 0, t->head)
                          : sq_kv_matrix(a->kv, first, a->layer, 1, t->head));
    }
    soften(t, i, end - first);
    for (int64_t b = first, n; b < end; b += n) {
        n = together(t, b, end);
        mix(t, b, n, seen_in(t, b),
            b + n < end    ? sq_kv_matrix(a->kv, b + n, a->layer, 1, t->head)
            : end < blocks ? sq_kv_matrix(a->kv, end, a->layer, 0, t->head)
                           : NULL);
    }
}

/* Row `to` goes on with row `from` of the tokens after it. */
static void join(const part *all, int64_t to, const part *more, int64_t from, int64_t width) {
    const sq_kernels *kn = sq_kernels_get();
    float *x = all->values + to * width, top = more->top[from];
    if (more->sum[from] == 0) {
        return;
    }
    top = all->top[to] > top ? all->top[to] : top;
    float keep = all->sum[to] == 0 ? 0.0f : expf(all->top[to] - top);
    float scale = expf(more->top[from] - top);
    for (int64_t i = 0; i < width; i++) {
        x[i] *= keep;
    }
    kn->axpy(x, scale, more->values + from * width, width);
    all->sum[to] = keep * all->sum[to] + scale * more->sum[from];
    all->top[to] = top;
}

static void clear(const part *p, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        p->top[r] = -INFINITY;
        p->sum[r] = 0;
    }
    memset(p->values, 0, (size_t)(rows * width) * sizeof *p->values);
}

static void give(const sq_cached *a, const part *all, int64_t row, int64_t width, int64_t token,
                 int64_t head) {
    int64_t hd = a->kv->head_dim;
    float *out = a->out + (token * a->heads + head) * hd;
    float r = all->sum[row] == 0 ? 0.0f : 1.0f / all->sum[row];
    for (int64_t i = 0; i < hd; i++) {
        out[i] = all->values[row * width + i] * r;
    }
}

static form form_of(const sq_cached *a, int64_t rows) {
    static const form forms[] = {
        [SQ_KV_F32] = IN_F32, [SQ_KV_F16] = IN_F16, [SQ_KV_BF16] = IN_BF16, [SQ_KV_INT8] = IN_INT8};
    form f = forms[a->kv->type];
    int may =
        a->bf16 && a->rows > 1 && rows >= CONVERTED_ROWS && sq_kernels_get()->pair_bf16 != NULL;
    return may && (f == IN_F32 || f == IN_F16) ? CONVERTED : f;
}

static int64_t tile_tokens(int64_t share, int64_t rows) {
    int64_t most = TILE_ROWS / share < 1 ? 1 : TILE_ROWS / share;
    return rows < most ? rows : most;
}

static int64_t ranges_of(int64_t tokens) { return sq_ceil_div(tokens, RANGE * SQ_KV_BLOCK); }

int64_t sq_cached_floats(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t rows,
                         int64_t tokens) {
    int64_t share = heads / kv_heads, width = sq_kv_width(head_dim);
    int64_t parts = rows == 1 ? heads * ranges_of(tokens) * (width + 2) : 0;
    return parts + sq_threads() * tile_floats(share * tile_tokens(share, rows), width);
}

/* Many token rows: a task is a tile of them for one head of keys. */
static void attend_rows(const sq_cached *a, int64_t share, int64_t width, float *space) {
    int64_t tokens = tile_tokens(share, a->rows), tiles = sq_ceil_div(a->rows, tokens);
    int64_t heads = a->kv->kv_heads, own = tile_floats(share * tokens, width);
#pragma omp parallel for schedule(dynamic, 1) if (a->rows * a->heads * (a->at + a->rows) * width > \
                                                  FEW_WORK)
    for (int64_t task = 0; task < tiles * heads; task++) {
        int64_t t0 = task / heads * tokens, m = a->rows - t0 < tokens ? a->rows - t0 : tokens;
        tile t = {.a = a,
                  .form = form_of(a, m * share),
                  .head = task % heads,
                  .row0 = t0,
                  .rows = m * share,
                  .share = share,
                  .width = width};
        lay_out(&t, space + sq_thread() * own);
        take_queries(&t);
        clear(&t.all, t.rows, width);
        for (int64_t i = 0; i < ranges_of(seen_of(&t, t.rows - 1)); i++) {
            attend_range(&t, i);
            for (int64_t r = 0; r < t.rows; r++) {
                join(&t.all, r, &t.range, r, width);
            }
        }
        for (int64_t r = 0; r < t.rows; r++) {
            give(a, &t.all, r, width, t0 + r / share, t.head * share + r % share);
        }
    }
}

/* ---- one token row: a task is a range for one head of keys ---- */

/* The ranges' parts [kv_heads][ranges][share], before what each thread takes for itself. */
static part lay_parts(const sq_cached *a, float **space) {
    int64_t parts = a->heads * ranges_of(a->at + 1), width = sq_kv_width(a->kv->head_dim);
    return (part){take(space, parts), take(space, parts), take(space, parts * width)};
}

void sq_attend_share(const sq_cached *a, float *space, int part0, int parts) {
    int64_t share = a->heads / a->kv->kv_heads, width = sq_kv_width(a->kv->head_dim);
    int64_t ranges = ranges_of(a->at + 1), tasks = a->kv->kv_heads * ranges;
    const part all = lay_parts(a, &space);
    float *mine = space + part0 * tile_floats(share, width);
    tile t = {.a = a,
              .form = form_of(a, share),
              .head = -1,
              .rows = share,
              .share = share,
              .width = width};
    for (int64_t task = tasks * part0 / parts; task < tasks * (part0 + 1) / parts; task++) {
        if (t.head != task / ranges) {
            t.head = task / ranges;
            lay_out(&t, mine);
            take_queries(&t);
        }
        t.range = (part){all.top + task * share, all.sum + task * share,
                         all.values + task * share * width};
        attend_range(&t, task % ranges);
    }
}

void sq_attend_join(const sq_cached *a, float *space, int part0, int parts) {
    int64_t share = a->heads / a->kv->kv_heads, width = sq_kv_width(a->kv->head_dim);
    int64_t ranges = ranges_of(a->at + 1);
    const part all = lay_parts(a, &space);
    float *mine = space + part0 * tile_floats(share, width);
    tile t = {.rows = share, .width = width};
    lay_out(&t, mine);
    for (int64_t h = a->heads * part0 / parts; h < a->heads * (part0 + 1) / parts; h++) {
        clear(&t.all, 1, width);
        for (int64_t i = 0; i < ranges; i++) {
            join(&t.all, 0, &all, (h / share * ranges + i) * share + h % share, width);
        }
        give(a, &t.all, 0, width, 0, h);
    }
}

static void attend_row(const sq_cached *a, int64_t width, float *space) {
#pragma omp parallel if ((a->at + 1) * a->heads * width > FEW_WORK)
    {
        sq_attend_share(a, space, sq_thread(), omp_get_num_threads());
#pragma omp barrier
        sq_attend_join(a, space, sq_thread(), omp_get_num_threads());
    }
}

void sq_attend_cached(const sq_cached *a, float *space) {
    int64_t share = a->heads / a->kv->kv_heads, width = sq_kv_width(a->kv->head_dim);
    if (a->rows == 1) {
        attend_row(a, width, space);
    } else {
        attend_rows(a, share, width, space);
    }
}
