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
#include "quant/sensitivity.h"

enum {
    MAX_ANSWER = 96,
    SHOWN = 6, /* examples of a kind on the page */
    MAX_SENSITIVITY = 8,
    MAX_TOKENS = 4096 /* prompts that layers are held against, and their length */
};

typedef struct side {
    sq_net *net;
    sq_frontend front;
} side;

static sq_status open_side(side *s, const char *path, const char *kv_type, sq_error *err) {
    sq_status st = sq_net_open(&s->net, path, err);
    st = st == SQ_OK ? sq_kv_parse(kv_type, &s->net->config.kv_type, err) : st;
    return st == SQ_OK ? sq_frontend_open(&s->front, path, &s->net->config, err) : st;
}

static void close_side(side *s) {
    sq_frontend_close(&s->front);
    sq_net_close(&s->net);
}

/* Prompts that the layers one by one are held against, for the page alone. */
typedef struct probes {
    sq_prompt prompts[MAX_SENSITIVITY];
    size_t n;
    int64_t tokens;
} probes;

/* Takes the prompt when there is room, and leaves an empty one. */
static void add_probe(probes *s, sq_prompt *p) {
    if (s->n < MAX_SENSITIVITY && s->tokens + (int64_t)p->ids.len <= MAX_TOKENS) {
        s->tokens += (int64_t)p->ids.len;
        s->prompts[s->n++] = *p;
        *p = (sq_prompt){0};
    }
}

static sq_status probe(probes *s, const side *m, const side *other, const sq_progress *progress,
                       json_t *r, sq_error *err) {
    json_t *list = NULL;
    sq_status st = sq_sensitivity(m->net, other->net, s->prompts, s->n, progress, &list, err);
    if (list != NULL) {
        json_object_set_new(r, "sensitivity", list);
        json_object_set_new(r, "sensitivity_tokens", json_integer((json_int_t)s->tokens));
    }
    return st;
}

static void close_probes(probes *s) {
    for (size_t i = 0; i < s->n; i++) {
        sq_prompt_free(&s->prompts[i]);
    }
}

static void put_comparison(json_t *r, const sq_comparison *c) {
    if (c->positions > 0) {
        json_object_set_new(r, "kl", json_real(c->kl / (double)c->positions));
        json_object_set_new(r, "top1_agreement",
                            json_real((double)c->agree / (double)c->positions));
        json_object_set_new(r, "positions", json_integer((json_int_t)c->positions));
    }
}

/* ---- perplexity ---- */

static sq_status eval_text(side *m, side *other, const sq_eval_options *o,
                           const sq_progress *progress, json_t *r, sq_error *err) {
    char *text = NULL;
    size_t len;
    sq_ids ids = {0};
    sq_comparison c = {0};
    probes kept = {.n = 0};
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
        if (o->report != NULL && other->net != NULL) {
            add_probe(&kept, &p);
        }
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
        json_object_set_new(
            r, "against",
            json_pack("{s:f}", "perplexity", exp(c.reference_nll / (double)c.predicted)));
        put_comparison(r, &c);
        SQ_TRY(probe(&kept, m, other, progress, r, err));
    }
    if (c.bad > 0) {
        st = sq_fail(err, SQ_ECHECK, "%lld positions have logits that are not numbers",
                     (long long)c.bad);
    }
fail:
    close_probes(&kept);
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

/* What a model says to a question, and how right it is. */
typedef struct reply {
    sq_buf text;
    double score, box[4]; /* box: in pixels of the original picture */
    int has_box;
} reply;

static const char *reply_text(const reply *a) { return a->text.data == NULL ? "" : a->text.data; }

/* The answer's box, from resized pixels to those of the original picture. */
static void find_box(reply *a, const sq_prompt *p) {
    a->has_box = read_box(reply_text(a), a->box);
    if (a->has_box && p->n_slots > 0) {
        const sq_pixels *x = &p->slots[p->n_slots - 1].pixels;
        double sx = (double)x->width / (double)x->resized_width,
               sy = (double)x->height / (double)x->resized_height;
        a->box[0] *= sx;
        a->box[2] *= sx;
        a->box[1] *= sy;
        a->box[3] *= sy;
    }
}

/* What one model's answers come to. */
typedef struct tally {
    json_t *kinds; /* {kind: {"n", "score"}}, score a sum until the end */
    double right, boxes;
    int64_t questions, n_boxes, n;
} tally;

