/* UTF-8 reading, repair, and the character classes that tokenizers use. */
#include "text/utf8.h"

#include <utf8proc.h>

#include <string.h>

void sq_text_room(sq_buf *b, size_t n) {
    size_t need, cap = b->cap < 64 ? 64 : b->cap;
    if (b->failed || !sq_add(b->len, n, &need) || !sq_add(need, 1, &need)) {
        return; /* sq_buf_put marks the failure */
    }
    while (cap < need) {
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    }
    void *p = b->data;
    if (cap > b->cap) {
        if (sq_grow(&p, b->len, cap, 1, "a text", NULL) != SQ_OK) {
            b->failed = 1;
            return;
        }
        b->data = p;
        b->cap = cap;
    }
}

size_t sq_utf8_next(const char *s, size_t n, uint32_t *cp, int *bad) {
    const unsigned char *p = (const unsigned char *)s;
    *bad = 0;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    unsigned lo = 0x80, hi = 0xbf;
    size_t want;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        want = 2;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        want = 3;
        lo = p[0] == 0xe0 ? 0xa0 : 0x80;
        hi = p[0] == 0xed ? 0x9f : 0xbf;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        want = 4;
        lo = p[0] == 0xf0 ? 0x90 : 0x80;
        hi = p[0] == 0xf4 ? 0x8f : 0xbf;
    } else {
        *cp = 0xfffd;
        *bad = 1;
        return 1;
    }
    size_t i = 1;
    for (; i < want && i < n; i++) {
        if (p[i] < lo || p[i] > hi) {
            break;
        }
        lo = 0x80;
        hi = 0xbf;
    }
    if (i < want) {
        *cp = 0xfffd;
        *bad = i == n ? 2 : 1;
        return i;
    }
    return sq_utf8_get(s, cp);
}

size_t sq_utf8_put(char out[4], uint32_t cp) {
    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) {
        cp = 0xfffd;
    }
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t sq_utf8_valid(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        while (n - i >= 8) {
            memcpy(&eight, s + i, 8);
            if (eight & 0x8080808080808080u) {
                break;
            }
            i += 8;
        }
        if (i >= n) {
            break;
        }
        uint32_t cp;
        int bad;
        size_t k = sq_utf8_next(s + i, n - i, &cp, &bad);
        if (bad) {
            break;
        }
        i += k;
    }
    return i;
}

void sq_utf8_repair(sq_buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t ok = sq_utf8_valid(s + i, n - i);
        sq_text_put(out, s + i, ok);
        i += ok;
        if (i < n) {
            uint32_t cp;
            int bad;
            i += sq_utf8_next(s + i, n - i, &cp, &bad);
            sq_text_put(out, "\xef\xbf\xbd", 3);
        }
    }
}

int sq_uc_space(uint32_t cp) {
    if (cp < 0x80) {
        return cp == ' ' || (cp >= 9 && cp <= 13);
    }
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

int sq_uc_number(uint32_t cp) {
    if (cp < 0x80) {
        return cp >= '0' && cp <= '9';
    }
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

int sq_uc_punct(uint32_t cp) {
    if (cp < 0x80) {
        return (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) ||
               (cp >= 123 && cp <= 126);
    }
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

int sq_uc_word(uint32_t cp) {
    if (cp < 0x80) {
        return (cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') ||
               cp == '_';
    }
    if ((cp >= 0x24b6 && cp <= 0x24e9) || cp == 0x200c || cp == 0x200d ||
        (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
        (cp >= 0x1f170 && cp <= 0x1f189)) {
        return 1; /* Other_Alphabetic symbols and Join_Control */
    }
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC;
}

void sq_uc_lower(sq_buf *out, uint32_t cp) {
    char b[4];
    if (cp == 0x130) {
        sq_text_put(out, "i\xcc\x87", 3);
        return;
    }
    sq_text_put(out, b, sq_utf8_put(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp)));
}
