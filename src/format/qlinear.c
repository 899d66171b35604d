#include "format/qlinear.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

void sq_qlinear_free(sq_qlinear *q) {
    sq_free(q->codes);
    sq_free(q->zeros);
    sq_free(q->scales);
    sq_free(q->columns);
    *q = (sq_qlinear){0};
}

/* ---- reading ---- */

static const char *const packed_suffixes[4] = {".weight_packed", ".weight_scale",
                                               ".weight_zero_point", ".weight_shape"};
static const char *const bytes_suffixes[4] = {".weight", ".weight_scale", ".weight_zero_point",
                                              NULL};

void sq_qparts_suffixes(sq_layout layout, int bytes, const char *out[4]) {
    const char *const laid_out[4] = {
        sq_layout_suffix[SQ_LAYOUT_QWEIGHT], sq_layout_suffix[SQ_LAYOUT_SCALES],
        sq_layout_suffix[SQ_LAYOUT_QZEROS],
        sq_layout_is_gptq(layout) ? sq_layout_suffix[SQ_LAYOUT_G_IDX] : NULL};
    const char *const *s = layout != SQ_LAYOUT_CT ? laid_out
                           : bytes                ? bytes_suffixes
                                                  : packed_suffixes;
    memcpy(out, s, 4 * sizeof *out);
}

int sq_qparts_owns(const char *stem, const char *name, int *codes) {
    static const struct {
        sq_layout layout;
        int bytes;
    } forms[] = {{SQ_LAYOUT_CT, 0}, {SQ_LAYOUT_CT, 1}, {SQ_LAYOUT_GPTQ, 0}};
    size_t n = strlen(stem);
    if (strncmp(name, stem, n) != 0) {
        return 0;
    }
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        const char *s[4];
        sq_qparts_suffixes(forms[f].layout, forms[f].bytes, s);
        for (int i = 0; i < 4; i++) {
            if (s[i] != NULL && strcmp(name + n, s[i]) == 0) {
                *codes = i == 0;
                return 1;
            }
        }
    }
    return 0;
}

static const char *shape_text(char *buf, size_t cap, int rank, int64_t a, int64_t b) {
    if (rank == 2) {
        snprintf(buf, cap, "[%lld, %lld]", (long long)a, (long long)b);
    } else if (rank == 1) {
        snprintf(buf, cap, "[%lld]", (long long)a);
    } else {
        snprintf(buf, cap, "of rank %d", rank);
    }
    return buf;
}

/* Fails unless the tensor is there with this type and shape; dtype F32: any of the float types. */
static sq_status need(const sq_tensor *t, sq_dtype dtype, int rank, int64_t a, int64_t b,
                      const char *what, const char *part, sq_error *err) {
    if (t == NULL) {
        return sq_fail(err, SQ_EFORMAT, "missing %s%s", what, part);
    }
    int typed =
        t->dtype == dtype || (dtype == SQ_F32 && (t->dtype == SQ_F16 || t->dtype == SQ_BF16));
    if (!typed || t->rank != rank || t->shape[0] != a || (rank > 1 && t->shape[1] != b)) {
        char got[64], want[64];
        return sq_fail(err, SQ_EFORMAT, "'%s': got %s %s, wanted %s %s", t->name,
                       sq_dtype_name(t->dtype),
                       shape_text(got, sizeof got, t->rank, t->shape[0], t->shape[1]),
                       dtype == SQ_F32 ? "floats" : sq_dtype_name(dtype),
                       shape_text(want, sizeof want, rank, a, b));
    }
    return SQ_OK;
}

/* Room for codes, zero points and scales of a form whose dimensions are set. */
static sq_status make_room(sq_qlinear *q, sq_error *err) {
    size_t cells = (size_t)(q->n * (q->k_padded / q->group));
    q->codes = sq_alloc_raw((size_t)q->n, (size_t)q->k_padded, "codes", err);
    q->zeros = sq_alloc_raw(cells, 1, "zero points", err);
    q->scales = sq_alloc_raw(cells, sizeof *q->scales, "scales", err);
    return q->codes == NULL || q->zeros == NULL || q->scales == NULL ? SQ_ENOMEM : SQ_OK;
}

