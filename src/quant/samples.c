#include "quant/samples.h"

#include <string.h>

#include "base/json.h"

typedef struct reading {
    sq_samples *out;
    const sq_frontend *f;
    const char *path;
    int64_t max, seq;
    sq_samples_form load;
    size_t cap;
    sq_buf text; /* plain text lines so far */
    sq_error *err;
} reading;

static int full(const reading *r) { return r->max > 0 && (int64_t)r->out->n >= r->max; }

static sq_status new_sample(reading *r, sq_sample **s) {
    sq_samples *o = r->out;
    if (o->n == r->cap) {
        void *p = o->items;
        size_t cap = r->cap == 0 ? 64 : 2 * r->cap;
        sq_status st =
            sq_grow(&p, o->n * sizeof *o->items, cap, sizeof *o->items, "samples", r->err);
        if (st != SQ_OK) {
            return st;
        }
        o->items = p;
        r->cap = cap;
    }
    *s = &o->items[o->n++];
    **s = (sq_sample){0};
    return SQ_OK;
}

sq_status sq_sample_load(sq_sample *s, const sq_frontend *f, const char *dir, int generation,
                         sq_error *err) {
    sq_prompt_free(&s->prompt);
    json_t *messages = json_object_get(s->line, "messages");
    return sq_prompt_messages(&s->prompt, f, messages, dir, generation, err);
}

static sq_status one_line(reading *r, const char *line, size_t len, size_t number) {
    json_t *v = NULL;
    sq_status st = sq_json_parse(line, len, r->path, &v, r->err);
    if (st == SQ_OK && json_is_string(json_object_get(v, "text"))) {
        sq_buf_printf(&r->text, "%s%s", r->text.len == 0 ? "" : "\n\n", sq_json_str(v, "text", ""));
        json_decref(v);
        return r->text.failed ? sq_fail_nomem(r->err, r->path, r->text.len) : SQ_OK;
    }
    if (st == SQ_OK && !json_is_array(json_object_get(v, "messages"))) {
        st = sq_fail(r->err, SQ_EFORMAT, "wanted {\"messages\": […]} or {\"text\": …}");
    }
    sq_sample *s = NULL;
    if (st == SQ_OK) {
        st = new_sample(r, &s);
    }
    if (st != SQ_OK) {
        json_decref(v);
    } else {
        s->line = v;
        if (r->load != SQ_LOAD_LINES) {
            st = sq_sample_load(s, r->f, r->out->dir, 0, r->err);
            r->out->tokens += (int64_t)s->prompt.ids.len;
        }
        for (size_t i = 0; r->load == SQ_LOAD_SHAPES && i < s->prompt.n_slots; i++) {
            sq_free(s->prompt.slots[i].pixels.patches);
            s->prompt.slots[i].pixels.patches = NULL;
        }
    }
    if (st != SQ_OK) {
        sq_error_prefix(r->err, "'%s' line %zu: ", r->path, number);
    }
    return st;
}

/* Cuts the joined text into pieces of seq tokens; the tail is kept when it is at least an eighth of
 * one. */
static sq_status cut_text(reading *r) {
    if (r->text.len == 0) {
        return SQ_OK;
    }
    sq_ids ids = {0};
    sq_status st =
        sq_tokenizer_encode(r->f->tokenizer, r->text.data, r->text.len, 1, 0, &ids, r->err);
    for (size_t at = 0; st == SQ_OK && at < ids.len && !full(r); at += (size_t)r->seq) {
        size_t n = ids.len - at < (size_t)r->seq ? ids.len - at : (size_t)r->seq;
        if (at > 0 && n < (size_t)r->seq / 8) {
            break;
        }
        sq_sample *s = NULL;
        st = new_sample(r, &s);
        if (st == SQ_OK) {
            st = sq_prompt_tokens(&s->prompt, r->f, ids.data + at, n, r->err);
            r->out->tokens += (int64_t)n;
        }
    }
    sq_free(ids.data);
    return st;
}

sq_status sq_samples_read(sq_samples *out, const sq_frontend *f, const char *path, int64_t max,
                          int64_t seq, sq_samples_form load, sq_error *err) {
    *out = (sq_samples){0};
    reading r = {.out = out,
                 .f = f,
                 .path = path,
                 .max = max,
                 .seq = seq > 0 ? seq : 512,
                 .load = load,
                 .err = err};
    sq_map m = {0};
    sq_arena a = {0};
    sq_status st;
    char *dir = sq_path_dir(&a, path, err);
    out->dir = dir == NULL ? NULL : sq_strdup(dir, err);
    if (out->dir == NULL) {
        st = SQ_ENOMEM;
        goto fail;
    }
    SQ_TRY(sq_map_open(&m, path, err));
    size_t number = 0;
    for (size_t at = 0; at < m.size && !full(&r);) {
        const char *line = (const char *)m.data + at, *end = memchr(line, '\n', m.size - at);
        size_t len = end == NULL ? m.size - at : (size_t)(end - line), k = 0;
        number++;
        at += len + 1;
        while (k < len && (line[k] == ' ' || line[k] == '\t' || line[k] == '\r')) {
            k++;
        }
        if (k < len) {
            SQ_TRY(one_line(&r, line, len, number));
        }
    }
    SQ_TRY(cut_text(&r));
    if (out->n == 0) {
        st = sq_fail(err, SQ_EFORMAT,
                     "'%s' holds no samples; wanted JSON lines with messages or text", path);
    }
fail:
    sq_map_close(&m);
    sq_buf_free(&r.text);
    sq_arena_free(&a);
    if (st != SQ_OK) {
        sq_samples_close(out);
    }
    return st;
}

void sq_samples_close(sq_samples *s) {
    for (size_t i = 0; i < s->n; i++) {
        sq_prompt_free(&s->items[i].prompt);
        json_decref(s->items[i].line);
    }
    sq_free(s->items);
    sq_free(s->dir);
    *s = (sq_samples){0};
}

sq_status sq_samples_builtin(sq_samples *out, const sq_frontend *f, sq_error *err) {
    static const char *const texts[] = {
        "The sea was calm that morning, and the old boat drifted slowly towards the harbour while "
        "the gulls cried.",
        "A function that returns the larger of two numbers compares them once and gives back the "
        "one that is greater.",
        "In 1969 two people walked on the moon; millions watched the pictures on small grey "
        "screens at home.",
        "How many objects are in the picture, which colours do they have, and where does the "
        "largest one lie?",
    };
    *out = (sq_samples){0};
    reading r = {.out = out, .f = f, .err = err};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < sizeof texts / sizeof *texts; i++) {
        sq_sample *s = NULL;
        st = new_sample(&r, &s);
        if (st == SQ_OK) {
            st = sq_prompt_text(&s->prompt, f, texts[i], strlen(texts[i]), err);
        }
    }
    if (st != SQ_OK) {
        sq_samples_close(out);
    }
    return st;
}
