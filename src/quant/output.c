#include "quant/output.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "format/source.h"
#include "quant/journal.h"
#include "quant/split.h"

static const uint64_t SHARD_BYTES = 5000000000u;

static uint64_t hash_more(uint64_t h, const unsigned char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        h = (h ^ s[i]) * 0x100000001b3u;
    }
    return h;
}

enum { SLICE = 16 << 20 };
static const uint64_t hash_start = 0xcbf29ce484222325u;

void sq_hash_text(const void *p, size_t n, char out[17]) {
    snprintf(out, 17, "%016llx", (unsigned long long)hash_more(hash_start, p, n));
}

void sq_hash_tensor(const sq_tensor *t, char out[17]) {
    uint64_t h = hash_start;
    for (size_t at = 0; at < t->bytes; at += SLICE) {
        const unsigned char *p = (const unsigned char *)t->data + at;
        size_t n = t->bytes - at < SLICE ? t->bytes - at : SLICE;
        h = hash_more(h, p, n);
        if (!t->owned) {
            sq_map_release(p, n);
        }
    }
    snprintf(out, 17, "%016llx", (unsigned long long)h);
}

int sq_output_own_file(const char *name) {
    size_t n = strlen(name);
    return (n > 12 && strcmp(name + n - 12, ".safetensors") == 0) ||
           strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors.index.json") == 0 ||
           strcmp(name, "quantize_config.json") == 0 || strcmp(name, "quant_config.json") == 0 ||
           strcmp(name, "squint.json") == 0 || strcmp(name, "journal.json") == 0;
}

/* The plan's row that a tensor of the source belongs to; NULL for a tensor outside the linears.
 * *codes: it is the one that stands for the linear (".weight", or the codes of a quantized one). */
static const sq_plan_row *row_of(const sq_plan *p, const sq_tensor *t, int *codes) {
    *codes = 1;
    for (size_t i = 0; i < p->n; i++) {
        const sq_plan_row *r = &p->rows[i];
        if (r->linear->file != NULL ? r->linear->file == t
                                    : sq_qparts_owns(r->linear->file_name, t->name, codes)) {
            return r;
        }
    }
    return NULL;
}

int sq_output_replaces(const sq_output *o, const sq_tensor *t) {
    int codes;
    const sq_plan_row *r = row_of(o->plan, t, &codes);
    return r != NULL && r->quantize;
}

typedef struct spec_list {
    sq_tensor_spec *items;
    size_t n;
} spec_list;

/* The tensors that a linear becomes. */
static sq_status add_quantized(sq_output *o, spec_list *l, const sq_plan_row *r, sq_error *err) {
    const sq_grid *g = &r->grid;
    int64_t k = sq_split_columns(o->plan, r->linear), columns = k == g->k ? g->k_padded : k;
    sq_qlinear q = {.bits = g->bits,
                    .symmetric = g->symmetric,
                    .act_bits = g->act_bits,
                    .n = sq_split_rows(o->plan, r->linear),
                    .k = k,
                    .k_padded = columns,
                    .group = g->group == g->k ? columns : g->group,
                    .scale_type = g->scale_type};
    sq_qtensor t[SQ_QTENSORS];
    int n = sq_qlinear_specs(&q, o->plan->layout, t);
    for (int i = 0; i < n; i++) {
        char *name = sq_arena_printf(&o->arena, err, "%s%s", r->linear->file_name, t[i].suffix);
        if (name == NULL) {
            return SQ_ENOMEM;
        }
        l->items[l->n++] =
            (sq_tensor_spec){name, t[i].dtype, t[i].rank, {t[i].shape[0], t[i].shape[1]}};
    }
    return SQ_OK;
}

static sq_status open_writer(sq_output *o, int resume, sq_error *err) {
    const sq_checkpoint *c = o->net->ckpt;
    size_t n = sq_checkpoint_count(c);
    spec_list l = {sq_arena_alloc(&o->arena, 4 * n, sizeof(sq_tensor_spec), err), 0};
    if (l.items == NULL) {
        return SQ_ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        const sq_tensor *t = sq_checkpoint_at(c, i);
        int codes;
        const sq_plan_row *r = row_of(o->plan, t, &codes);
        if (r != NULL && r->quantize) {
            sq_status st = codes ? add_quantized(o, &l, r, err) : SQ_OK;
            if (st != SQ_OK) {
                return st;
            }
            continue;
        }
        sq_tensor_spec *s = &l.items[l.n++];
        sq_dtype type = sq_dtype_block(t->dtype) > 1 ? SQ_F32 : t->dtype; /* widened */
        *s = (sq_tensor_spec){.name = t->name, .dtype = type, .rank = t->rank};
        memcpy(s->shape, t->shape, sizeof s->shape);
        if (r != NULL) {
            s->shape[0] = sq_split_rows(o->plan, r->linear);
            s->shape[1] = sq_split_columns(o->plan, r->linear);
        }
    }
    return sq_st_writer_open(&o->writer, o->partial, l.items, l.n, SHARD_BYTES, resume, err);
}

