#include "api/report.h"

#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/file.h"
#include "base/json.h"
#include "kernels/kernels.h"
#include "quant/quant.h"

enum { MAX_PICTURE = 4 << 20 }; /* bytes of a file; a larger one is drawn as an empty frame */

extern const char sq_report_html[]; /* report.html */
static const char place[] = "@DATA@";

/* ---- pictures ---- */

/* RFC 4648, section 4. */
static void put_base64(sq_buf *b, const unsigned char *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        unsigned v = (unsigned)p[i] << 16 | (left > 1 ? (unsigned)p[i + 1] << 8 : 0) |
                     (left > 2 ? (unsigned)p[i + 2] : 0);
        char out[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
                       left > 2 ? digits[v & 63] : '='};
        sq_buf_put(b, out, sizeof out);
    }
}

static const char *media_type(const unsigned char *p, size_t n) {
    return n > 8 && memcmp(p, "\x89PNG", 4) == 0                                  ? "image/png"
           : n > 3 && memcmp(p, "\xff\xd8\xff", 3) == 0                           ? "image/jpeg"
           : n > 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0 ? "image/webp"
                                                                                  : NULL;
}

/* "data:image/png;base64,…"; NULL for a file that is gone, too large or none of a browser's. */
static json_t *data_uri(const char *path) {
    sq_map m;
    sq_buf b = {0};
    json_t *uri = NULL;
    if (path == NULL || sq_map_open(&m, path, NULL) != SQ_OK) {
        return NULL;
    }
    const char *type = m.size > MAX_PICTURE ? NULL : media_type(m.data, m.size);
    if (type != NULL) {
        sq_buf_printf(&b, "data:%s;base64,", type);
        put_base64(&b, m.data, m.size);
        uri = b.failed ? NULL : json_string(b.data);
    }
    sq_buf_free(&b);
    sq_map_close(&m);
    return uri;
}

/* Puts each example's picture in the place of its path. */
static void embed_pictures(json_t *examples) {
    size_t i;
    json_t *x;
    json_array_foreach(examples, i, x) {
        json_t *uri = data_uri(sq_json_str(x, "path", NULL));
        json_object_del(x, "path");
        if (uri != NULL) {
            json_object_set_new(x, "picture", uri);
        }
    }
}

/* ---- commands ---- */

/* A word of a shell's command line. */
static void put_word(sq_buf *b, const char *word) {
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=+:,%@";
    sq_buf_puts(b, b->len == 0 ? "" : " ");
    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') {
        sq_buf_puts(b, word);
        return;
    }
    sq_buf_puts(b, "'");
    for (; *word != '\0'; word++) {
        sq_buf_printf(b, *word == '\'' ? "'\\%c'" : "%c", *word);
    }
    sq_buf_puts(b, "'");
}

static void put_option(sq_buf *b, const char *name, const char *value) {
    if (value != NULL) {
        put_word(b, name);
        put_word(b, value);
    }
}

static void put_count(sq_buf *b, const char *name, int64_t n) {
    if (n != 0) {
        sq_buf_printf(b, " %s %lld", name, (long long)n);
    }
}

static void put_limit(sq_buf *b, const char *name, double limit) {
    if (limit != 0) {
        sq_buf_printf(b, " %s %g", name, limit);
    }
}

static void end_command(json_t *list, sq_buf *b) {
    if (!b->failed) {
        json_array_append_new(list, json_string(b->data));
    }
    sq_buf_free(b);
}

static json_t *commands(const char *model, const sq_eval_options *o, const json_t *record) {
    json_t *list = json_array(), *word;
    size_t i;
    sq_buf b = {0};
    if (record != NULL && o->against != NULL) {
        sq_buf_puts(&b, "squint quantize");
        put_word(&b, o->against);
        put_option(&b, "-o", model);
        json_array_foreach(json_object_get(record, "options"), i, word) {
            put_word(&b, json_is_string(word) ? json_string_value(word) : "");
        }
        end_command(list, &b);
        sq_buf_puts(&b, "squint verify");
        put_word(&b, model);
        put_option(&b, "--against", o->against);
        end_command(list, &b);
    }
    sq_buf_puts(&b, "squint eval");
    put_word(&b, model);
    put_option(&b, "--against", o->against);
    put_option(&b, "--text", o->text);
    put_option(&b, "--task", o->task);
    put_count(&b, "--window", o->window);
    put_count(&b, "--windows", o->windows);
    put_count(&b, "--samples", o->samples);
    put_limit(&b, "--min-accuracy", o->min_accuracy);
    put_limit(&b, "--min-iou", o->min_iou);
    put_limit(&b, "--max-kl", o->max_kl);
    put_limit(&b, "--max-perplexity", o->max_perplexity);
    put_option(&b, "--report", o->report);
    end_command(list, &b);
    return list;
}

