#include "quant/stats_file.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "quant/fingerprint.h"

static const char head_name[] = "squint.statistics", check_suffix[] = ".check";
enum {
    HEAD_WORDS = sizeof(sq_stats_head) / sizeof(int64_t),
    TAP_TENSORS = SQ_STAT_PARTS + 1,
    SLICE = 16 << 20
};

/* The hash of a tap: of its name, then of its parts in order. */
static uint64_t check_of_name(const char *name, size_t n) {
    return sq_hash_words(sq_hash_words(sq_hash_start, &n, sizeof n), name, n);
}

static int64_t check_of_head(const sq_stats_head *h) {
    return (int64_t)sq_hash_words(sq_hash_start, h, offsetof(sq_stats_head, check));
}

sq_stats_head sq_stats_head_of(uint64_t model, const sq_samples *s) {
    sq_stats_head h = {.version = SQ_STATS_VERSION,
                       .model = (int64_t)model,
                       .tokens = s->tokens,
                       .picture_tokens = s->picture_tokens,
                       .samples = (int64_t)s->n,
                       .dropped = s->dropped,
                       .unused = s->unused};
    h.check = check_of_head(&h);
    return h;
}

/* ---- writing ---- */

static sq_status add_tap(sq_arena *a, sq_tensor_spec *specs, const char *tap, int64_t columns,
                         sq_error *err) {
    sq_stat_part parts[TAP_TENSORS];
    sq_stat_parts(&(sq_stat){0}, columns, parts);
    parts[SQ_STAT_PARTS] =
        (sq_stat_part){.suffix = check_suffix + 1, .type = SQ_U64, .rank = 1, .shape = {1}};
    for (int p = 0; p < TAP_TENSORS; p++) {
        char *name = sq_arena_printf(a, err, "%s.%s", tap, parts[p].suffix);
        if (name == NULL) {
            return SQ_ENOMEM;
        }
        specs[p] = (sq_tensor_spec){
            name, parts[p].type, parts[p].rank, {parts[p].shape[0], parts[p].shape[1]}};
    }
    return SQ_OK;
}

sq_status sq_stats_file_create(sq_st_writer **out, const char *dir, sq_net *net, int64_t first,
                               int resume, sq_error *err) {
    int64_t stages = sq_stage_count(net) - first;
    sq_arena a = {0};
    size_t n = 1, most = (size_t)stages * SQ_STAGE_TAPS * TAP_TENSORS + n;
    sq_tensor_spec *specs = sq_arena_alloc(&a, most, sizeof *specs, err);
    sq_status st = specs == NULL ? SQ_ENOMEM : SQ_OK;
    *out = NULL;
    if (st == SQ_OK) {
        specs[0] = (sq_tensor_spec){head_name, SQ_I64, 1, {HEAD_WORDS}};
    }
    for (int64_t i = 0; st == SQ_OK && i < stages; i++) {
        sq_stage s = sq_stage_at(net, first + i);
        for (int t = 0; st == SQ_OK && t < s.rows->n_taps; t++, n += TAP_TENSORS) {
            st = add_tap(&a, specs + n, sq_net_tap_name(net, s.tap + t),
                         sq_stage_columns(net, &s, t), err);
        }
    }
    st = st == SQ_OK ? sq_st_writer_open(out, dir, specs, n, 0, resume, err) : st;
    sq_arena_free(&a);
    return st;
}

sq_status sq_stats_file_put(sq_st_writer *w, const char *name, sq_stat *s, sq_error *err) {
    sq_stat_part parts[SQ_STAT_PARTS];
    uint64_t check = check_of_name(name, strlen(name));
    char key[600];
    sq_status st = s->k == 0 ? sq_fail(err, SQ_EINTERNAL, "'%s' saw no rows", name) : SQ_OK;
    sq_stat_parts(s, s->k, parts);
    for (int p = 0; st == SQ_OK && p < SQ_STAT_PARTS; p++) {
        check = sq_hash_words(check, parts[p].data, parts[p].bytes);
        snprintf(key, sizeof key, "%s.%s", name, parts[p].suffix);
        st = sq_st_writer_put(w, key, parts[p].data, parts[p].bytes, err);
    }
    snprintf(key, sizeof key, "%s%s", name, check_suffix);
    return st == SQ_OK ? sq_st_writer_put(w, key, &check, sizeof check, err) : st;
}

sq_status sq_stats_file_head(sq_st_writer *w, const sq_stats_head *head, sq_error *err) {
    return sq_st_writer_put(w, head_name, head, sizeof *head, err);
}

