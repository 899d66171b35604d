/* Merging of byte-pair encoding: the lowest rank first, the leftmost on ties. Short words scan
 * their ranks; longer ones keep a heap of (rank, place). Very long ones are merged in chunks, so
 * that a text costs its length and stays in the cache.
 *
 * Chunks are exact. Merge A and B each on its own. Up to the first merge across the seam, A and B
 * take the same merges together as alone; and the last token of A and the first of B, which no
 * merge left, take the same as a text of these two alone. So A and B together give their tokens one
 * after the other exactly if the two tokens at the seam, merged from their symbols, give
 * themselves. Where they do not, tokens around the seam are merged anew until both of the new
 * seams hold. */
#include <string.h>

#include "text/tok.h"

#define NO_RANK TOK_NO_RANK
enum { SCAN_MAX = 40, CHUNK = 4096, NO_ID = -1 };

static uint32_t find_rank(const sq_tokenizer *t, int32_t a, int32_t b) {
    if ((a | b) < 0 || t->merge_slots == 0) {
        return NO_RANK;
    }
    uint64_t key = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
    for (size_t i = sq_tok_pair_hash(key) & (t->merge_slots - 1);;
         i = (i + 1) & (t->merge_slots - 1)) {
        if (t->merge[i].rank == NO_RANK || t->merge[i].key == key) {
            return t->merge[i].rank;
        }
    }
}

static size_t merge_scan(const sq_tokenizer *t, int32_t *id, size_t m) {
    uint32_t rank[SCAN_MAX];
    for (size_t i = 0; i + 1 < m; i++) {
        rank[i] = find_rank(t, id[i], id[i + 1]);
    }
    while (m > 1) {
        size_t at = 0;
        uint32_t best = rank[0];
        for (size_t i = 1; i + 1 < m; i++) {
            if (rank[i] < best) {
                best = rank[i];
                at = i;
            }
        }
        if (best == NO_RANK) {
            break;
        }
        id[at] = t->merge_new[best];
        m--;
        memmove(id + at + 1, id + at + 2, (m - at - 1) * sizeof *id);
        memmove(rank + at, rank + at + 1, (m - at - 1) * sizeof *rank);
        if (at + 1 < m) {
            rank[at] = find_rank(t, id[at], id[at + 1]);
        }
        if (at > 0) {
            rank[at - 1] = find_rank(t, id[at - 1], id[at]);
        }
    }
    return m;
}

static void heap_down(uint64_t *h, size_t n, size_t i) {
    uint64_t v = h[i];
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= n) {
            break;
        }
        c += c + 1 < n && h[c + 1] < h[c];
        if (h[c] >= v) {
            break;
        }
        h[i] = h[c];
        i = c;
    }
    h[i] = v;
}