static char *in_partial(sq_output *o, const char *name, sq_error *err) {
    return sq_path_join(&o->arena, o->partial, name, err);
}

sq_status sq_output_open(sq_output *o, const sq_net *net, const sq_plan *plan, const char *source,
                         const char *out, const char *fingerprint, int resume, sq_error *err) {
    *o = (sq_output){.net = net, .plan = plan, .source = source, .final = out};
    sq_status st;
    if (sq_file_exists(out)) {
        sq_fail(err, SQ_EARG, "'%s' exists already; wanted a new folder", out);
        sq_hint(err, "remove it, or choose another -o");
        return SQ_EARG;
    }
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') {
        n--;
    }
    o->partial = sq_arena_printf(&o->arena, err, "%.*s.partial", (int)n, out);
    o->final = sq_arena_printf(&o->arena, err, "%.*s", (int)n, out);
    if (o->partial == NULL || o->final == NULL) {
        return SQ_ENOMEM;
    }
    SQ_TRY(sq_journal_open(&o->journal, o->partial, fingerprint, resume, &o->resumed, err));
    SQ_TRY(open_writer(o, o->resumed, err));
    if (o->resumed && !sq_st_writer_kept(o->writer)) { /* the tensors that it tells of are gone */
        sq_st_writer_close(&o->writer);
        json_decref(o->journal);
        SQ_TRY(sq_journal_open(&o->journal, o->partial, fingerprint, 0, &o->resumed, err));
        SQ_TRY(open_writer(o, 0, err));
    }
fail:
    return st;
}

void sq_output_close(sq_output *o) {
    sq_st_writer_close(&o->writer);
    if (!o->finished) {
        sq_journal_abandon(o->journal, o->partial);
    }
    json_decref(o->journal);
    sq_arena_free(&o->arena);
    *o = (sq_output){0};
}

const json_t *sq_output_done(const sq_output *o, const char *unit) {
    return sq_journal_done(o->journal, unit);
}

static sq_status put(sq_output *o, const char *name, const void *data, size_t bytes,
                     sq_error *err) {
    char hash[17];
    sq_hash_text(data, bytes, hash);
    json_object_set_new(json_object_get(o->journal, "hashes"), name, json_string(hash));
    return sq_st_writer_put(o->writer, name, data, bytes, err);
}

sq_status sq_output_linear(sq_output *o, const sq_linear *l, const sq_qlinear *q, sq_error *err) {
    sq_qtensor t[SQ_QTENSORS];
    int n;
    sq_status st = sq_qlinear_store(q, o->plan->layout, l->file_name, t, &n, err);
    for (int i = 0; st == SQ_OK && i < n; i++) {
        char *name = sq_arena_printf(&o->arena, err, "%s%s", l->file_name, t[i].suffix);
        st = name == NULL ? SQ_ENOMEM : put(o, name, t[i].data, t[i].bytes, err);
    }
    sq_qtensors_free(t, n);
    return st;
}

sq_status sq_output_codes(sq_output *o, const sq_linear *l, const sq_codes *c, sq_error *err) {
    int64_t n = sq_split_rows(o->plan, l), k = sq_split_columns(o->plan, l);
    sq_codes wide = {0};
    sq_status st = SQ_OK;
    if (n != c->n || k != c->grid.k) {
        st = sq_split_codes(&wide, c, n, k == c->grid.k ? c->grid.k_padded : k, err);
        c = &wide;
    }
    const sq_grid *g = &c->grid;
    sq_qlinear q = {.bits = g->bits,
                    .symmetric = g->symmetric,
                    .act_bits = g->act_bits,
                    .n = c->n,
                    .k = g->k,
                    .k_padded = g->k_padded,
                    .group = g->group,
                    .scale_type = g->scale_type,
                    .codes = c->codes,
                    .zeros = c->zeros,
                    .scales = c->scales};
    st = st == SQ_OK ? sq_output_linear(o, l, &q, err) : st;
    sq_codes_close(&wide);
    return st;
}

