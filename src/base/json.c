#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

sq_status sq_json_parse(const char *text, size_t len, const char *where, json_t **out,
                        sq_error *err) {
    json_error_t je;
    json_t *v = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
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