static void heap_up(uint64_t *h, size_t i) {
    uint64_t v = h[i];
    while (i > 0 && h[(i - 1) / 2] > v) {
        h[i] = h[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h[i] = v;
}

/* Recomputes the rank of the pair at i and queues it; an older entry of i becomes stale because its
 * rank no longer agrees. */
static size_t requeue(const sq_tokenizer *t, tok_merger *w, const int32_t *id, size_t heap,
                      uint32_t i) {
    uint32_t nx = w->next[i];
    uint32_t r = nx == NO_RANK ? NO_RANK : find_rank(t, id[i], id[nx]);
    w->rank[i] = r;
    if (r != NO_RANK) {
        w->heap[heap] = (uint64_t)r << 32 | i;
        heap_up(w->heap, heap++);
    }
    return heap;
}

static sq_status reserve(tok_merger *w, size_t m, sq_error *err) {
    if (m <= w->cap) {
        return SQ_OK;
    }
    size_t cap = m < 256 ? 256 : m;
    sq_free(w->rank);
    sq_free(w->prev);
    sq_free(w->next);
    sq_free(w->heap);
    w->rank = sq_alloc_raw(cap, sizeof *w->rank, "the BPE queue", err);
    w->prev = sq_alloc_raw(cap, sizeof *w->prev, "the BPE queue", err);
    w->next = sq_alloc_raw(cap, sizeof *w->next, "the BPE queue", err);
    /* cap pairs, and two more for each merge of which one was taken */
    w->heap = sq_alloc_raw(cap, 3 * sizeof *w->heap, "the BPE queue", err);
    w->cap = w->rank && w->prev && w->next && w->heap ? cap : 0;
    return w->cap ? SQ_OK : SQ_ENOMEM;
}

/* Leaves the places where the tokens start in w->prev. */
static sq_status merge_heap(const sq_tokenizer *t, tok_merger *w, int32_t *id, size_t m,
                            size_t *left, sq_error *err) {
    if (reserve(w, m, err) != SQ_OK) {
        return SQ_ENOMEM;
    }
    size_t heap = 0;
    for (size_t i = 0; i < m; i++) {
        w->prev[i] = i == 0 ? NO_RANK : (uint32_t)i - 1;
        w->next[i] = i + 1 == m ? NO_RANK : (uint32_t)i + 1;
        w->rank[i] = i + 1 == m ? NO_RANK : find_rank(t, id[i], id[i + 1]);
        if (w->rank[i] != NO_RANK) {
            w->heap[heap++] = (uint64_t)w->rank[i] << 32 | i;
        }
    }
    for (size_t i = heap / 2; i-- > 0;) {
        heap_down(w->heap, heap, i);
    }
    while (heap > 0) {
        uint64_t top = w->heap[0];
        w->heap[0] = w->heap[--heap];
        heap_down(w->heap, heap, 0);
        uint32_t i = (uint32_t)top, r = (uint32_t)(top >> 32), nx;
        if (w->rank[i] != r) {
            continue;
        }
        nx = w->next[i];
        id[i] = t->merge_new[r];
        id[nx] = NO_ID;
        w->rank[nx] = NO_RANK;
        w->next[i] = w->next[nx];
        if (w->next[i] != NO_RANK) {
            w->prev[w->next[i]] = i;
        }
        heap = requeue(t, w, id, heap, i);
        if (w->prev[i] != NO_RANK) {
            heap = requeue(t, w, id, heap, w->prev[i]);
        }
    }
    size_t k = 0;
    for (uint32_t i = 0; i != NO_RANK && m > 0; i = w->next[i]) {
        w->prev[k++] = i; /* prev[k] <= i is no longer needed */
    }
    for (size_t i = 0; i < k; i++) {
        id[i] = id[w->prev[i]];
    }
    *left = k;
    return SQ_OK;
}

/* ---- chunks ---- */

/* Merges s[from..to) to w->id, with the places in w->prev. */
static sq_status merge_part(const sq_tokenizer *t, tok_merger *w, const int32_t *s, size_t from,
                            size_t to, size_t *left, sq_error *err) {
    if (to - from > w->id_cap) {
        sq_free(w->id);
        w->id_cap = 0;
        w->id = sq_alloc_raw(to - from, sizeof *w->id, "BPE symbols", err);
        if (w->id == NULL) {
            return SQ_ENOMEM;
        }
        w->id_cap = to - from;
    }
    memcpy(w->id, s + from, (to - from) * sizeof *s);
    return merge_heap(t, w, w->id, to - from, left, err);
}

/* Whether the tokens of s[a..seam) and s[seam..b) stay what they are beside each other: 1, 0 or a
 * status. */
static int seam_holds(const sq_tokenizer *t, tok_merger *w, const int32_t *s, size_t a, size_t seam,
                      size_t b, sq_error *err) {
    size_t left = 0;
    sq_status st = merge_part(t, w, s, a, b, &left, err);
    return st != SQ_OK ? (int)st : left == 2 && w->prev[1] == seam - a;
}

/* Puts what merge_part left in the place of the tokens lo..hi. */
static sq_status splice(tok_merger *w, size_t lo, size_t hi, size_t from, size_t left,
                        sq_error *err) {
    size_t n = w->n - (hi - lo) + left;
    if (n > w->token_cap) {
        size_t cap = n + n / 2 + 256;
        void *token = w->token, *start = w->start;
        sq_status st = sq_grow(&token, w->n * sizeof *w->token, cap, sizeof *w->token, "ids", err);
        w->token = token;
        if (st == SQ_OK) {
            st = sq_grow(&start, w->n * sizeof *w->start, cap, sizeof *w->start, "ids", err);
            w->start = start;
        }
        if (st != SQ_OK) {
            return st;
        }
        w->token_cap = cap;
    }
    memmove(w->token + lo + left, w->token + hi, (w->n - hi) * sizeof *w->token);
    memmove(w->start + lo + left, w->start + hi, (w->n - hi) * sizeof *w->start);
    for (size_t i = 0; i < left; i++) {
        w->token[lo + i] = w->id[i];
        w->start[lo + i] = w->prev[i] + (uint32_t)from;
    }
    w->n = n;
    return SQ_OK;
}

/* Symbol where token i starts; `end` after the last. */
static size_t token_start(const tok_merger *w, size_t i, size_t end) {
    return i < w->n ? w->start[i] : end;
}

/* Merges the tokens lo..hi anew, and takes the result when it fits both neighbours: 1, 0 or a
 * status. */
static int rejoin(const sq_tokenizer *t, tok_merger *w, const int32_t *s, size_t lo, size_t hi,
                  size_t end, sq_error *err) {
    size_t from = token_start(w, lo, end), to = token_start(w, hi, end), left = 0;
    int rc = (int)merge_part(t, w, s, from, to, &left, err);
    if (rc != SQ_OK) {
        return rc;
    }
    size_t first_end = left > 1 ? from + w->prev[1] : to, last = from + w->prev[left - 1];
    rc = lo == 0 ? 1 : seam_holds(t, w, s, w->start[lo - 1], from, first_end, err);
    if (rc == 1 && hi < w->n) {
        rc = seam_holds(t, w, s, last, to, token_start(w, hi + 1, end), err);
    }
    if (rc != 1) {
        return rc;
    }
    sq_status st = merge_part(t, w, s, from, to, &left, err);
    st = st == SQ_OK ? splice(w, lo, hi, from, left, err) : st;
    return st == SQ_OK ? 1 : (int)st;
}

/* Makes the seam before token j hold: 1, 0 when that would take more than `most` symbols, or a
 * status. */
static int mend(const sq_tokenizer *t, tok_merger *w, const int32_t *s, size_t j, size_t end,
                size_t most, sq_error *err) {
    int rc = seam_holds(t, w, s, w->start[j - 1], w->start[j], token_start(w, j + 1, end), err);
    for (size_t reach = 2; rc == 0; reach *= 4) {
        size_t lo = j > reach ? j - reach : 0, hi = w->n - j > reach ? j + reach : w->n;
        if (token_start(w, hi, end) - w->start[lo] > most) {
            return 0;
        }
        rc = rejoin(t, w, s, lo, hi, end, err);
    }
    return rc;
}

static sq_status merge_chunks(const sq_tokenizer *t, tok_merger *w, int32_t *s, size_t m,
                              size_t chunk, size_t *left, sq_error *err) {
    w->n = 0;
    for (size_t from = 0; from < m; from += chunk) {
        size_t end = m - from > chunk ? from + chunk : m, j = w->n, k = 0;
        sq_status st = merge_part(t, w, s, from, end, &k, err);
        st = st == SQ_OK ? splice(w, j, j, from, k, err) : st;
        if (st != SQ_OK) {
            return st;
        }
        int rc = j == 0 ? 1 : mend(t, w, s, j, end, 8 * chunk, err);
        if (rc != 1) {
            return rc < 0 ? (sq_status)rc : merge_heap(t, w, s, m, left, err);
        }
    }
    memcpy(s, w->token, w->n * sizeof *s);
    *left = w->n;
    return SQ_OK;
}

sq_status sq_tok_merge(const sq_tokenizer *t, tok_merger *w, int32_t *id, size_t m, size_t *left,
                       sq_error *err) {
    size_t chunk = w->chunk > 0 ? w->chunk : CHUNK;
    if (m <= SCAN_MAX && w->chunk == 0) {
        *left = merge_scan(t, id, m);
        return SQ_OK;
    }
    return m <= 2 * chunk ? merge_heap(t, w, id, m, left, err)
                          : merge_chunks(t, w, id, m, chunk, left, err);
}

void sq_tok_merge_free(tok_merger *w) {
    sq_free(w->rank);
    sq_free(w->prev);
    sq_free(w->next);
    sq_free(w->heap);
    sq_free(w->id);
    sq_free(w->token);
    sq_free(w->start);
}