/* Words of a tensor, aligned. */
static uint32_t *words_of(const sq_tensor *t, sq_error *err) {
    uint32_t *w = sq_alloc_raw(t->bytes + 4, 1, t->name, err);
    if (w != NULL) {
        memcpy(w, t->data, t->bytes);
    }
    return w;
}

static sq_status read_packed(sq_qlinear *q, const sq_qparts *p, const char *what, sq_error *err) {
    int64_t groups = q->k_padded / q->group, shape[2];
    uint32_t *w = NULL, *z = NULL;
    sq_status st;
    SQ_TRY(need(p->codes, SQ_I32, 2, q->n, sq_ct_row_words(q->k_padded, q->bits), what,
                ".weight_packed", err));
    SQ_TRY(need(p->scales, SQ_F32, 2, q->n, groups, what, ".weight_scale", err));
    SQ_TRY(need(p->extra, SQ_I64, 1, 2, 0, what, ".weight_shape", err));
    memcpy(shape, p->extra->data, sizeof shape);
    if (shape[0] != q->n || shape[1] != q->k) {
        return sq_fail(err, SQ_EFORMAT, "'%s': got [%lld, %lld], wanted [%lld, %lld]",
                       p->extra->name, (long long)shape[0], (long long)shape[1], (long long)q->n,
                       (long long)q->k);
    }
    w = words_of(p->codes, err);
    st = w == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    sq_ct_unpack_rows(q->codes, w, q->n, q->k_padded, q->bits);
    if (q->symmetric) {
        memset(q->zeros, 1 << (q->bits - 1), (size_t)(q->n * groups));
    } else {
        SQ_TRY(need(p->zeros, SQ_I32, 2, sq_ct_zero_rows(q->n, q->bits), groups, what,
                    ".weight_zero_point", err));
        z = words_of(p->zeros, err);
        st = z == NULL ? SQ_ENOMEM : SQ_OK;
        SQ_TRY(st);
        sq_ct_unpack_zeros(q->zeros, z, q->n, groups, q->bits);
    }
    sq_to_f32(q->scales, p->scales->data, p->scales->dtype, (size_t)(q->n * groups));
fail:
    sq_free(w);
    sq_free(z);
    return st;
}

/* Integers from -half on as integers from 0 on. */
static void from_signed(uint8_t *out, const int8_t *in, int64_t n, int half) {
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(((uint8_t)in[i] + half) & (2 * half - 1));
    }
}

static void to_signed(int8_t *out, const uint8_t *in, int64_t n, int half) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = (int8_t)(in[i] - half);
    }
}

static sq_status read_bytes(sq_qlinear *q, const sq_qparts *p, const char *what, sq_error *err) {
    int64_t groups = q->k_padded / q->group;
    int half = 1 << (q->bits - 1);
    sq_status st;
    SQ_TRY(need(p->codes, SQ_I8, 2, q->n, q->k_padded, what, ".weight", err));
    SQ_TRY(need(p->scales, SQ_F32, 2, q->n, groups, what, ".weight_scale", err));
    from_signed(q->codes, p->codes->data, q->n * q->k_padded, half);
    if (q->symmetric) {
        memset(q->zeros, half, (size_t)(q->n * groups));
    } else { /* int8 too, not packed */
        SQ_TRY(need(p->zeros, SQ_I8, 2, q->n, groups, what, ".weight_zero_point", err));
        from_signed(q->zeros, p->zeros->data, q->n * groups, half);
    }
    sq_to_f32(q->scales, p->scales->data, p->scales->dtype, (size_t)(q->n * groups));
fail:
    return st;
}

