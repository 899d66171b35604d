#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* Python writes integers of any length (transformers' model_max_length is 10^30): one that no 64
 * bits hold becomes a real number by "e0" behind its digits. Returns NULL when the error is another
 * one. */
static char *widen_number(const char *text, size_t len, const json_error_t *e) {
    size_t at = e->position > 0 ? (size_t)e->position : 0, end = at < len ? at : len;
    while (end > 0 && (end == len || text[end] < '0' || text[end] > '9')) {
        end--; /* the parser stops at the number's last digit or behind it */
    }
    while (end < len && text[end] >= '0' && text[end] <= '9') {
        end++;
    }
    char *wider = json_error_code(e) != json_error_numeric_overflow ||
                          (end < len && strchr(".eE", text[end]) != NULL)
                      ? NULL
                      : malloc(len + 2);
    if (wider != NULL) {
        memcpy(wider, text, end);
        memcpy(wider + end, "e0", 2);
        memcpy(wider + end + 2, text + end, len - end);
    }
    return wider;
}

sq_status sq_json_parse(const char *text, size_t len, const char *where, json_t **out,
                        sq_error *err) {
    enum { MOST = 8 }; /* such numbers in one text */
    json_error_t je;
    char *own = NULL;
    json_t *v = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    for (int i = 0; v == NULL && i < MOST; i++) {
        char *wider = widen_number(own == NULL ? text : own, len, &je);
        free(own);
        own = wider;
        if (own == NULL) {
            break;
        }
        len += 2;
        v = json_loadb(own, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    }
    free(own);
    if (v == NULL) {
        return sq_fail(err, SQ_EFORMAT, "'%s' is not valid JSON; line %d, column %d: %s", where,
                       je.line, je.column, je.text);
    }
    *out = v;
    return SQ_OK;
}

sq_status sq_json_load(const char *path, json_t **out, sq_error *err) {
    char *text;
    size_t n;
    sq_status st = sq_file_read(path, (size_t)256 << 20, &text, &n, err);
    if (st == SQ_OK) {
        st = sq_json_parse(text, n, path, out, err);
        sq_free(text);
    }
    return st;
}

sq_status sq_json_save(const char *path, const json_t *value, sq_error *err) {
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);
    if (text == NULL) {
        return sq_fail(err, SQ_ENOMEM, "cannot format JSON for '%s'", path);
    }
    sq_buf b = {0};
    sq_buf_puts(&b, text);
    sq_buf_puts(&b, "\n");
    free(text);
    sq_status st =
        b.failed ? sq_fail_nomem(err, path, b.len) : sq_file_write(path, b.data, b.len, err);
    sq_buf_free(&b);
    return st;
}

int64_t sq_json_int(const json_t *obj, const char *key, int64_t dflt) {
    const json_t *v = json_object_get(obj, key);
    return json_is_integer(v) ? json_integer_value(v) : dflt;
}

double sq_json_num(const json_t *obj, const char *key, double dflt) {
    const json_t *v = json_object_get(obj, key);
    return json_is_number(v) ? json_number_value(v) : dflt;
}

int sq_json_bool(const json_t *obj, const char *key, int dflt) {
    const json_t *v = json_object_get(obj, key);
    return json_is_boolean(v) ? json_is_true(v) : dflt;
}

const char *sq_json_str(const json_t *obj, const char *key, const char *dflt) {
    const json_t *v = json_object_get(obj, key);
    return json_is_string(v) ? json_string_value(v) : dflt;
}

sq_status sq_json_need_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *out,
                           const char *where, sq_error *err) {
    const json_t *v = json_object_get(obj, key);
    if (v == NULL) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: key '%s' is missing; wanted a whole number in %lld..%lld", where, key,
                       (long long)lo, (long long)hi);
    }
    if (!json_is_integer(v)) {
        return sq_fail(err, SQ_EFORMAT,
                       "%s: key '%s' has the wrong type; wanted a whole number in %lld..%lld",
                       where, key, (long long)lo, (long long)hi);
    }
    int64_t n = json_integer_value(v);
    if (n < lo || n > hi) {
        return sq_fail(err, SQ_EFORMAT, "%s: '%s' out of range; got %lld, wanted %lld..%lld", where,
                       key, (long long)n, (long long)lo, (long long)hi);
    }
    *out = n;
    return SQ_OK;
}
