/* Reading JSON with Jansson: files with a size limit, typed access with checks, error text with the
 * place. */
#ifndef SQ_BASE_JSON_H
#define SQ_BASE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* Parses a file (at most 256 MiB) or a text; *out is owned (json_decref). Duplicate keys: the last
 * wins. */
sq_status sq_json_load(const char *path, json_t **out, sq_error *err);
sq_status sq_json_parse(const char *text, size_t len, const char *where, json_t **out,
                        sq_error *err);
/* Writes with sorted insertion order, two spaces of indent and a final newline, atomically. */
sq_status sq_json_save(const char *path, const json_t *value, sq_error *err);

/* Value at obj[key], or the default when obj is NULL, the key is absent, null or of another type.
 */
int64_t sq_json_int(const json_t *obj, const char *key, int64_t dflt);
double sq_json_num(const json_t *obj, const char *key, double dflt);
int sq_json_bool(const json_t *obj, const char *key, int dflt);
const char *sq_json_str(const json_t *obj, const char *key, const char *dflt); /* borrowed */

/* A required whole number in [lo, hi]; `where` names the object in the error. */
sq_status sq_json_need_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t *out,
                           const char *where, sq_error *err);

#endif