/* Columns of each row to the order of their groups. */
static sq_status sort_columns(sq_qlinear *q, const sq_layout_form *f, const sq_tensor *t,
                              const char *what, sq_error *err) {
    size_t k = (size_t)q->k;
    sq_status st = SQ_ENOMEM;
    int32_t *g = (int32_t *)(void *)words_of(t, err);
    uint8_t *row = sq_alloc_raw(k, 1, "a row of codes", err);
    q->columns = sq_alloc_raw(k, sizeof *q->columns, "the order of columns", err);
    if (g != NULL && row != NULL && q->columns != NULL) {
        int plain = sq_layout_order(f, g, q->columns);
        st = plain >= 0 ? SQ_OK
                        : sq_fail(err, SQ_EFORMAT,
                                  "%s.g_idx does not give each of %lld groups %lld columns", what,
                                  (long long)(f->k / f->group), (long long)f->group);
        for (int64_t r = 0; plain == 0 && r < q->n; r++) {
            memcpy(row, q->codes + r * q->k, k);
            for (int64_t c = 0; c < q->k; c++) {
                q->codes[r * q->k + c] = row[q->columns[c]];
            }
        }
        if (plain == 1) {
            sq_free(q->columns);
            q->columns = NULL;
        }
    }
    sq_free(g);
    sq_free(row);
    return st;
}

static sq_status read_laid_out(sq_qlinear *q, const sq_qparts *p, const sq_layout_form *f,
                               const char *what, sq_error *err) {
    sq_layout_shape s[SQ_LAYOUT_PARTS];
    uint32_t *w = NULL, *z = NULL;
    float *held = NULL;
    sq_status st;
    sq_layout_shapes(f, s);
    const sq_layout_shape *sw = &s[SQ_LAYOUT_QWEIGHT], *sz = &s[SQ_LAYOUT_QZEROS],
                          *ss = &s[SQ_LAYOUT_SCALES];
    size_t cells = sq_layout_cells(ss);
    SQ_TRY(need(p->codes, SQ_I32, 2, sw->dims[0], sw->dims[1], what, ".qweight", err));
    SQ_TRY(need(p->zeros, SQ_I32, 2, sz->dims[0], sz->dims[1], what, ".qzeros", err));
    SQ_TRY(need(p->scales, SQ_F32, 2, ss->dims[0], ss->dims[1], what, ".scales", err));
    if (p->extra != NULL) {
        SQ_TRY(need(p->extra, SQ_I32, 1, q->k, 0, what, ".g_idx", err));
    }
    w = words_of(p->codes, err);
    z = words_of(p->zeros, err);
    held = sq_alloc_raw(cells, sizeof *held, "scales", err);
    st = w == NULL || z == NULL || held == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    sq_to_f32(held, p->scales->data, p->scales->dtype, cells);
    sq_layout_unpack_codes(f, q->codes, w);
    sq_layout_unpack_zeros(f, q->zeros, z);
    sq_layout_unpack_scales(f, q->scales, held);
    if (p->extra != NULL) {
        SQ_TRY(sort_columns(q, f, p->extra, what, err));
    }
fail:
    sq_free(w);
    sq_free(z);
    sq_free(held);
    return st;
}

sq_status sq_qlinear_read(sq_qlinear *out, const sq_qparts *p, sq_layout layout,
                          const sq_ct_scheme *s, int64_t n, int64_t k, const char *what,
                          sq_error *err) {
    int64_t group = s->group_size == 0 ? k : s->group_size;
    int bytes = layout == SQ_LAYOUT_CT && p->codes != NULL && p->codes->dtype == SQ_I8;
    sq_layout_form f = {layout, s->bits, n, k, group};
    sq_status st = sq_layout_check(&f, 0, err);
    *out = (sq_qlinear){.bits = s->bits,
                        .symmetric = layout == SQ_LAYOUT_CT && s->symmetric,
                        .act_bits = s->act_bits,
                        .n = n,
                        .k = k,
                        .k_padded = sq_round_up(k, group),
                        .group = group,
                        .scale_type = p->scales == NULL ? SQ_F32 : p->scales->dtype};
    if (st != SQ_OK) {
        sq_error_prefix(err, "%s: ", what);
        return st;
    }
    SQ_TRY(make_room(out, err));
    st = layout != SQ_LAYOUT_CT ? read_laid_out(out, p, &f, what, err)
         : bytes                ? read_bytes(out, p, what, err)
                                : read_packed(out, p, what, err);
fail:
    if (st != SQ_OK) {
        sq_qlinear_free(out);
    }
    return st;
}

