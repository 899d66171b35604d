#include "base/mem.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

enum {
    ALIGN = 64,
    HUGE_PAGE = 2 << 20,
    MAPPED = 256 << 10, /* bytes of a block that is mapped by itself */
    KEPT = 32,          /* blocks kept at most, for reuse, */
    WORTH_KEEPING = 1 << 20,
};

/* What stands in front of a block. */
typedef struct header {
    size_t bytes;  /* as asked for */
    size_t mapped; /* of the mapping; 0: the heap's */
} header;

/* Under AddressSanitizer every block is the heap's, which it watches. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED_HEAP 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WATCHED_HEAP 1
#endif
#ifndef WATCHED_HEAP
#define WATCHED_HEAP 0
#endif

static atomic_size_t mem_used, mem_peak, mem_limit;
static atomic_long mem_fail_after;

/* Freed mappings, the oldest first. */
static struct {
    pthread_mutex_t lock;
    int users;
    size_t bytes;
    int n;
    void *base[KEPT];
    size_t size[KEPT];
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Large blocks are mapped, so that freeing one gives it back to the system: a heap keeps what lies
 * below any block that is still used, and grows with every layer of a model. */
static int is_mapped(size_t bytes) { return !WATCHED_HEAP && bytes >= MAPPED; }

/* With the header, in whole pages. */
static size_t mapped_size(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + ALIGN + page - 1) / page * page;
}

/* From two huge pages on a block starts at one: weights are read from end to end, with fewer faults
 * and fewer misses of the TLB. */
