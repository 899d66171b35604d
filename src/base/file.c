#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

sq_status sq_map_open(sq_map *out, const char *path, sq_error *err) {
    *out = (sq_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return sq_fail_errno(err, "cannot open", path);
    }
    struct stat s;
    sq_status st = SQ_OK;
    if (fstat(fd, &s) != 0) {
        st = sq_fail_errno(err, "cannot stat", path);
    } else if (!S_ISREG(s.st_mode)) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' is not a regular file", path);
    } else if (s.st_size > 0) {
        void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            st = sq_fail_errno(err, "cannot map", path);
        } else {
            out->data = p;
            out->size = (size_t)s.st_size;
        }
    }
    close(fd);
    return st;
}

void sq_map_close(sq_map *m) {
    if (m->data != NULL) {
        munmap((void *)(uintptr_t)m->data, m->size);
    }
    *m = (sq_map){0};
}

void sq_map_release(const void *p, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t lo = ((uintptr_t)p + page - 1) / page * page, hi = ((uintptr_t)p + n) / page * page;
    if (hi > lo) {
        madvise((void *)lo, hi - lo, MADV_DONTNEED);
    }
}

sq_status sq_file_read(const char *path, size_t max, char **data, size_t *size, sq_error *err) {
    sq_map m;
    sq_status st = sq_map_open(&m, path, err);
    if (st != SQ_OK) {
        return st;
    }
    if (m.size > max) {
        st = sq_fail(err, SQ_EFORMAT, "'%s' is too large; got %zu bytes, wanted at most %zu", path,
                     m.size, max);
    } else {
        char *p = sq_alloc_raw(m.size + 1, 1, path, err);
        if (p == NULL) {
            st = SQ_ENOMEM;
        } else {
            if (m.size != 0) {
                memcpy(p, m.data, m.size);
            }
            p[m.size] = '\0';
            *data = p;
            if (size != NULL) {
                *size = m.size;
            }
        }
    }
    sq_map_close(&m);
    return st;
}

sq_status sq_file_put(int fd, const void *data, size_t n, uint64_t at, const char *path,
                      sq_error *err) {
    const char *p = data;
    while (n > 0) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return sq_fail_errno(err, "cannot write", path);
        }
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return SQ_OK;
}

static sq_status write_all(int fd, const char *p, size_t n, const char *path, sq_error *err) {
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w < 0) {
            return sq_fail_errno(err, "cannot write", path);
        }
        p += w;
        n -= (size_t)w;
    }
    return SQ_OK;
}

sq_status sq_file_write(const char *path, const void *data, size_t size, sq_error *err) {
    sq_buf tmp = {0};
    sq_buf_printf(&tmp, "%s.tmp", path);
    if (tmp.failed) {
        return sq_fail_nomem(err, "a path", strlen(path));
    }
    sq_status st = SQ_OK;
    int fd = open(tmp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        st = sq_fail_errno(err, "cannot create", tmp.data);
    } else {
        st = write_all(fd, data, size, tmp.data, err);
        if (st == SQ_OK && fsync(fd) != 0) {
            st = sq_fail_errno(err, "cannot sync", tmp.data);
        }
        if (close(fd) != 0 && st == SQ_OK) {
            st = sq_fail_errno(err, "cannot close", tmp.data);
        }
        if (st == SQ_OK && rename(tmp.data, path) != 0) {
            st = sq_fail_errno(err, "cannot rename to", path);
        }
        if (st != SQ_OK) {
            unlink(tmp.data);
        }
    }
    sq_buf_free(&tmp);
    return st;
}

sq_status sq_file_copy(const char *from, const char *to, sq_error *err) {
    sq_map m;
    sq_status st = sq_map_open(&m, from, err);
    if (st == SQ_OK) {
        st = sq_file_write(to, m.data, m.size, err);
        sq_map_close(&m);
    }
    return st;
}

int sq_file_exists(const char *path) {
    struct stat s;
    return lstat(path, &s) == 0;
}

int sq_is_dir(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

sq_status sq_make_dirs(const char *path, sq_error *err) {
    char *p = sq_strdup(path, err);
    if (p == NULL) {
        return SQ_ENOMEM;
    }
    sq_status st = SQ_OK;
    for (char *s = p + 1; st == SQ_OK; s++) {
        if (*s == '/' || *s == '\0') {
            char c = *s;
            *s = '\0';
            if (mkdir(p, 0755) != 0 && (errno != EEXIST || !sq_is_dir(p))) {
                st = sq_fail_errno(err, "cannot create the folder", p);
            }
            *s = c;
            if (c == '\0') {
                break;
            }
        }
    }
    sq_free(p);
    return st;
}

sq_status sq_remove_tree(const char *path, sq_error *err) {
    struct stat s;
    if (lstat(path, &s) != 0) {
        return errno == ENOENT ? SQ_OK : sq_fail_errno(err, "cannot stat", path);
    }
    if (!S_ISDIR(s.st_mode)) {
        return unlink(path) == 0 ? SQ_OK : sq_fail_errno(err, "cannot remove", path);
    }
    sq_arena a = {0};
    char **names;
    size_t n;
    sq_status st = sq_list_dir(&a, path, &names, &n, err);
    for (size_t i = 0; st == SQ_OK && i < n; i++) {
        char *child = sq_path_join(&a, path, names[i], err);
        st = child == NULL ? SQ_ENOMEM : sq_remove_tree(child, err);
    }
    sq_arena_free(&a);
    if (st == SQ_OK && rmdir(path) != 0) {
        st = sq_fail_errno(err, "cannot remove", path);
    }
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

sq_status sq_list_dir(sq_arena *a, const char *path, char ***names, size_t *count, sq_error *err) {
    DIR *d = opendir(path);
    if (d == NULL) {
        return sq_fail_errno(err, "cannot open the folder", path);
    }
    size_t n = 0, cap = 0;
    char **list = NULL;
    sq_status st = SQ_OK;
    for (struct dirent *e; st == SQ_OK && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            continue;
        }
        if (n == cap) {
            cap = cap == 0 ? 32 : cap * 2;
            char **more = sq_arena_alloc(a, cap, sizeof *more, err);
            if (more == NULL) {
                st = SQ_ENOMEM;
                break;
            }
            if (n != 0) {
                memcpy(more, list, n * sizeof *list);
            }
            list = more;
        }
        list[n] = sq_arena_strdup(a, e->d_name, err);
        st = list[n] == NULL ? SQ_ENOMEM : SQ_OK;
        n++;
    }
    closedir(d);
    if (st == SQ_OK) {
        if (n > 1) {
            qsort(list, n, sizeof *list, by_name);
        }
        *names = list;
        *count = n;
    }
    return st;
}

char *sq_path_join(sq_arena *a, const char *dir, const char *name, sq_error *err) {
    if (name[0] == '/') {
        return sq_arena_strdup(a, name, err);
    }
    size_t n = strlen(dir);
    return sq_arena_printf(a, err, "%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name);
}

char *sq_path_dir(sq_arena *a, const char *path, sq_error *err) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return sq_arena_strdup(a, ".", err);
    }
    int n = slash == path ? 1 : (int)(slash - path);
    return sq_arena_printf(a, err, "%.*s", n, path);
}
