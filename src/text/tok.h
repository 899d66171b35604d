/* Internal to src/text: what a tokenizer.json becomes in memory, and the parts that work on it. */
#ifndef SQ_TEXT_TOK_H
#define SQ_TEXT_TOK_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "text/tokenizer.h"

typedef struct tok_str {
    const char *p; /* NUL-terminated beyond n */
    size_t n;
} tok_str;

/* The steps of the three chains; each chain accepts its own kinds. */
typedef enum tok_kind {
    TOK_NFC,
    TOK_NFD,
    TOK_NFKC,
    TOK_NFKD,
    TOK_LOWERCASE,
    TOK_STRIP,
    TOK_STRIP_ACCENTS,
    TOK_PREPEND,
    TOK_REPLACE,
    TOK_BYTELEVEL,
    TOK_SPLIT,
    TOK_DIGITS,
    TOK_METASPACE,
    TOK_WHITESPACE,
    TOK_WHITESPACE_SPLIT,
    TOK_PUNCTUATION,
    TOK_BERT,
    TOK_CHAR_DELIMITER,
    TOK_BYTE_FALLBACK,
    TOK_FUSE,
    TOK_BPE_SUFFIX
} tok_kind;

typedef enum tok_behavior {
    TOK_REMOVED,
    TOK_ISOLATED,
    TOK_MERGED_PREVIOUS,
    TOK_MERGED_NEXT,
    TOK_CONTIGUOUS
} tok_behavior;

typedef enum tok_prepend { TOK_NEVER, TOK_FIRST, TOK_ALWAYS } tok_prepend;

typedef struct tok_step {
    tok_kind kind;
    pcre2_code *re;            /* owned; NULL when the pattern is a string or there is none */
    tok_str pattern;           /* a literal pattern, or the marker of Metaspace */
    tok_str content;           /* replacement, prefix, suffix or stripped text */
    int (*is_match)(uint32_t); /* a character class instead of a pattern */
    tok_behavior behavior;
    tok_prepend prepend;
    int invert, add_prefix_space, use_regex, single, split;
    int64_t left, right; /* Strip: normalizer flags, decoder counts */
} tok_step;

typedef struct tok_chain {
    tok_step *step;
    size_t n;
} tok_chain;

typedef struct tok_added {
    tok_str text, pattern; /* pattern: the text after normalization, when `normalized` */
    int32_t id;
    int special, normalized, lstrip, rstrip, single_word;
} tok_added;

/* A byte trie over added tokens; node 0 is the root. */
typedef struct tok_trie_node {
    uint32_t child, next; /* first child, next sibling; 0 is none */
    int32_t token;        /* index of the added token that ends here, or -1 */
    unsigned char byte;
} tok_trie_node;
typedef struct tok_trie {
    tok_trie_node *node;
    size_t n, cap;
    uint32_t first[256]; /* the root's children */
} tok_trie;

typedef struct tok_merge {
    uint64_t key; /* left << 32 | right */
    uint32_t rank;
} tok_merge;

typedef enum tok_stream { TOK_STREAM_WHOLE, TOK_STREAM_BYTES, TOK_STREAM_PIECES } tok_stream;

typedef struct tok_name {
    tok_str key, text;
} tok_name;

struct sq_tokenizer {
    sq_arena arena;
    /* vocabulary: id -> text, and an open-addressed table of id+1 by text */
    int32_t size, vocab_max; /* largest id + 1, with and without added tokens */
    tok_str *text;
    unsigned char *special;
    uint32_t *slot;
    size_t slots; /* a power of two */
    /* merges */
    tok_merge *merge;
    size_t merge_slots;
    int32_t *merge_new; /* rank -> id */
    size_t n_merges;
    int32_t unk;
    int ignore_merges, byte_fallback, fuse_unk;
    tok_str prefix, suffix; /* continuing_subword_prefix, end_of_word_suffix */
    int32_t fallback[256];  /* ids of <0xXX>, or -1 */
    int32_t byte_id[256];   /* ids of the byte-level alphabet's characters, or -1 */

    tok_added *added;
    size_t n_added;
    tok_trie raw, normalized;
    tok_chain norm, pre, dec;
    int bytes; /* the last pre-tokenizer is ByteLevel and its mapping is left to the model */
    int has_dec;
    tok_stream stream;
    sq_ids post_prefix, post_suffix;
    tok_name *name; /* bos_token and the like */
    size_t n_names;
};