static void *map_block(size_t bytes) {
    size_t size = mapped_size(bytes), spare = bytes >= 2 * (size_t)HUGE_PAGE ? HUGE_PAGE : 0;
    char *p = mmap(NULL, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    if (spare > 0) {
        size_t front = (size_t)(-(uintptr_t)p % HUGE_PAGE);
        if (front > 0) {
            munmap(p, front);
        }
        p += front;
        if (front < spare) {
            munmap(p + size, spare - front);
        }
#ifdef MADV_HUGEPAGE
        madvise(p, size, MADV_HUGEPAGE);
#endif
    }
    return p;
}

/* ---- kept blocks; under kept.lock ---- */

static void *unkeep(int i) {
    void *base = kept.base[i];
    size_t after = (size_t)(--kept.n - i);
    kept.bytes -= kept.size[i];
    memmove(&kept.base[i], &kept.base[i + 1], after * sizeof kept.base[0]);
    memmove(&kept.size[i], &kept.size[i + 1], after * sizeof kept.size[0]);
    return base;
}

static void drop_oldest(void) {
    size_t size = kept.size[0];
    munmap(unkeep(0), size);
}

/* The oldest go until what is used and kept is less than was ever used at once: not all of that was
 * written to, while kept blocks were. */
static void trim(void) {
    size_t peak = atomic_load(&mem_peak), most = peak - peak / 16;
    while (kept.n > 0 && atomic_load(&mem_used) + kept.bytes > most) {
        drop_oldest();
    }
}

/* A kept block that fits with little to spare, or NULL. */
static void *reuse(size_t *size) {
    int best = -1;
    void *base = NULL;
    pthread_mutex_lock(&kept.lock);
    for (int i = 0; i < kept.n; i++) {
        if (kept.size[i] >= *size && kept.size[i] <= *size + *size / 8 &&
            (best < 0 || kept.size[i] < kept.size[best])) {
            best = i;
        }
    }
    if (best >= 0) {
        *size = kept.size[best];
        base = unkeep(best);
    }
    trim();
    pthread_mutex_unlock(&kept.lock);
    return base;
}

static void give_back(void *base, size_t size) {
    pthread_mutex_lock(&kept.lock);
    if (kept.users == 0 || size < WORTH_KEEPING) {
        munmap(base, size);
    } else {
        if (kept.n == KEPT) {
            drop_oldest();
        }
        kept.base[kept.n] = base; /* no more than it was: others go when new ones are mapped */
        kept.size[kept.n++] = size;
        kept.bytes += size;
    }
    pthread_mutex_unlock(&kept.lock);
}

void sq_memory_reuse(int on) {
    pthread_mutex_lock(&kept.lock);
    kept.users += on ? 1 : -1;
    while (kept.users == 0 && kept.n > 0) {
        drop_oldest();
    }
    pthread_mutex_unlock(&kept.lock);
}

/* The size stands in front of the block so that sq_free can give it back to the count. *zeroed: the
 * block is zeros already, none of which takes memory before it is written. */
static void *take(size_t count, size_t size, const char *what, int *zeroed, sq_error *err) {
    size_t bytes, total;
    if (!sq_mul(count, size, &bytes) || !sq_add(bytes, 2 * (size_t)HUGE_PAGE, &total)) {
        sq_fail(err, SQ_ENOMEM, "size of %s overflows; got %zu x %zu bytes", what, count, size);
        return NULL;
    }
    long left = atomic_load(&mem_fail_after);
    if (left > 0 && atomic_fetch_sub(&mem_fail_after, 1) == 1) {
        sq_fail_nomem(err, what, bytes);
        return NULL;
    }
    size_t limit = atomic_load(&mem_limit);
    size_t now = atomic_fetch_add(&mem_used, bytes) + bytes;
    if (limit != 0 && now > limit) {
        atomic_fetch_sub(&mem_used, bytes);
        sq_fail(err, SQ_ENOMEM,
                "memory limit reached by %s; got %zu bytes in all, wanted at most %zu", what, now,
                limit);
        return NULL;
    }
    void *base = NULL;
    size_t mapped = is_mapped(bytes) ? mapped_size(bytes) : 0;
    *zeroed = 0;
    if (mapped > 0) {
        base = reuse(&mapped);
        *zeroed = base == NULL;
        base = base == NULL ? map_block(bytes) : base;
    } else if (posix_memalign(&base, ALIGN, bytes + ALIGN) != 0) {
        base = NULL;
    }
    if (base == NULL) {
        atomic_fetch_sub(&mem_used, bytes);
        sq_fail_nomem(err, what, bytes);
        return NULL;
    }
    for (size_t peak = atomic_load(&mem_peak);
         now > peak && !atomic_compare_exchange_weak(&mem_peak, &peak, now);) {
    }
    memcpy(base, &(header){bytes, mapped}, sizeof(header));
    return (char *)base + ALIGN;
}

void *sq_alloc_raw(size_t count, size_t size, const char *what, sq_error *err) {
    int zeroed;
    return take(count, size, what, &zeroed, err);
}

void *sq_alloc(size_t count, size_t size, const char *what, sq_error *err) {
    int zeroed;
    void *p = take(count, size, what, &zeroed, err);
    if (p != NULL && !zeroed) {
        memset(p, 0, count * size);
    }
    return p;
}

void sq_free(void *p) {
    if (p == NULL) {
        return;
    }
    char *base = (char *)p - ALIGN;
    header h;
    memcpy(&h, base, sizeof h);
    atomic_fetch_sub(&mem_used, h.bytes);
    if (h.mapped > 0) {
        give_back(base, h.mapped);
    } else {
        free(base);
    }
}

sq_status sq_grow(void **p, size_t used, size_t count, size_t size, const char *what,
                  sq_error *err) {
    void *q = sq_alloc_raw(count, size, what, err);
    if (q == NULL) {
        return SQ_ENOMEM;
    }
    if (*p != NULL) {
        memcpy(q, *p, used);
        sq_free(*p);
    }
    *p = q;
    return SQ_OK;
}

char *sq_strdup(const char *s, sq_error *err) {
    size_t n = strlen(s) + 1;
    char *p = sq_alloc_raw(n, 1, "a string", err);
    if (p != NULL) {
        memcpy(p, s, n);
    }
    return p;
}

int sq_ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

void sq_memory_limit(size_t bytes) { atomic_store(&mem_limit, bytes); }
size_t sq_memory_used(void) { return atomic_load(&mem_used); }
size_t sq_memory_peak(void) { return atomic_load(&mem_peak); }
void sq_memory_peak_reset(void) { atomic_store(&mem_peak, sq_memory_used()); }
void sq_memory_fail_after(long n) { atomic_store(&mem_fail_after, n); }

static size_t system_room(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kb;
    size_t room = SIZE_MAX;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "MemAvailable: %llu kB", &kb) == 1) {
            room = (size_t)kb * 1024;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return room;
}