typedef struct scores {
    tally mine, its; /* its: of the other model, for the page alone */
    sq_comparison compared;
    probes kept;
    json_t *examples;
    int boxes, changed; /* examples so far */
} scores;

static void add_kind(json_t *kinds, const char *kind, double score) {
    json_t *k = json_object_get(kinds, kind);
    if (k == NULL) {
        k = json_pack("{s:i, s:f}", "n", 0, "score", 0.0);
        json_object_set_new(kinds, kind, k);
    }
    json_object_set_new(k, "n", json_integer(json_integer_value(json_object_get(k, "n")) + 1));
    json_object_set_new(k, "score",
                        json_real(json_number_value(json_object_get(k, "score")) + score));
}

static sq_status answer(side *m, const sq_prompt *p, reply *a, sq_error *err) {
    sq_seq s;
    sq_ids ids = {0};
    sq_status st = sq_seq_open(&s, m->net, err);
    if (st != SQ_OK) {
        return st;
    }
    SQ_TRY(sq_seq_feed(&s, p, 0, 0, NULL, NULL, err));
    SQ_TRY(sq_seq_greedy(&s, MAX_ANSWER, &ids, err));
    st = sq_tokenizer_decode(m->front.tokenizer, ids.data, ids.len, 1, &a->text, err);
fail:
    sq_free(ids.data);
    sq_seq_close(&s);
    return st;
}

static void judge(tally *t, const json_t *line, const sq_prompt *p, reply *a) {
    const json_t *box = json_object_get(line, "bbox"), *want = json_object_get(line, "answer");
    if (json_is_array(box)) {
        double truth[4];
        for (size_t i = 0; i < 4; i++) {
            truth[i] = json_number_value(json_array_get(box, i));
        }
        find_box(a, p);
        a->score = a->has_box ? iou(a->box, truth) : 0;
        t->boxes += a->score;
        t->n_boxes++;
    } else if (json_is_string(want)) {
        a->score = same_words(reply_text(a), json_string_value(want));
        t->right += a->score;
        t->questions++;
    }
    if (box != NULL || want != NULL) {
        add_kind(t->kinds, sq_json_str(line, "kind", json_is_array(box) ? "bbox" : "question"),
                 a->score);
        t->n++;
    }
}

/* ---- examples for the page ---- */

/* The last part of that type in the messages of a line. */
static const char *last_part(const json_t *line, const char *type) {
    const char *found = NULL;
    size_t i, k;
    json_t *m, *part;
    json_array_foreach(json_object_get(line, "messages"), i, m) {
        const json_t *content = json_object_get(m, "content");
        if (strcmp(type, "text") == 0 && json_is_string(content)) {
            found = json_string_value(content);
        }
        json_array_foreach(content, k, part) { found = sq_json_str(part, type, found); }
    }
    return found;
}

static json_t *reply_json(const reply *a) {
    json_t *o = json_pack("{s:s, s:f}", "text", reply_text(a), "score", a->score);
    if (o != NULL && a->has_box) {
        json_object_set_new(o, "box",
                            json_pack("[f, f, f, f]", a->box[0], a->box[1], a->box[2], a->box[3]));
    }
    return o;
}

/* The first boxes, each about another picture, and the first answers that became others (without
 * another model: the first wrong ones). before is NULL without another model. */
static void keep_example(scores *s, const sq_samples *all, const sq_sample *x, const reply *after,
                         const reply *before) {
    const char *image = last_part(x->line, "image"), *text = last_part(x->line, "text");
    const json_t *last = json_array_get(s->examples, json_array_size(s->examples) - 1);
    int box = json_is_array(json_object_get(x->line, "bbox"));
    int fresh = image == NULL || strcmp(sq_json_str(last, "name", ""), image) != 0;
    int wanted = box ? s->boxes < SHOWN && fresh
                     : s->changed < SHOWN &&
                           (before == NULL ? after->score == 0 : after->score != before->score);
    if (!wanted || json_object_get(x->line, box ? "bbox" : "answer") == NULL) {
        return;
    }
    sq_arena a = {0};
    char *path = image == NULL ? NULL : sq_path_join(&a, all->dir, image, NULL);
    json_t *o = json_pack(
        "{s:s?, s:s?, s:s, s:s, s:O?, s:O?, s:o, s:o?}", "name", image, "path", path, "question",
        text == NULL ? "" : text, "kind", sq_json_str(x->line, "kind", box ? "bbox" : "question"),
        "answer", json_object_get(x->line, "answer"), "bbox", json_object_get(x->line, "bbox"),
        "after", reply_json(after), "before", before == NULL ? NULL : reply_json(before));
    if (o != NULL && x->prompt.n_slots > 0) {
        const sq_pixels *px = &x->prompt.slots[x->prompt.n_slots - 1].pixels;
        json_object_set_new(o, "width", json_integer(px->width));
        json_object_set_new(o, "height", json_integer(px->height));
    }
    json_array_append_new(s->examples, o);
    s->boxes += box;
    s->changed += !box;
    sq_arena_free(&a);
}