/* ---- storing ---- */

static sq_layout_form form_of(const sq_qlinear *q, sq_layout layout) {
    return (sq_layout_form){layout, q->bits, q->n, q->k, q->group};
}

static void add(sq_qtensor *out, int *n, const char *suffix, sq_dtype t, int64_t a, int64_t b) {
    out[*n] = (sq_qtensor){.suffix = suffix, .dtype = t, .rank = b == 0 ? 1 : 2, .shape = {a, b}};
    out[*n].bytes = (size_t)a * (size_t)(b == 0 ? 1 : b) * sq_dtype_size(t);
    ++*n;
}

int sq_qlinear_specs(const sq_qlinear *q, sq_layout layout, sq_qtensor out[SQ_QTENSORS]) {
    int n = 0;
    int64_t groups = q->k_padded / q->group;
    if (layout == SQ_LAYOUT_CT && q->act_bits != 0) {
        add(out, &n, ".weight", SQ_I8, q->n, q->k_padded);
        add(out, &n, ".weight_scale", q->scale_type, q->n, groups);
        if (!q->symmetric) {
            add(out, &n, ".weight_zero_point", SQ_I8, q->n, groups);
        }
    } else if (layout == SQ_LAYOUT_CT) {
        add(out, &n, ".weight_packed", SQ_I32, q->n, sq_ct_row_words(q->k_padded, q->bits));
        add(out, &n, ".weight_scale", q->scale_type, q->n, groups);
        add(out, &n, ".weight_shape", SQ_I64, 2, 0);
        if (!q->symmetric) {
            add(out, &n, ".weight_zero_point", SQ_I32, sq_ct_zero_rows(q->n, q->bits), groups);
        }
    } else {
        sq_layout_form f = form_of(q, layout);
        sq_layout_shape s[SQ_LAYOUT_PARTS];
        sq_layout_shapes(&f, s);
        for (int i = 0; i < SQ_LAYOUT_PARTS; i++) {
            if (s[i].rank != 0) {
                add(out, &n, sq_layout_suffix[i], i == SQ_LAYOUT_SCALES ? q->scale_type : SQ_I32,
                    s[i].dims[0], s[i].rank == 1 ? 0 : s[i].dims[1]);
            }
        }
    }
    return n;
}

static void store_packed(const sq_qlinear *q, sq_qtensor *out) {
    int64_t groups = q->k_padded / q->group, shape[2] = {q->n, q->k};
    int half = 1 << (q->bits - 1);
    sq_from_f32(out[1].data, q->scale_type, q->scales, (size_t)(q->n * groups));
    if (q->act_bits != 0) {
        to_signed(out[0].data, q->codes, q->n * q->k_padded, half);
        if (!q->symmetric) {
            to_signed(out[2].data, q->zeros, q->n * groups, half);
        }
        return;
    }
    sq_ct_pack_rows(out[0].data, q->codes, q->n, q->k_padded, q->bits);
    memcpy(out[2].data, shape, sizeof shape);
    if (!q->symmetric) {
        sq_ct_pack_zeros(out[3].data, q->zeros, q->n, groups, q->bits);
    }
}

/* Rows of codes back to the order of columns, and which group each column is of. */
static sq_status unsorted(const sq_qlinear *q, uint8_t **codes, int32_t *g_idx, sq_error *err) {
    *codes = sq_alloc_raw((size_t)q->n, (size_t)q->k, "codes", err);
    for (int64_t r = 0; *codes != NULL && r < q->n; r++) {
        for (int64_t c = 0; c < q->k; c++) {
            (*codes)[r * q->k + q->columns[c]] = q->codes[r * q->k + c];
        }
    }
    for (int64_t c = 0; c < q->k; c++) {
        g_idx[q->columns[c]] = (int32_t)(c / q->group);
    }
    return *codes == NULL ? SQ_ENOMEM : SQ_OK;
}

