#include "quant/finite.h"

#include <string.h>

enum { SLICE = 1 << 20 }; /* elements */

/* Whether one of n elements has an exponent of all ones. */
static int bad_16(const char *p, size_t n, uint16_t exponent) {
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, p + 2 * i, sizeof v);
        bad |= (v & exponent) == exponent;
    }
    return bad;
}

static int bad_32(const char *p, size_t n) {
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, p + 4 * i, sizeof v);
        bad |= (v & 0x7f800000u) == 0x7f800000u;
    }
    return bad;
}

static int bad_slice(sq_dtype t, const char *p, size_t n) {
    return t == SQ_F32    ? bad_32(p, n)
           : t == SQ_BF16 ? bad_16(p, n, 0x7f80)
           : t == SQ_F16  ? bad_16(p, n, 0x7c00)
                          : 0;
}

/* Index of the first bad element; -1 for none. */
static int64_t first_bad(const sq_tensor *t) {
    int64_t size = (int64_t)sq_dtype_size(t->dtype), n = (int64_t)t->bytes / size, at = n;
#pragma omp parallel for schedule(static) reduction(min : at) if (n > SLICE)
    for (int64_t i = 0; i < n; i += SLICE) {
        const char *p = (const char *)t->data + i * size;
        int64_t some = n - i < SLICE ? n - i : SLICE;
        if (bad_slice(t->dtype, p, (size_t)some)) {
            for (int64_t k = 0; i + k < at; k++) {
                at = bad_slice(t->dtype, p + k * size, 1) ? i + k : at;
            }
        }
    }
    return at < n ? at : -1;
}

sq_status sq_check_finite(const sq_net *net, sq_error *err) {
    for (size_t i = 0; i < sq_checkpoint_count(net->ckpt); i++) {
        const sq_tensor *t = sq_checkpoint_at(net->ckpt, i);
        if (!net->bound[i]) {
            continue;
        }
        int64_t at = first_bad(t);
        sq_tensor_release(t);
        if (at >= 0) {
            int64_t columns = t->rank > 0 ? t->shape[t->rank - 1] : 1;
            return sq_fail(err, SQ_EFORMAT,
                           "'%s' holds NaN or infinity; got it at row %lld, column %lld, wanted "
                           "finite weights",
                           t->name, (long long)(at / columns), (long long)(at % columns));
        }
    }
    return SQ_OK;
}