/* ---- the task ---- */

static sq_status one_question(side *m, side *other, const sq_eval_options *o, sq_samples *all,
                              size_t i, scores *s, sq_error *err) {
    sq_sample *x = &all->items[i];
    reply mine = {.score = 0}, its = {.score = 0};
    int both = o->report != NULL && other->net != NULL;
    size_t step = all->n / MAX_SENSITIVITY + 1;
    sq_status st;
    SQ_TRY(sq_sample_load(x, &m->front, all->dir, 1, err));
    if (other->net != NULL) {
        SQ_TRY(sq_compare(&s->compared, m->net, other->net, &x->prompt, err));
    }
    SQ_TRY(answer(m, &x->prompt, &mine, err));
    judge(&s->mine, x->line, &x->prompt, &mine);
    if (both) {
        SQ_TRY(answer(other, &x->prompt, &its, err));
        judge(&s->its, x->line, &x->prompt, &its);
    }
    if (o->report != NULL) {
        keep_example(s, all, x, &mine, both ? &its : NULL);
    }
    if (both && i % step == 0) {
        add_probe(&s->kept, &x->prompt);
    }
fail:
    sq_prompt_free(&x->prompt);
    sq_buf_free(&mine.text);
    sq_buf_free(&its.text);
    return st;
}

/* Means in place of the sums. */
static void put_tally(json_t *r, const tally *t) {
    const char *kind;
    json_t *k;
    json_object_foreach(t->kinds, kind, k) {
        double n = json_number_value(json_object_get(k, "n"));
        json_object_set_new(k, "score",
                            json_real(json_number_value(json_object_get(k, "score")) / n));
    }
    if (t->questions > 0) {
        json_object_set_new(r, "accuracy", json_real(t->right / (double)t->questions));
    }
    if (t->n_boxes > 0) {
        json_object_set_new(r, "mean_iou", json_real(t->boxes / (double)t->n_boxes));
    }
    json_object_set_new(r, "n", json_integer((json_int_t)t->n));
    json_object_set(r, "kinds", t->kinds);
}

static sq_status put_details(side *m, side *other, const sq_progress *progress, scores *s,
                             json_t *r, sq_error *err) {
    json_object_set(r, "examples", s->examples);
    if (other->net == NULL) {
        return SQ_OK;
    }
    json_t *its = json_object();
    put_tally(its, &s->its);
    json_object_set_new(r, "against", its);
    return probe(&s->kept, m, other, progress, r, err);
}

static sq_status eval_task(side *m, side *other, const sq_eval_options *o,
                           const sq_progress *progress, json_t *r, sq_error *err) {
    sq_samples all = {0};
    scores s = {.mine.kinds = json_object(), .its.kinds = json_object(), .examples = json_array()};
    sq_status st;
    SQ_TRY(sq_samples_read(&all, &m->front, o->task, o->samples, 512, SQ_LOAD_LINES, err));
    for (size_t i = 0; i < all.n; i++) {
        SQ_TRY(one_question(m, other, o, &all, i, &s, err));
        if (!sq_progress_tick(progress, "eval", (int64_t)i + 1, (int64_t)all.n, NULL)) {
            st = sq_fail(err, SQ_ECANCELLED, "stopped");
            goto fail;
        }
    }
    if (s.mine.n == 0) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' has no line with an answer or a bbox", o->task);
        goto fail;
    }
    put_tally(r, &s.mine);
    if (other->net != NULL) {
        put_comparison(r, &s.compared);
    }
    if (o->report != NULL) {
        SQ_TRY(put_details(m, other, progress, &s, r, err));
    }
fail:
    json_decref(s.mine.kinds);
    json_decref(s.its.kinds);
    json_decref(s.examples);
    close_probes(&s.kept);
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
    SQ_TRY(open_side(&m, model, o->kv_type, err));
    if (o->against != NULL) {
        SQ_TRY(open_side(&other, o->against, NULL, err));
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