static sq_status store_laid_out(const sq_qlinear *q, const sq_layout_form *f, const char *what,
                                sq_qtensor *out, int n, sq_error *err) {
    size_t cells = out[SQ_LAYOUT_SCALES].bytes / sq_dtype_size(q->scale_type);
    uint8_t *sorted = NULL;
    int64_t row, group;
    float *held = sq_alloc_raw(cells, sizeof *held, "scales", err);
    sq_status st = held == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    if (n > SQ_LAYOUT_G_IDX) {
        sq_layout_plain_order(f, out[SQ_LAYOUT_G_IDX].data);
    }
    if (q->columns != NULL) {
        SQ_TRY(unsorted(q, &sorted, out[SQ_LAYOUT_G_IDX].data, err));
    }
    sq_layout_pack_codes(f, out[SQ_LAYOUT_QWEIGHT].data, sorted == NULL ? q->codes : sorted);
    sq_layout_pack_scales(f, held, q->scales);
    sq_from_f32(out[SQ_LAYOUT_SCALES].data, q->scale_type, held, cells);
    if (!sq_layout_pack_zeros(f, out[SQ_LAYOUT_QZEROS].data, q->zeros, &row, &group)) {
        st = sq_fail(err, SQ_EINTERNAL, "%s: a zero point 0 in row %lld was not seen before", what,
                     (long long)row);
    }
fail:
    sq_free(sorted);
    sq_free(held);
    return st;
}

static sq_status no_zero(const sq_qlinear *q, const char *what, sq_error *err) {
    int64_t groups = q->k_padded / q->group;
    for (int64_t i = 0; i < q->n * groups; i++) {
        if (q->zeros[i] == 0) {
            sq_fail(err, SQ_EUNSUPPORTED,
                    "%s: gptq (v1) keeps zero points less one and cannot hold a zero point 0; got "
                    "one in row %lld, group %lld",
                    what, (long long)(i / groups), (long long)(i % groups));
            sq_hint(err, "use gptq-v2, which holds them as they are");
            return SQ_EUNSUPPORTED;
        }
    }
    return SQ_OK;
}

sq_status sq_qlinear_check(const sq_qlinear *q, sq_layout layout, const char *what, sq_error *err) {
    sq_layout_form f = form_of(q, layout);
    sq_status st = sq_layout_check(&f, 1, err);
    if (st == SQ_OK && q->act_bits != 0 && layout != SQ_LAYOUT_CT) {
        st = sq_fail(err, SQ_EUNSUPPORTED, "%s has no place for rounded inputs (w8a8, w4a8)",
                     sq_layout_name(layout));
    }
    if (st == SQ_OK && q->columns != NULL && !sq_layout_is_gptq(layout)) {
        st = sq_fail(err, SQ_EUNSUPPORTED,
                     "%s has no g_idx; got columns in another order (act-order)",
                     sq_layout_name(layout));
    }
    if (st != SQ_OK) {
        sq_error_prefix(err, "%s: ", what);
        return st;
    }
    return layout == SQ_LAYOUT_GPTQ ? no_zero(q, what, err) : SQ_OK;
}

sq_status sq_qlinear_store(const sq_qlinear *q, sq_layout layout, const char *what,
                           sq_qtensor out[SQ_QTENSORS], int *n, sq_error *err) {
    sq_layout_form f = form_of(q, layout);
    sq_status st;
    *n = 0;
    SQ_TRY(sq_qlinear_check(q, layout, what, err));
    *n = sq_qlinear_specs(q, layout, out);
    for (int i = 0; i < *n; i++) {
        out[i].data = sq_alloc(out[i].bytes, 1, what, err);
        if (out[i].data == NULL) {
            st = SQ_ENOMEM;
            goto fail;
        }
    }
    if (layout == SQ_LAYOUT_CT) {
        store_packed(q, out);
    } else {
        st = store_laid_out(q, &f, what, out, *n, err);
    }
fail:
    if (st != SQ_OK) {
        sq_qtensors_free(out, *n);
        *n = 0;
    }
    return st;
}

void sq_qtensors_free(sq_qtensor *t, int n) {
    for (int i = 0; i < n; i++) {
        sq_free(t[i].data);
        t[i].data = NULL;
    }
}
