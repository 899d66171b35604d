#include "quant/journal.h"

#include <string.h>

#include "base/json.h"

static char *path_of(sq_arena *a, const char *dir, sq_error *err) {
    return sq_path_join(a, dir, "journal.json", err);
}

/* Another fingerprint or a damaged journal means a new start. */
static json_t *load(const char *dir, const char *fingerprint) {
    sq_arena a = {0};
    json_t *j = NULL;
    char *path = path_of(&a, dir, NULL);
    if (path != NULL && sq_json_load(path, &j, NULL) == SQ_OK &&
        (strcmp(sq_json_str(j, "fingerprint", ""), fingerprint) != 0 ||
         !json_is_object(json_object_get(j, "done")) ||
         !json_is_object(json_object_get(j, "hashes")))) {
        json_decref(j);
        j = NULL;
    }
    sq_arena_free(&a);
    return j;
}

sq_status sq_journal_open(json_t **out, const char *dir, const char *fingerprint, int resume,
                          int *resumed, sq_error *err) {
    sq_status st = SQ_OK;
    *out = resume && sq_is_dir(dir) ? load(dir, fingerprint) : NULL;
    *resumed = *out != NULL;
    if (*out == NULL) {
        st = sq_remove_tree(dir, err);
        *out = json_pack("{s:s, s:{}, s:{}}", "fingerprint", fingerprint, "done", "hashes");
        st = st == SQ_OK && *out == NULL ? sq_fail_nomem(err, "a journal", 0) : st;
    }
    return st == SQ_OK ? sq_make_dirs(dir, err) : st;
}

const json_t *sq_journal_done(const json_t *journal, const char *unit) {
    return json_object_get(json_object_get(journal, "done"), unit);
}

sq_status sq_journal_save(const json_t *journal, const char *dir, sq_error *err) {
    sq_arena a = {0};
    char *path = path_of(&a, dir, err);
    sq_status st = path == NULL ? SQ_ENOMEM : sq_json_save(path, journal, err);
    sq_arena_free(&a);
    return st;
}

sq_status sq_journal_commit(json_t *journal, const char *dir, const char *unit, json_t *entry,
                            sq_error *err) {
    json_object_set_new(json_object_get(journal, "done"), unit, entry);
    return sq_journal_save(journal, dir, err);
}

sq_status sq_journal_remove(const char *dir, sq_error *err) {
    sq_arena a = {0};
    char *path = path_of(&a, dir, err);
    sq_status st = path == NULL ? SQ_ENOMEM : sq_remove_tree(path, err);
    sq_arena_free(&a);
    return st;
}

void sq_journal_abandon(const json_t *journal, const char *dir) {
    if (journal != NULL && json_object_size(json_object_get(journal, "done")) == 0) {
        sq_remove_tree(dir, NULL);
    }
}