/* ---- the page ---- */

static sq_status inspected(json_t **out, const char *model, sq_error *err) {
    char *text = NULL;
    sq_status st = sq_inspect(model, 0, &text, err);
    if (st == SQ_OK) {
        st = sq_json_parse(text, strlen(text), model, out, err);
    }
    sq_text_free(text);
    return st;
}

/* What quantize left in the folder, and what a check of its files says; nothing where it did not
 * write the folder. */
static sq_status recorded(json_t *data, json_t **record, const char *model,
                          const sq_eval_options *o, sq_error *err) {
    sq_arena a = {0};
    json_t *r = NULL;
    sq_verify_options v = {.against = o->against, .level = "layers"};
    char *path = sq_path_join(&a, model, "squint.json", err);
    sq_status st = path == NULL ? SQ_ENOMEM : SQ_OK;
    if (st == SQ_OK && sq_file_exists(path)) {
        SQ_TRY(sq_json_load(path, record, err));
        st = sq_verify_run(model, &v, NULL, &r, err);
        st = st == SQ_ECHECK ? SQ_OK : st; /* the page says so */
        json_object_set(data, "layers", json_object_get(*record, "layers"));
        json_object_set(data, "checks", json_object_get(r, "checks"));
    }
fail:
    json_decref(r);
    sq_arena_free(&a);
    return st;
}

/* JSON inside of a script element: no '<' is left, so that neither "</script" nor "<!--" can end
 * or change it. */
static void put_json(sq_buf *b, const char *text) {
    for (size_t n; *text != '\0'; text += n) {
        n = strcspn(text, "<");
        sq_buf_put(b, text, n);
        if (text[n] == '<') {
            sq_buf_puts(b, "\\u003c");
            n++;
        }
    }
}

static sq_status write_page(const char *path, const json_t *data, sq_error *err) {
    const char *at = strstr(sq_report_html, place);
    char *text = json_dumps(data, JSON_COMPACT | JSON_ENSURE_ASCII);
    sq_buf b = {0};
    if (at != NULL && text != NULL) {
        sq_buf_put(&b, sq_report_html, (size_t)(at - sq_report_html));
        put_json(&b, text);
        sq_buf_puts(&b, at + strlen(place));
    }
    sq_status st = at == NULL ? sq_fail(err, SQ_EINTERNAL, "the page has no place for its data")
                   : text == NULL || b.failed ? sq_fail_nomem(err, "the page", b.len)
                                              : sq_file_write(path, b.data, b.len, err);
    free(text);
    sq_buf_free(&b);
    return st;
}

sq_status sq_report_save(const char *model, const sq_eval_options *o, const json_t *eval,
                         sq_error *err) {
    json_t *before = NULL, *after = NULL, *record = NULL;
    json_t *data =
        json_pack("{s:s, s:s, s:s?, s:s, s:s, s:i, s:s}", "squint", sq_version(), "model", model,
                  "against", o->against, "data", o->task != NULL ? o->task : o->text, "kind",
                  o->task != NULL ? "task" : "text", "threads", sq_threads(), "kernels",
                  sq_kernels_get()->name);
    sq_status st = data == NULL ? sq_fail_nomem(err, "the page", 0) : SQ_OK;
    SQ_TRY(st);
    json_object_set_new(data, "eval", json_deep_copy(eval));
    embed_pictures(json_object_get(json_object_get(data, "eval"), "examples"));
    SQ_TRY(inspected(&after, model, err));
    json_object_set(data, "after", after);
    if (o->against != NULL) {
        SQ_TRY(inspected(&before, o->against, err));
        json_object_set(data, "before", before);
    }
    SQ_TRY(recorded(data, &record, model, o, err));
    json_object_set_new(data, "commands", commands(model, o, record));
    st = write_page(o->report, data, err);
fail:
    json_decref(before);
    json_decref(after);
    json_decref(record);
    json_decref(data);
    return st;
}
