/* Evaluation: perplexity over windows of text, and questions about pictures with words or boxes as
 * answers. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "quant/compare.h"
#include "quant/quant.h"

enum { MAX_ANSWER = 96 };

typedef struct side {
    sq_net *net;
    sq_frontend front;
} side;

static sq_status open_side(side *s, const char *path, sq_error *err) {
    sq_status st = sq_net_open(&s->net, path, err);
    return st == SQ_OK ? sq_frontend_open(&s->front, path, &s->net->config, err) : st;
}

static void close_side(side *s) {
    sq_frontend_close(&s->front);
    sq_net_close(&s->net);
}

/* ---- perplexity ---- */

static sq_status eval_text(side *m, side *other, const sq_eval_options *o,
                           const sq_progress *progress, json_t *r, sq_error *err) {
    char *text = NULL;
    size_t len;
    sq_ids ids = {0};
    sq_comparison c = {0};
    int64_t window = o->window > 0 ? o->window : 512, n = 0;
    sq_status st;
    SQ_TRY(sq_file_read(o->text, (size_t)1 << 32, &text, &len, err));
    SQ_TRY(sq_tokenizer_encode(m->front.tokenizer, text, len, 1, 0, &ids, err));
    int64_t windows = sq_ceil_div((int64_t)ids.len, window);
    windows = o->windows > 0 && o->windows < windows ? o->windows : windows;
    for (; n < windows; n++) {
        sq_prompt p;
        size_t at = (size_t)(n * window), left = ids.len - at;
        SQ_TRY(sq_prompt_tokens(&p, &m->front, ids.data + at,
                                left < (size_t)window ? left : (size_t)window, err));
        st = p.ids.len < 2 && n > 0 ? SQ_OK : sq_compare(&c, m->net, other->net, &p, err);
        sq_prompt_free(&p);
        SQ_TRY(st);
        if (!sq_progress_tick(progress, "eval", n + 1, windows, NULL)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    if (c.predicted == 0) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' has fewer than two tokens", o->text);
        goto fail;
    }
    json_object_set_new(r, "perplexity", json_real(exp(c.nll / (double)c.predicted)));
    json_object_set_new(r, "n", json_integer((json_int_t)n));
    if (other->net != NULL) {
        json_object_set_new(r, "kl", json_real(c.kl / (double)c.positions));
        json_object_set_new(r, "top1_agreement", json_real((double)c.agree / (double)c.positions));
    }
    if (c.bad > 0) {
        st = sq_fail(err, SQ_ECHECK, "%lld positions have logits that are not numbers",
                     (long long)c.bad);
    }
fail:
    sq_free(text);
    sq_free(ids.data);
    return st;
}

/* ---- questions ---- */

/* Lower case, one space between words, no punctuation at the ends. */
static void normalise(const char *s, char *out, size_t cap) {
    size_t n = 0;
    for (; *s != '\0' && n + 1 < cap; s++) {
        unsigned char c = (unsigned char)*s;
        if (isspace(c)) {
            if (n > 0 && out[n - 1] != ' ') {
                out[n++] = ' ';
            }
        } else if (!(ispunct(c) && (n == 0 || s[1] == '\0' || isspace((unsigned char)s[1])))) {
            out[n++] = (char)tolower(c);
        }
    }
    while (n > 0 && out[n - 1] == ' ') {
        n--;
    }
    out[n] = '\0';
}

static int same_words(const char *a, const char *b) {
    char x[1024], y[1024];
    normalise(a, x, sizeof x);
    normalise(b, y, sizeof y);
    return strcmp(x, y) == 0;
}

/* The first four numbers in brackets: `"bbox_2d": [x1, y1, x2, y2]`. */
static int read_box(const char *text, double box[4]) {
    const char *s = strchr(text, '[');
    int n = 0;
    while (s != NULL && n < 4) {
        char *end;
        box[n] = strtod(s + 1, &end);
        if (end == s + 1) {
            break;
        }
        n++;
        s = strpbrk(end, ",]");
        if (s == NULL || *s == ']') {
            break;
        }
    }
    return n == 4;
}

static double iou(const double a[4], const double b[4]) {
    double w = fmin(a[2], b[2]) - fmax(a[0], b[0]), h = fmin(a[3], b[3]) - fmax(a[1], b[1]);
    double inter = w > 0 && h > 0 ? w * h : 0;
    double both =
        fmax(0, a[2] - a[0]) * fmax(0, a[3] - a[1]) + fmax(0, b[2] - b[0]) * fmax(0, b[3] - b[1]);
    return both - inter > 0 ? inter / (both - inter) : 0;
}

/* The answer's box, from resized pixels to those of the original picture. */
static double box_score(const char *answer, const json_t *want, const sq_prompt *p) {
    double got[4], truth[4];
    if (!read_box(answer, got)) {
        return 0;
    }
    for (size_t i = 0; i < 4; i++) {
        truth[i] = json_number_value(json_array_get(want, i));
    }
    if (p->n_slots > 0) {
        const sq_pixels *x = &p->slots[p->n_slots - 1].pixels;
        double sx = (double)x->width / (double)x->resized_width,
               sy = (double)x->height / (double)x->resized_height;
        got[0] *= sx;
        got[2] *= sx;
        got[1] *= sy;
        got[3] *= sy;
    }
    return iou(got, truth);
}

typedef struct scores {
    json_t *kinds; /* {kind: {"n", "score"}}, score a sum until the end */
    double right, boxes;
    int64_t questions, n_boxes, n;
    sq_comparison compared;
} scores;

static void add_kind(scores *s, const char *kind, double score) {
    json_t *k = json_object_get(s->kinds, kind);
    if (k == NULL) {
        k = json_pack("{s:i, s:f}", "n", 0, "score", 0.0);
        json_object_set_new(s->kinds, kind, k);
    }
    json_object_set_new(k, "n", json_integer(json_integer_value(json_object_get(k, "n")) + 1));
    json_object_set_new(k, "score",
                        json_real(json_number_value(json_object_get(k, "score")) + score));
}

static sq_status answer(side *m, const sq_prompt *p, sq_buf *text, sq_error *err) {
    sq_seq s;
    sq_ids ids = {0};
    sq_status st = sq_seq_open(&s, m->net, err);
    if (st != SQ_OK) {
        return st;
    }
    SQ_TRY(sq_seq_feed(&s, p, 0, 0, NULL, NULL, err));
    SQ_TRY(sq_seq_greedy(&s, MAX_ANSWER, &ids, err));
    st = sq_tokenizer_decode(m->front.tokenizer, ids.data, ids.len, 1, text, err);
fail:
    sq_free(ids.data);
    sq_seq_close(&s);
    return st;
}

static sq_status one_question(side *m, side *other, sq_samples *all, size_t i, scores *s,
                              sq_error *err) {
    sq_sample *x = &all->items[i];
    const json_t *box = json_object_get(x->line, "bbox"),
                 *want = json_object_get(x->line, "answer");
    sq_buf text = {0};
    sq_status st;
    SQ_TRY(sq_sample_load(x, &m->front, all->dir, 1, err));
    if (other->net != NULL) {
        SQ_TRY(sq_compare(&s->compared, m->net, other->net, &x->prompt, err));
    }
    SQ_TRY(answer(m, &x->prompt, &text, err));
    const char *got = text.data == NULL ? "" : text.data;
    double score = 0;
    if (json_is_array(box)) {
        score = box_score(got, box, &x->prompt);
        s->boxes += score;
        s->n_boxes++;
    } else if (json_is_string(want)) {
        score = same_words(got, json_string_value(want));
        s->right += score;
        s->questions++;
    }
    if (box != NULL || want != NULL) {
        add_kind(s, sq_json_str(x->line, "kind", json_is_array(box) ? "bbox" : "question"), score);
        s->n++;
    }
fail:
    sq_prompt_free(&x->prompt);
    sq_buf_free(&text);
    return st;
}

static sq_status eval_task(side *m, side *other, const sq_eval_options *o,
                           const sq_progress *progress, json_t *r, sq_error *err) {
    sq_samples all = {0};
    scores s = {.kinds = json_object()};
    sq_status st;
    SQ_TRY(sq_samples_read(&all, &m->front, o->task, o->samples, 512, 0, err));
    for (size_t i = 0; i < all.n; i++) {
        SQ_TRY(one_question(m, other, &all, i, &s, err));
        if (!sq_progress_tick(progress, "eval", (int64_t)i + 1, (int64_t)all.n, NULL)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    if (s.n == 0) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' has no line with an answer or a bbox", o->task);
        goto fail;
    }
    const char *kind;
    json_t *k;
    json_object_foreach(s.kinds, kind, k) {
        double n = json_number_value(json_object_get(k, "n"));
        json_object_set_new(k, "score",
                            json_real(json_number_value(json_object_get(k, "score")) / n));
    }
    if (s.questions > 0) {
        json_object_set_new(r, "accuracy", json_real(s.right / (double)s.questions));
    }
    if (s.n_boxes > 0) {
        json_object_set_new(r, "mean_iou", json_real(s.boxes / (double)s.n_boxes));
    }
    if (other->net != NULL && s.compared.positions > 0) {
        json_object_set_new(r, "kl", json_real(s.compared.kl / (double)s.compared.positions));
        json_object_set_new(r, "top1_agreement",
                            json_real((double)s.compared.agree / (double)s.compared.positions));
    }
    json_object_set_new(r, "n", json_integer((json_int_t)s.n));
    json_object_set(r, "kinds", s.kinds);
fail:
    json_decref(s.kinds);
    sq_samples_close(&all);
    return st;
}

static sq_status check_limits(const json_t *r, const sq_eval_options *o, sq_error *err) {
    const struct {
        const char *key;
        double limit;
        int at_least;
    } rows[] = {{"accuracy", o->min_accuracy, 1},
                {"mean_iou", o->min_iou, 1},
                {"kl", o->max_kl, 0},
                {"perplexity", o->max_perplexity, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double v = sq_json_num(r, rows[i].key, NAN), limit = rows[i].limit;
        if (limit != 0 && !(rows[i].at_least ? v >= limit : v <= limit)) {
            return sq_fail(err, SQ_ECHECK, "%s does not hold; got %g, wanted %s %g", rows[i].key, v,
                           rows[i].at_least ? "at least" : "at most", limit);
        }
    }
    return SQ_OK;
}

sq_status sq_eval_run(const char *model, const sq_eval_options *o, const sq_progress *progress,
                      json_t **report, sq_error *err) {
    side m = {0}, other = {0};
    sq_status st;
    if ((o->text == NULL) == (o->task == NULL)) {
        return sq_fail(err, SQ_EARG, "wanted one of a text and a task to evaluate on");
    }
    SQ_TRY(open_side(&m, model, err));
    if (o->against != NULL) {
        SQ_TRY(open_side(&other, o->against, err));
    }
    *report = json_object();
    st = o->text != NULL ? eval_text(&m, &other, o, progress, *report, err)
                         : eval_task(&m, &other, o, progress, *report, err);
    if (st == SQ_OK) {
        st = check_limits(*report, o, err);
    }
fail:
    close_side(&m);
    close_side(&other);
    return st;
}
