/* UTF-8 reading, repair, and the character classes that tokenizers use. */
#ifndef SQ_TEXT_UTF8_H
#define SQ_TEXT_UTF8_H

#include <string.h>

#include "base/mem.h"

/* As sq_buf_put, in line and with room doubled, so that a text of many small pieces costs its
 * length. */
void sq_text_room(sq_buf *b, size_t n);
static inline void sq_text_put(sq_buf *b, const void *p, size_t n) {
    if (b->cap <= b->len || b->cap - b->len <= n) {
        sq_text_room(b, n);
        sq_buf_put(b, p, n);
    } else if (n > 0 && !b->failed) {
        memcpy(b->data + b->len, p, n);
        b->len += n;
        b->data[b->len] = '\0';
    }
}

/* Reads one character of s[0..n), n > 0, and returns its length in bytes. A broken sequence gives
 * U+FFFD for its longest valid prefix (at least one byte), as Python's errors="replace" and WHATWG
 * do; *bad tells it apart from a U+FFFD in the text: 1 broken, 2 cut off by the end of the text. */
size_t sq_utf8_next(const char *s, size_t n, uint32_t *cp, int *bad);
/* As sq_utf8_next for text that is known to be valid. */
static inline size_t sq_utf8_get(const char *s, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *cp = (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
        return 2;
    }
    if (p[0] < 0xf0) {
        *cp = (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
        return 3;
    }
    *cp = (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    return 4;
}
/* Bytes of the character that starts with this byte, in valid text. */
static inline size_t sq_utf8_len(char lead) {
    unsigned char c = (unsigned char)lead;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}
/* Start of the character that ends before s[n], n > 0, in valid text. */
static inline size_t sq_utf8_back(const char *s, size_t n) {
    do {
        n--;
    } while (n > 0 && ((unsigned char)s[n] & 0xc0u) == 0x80u);
    return n;
}

/* Writes a code point (surrogates and values beyond U+10FFFF as U+FFFD); returns 1..4. */
size_t sq_utf8_put(char out[4], uint32_t cp);
/* Length of the longest valid prefix. */
size_t sq_utf8_valid(const char *s, size_t n);
/* Appends the text with broken sequences replaced by U+FFFD. */
void sq_utf8_repair(sq_buf *out, const char *s, size_t n);

/* Unicode White_Space: what \s means in the published regexes. */
int sq_uc_space(uint32_t cp);
/* Nd, Nl or No. */
int sq_uc_number(uint32_t cp);
/* ASCII punctuation or P*. */
int sq_uc_punct(uint32_t cp);
/* \w: alphabetic, marks, Nd, Pc. */
int sq_uc_word(uint32_t cp);
/* Appends the lower-case form (U+0130 gives two characters). */
void sq_uc_lower(sq_buf *out, uint32_t cp);

#endif