/* ---- reading ---- */

static sq_status read_head(const sq_checkpoint *f, const char *path, uint64_t model,
                           sq_stats_head *head, sq_error *err) {
    const sq_tensor *t = sq_checkpoint_find(f, head_name);
    int64_t version = 1;
    if (t != NULL && t->dtype == SQ_I64 && t->bytes >= sizeof version) {
        memcpy(&version, t->data, sizeof version);
    }
    if (version != SQ_STATS_VERSION || t == NULL || t->bytes != sizeof *head) {
        sq_fail(err, SQ_EFORMAT, "'%s' holds no statistics of this version; got %s%lld, wanted %d",
                path, t == NULL ? "none, or version " : "version ", (long long)version,
                SQ_STATS_VERSION);
        sq_hint(err, "squint calibrate MODEL -o STATS --calib FILE.jsonl");
        return SQ_EFORMAT;
    }
    memcpy(head, t->data, sizeof *head);
    if (head->check != check_of_head(head)) {
        return sq_fail(err, SQ_EFORMAT, "'%s' is damaged: '%s' is not what was written", path,
                       head_name);
    }
    if (head->model != (int64_t)model) {
        sq_fail(err, SQ_EFORMAT, "'%s' holds the statistics of another model", path);
        sq_hint(err, "squint calibrate MODEL -o STATS --calib FILE.jsonl");
        return SQ_EFORMAT;
    }
    return SQ_OK;
}

/* 1 when the parts of the tap are what its hash was made of. */
static int whole(const sq_checkpoint *f, const sq_tensor *check) {
    sq_stat_part parts[SQ_STAT_PARTS];
    size_t n = strlen(check->name) - strlen(check_suffix);
    uint64_t h = check_of_name(check->name, n), want;
    sq_stat_parts(&(sq_stat){0}, 1, parts);
    for (int p = 0; p < SQ_STAT_PARTS; p++) {
        char key[600];
        snprintf(key, sizeof key, "%.*s.%s", (int)n, check->name, parts[p].suffix);
        const sq_tensor *t = sq_checkpoint_find(f, key);
        if (t == NULL) {
            return 0;
        }
        for (size_t at = 0; at < t->bytes; at += SLICE) {
            size_t some = t->bytes - at < SLICE ? t->bytes - at : SLICE;
            h = sq_hash_words(h, (const char *)t->data + at, some);
            sq_map_release((const char *)t->data + at, some);
        }
    }
    memcpy(&want, check->data, sizeof want);
    return h == want;
}

static int is_check(const sq_tensor *t) {
    size_t n = strlen(t->name), m = strlen(check_suffix);
    return t->bytes == sizeof(uint64_t) && n > m && n < 512 &&
           strcmp(t->name + n - m, check_suffix) == 0;
}

sq_status sq_stats_file_open(sq_checkpoint **out, const char *path, uint64_t model,
                             sq_stats_head *head, uint64_t *mark, sq_error *err) {
    sq_status st;
    SQ_TRY(sq_checkpoint_open(out, path, err));
    SQ_TRY(read_head(*out, path, model, head, err));
    int64_t n = (int64_t)sq_checkpoint_count(*out), taps = 0, bad = -1;
    *mark = sq_hash_words(sq_hash_start, head, sizeof *head);
    for (int64_t i = 0; i < n; i++) {
        const sq_tensor *t = sq_checkpoint_at(*out, (size_t)i);
        taps += is_check(t);
        *mark = is_check(t) ? sq_hash_words(*mark, t->data, t->bytes) : *mark;
    }
#pragma omp parallel for schedule(dynamic, 1) reduction(max : bad)
    for (int64_t i = 0; i < n; i++) {
        const sq_tensor *t = sq_checkpoint_at(*out, (size_t)i);
        bad = is_check(t) && !whole(*out, t) ? i : bad;
    }
    if (bad >= 0 || n != 1 + taps * TAP_TENSORS) {
        const char *name = bad < 0 ? head_name : sq_checkpoint_at(*out, (size_t)bad)->name;
        st = sq_fail(err, SQ_EFORMAT, "'%s' is damaged: '%s' does not fit what is stored", path,
                     name);
        sq_hint(err, "squint calibrate MODEL -o STATS --calib FILE.jsonl");
    }
fail:
    if (st != SQ_OK) {
        sq_checkpoint_close(out);
    }
    return st;
}