/* ---- shared text and growth ---- */

/* The text of the byte-level alphabet's character for a byte: one or two bytes of UTF-8. */
size_t sq_tok_byte_char(unsigned char b, char out[4]);
/* The byte of a character of the byte-level alphabet, or -1. */
int sq_tok_char_byte(uint32_t cp);
sq_status sq_ids_push(sq_ids *v, int32_t id, sq_error *err);

/* ---- regexes (tok_regex.c) ---- */

/* Compiles an Oniguruma pattern as HF means it. */
sq_status sq_tok_regex(pcre2_code **out, const char *pattern, size_t n, const char *where,
                       sq_error *err);
/* Per-thread matching state; zeroed is valid. */
typedef struct tok_match {
    pcre2_match_data *data;
    pcre2_match_context *ctx;
    pcre2_jit_stack *stack;
} tok_match;
/* Next match of the step's pattern in s[from..n): 1 found, 0 none, negative a status. */
int sq_tok_find(tok_match *m, const tok_step *st, const char *s, size_t n, size_t from,
                size_t *start, size_t *end, sq_error *err);
void sq_tok_match_free(tok_match *m);

/* ---- normalizers (tok_norm.c) ---- */
sq_status sq_tok_normalize(const tok_chain *c, tok_match *m, sq_buf *text, sq_buf *spare,
                           sq_error *err);

/* ---- pre-tokenizers (tok_pre.c) ---- */
typedef struct tok_span {
    size_t start, end;
} tok_span;
typedef struct tok_spans {
    tok_span *data;
    size_t len, cap;
} tok_spans;
typedef struct tok_pre {
    tok_match match;
    tok_spans span, next;
    sq_buf text, spare;
    const char *base; /* what the spans index */
} tok_pre;
/* Cuts s[0..n) into pre-tokens: p->span over p->base. `first`: the input starts here. */
sq_status sq_tok_pretokenize(const sq_tokenizer *t, tok_pre *p, const char *s, size_t n, int first,
                             sq_error *err);
void sq_tok_pre_free(tok_pre *p);

/* ---- model (tok_merge.c, tok_bpe.c) ---- */
/* Space for merging; zeroed is valid. */
typedef struct tok_merger {
    uint32_t *rank, *prev, *next; /* of the symbols of one run */
    uint64_t *heap;
    int32_t *id; /* symbols of one chunk */
    size_t cap, id_cap;
    int32_t *token; /* what a long word has become so far: ids, and where each starts */
    uint32_t *start;
    size_t n, token_cap;
    size_t chunk; /* symbols a chunk; 0: the usual number */
} tok_merger;
/* Merges the symbols id[0..m) in place; *left are left. */
sq_status sq_tok_merge(const sq_tokenizer *t, tok_merger *w, int32_t *id, size_t m, size_t *left,
                       sq_error *err);
void sq_tok_merge_free(tok_merger *w);
#define TOK_NO_RANK UINT32_MAX
static inline uint64_t sq_tok_pair_hash(uint64_t key) {
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 32;
}

typedef struct tok_bpe {
    int32_t *id;
    size_t cap;
    tok_merger merger;
    struct tok_cached *cache;
    size_t cache_slots;
    sq_buf word;
} tok_bpe;
sq_status sq_tok_bpe(const sq_tokenizer *t, tok_bpe *b, const char *s, size_t n, sq_ids *out,
                     sq_error *err);
/* Gets a cache for a text of n bytes; without one everything still works. */
void sq_tok_bpe_cache(tok_bpe *b, size_t n);
void sq_tok_bpe_free(tok_bpe *b);
int32_t sq_tok_vocab(const sq_tokenizer *t, const char *s, size_t n);

/* ---- decoders (tok_decode.c) ---- */
tok_stream sq_tok_stream_kind(const sq_tokenizer *t);

/* ---- loading (tok_load.c, tok_steps.c) ---- */
typedef enum tok_family { TOK_NORMALIZER, TOK_PRETOKENIZER, TOK_DECODER } tok_family;
sq_status sq_tok_load_chain(sq_tokenizer *t, tok_family f, const json_t *v, tok_chain *out,
                            sq_error *err);
void sq_tok_free_chain(tok_chain *c);
sq_status sq_tok_load_model(sq_tokenizer *t, const json_t *root, sq_error *err);
sq_status sq_tok_copy(sq_tokenizer *t, const json_t *str, tok_str *out, sq_error *err);

#endif
