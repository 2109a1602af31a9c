/* SPDX-License-Identifier: MIT
 *
 * The folders in which runs lie. The order is the library's own (preload/root.c): it takes the
 * first one that it can use. A folder that is not ours is passed over, unless the user named it.
 */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

bool nng_runs_base(unsigned i, char *out, size_t n, bool *asked)
{
    unsigned uid = (unsigned)geteuid();
    const char *v;
    *asked = i == 0;
    out[0] = 0;
    switch (i) {
    case 0:
        v = env("NNGUARD_DIR");
        snprintf(out, n, "%s", v ? v : "");
        return true;
    case 1:
        v = env("TMPDIR");
        snprintf(out, n, "%s/nnguard-%u", v ? v : "/tmp", uid);
        return true;
    case 2:
        snprintf(out, n, "/var/tmp/nnguard-%u", uid);
        return true;
    case 3:
        if ((v = env("XDG_STATE_HOME")))
            snprintf(out, n, "%s/nnguard", v);
        else if ((v = env("HOME")))
            snprintf(out, n, "%s/.local/state/nnguard", v);
        return true;
    case 4:
        snprintf(out, n, "./nnguard-%u", uid);
        return true;
    default:
        return false;
    }
}

/* YYYYMMDDTHHMMSSZ-... */
static bool is_run_name(const char *name)
{
    static const char shape[] = "ddddddddTddddddZ-";
    for (size_t i = 0; shape[i]; i++)
        if (shape[i] == 'd' ? name[i] < '0' || name[i] > '9' : name[i] != shape[i])
            return false;
    return true;
}

static int add(struct nng_runs *r, const char *base, const char *name, long mtime)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 32;
        void *p = realloc(r->run, cap * sizeof *r->run);
        if (!p)
            return -ENOMEM;
        r->run = p;
        r->cap = cap;
    }
    size_t size = strlen(base) + strlen(name) + 2;
    char *dir = malloc(size);
    if (!dir)
        return -ENOMEM;
    snprintf(dir, size, "%s/%s", base, name);
    r->run[r->n++] = (struct nng_run_dir){dir, dir + strlen(base) + 1, mtime};
    return 0;
}

int nng_runs_scan(struct nng_runs *r, const char *base)
{
    struct dirent *e;
    struct stat st;
    int err = 0;
    DIR *d = opendir(base);
    if (!d)
        return -errno;
    while (!err && (e = readdir(d)))
        if (is_run_name(e->d_name) && !fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) &&
            S_ISDIR(st.st_mode))
            err = add(r, base, e->d_name, (long)st.st_mtime);
    closedir(d);
    return err;
}

static bool is_ours(const char *base)
{
    struct stat st;
    return !lstat(base, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

void nng_runs_scan_all(struct nng_runs *r)
{
    char base[4096];
    bool asked;
    for (unsigned i = 0; nng_runs_base(i, base, sizeof base, &asked); i++) {
        if (!base[0] || (!asked && !is_ours(base)))
            continue;
        int err = nng_runs_scan(r, base);
        if (asked && !err && (r->n || (is_ours(base) && !access(base, W_OK))))
            break; /* the library took it, so it did not look further */
    }
    nng_runs_sort(r);
}

/* Names begin with the start's time, by the second; between equals the folder that changed last. */
static int newer_first(const void *a, const void *b)
{
    const struct nng_run_dir *x = a, *y = b;
    int c = strncmp(y->id, x->id, strlen("20260101T000000Z"));
    if (c)
        return c;
    return x->mtime != y->mtime ? (x->mtime < y->mtime ? 1 : -1) : strcmp(y->id, x->id);
}

void nng_runs_sort(struct nng_runs *r)
{
    if (r->n)
        qsort(r->run, r->n, sizeof *r->run, newer_first);
}

void nng_runs_free(struct nng_runs *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->run[i].dir);
    free(r->run);
    memset(r, 0, sizeof *r);
}
