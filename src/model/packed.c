#include "model/packed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/source.h"
#include "kernels/packed.h"

/* A header, the parts of all matrices, each from a multiple of ALIGN on, and the records, sorted by
 * name. */
enum { ALIGN = 64, NAME = 200, TASTE = 64 << 10, LANES = 8 };
static const char magic[8] = "SQPACK1";

typedef struct header {
    char magic[8];
    uint64_t key, size, records, n, hash; /* of the file; offset, number, hash of the records */
} header;

struct sq_packed_record {
    char name[NAME];
    int64_t kind, n, k, k_padded, group;
    uint64_t at[SQ_WEIGHT_PARTS], bytes[SQ_WEIGHT_PARTS], hash; /* bytes 0: none */
};

/* Against damage, not against malice: eight sums side by side run at the memory's speed. */
static uint64_t hash_of(uint64_t start, const void *data, size_t n) {
    const uint64_t prime = 0x9e3779b97f4a7c15u;
    const unsigned char *p = data;
    uint64_t lane[LANES], word[LANES], h = start ^ n;
    for (int i = 0; i < LANES; i++) {
        lane[i] = (uint64_t)i * prime + 1;
    }
    for (; n > 0; p += sizeof word, n -= n < sizeof word ? n : sizeof word) {
        if (n < sizeof word) {
            memset(word, 0, sizeof word);
        }
        memcpy(word, p, n < sizeof word ? n : sizeof word);
        for (int i = 0; i < LANES; i++) {
            lane[i] = (lane[i] ^ word[i]) * prime;
        }
        if (n < sizeof word) {
            break;
        }
    }
    for (int i = 0; i < LANES; i++) {
        h = (h ^ lane[i] ^ lane[i] >> 29) * prime;
        h ^= h >> 32;
    }
    return h;
}

static uint64_t hash_record(const unsigned char *file, const sq_packed_record *r) {
    uint64_t h = 0;
    for (int i = 0; i < SQ_WEIGHT_PARTS; i++) {
        h = hash_of(h, file + r->at[i], r->bytes[i]);
    }
    return h;
}

/* ---- the key ---- */

static sq_status add_file(uint64_t *h, const char *path, const char *name, sq_error *err) {
    struct stat s;
    sq_map m = {0};
    if (stat(path, &s) != 0) {
        return sq_fail_errno(err, "cannot stat", path);
    }
    sq_status st = sq_map_open(&m, path, err);
    if (st == SQ_OK) {
        int64_t facts[3] = {s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
        size_t n = m.size < TASTE ? m.size : TASTE;
        *h = hash_of(*h, name, strlen(name));
        *h = hash_of(*h, facts, sizeof facts);
        *h = hash_of(*h, m.data, n);
        *h = hash_of(*h, m.data + m.size - n, n);
        sq_map_close(&m);
    }
    return st;
}

static int counts(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot != NULL && (strcmp(dot, ".json") == 0 || strcmp(dot, ".safetensors") == 0);
}

static int is_part(const char *name) {
    for (const char *const *p = sq_source_parts; *p != NULL; p++) {
        if (strcmp(*p, name) == 0) {
            return 1;
        }
    }
    return 0;
}

static sq_status add_folder(uint64_t *h, const char *dir, int deep, sq_error *err) {
    sq_arena a = {0};
    char **names;
    size_t n = 0;
    sq_status st = sq_list_dir(&a, dir, &names, &n, err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        char *path = sq_path_join(&a, dir, names[i], err);
        if (path == NULL) {
            st = SQ_ENOMEM;
        } else if (counts(names[i]) && !sq_is_dir(path)) {
            st = add_file(h, path, names[i], err);
        } else if (deep && is_part(names[i]) && sq_is_dir(path)) {
            st = add_folder(h, path, 0, err);
        }
    }
    sq_arena_free(&a);
    return st;
}

/* ---- reading ---- */

static int within(const sq_map *m, uint64_t at, uint64_t bytes) {
    return at <= m->size && bytes <= m->size - at && at % sizeof(uint64_t) == 0;
}

static int parts_lie(const sq_map *m, const sq_packed_record *r) {
    int fine = memchr(r->name, '\0', NAME) != NULL;
    for (int i = 0; fine && i < SQ_WEIGHT_PARTS; i++) {
        fine = within(m, r->at[i], r->bytes[i]);
    }
    return fine;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const sq_packed_record *)a)->name, ((const sq_packed_record *)b)->name);
}