size_t sq_memory_room(void) {
    size_t limit = atomic_load(&mem_limit), used = sq_memory_used(), room = system_room();
    size_t left = limit == 0 ? SIZE_MAX : limit > used ? limit - used : 0;
    return left < room ? left : room;
}

void sq_memory_trim(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

size_t sq_peak_rss(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (size_t)u.ru_maxrss * 1024 : 0;
}

struct sq_arena_block {
    struct sq_arena_block *next;
    size_t used, cap;
};

void *sq_arena_alloc(sq_arena *a, size_t count, size_t size, sq_error *err) {
    enum { BLOCK = 64 * 1024 };
    size_t bytes, need;
    if (!sq_mul(count, size, &bytes) || !sq_add(bytes, ALIGN - 1, &need)) {
        sq_fail(err, SQ_ENOMEM, "size overflows; got %zu x %zu bytes", count, size);
        return NULL;
    }
    need &= ~(size_t)(ALIGN - 1);
    struct sq_arena_block *b = a->head;
    if (b == NULL || b->cap - b->used < need) {
        size_t cap = need > BLOCK ? need : BLOCK, total;
        if (!sq_add(cap, ALIGN, &total)) {
            sq_fail_nomem(err, "an arena", cap);
            return NULL;
        }
        b = sq_alloc_raw(total, 1, "an arena", err);
        if (b == NULL) {
            return NULL;
        }
        b->used = 0;
        b->cap = cap;
        b->next = a->head;
        a->head = b;
    }
    char *p = (char *)b + ALIGN + b->used;
    b->used += need;
    memset(p, 0, bytes);
    return p;
}

char *sq_arena_strdup(sq_arena *a, const char *s, sq_error *err) {
    size_t n = strlen(s) + 1;
    char *p = sq_arena_alloc(a, n, 1, err);
    if (p != NULL) {
        memcpy(p, s, n);
    }
    return p;
}

char *sq_arena_printf(sq_arena *a, sq_error *err, const char *fmt, ...) {
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : sq_arena_alloc(a, (size_t)n + 1, 1, err);
    if (p != NULL) {
        vsnprintf(p, (size_t)n + 1, fmt, ap2);
    }
    va_end(ap2);
    return p;
}

void sq_arena_free(sq_arena *a) {
    while (a->head != NULL) {
        struct sq_arena_block *next = a->head->next;
        sq_free(a->head);
        a->head = next;
    }
}

static int buf_reserve(sq_buf *b, size_t n) {
    size_t need;
    if (b->failed || !sq_add(b->len, n, &need) || !sq_add(need, 1, &need)) {
        b->failed = 1;
        return 0;
    }
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 64 : b->cap;
        while (cap < need) {
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        }
        void *p = b->data;
        if (sq_grow(&p, b->len, cap, 1, "a buffer", NULL) != SQ_OK) {
            b->failed = 1;
            return 0;
        }
        b->data = p;
        b->cap = cap;
    }
    return 1;
}

void sq_buf_put(sq_buf *b, const void *p, size_t n) {
    if (buf_reserve(b, n)) {
        if (n != 0) {
            memcpy(b->data + b->len, p, n);
        }
        b->len += n;
        b->data[b->len] = '\0';
    }
}

void sq_buf_puts(sq_buf *b, const char *s) { sq_buf_put(b, s, strlen(s)); }

void sq_buf_printf(sq_buf *b, const char *fmt, ...) {
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && buf_reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap2);
        b->len += (size_t)n;
    }
    va_end(ap2);
}

void sq_buf_free(sq_buf *b) {
    sq_free(b->data);
    *b = (sq_buf){0};
}