sq_status sq_output_floats(sq_output *o, const sq_tensor *t, const float *data, sq_error *err) {
    size_t es = sq_dtype_size(t->dtype), n = t->bytes / es;
    void *p = sq_alloc_raw(n, es, t->name, err);
    if (p == NULL) {
        return SQ_ENOMEM;
    }
    sq_from_f32(p, t->dtype, data, n);
    sq_status st = put(o, t->name, p, t->bytes, err);
    sq_free(p);
    return st;
}

/* A matrix that stays in high precision, in the dimensions that are written. */
static sq_status put_wide(sq_output *o, const sq_linear *l, sq_error *err) {
    int64_t n = sq_split_rows(o->plan, l), k = sq_split_columns(o->plan, l);
    void *p = sq_split_dense(l->file, n, k, err);
    sq_status st =
        p == NULL ? SQ_ENOMEM
                  : put(o, l->file->name, p, (size_t)(n * k) * sq_dtype_size(l->file->dtype), err);
    sq_free(p);
    return st;
}

/* ggml's blocks outside of the linears, such as embeddings: their numbers, exactly. */
static sq_status put_blocks(sq_output *o, const sq_tensor *t, sq_error *err) {
    size_t n = (size_t)(t->shape[0] * t->shape[1]);
    sq_weight w = {0};
    sq_status st = sq_weight_blocks(&w, t->dtype, t->data, t->shape[0], t->shape[1], err);
    float *f = st == SQ_OK ? sq_alloc_raw(n, sizeof *f, t->name, err) : NULL;
    if (f != NULL) {
        sq_weight_rows_f32(&w, 0, t->shape[0], f);
        st = put(o, t->name, f, n * sizeof *f, err);
    } else if (st == SQ_OK) {
        st = SQ_ENOMEM;
    }
    sq_free(f);
    sq_weight_free(&w);
    return st;
}

sq_status sq_output_copy(sq_output *o, const sq_tensor *t, sq_error *err) {
    char hash[17];
    int codes;
    const sq_plan_row *r = o->plan->inter_to == 0 ? NULL : row_of(o->plan, t, &codes);
    if (r != NULL) {
        return put_wide(o, r->linear, err);
    }
    if (sq_dtype_block(t->dtype) > 1) {
        return put_blocks(o, t, err);
    }
    if (t->owned) {
        return put(o, t->name, t->data, t->bytes, err);
    }
    sq_hash_tensor(t, hash);
    json_object_set_new(json_object_get(o->journal, "hashes"), t->name, json_string(hash));
    return sq_st_writer_put_mapped(o->writer, t->name, t->data, t->bytes, err);
}

sq_status sq_output_commit(sq_output *o, const char *unit, json_t *entries, sq_error *err) {
    sq_status st = sq_st_writer_sync(o->writer, err);
    if (st != SQ_OK) {
        json_decref(entries);
        return st;
    }
    return sq_journal_commit(o->journal, o->partial, unit, entries, err);
}

/* ---- the end ---- */

static sq_status write_config(sq_output *o, sq_error *err) {
    json_t *config = json_deep_copy(o->net->config.json), *q = sq_output_config(o, err);
    char *path = in_partial(o, "config.json", err);
    char *side = in_partial(o, "quantize_config.json", err);
    sq_status st = SQ_ENOMEM;
    if (config != NULL && q != NULL && path != NULL && side != NULL) {
        json_object_set(config, "quantization_config", q);
        sq_split_config(o->plan, config);
        if (sq_layout_is_awq(o->plan->layout) || o->plan->half) {
            sq_output_set_half(config);
        }
        st = sq_json_save(path, config, err);
        if (st == SQ_OK && sq_layout_is_gptq(o->plan->layout)) {
            st = sq_json_save(side, q, err);
        }
    }
    json_decref(config);
    json_decref(q);
    return st;
}