/* NULL when everything is in order; else what is not. */
static const char *check(sq_packed *p) {
    const sq_map *m = &p->map;
    header h;
    if (m->size < sizeof h) {
        return "it is cut off";
    }
    memcpy(&h, m->data, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic) != 0) {
        return "it is no such file";
    }
    if (h.key != p->key) {
        return "it belongs to other files or another layout";
    }
    if (h.size != m->size || h.n > m->size / sizeof(sq_packed_record) ||
        !within(m, h.records, h.n * sizeof(sq_packed_record))) {
        return "it is cut off";
    }
    const sq_packed_record *r = (const void *)(m->data + h.records);
    int bad = hash_of(h.key, r, h.n * sizeof *r) != h.hash;
    for (size_t i = 0; !bad && i < h.n; i++) {
        bad = !parts_lie(m, r + i) || (i > 0 && by_name(r + i - 1, r + i) >= 0);
    }
    if (!bad) { /* which reads all of it, with every thread */
#pragma omp parallel for schedule(dynamic, 1) num_threads(sq_threads()) reduction(| : bad)
        for (size_t i = 0; i < h.n; i++) {
            bad |= hash_record(m->data, r + i) != r[i].hash;
        }
    }
    p->records = bad ? NULL : r;
    p->n = bad ? 0 : h.n;
    return bad ? "it is damaged" : NULL;
}

sq_status sq_packed_open(sq_packed **out, const char *model, sq_error *err) {
    int folder = sq_is_dir(model);
    sq_buf path = {0};
    sq_status st;
    *out = NULL;
    sq_packed *p = sq_alloc(1, sizeof *p, "packed weights", err);
    st = p == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    p->key = hash_of(0, sq_packed_layout, strlen(sq_packed_layout));
    SQ_TRY(folder ? add_folder(&p->key, model, 1, err) : add_file(&p->key, model, "", err));
    sq_buf_printf(&path, folder ? "%s/squint.packed" : "%s.packed", model);
    p->path = path.failed ? NULL : sq_strdup(path.data, err);
    st = p->path == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    if (sq_map_open(&p->map, p->path, NULL) == SQ_OK) {
        p->reason = check(p);
        if (p->reason != NULL) {
            sq_map_close(&p->map);
        }
    }
fail:
    sq_buf_free(&path);
    if (st != SQ_OK) {
        sq_packed_close(&p);
    }
    *out = p;
    return st;
}

void sq_packed_close(sq_packed **p) {
    if (*p != NULL) {
        sq_map_close(&(*p)->map);
        sq_free((*p)->path);
        sq_free(*p);
        *p = NULL;
    }
}

int sq_packed_take(sq_packed *p, const char *name, int bits, int64_t n, int64_t k, sq_weight *w) {
    sq_packed_record key;
    size_t length = strlen(name);
    if (p == NULL || length >= NAME) {
        return 0;
    }
    memcpy(key.name, name, length + 1);
    const sq_packed_record *r =
        p->n == 0 ? NULL : bsearch(&key, p->records, p->n, sizeof key, by_name);
    if (r != NULL && r->kind == (bits == 4 ? SQ_W_Q4 : SQ_W_Q8) && r->n == n && r->k == k) {
        sq_weight_part parts[SQ_WEIGHT_PARTS];
        for (int i = 0; i < SQ_WEIGHT_PARTS; i++) {
            const void *data = r->bytes[i] == 0 ? NULL : p->map.data + r->at[i];
            parts[i] = (sq_weight_part){data, (size_t)r->bytes[i]};
        }
        *w = (sq_weight){
            .kind = (sq_wkind)r->kind, .n = n, .k = k, .k_padded = r->k_padded, .group = r->group};
        if (sq_weight_borrow(w, parts)) {
            return 1;
        }
    }
    p->missed = 1;
    return 0;
}

