/* The regexes of tokenizer.json: written for Oniguruma, run by PCRE2. What the two mean differently
 * (\s, \w, \h, \d inside and outside of classes) is rewritten before compiling. */
#include <stdio.h>
#include <string.h>

#include "text/tok.h"
#include "text/utf8.h"

/* Ranges inside a class for Unicode White_Space and its complement. */
#define SPACE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"                   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"                 \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

/* Letters and numbers of Unicode 15, which Oniguruma knows and PCRE2 10.42 does not. */
#define LETTER                                                                                     \
    "\\p{L}\\x{11240}\\x{11241}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"               \
    "\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{31350}-\\x{323af}"
#define NUMBER "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"

enum { MAX_PATTERN = 1 << 16 };

/* One escape; returns the bytes read, or 0 when it cannot be expressed. */
static size_t put_escape(sq_buf *b, const char *p, size_t n, int in_class) {
    if (n < 2) {
        return 0;
    }
    const char *body = NULL;
    size_t used = 2;
    switch (p[1]) {
    case 'p':
        body = n >= 5 && memcmp(p + 2, "{L}", 3) == 0   ? LETTER
               : n >= 5 && memcmp(p + 2, "{N}", 3) == 0 ? NUMBER
                                                        : "";
        if (*body == '\0') {
            sq_text_put(b, p, 2);
            return 2;
        }
        used = 5;
        break;
    case 's':
        body = SPACE;
        break;
    case 'S':
        body = in_class ? NOT_SPACE : "^" SPACE;
        break;
    case 'w':
        body = WORD;
        break;
    case 'W':
        body = in_class ? NULL : "^" WORD;
        if (body == NULL) {
            return 0;
        }
        break;
    case 'h':
        body = "0-9a-fA-F";
        break;
    case 'H':
        if (in_class) {
            return 0;
        }
        body = "^0-9a-fA-F";
        break;
    case 'u': /* \\uHHHH */
        if (n < 6) {
            return 0;
        }
        sq_buf_printf(b, "\\x{%.4s}", p + 2);
        return 6;
    default:
        sq_text_put(b, p, 2);
        return 2;
    }
    sq_buf_printf(b, in_class ? "%s" : "[%s]", body);
    return used;
}

static sq_status translate(sq_buf *b, const char *p, size_t n, const char *where, sq_error *err) {
    int depth = 0;
    for (size_t i = 0; i < n;) {
        if (p[i] == '\\') {
            size_t k = put_escape(b, p + i, n - i, depth > 0);
            if (k == 0) {
                return sq_fail(err, SQ_EUNSUPPORTED,
                               "%s: regex escape at byte %zu of '%.80s' is not supported", where, i,
                               p);
            }
            i += k;
            continue;
        }
        if (depth > 0 && p[i] == '&' && i + 1 < n && p[i + 1] == '&') {
            return sq_fail(err, SQ_EUNSUPPORTED,
                           "%s: regex class intersection (&&) in '%.80s' is not supported", where,
                           p);
        }
        if (p[i] == '[') {
            int posix = depth > 0 && i + 1 < n && p[i + 1] == ':';
            if (depth > 0 && !posix) {
                return sq_fail(err, SQ_EUNSUPPORTED,
                               "%s: nested regex class in '%.80s' is not supported", where, p);
            }
            depth++;
        } else if (p[i] == ']' && depth > 0) {
            depth--;
        }
        sq_text_put(b, p + i, 1);
        i++;
    }
    return b->failed ? sq_fail_nomem(err, "a regex", n) : SQ_OK;
}

sq_status sq_tok_regex(pcre2_code **out, const char *pattern, size_t n, const char *where,
                       sq_error *err) {
    if (n > MAX_PATTERN || memchr(pattern, 0, n) != NULL) {
        return sq_fail(err, SQ_EFORMAT, "%s: regex of %zu bytes; wanted at most %d without NUL",
                       where, n, MAX_PATTERN);
    }
    sq_buf b = {0};
    sq_status st = translate(&b, pattern, n, where, err);
    if (st == SQ_OK) {
        int code;
        PCRE2_SIZE at;
        pcre2_code *re =
            pcre2_compile(b.len ? (PCRE2_SPTR)b.data : (PCRE2_SPTR) "", b.len,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
        if (re == NULL) {
            PCRE2_UCHAR msg[160];
            pcre2_get_error_message(code, msg, sizeof msg);
            st = sq_fail(err, SQ_EFORMAT, "%s: regex '%.80s' does not compile; %s", where, pattern,
                         (const char *)msg);
        } else {
            pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without JIT it is only slower */
            *out = re;
        }
    }
    sq_buf_free(&b);
    return st;
}

static int match_setup(tok_match *m, sq_error *err) {
    if (m->data == NULL) {
        m->data = pcre2_match_data_create(1, NULL);
    }
    if (m->ctx == NULL) {
        m->ctx = pcre2_match_context_create(NULL);
    }
    if (m->data == NULL || m->ctx == NULL) {
        return sq_fail_nomem(err, "regex matching", 0);
    }
    pcre2_set_match_limit(m->ctx, 50000000);
    pcre2_set_heap_limit(m->ctx, 256 * 1024);
    return SQ_OK;
}

static int find_regex(tok_match *m, const tok_step *st, const char *s, size_t n, size_t from,
                      size_t *start, size_t *end, sq_error *err) {
    if (m->ctx == NULL && match_setup(m, err) != SQ_OK) {
        return SQ_ENOMEM;
    }
    int rc = pcre2_match(st->re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, m->data, m->ctx);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && m->stack == NULL) {
        m->stack = pcre2_jit_stack_create(32 * 1024, (size_t)64 << 20, NULL);
        pcre2_jit_stack_assign(m->ctx, NULL, m->stack);
        rc = pcre2_match(st->re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, m->data, m->ctx);
    }
    if (rc == PCRE2_ERROR_NOMATCH) {
        return 0;
    }
    if (rc < 0) {
        PCRE2_UCHAR msg[160];
        pcre2_get_error_message(rc, msg, sizeof msg);
        return sq_fail(err, SQ_EFORMAT, "the tokenizer's regex gives up on this text; %s",
                       (const char *)msg);
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
    *start = o[0];
    *end = o[1] < o[0] ? o[0] : o[1];
    return 1;
}

int sq_tok_find(tok_match *m, const tok_step *st, const char *s, size_t n, size_t from,
                size_t *start, size_t *end, sq_error *err) {
    if (from >= n) {
        return 0;
    }
    if (st->re != NULL) {
        return find_regex(m, st, s, n, from, start, end, err);
    }
    if (st->is_match != NULL) {
        for (size_t i = from; i < n;) {
            uint32_t cp;
            size_t k = sq_utf8_get(s + i, &cp);
            if (st->is_match(cp)) {
                *start = i;
                *end = i + k;
                return 1;
            }
            i += k;
        }
        return 0;
    }
    if (st->pattern.n == 0) {
        return 0;
    }
    const char *hit = memmem(s + from, n - from, st->pattern.p, st->pattern.n);
    if (hit == NULL) {
        return 0;
    }
    *start = (size_t)(hit - s);
    *end = *start + st->pattern.n;
    return 1;
}

void sq_tok_match_free(tok_match *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->ctx);
    pcre2_jit_stack_free(m->stack);
    *m = (tok_match){0};
}