/* One file of the source under the same name, and its hash. */
static sq_status copy_file(sq_output *o, const char *name, json_t *files, sq_error *err) {
    char *from = sq_path_join(&o->arena, o->source, name, err), *to = in_partial(o, name, err),
         hash[17];
    sq_map m;
    sq_status st = from == NULL || to == NULL ? SQ_ENOMEM : sq_file_copy(from, to, err);
    SQ_TRY(st);
    SQ_TRY(sq_map_open(&m, from, err));
    sq_hash_text(m.data, m.size, hash);
    sq_map_close(&m);
    json_object_set_new(files, name, json_string(hash));
fail:
    return st;
}

/* The files of the folder `part` of the source ("" for the source itself). */
static sq_status copy_folder(sq_output *o, const char *part, json_t *files, sq_error *err) {
    char **names, *dir = sq_path_join(&o->arena, o->source, part, err);
    size_t n = 0;
    int root = part[0] == '\0';
    sq_status st = dir == NULL ? SQ_ENOMEM : sq_list_dir(&o->arena, dir, &names, &n, err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        char *name = sq_arena_printf(&o->arena, err, "%s%s%s", part, root ? "" : "/", names[i]);
        char *from = name == NULL ? NULL : sq_path_join(&o->arena, o->source, name, err);
        if (from == NULL) {
            return SQ_ENOMEM;
        }
        /* A part's own config.json is not the root's: it stays. */
        int ours = sq_output_own_file(names[i]) && (root || strcmp(names[i], "config.json") != 0);
        if (!ours && !sq_is_dir(from) && names[i][0] != '.') {
            st = copy_file(o, name, files, err);
        }
    }
    return st;
}

/* What files of another kind mean, as Hugging Face's. */
static sq_status write_files(sq_output *o, json_t *files, sq_error *err) {
    static const char *const names[] = {"generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json", "preprocessor_config.json"};
    sq_status st = SQ_OK;
    for (size_t i = 0; st == SQ_OK && i < sizeof names / sizeof *names; i++) {
        json_t *v = NULL;
        sq_map m;
        char *to = in_partial(o, names[i], err), hash[17];
        st = to == NULL ? SQ_ENOMEM : sq_source_json(o->source, names[i], &v, err);
        if (st == SQ_OK && v != NULL) {
            st = sq_json_save(to, v, err);
            if (st == SQ_OK) {
                st = sq_map_open(&m, to, err);
            }
            if (st == SQ_OK) {
                sq_hash_text(m.data, m.size, hash);
                sq_map_close(&m);
                json_object_set_new(files, names[i], json_string(hash));
            }
        }
        json_decref(v);
    }
    return st;
}

static sq_status copy_files(sq_output *o, json_t *files, sq_error *err) {
    sq_source_kind kind = sq_source_kind_of(o->source);
    if (kind == SQ_SOURCE_GGUF || kind == SQ_SOURCE_LLAMA2C) {
        return write_files(o, files, err);
    }
    sq_status st = copy_folder(o, "", files, err);
    for (size_t i = 0; st == SQ_OK && kind == SQ_SOURCE_PARTS && sq_source_parts[i] != NULL; i++) {
        char *to = in_partial(o, sq_source_parts[i], err);
        st = to == NULL ? SQ_ENOMEM : sq_make_dirs(to, err);
        if (st == SQ_OK) {
            st = copy_folder(o, sq_source_parts[i], files, err);
        }
    }
    return st;
}

sq_status sq_output_finish(sq_output *o, json_t *layers, json_t *options, sq_error *err) {
    json_t *files = json_object(), *record = NULL;
    char *path = in_partial(o, "squint.json", err);
    sq_status st = path == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    SQ_TRY(sq_st_writer_finish(&o->writer, err));
    SQ_TRY(write_config(o, err));
    SQ_TRY(copy_files(o, files, err));
    record = json_pack("{s:i, s:s, s:O*, s:O, s:O, s:o*, s:O*}", "version", 1, "squint", SQ_VERSION,
                       "layers", layers, "files", files, "tensors",
                       json_object_get(o->journal, "hashes"), "tp", sq_split_record(o->plan),
                       "options", options);
    SQ_TRY(sq_json_save(path, record, err));
    SQ_TRY(sq_journal_remove(o->partial, err));
    if (rename(o->partial, o->final) != 0) {
        st = sq_fail_errno(err, "cannot rename to", o->final);
        sq_journal_save(o->journal, o->partial, NULL); /* the work is not lost */
        goto fail;
    }
    o->finished = 1;
fail:
    json_decref(files);
    json_decref(record);
    return st;
}