/* ---- writing ---- */

static sq_status write_parts(int fd, const char *path, const sq_packed_item *items,
                             sq_packed_record *r, size_t n, uint64_t *end, sq_error *err) {
    sq_status st = SQ_OK;
    for (size_t i = 0; i < n; i++) {
        const sq_weight *w = items[i].weight;
        sq_weight_part parts[SQ_WEIGHT_PARTS];
        sq_weight_parts(w, parts);
        snprintf(r[i].name, NAME, "%s", items[i].name);
        r[i].kind = w->kind;
        r[i].n = w->n;
        r[i].k = w->k;
        r[i].k_padded = w->k_padded;
        r[i].group = w->group;
        for (int j = 0; j < SQ_WEIGHT_PARTS; j++) {
            *end = (uint64_t)sq_round_up((int64_t)*end, ALIGN);
            r[i].at[j] = *end;
            r[i].bytes[j] = parts[j].bytes;
            SQ_TRY(sq_file_put(fd, parts[j].data, parts[j].bytes, *end, path, err));
            r[i].hash = hash_of(r[i].hash, parts[j].data, parts[j].bytes);
            *end += parts[j].bytes;
        }
    }
fail:
    return st;
}

static sq_status write_all(const sq_packed *p, int fd, const char *path,
                           const sq_packed_item *items, size_t n, sq_error *err) {
    header h = {.key = p->key, .n = n};
    uint64_t end = sizeof h;
    sq_packed_record *r = sq_alloc(n + 1, sizeof *r, "records of packed weights", err);
    sq_status st = r == NULL ? SQ_ENOMEM : SQ_OK;
    SQ_TRY(st);
    SQ_TRY(write_parts(fd, path, items, r, n, &end, err));
    qsort(r, n, sizeof *r, by_name);
    memcpy(h.magic, magic, sizeof magic);
    h.records = (uint64_t)sq_round_up((int64_t)end, ALIGN);
    h.size = h.records + n * sizeof *r;
    h.hash = hash_of(h.key, r, n * sizeof *r);
    SQ_TRY(sq_file_put(fd, r, n * sizeof *r, h.records, path, err));
    SQ_TRY(sq_file_put(fd, &h, sizeof h, 0, path, err));
    st = fsync(fd) == 0 ? SQ_OK : sq_fail_errno(err, "cannot sync", path);
fail:
    sq_free(r);
    return st;
}

/* The file to write in, locked; -1 with an error when it cannot be had, or another process writes.
 */
static int open_locked(const char *path, sq_error *err) {
    struct stat mine, there;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        sq_fail_errno(err, "cannot create", path);
        return -1;
    }
    /* who wrote before may have renamed it meanwhile */
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 || fstat(fd, &mine) != 0 || stat(path, &there) != 0 ||
        mine.st_ino != there.st_ino) {
        sq_fail(err, SQ_EIO, "another process is writing '%s'", path);
    } else if (ftruncate(fd, 0) != 0) {
        sq_fail_errno(err, "cannot truncate", path);
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

sq_status sq_packed_write(const sq_packed *p, const sq_packed_item *items, size_t n,
                          sq_error *err) {
    sq_buf tmp = {0};
    sq_buf_printf(&tmp, "%s.tmp", p->path);
    if (tmp.failed) {
        return sq_fail_nomem(err, "a path", strlen(p->path));
    }
    sq_status st = SQ_EIO;
    int fd = open_locked(tmp.data, err);
    if (fd >= 0) {
        st = write_all(p, fd, tmp.data, items, n, err);
        if (st == SQ_OK && rename(tmp.data, p->path) != 0) {
            st = sq_fail_errno(err, "cannot rename to", p->path);
        }
        if (st != SQ_OK) {
            unlink(tmp.data);
        }
        close(fd);
    }
    sq_buf_free(&tmp);
    return st;
}
