/* SPDX-License-Identifier: MIT
 *
 * /dev/shm: how much room, who of the run holds it, what dead owners left behind.
 *
 * torch unlinks its segments at once, so what fills /dev/shm mostly has no name: only descriptors
 * and mappings of living processes show it. A file is told by its inode on that device and counted
 * once. Where a mapping cannot be asked for its blocks (no descriptor, no privilege) its length
 * stands in, and the sum never exceeds what is in use. All of it is bounded in time and number; a sum
 * cut short is a lower bound. "Left behind" is only said of a file whose maker is gone, which no
 * process that can be looked into holds, and of which all holders could be looked into: never within
 * a pid namespace, since processes outside it may share the mount.
 */
#include "probes.h"
#include "read.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define TIME_NS 50000000ULL
#define FDS_MAX 4096
#define NAMES_MAX 4096
#define FILES_MAX 2048
#define TABLE (FILES_MAX * 2) /* power of two */
#define MAPS_MAX (8u << 20)
#define INITIAL_PIDNS "pid:[4026531836]" /* the kernel's PROC_PID_INIT_INO */

int nng_devshm_young_s = 10;

struct file {
    uint64_t ino;        /* 0: free slot */
    int64_t bytes, size; /* size: as it was set, or what of it is mapped */
    bool exact;          /* bytes are the file's blocks, not a mapping's length */
    bool by_run, by_any;
};

struct look { /* one reading */
    dev_t dev;
    uint64_t until_ns;
    int fds;
    bool cut;         /* time or number ran out */
    bool hidden;      /* a process could not be looked into */
    char prefix[512]; /* how paths to its files start, as /proc shows them */
    char link[64];    /* where /dev/shm points to, "" if it is no link */
    unsigned n_files;
    struct file file[TABLE];
    struct nng_probes_lines lines;
};

static bool spent(struct look *k)
{
    if (!k->cut && (k->fds >= FDS_MAX || nng_probes_clock(CLOCK_MONOTONIC) > k->until_ns))
        k->cut = true;
    return k->cut;
}

static struct file *slot(struct look *k, uint64_t ino, bool add)
{
    uint64_t h = (ino * 0x9e3779b97f4a7c15ULL) >> 40;

    if (!ino)
        return NULL;
    for (unsigned i = 0; i < TABLE; i++) {
        struct file *f = &k->file[(h + i) & (TABLE - 1)];
        if (f->ino == ino)
            return f;
        if (f->ino)
            continue;
        if (!add || k->n_files == FILES_MAX)
            return NULL;
        k->n_files++;
        f->ino = ino;
        return f;
    }
    return NULL;
}

static void found(struct look *k, uint64_t ino, int64_t bytes, int64_t size, bool exact,
                  bool by_run)
{
    struct file *f = slot(k, ino, true);

    if (!f) {
        k->cut = true;
        return;
    }
    if (exact && !f->exact)
        f->bytes = bytes;
    else if (exact == f->exact && bytes > f->bytes)
        f->bytes = bytes;
    if (size > f->size)
        f->size = size;
    f->exact |= exact;
    f->by_run |= by_run;
    f->by_any = true;
}

static bool names_shm(const struct look *k, const char *path)
{
    size_t n = strlen(k->link);
    return !strncmp(path, k->prefix, strlen(k->prefix)) ||
           (n && !strncmp(path, k->link, n) && path[n] == '/');
}

/* stat of what a magic link leads to, without waiting for a server where it is no tmpfs after all. */
static bool blocks_of(const struct look *k, int dirfd, const char *name, uint64_t *ino,
                      int64_t *bytes, int64_t *size)
{
    struct statx sx;

    if (statx(dirfd, name, AT_STATX_DONT_SYNC, STATX_INO | STATX_BLOCKS | STATX_SIZE | STATX_TYPE,
              &sx) ||
        makedev(sx.stx_dev_major, sx.stx_dev_minor) != k->dev || !S_ISREG(sx.stx_mode))
        return false;
    *ino = sx.stx_ino;
    *bytes = (int64_t)sx.stx_blocks * 512;
    *size = (int64_t)sx.stx_size;
    return true;
}

static int look_at_fds(struct look *k, int pid, bool by_run)
{
    char path[512], target[512];
    struct dirent *e;
    uint64_t ino;
    int64_t bytes, size;
    int n = 0;

    if (!nng_probes_path(path, sizeof path, "/proc/%d/fd", pid))
        return 0;
    DIR *d = opendir(path);
    if (!d) {
        k->hidden |= errno == EACCES || errno == EPERM;
        return 0;
    }
    while (!spent(k) && (e = readdir(d))) {
        if (e->d_name[0] == '.')
            continue;
        k->fds++;
        ssize_t len = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
        if (len <= 0)
            continue;
        target[len] = '\0';
        if (!names_shm(k, target) || !blocks_of(k, dirfd(d), e->d_name, &ino, &bytes, &size))
            continue;
        found(k, ino, bytes, size, true, by_run);
        n++;
    }
    closedir(d);
    return n;
}

static void mapped(struct look *k, int pid, const char *line, uint64_t ino, bool by_run)
{
    unsigned long long start, end, off;
    char path[512];
    uint64_t got;
    int64_t bytes, size;

    if (sscanf(line, "%llx-%llx %*s %llx", &start, &end, &off) != 3 || end <= start)
        return;
    struct file *f = slot(k, ino, false);
    if (f && f->exact) {
        f->by_run |= by_run;
        f->by_any = true;
        return;
    }
    if (nng_probes_path(path, sizeof path, "/proc/%d/map_files/%llx-%llx", pid, start, end) &&
        blocks_of(k, AT_FDCWD, path, &got, &bytes, &size) && got == ino)
        found(k, ino, bytes, size, true, by_run);
    else
        found(k, ino, (int64_t)(end - start + off), (int64_t)(end - start + off), false, by_run);
}

static int look_at_maps(struct look *k, int pid, bool by_run)
{
    char path[64];
    char *line;
    unsigned major, minor;
    unsigned long long ino;
    int n = 0, lines = 0;

    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    int err = nng_probes_lines_open(&k->lines, path, MAPS_MAX);
    if (err) {
        k->hidden |= err == -EACCES || err == -EPERM;
        return 0;
    }
    while ((line = nng_probes_lines_next(&k->lines)) && (++lines % 64 || !spent(k))) {
        if (sscanf(line, "%*s %*s %*s %x:%x %llu", &major, &minor, &ino) != 3 ||
            makedev(major, minor) != k->dev)
            continue;
        mapped(k, pid, line, ino, by_run);
        n++;
    }
    nng_probes_lines_close(&k->lines);
    return n;
}

static bool in_run(const int *pids, int n, int pid)
{
    for (int i = 0; i < n; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

static void look_at_others(struct look *k, const int *pids, int n)
{
    char path[512];
    struct dirent *e;

    if (!nng_probes_path(path, sizeof path, "/proc"))
        return;
    DIR *d = opendir(path);
    if (!d) {
        k->hidden = true;
        return;
    }
    while (!spent(k) && (e = readdir(d))) {
        int pid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;
        if (pid <= 0 || in_run(pids, n, pid))
            continue;
        look_at_fds(k, pid, false);
        look_at_maps(k, pid, false);
    }
    closedir(d);
}

/* ---- names ------------------------------------------------------------------------------------ */
/* Names that trainers make. *pid: the maker where the name tells it, else 0. */
static bool trainers_name(const char *name, int *pid)
{
    static const struct {
        const char *prefix;
        char after_pid;
    } known[] = {{"torch_", '_'}, {"pym-", '-'}, {"psm_", 0}, {"sem.mp-", 0}};

    *pid = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t n = strlen(known[i].prefix);
        char *end;
        if (strncmp(name, known[i].prefix, n))
            continue;
        if (!known[i].after_pid)
            return true;
        if (!isdigit((unsigned char)name[n]))
            return false;
        unsigned long v = strtoul(name + n, &end, 10);
        if (*end != known[i].after_pid || v == 0 || v > 1u << 22)
            return false;
        *pid = (int)v;
        return true;
    }
    return false;
}

static bool alive(int pid)
{
    char path[512];
    return nng_probes_path(path, sizeof path, "/proc/%d", pid) && access(path, F_OK) == 0;
}

struct orphan {
    uint64_t ino;
    int64_t bytes;
};

/* Sum up the names; returns how many could be left-overs (put into orphan). */
static int look_at_names(struct look *k, struct nng_shm *out, struct orphan *orphan, int max)
{
    char path[512];
    struct dirent *e;
    struct stat st;
    struct timespec now;
    int n = 0, pid, seen = 0;

    if (!nng_probes_path(path, sizeof path, "/dev/shm"))
        return 0;
    DIR *d = opendir(path);
    if (!d)
        return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    while ((e = readdir(d)) && seen < NAMES_MAX && !spent(k)) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        seen++;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        int64_t bytes = (int64_t)st.st_blocks * 512;
        out->named += bytes;
        out->named_count++;
        if (n < max && S_ISREG(st.st_mode) && trainers_name(e->d_name, &pid) &&
            !(pid && alive(pid)) && st.st_ctime + nng_devshm_young_s <= now.tv_sec &&
            (geteuid() == 0 || st.st_uid == geteuid()))
            orphan[n++] = (struct orphan){st.st_ino, bytes};
    }
    closedir(d);
    return n;
}

/* ---- the whole -------------------------------------------------------------------------------- */
static bool room(struct nng_shm *out, dev_t *dev)
{
    char path[512];
    struct statfs fs;
    struct stat st;

    out->total = out->free = out->inodes_free = -1;
    if (!nng_probes_path(path, sizeof path, "/dev/shm") || statfs(path, &fs) || stat(path, &st) ||
        !S_ISDIR(st.st_mode))
        return false;
    *dev = st.st_dev;
    out->present = true;
    out->total = (int64_t)fs.f_blocks * (int64_t)fs.f_bsize;
    out->free = (int64_t)fs.f_bavail * (int64_t)fs.f_bsize;
    out->inodes_free = fs.f_files ? (int64_t)fs.f_ffree : -1; /* 0 of 0: not limited */
    return true;
}

static void sum_up(const struct look *k, const struct orphan *orphan, int n, bool all_seen,
                   struct nng_shm *out)
{
    int64_t used = out->total - out->free;
    double sized = 0; /* a size costs nothing to give: any number of them may be absurd */

    for (unsigned i = 0; i < TABLE; i++)
        if (k->file[i].ino && k->file[i].by_run)
            out->held_by_run += k->file[i].bytes, sized += (double)k->file[i].size;
    if (used >= 0 && out->held_by_run > used)
        out->held_by_run = used;
    out->sized_by_run = sized < 0x1p60 ? (int64_t)sized : INT64_MAX / 8;
    if (!all_seen)
        return;
    out->leaked = 0;
    for (int i = 0; i < n; i++) {
        const struct file *f = slot((struct look *)(uintptr_t)k, orphan[i].ino, false);
        if (f && f->by_any)
            continue;
        out->leaked += orphan[i].bytes;
        out->leaked_count++;
    }
}

bool nng_devshm_all_visible(void)
{
    char path[512], ns[64];
    ssize_t n = nng_probes_path(path, sizeof path, "/proc/self/ns/pid")
                    ? readlink(path, ns, sizeof ns - 1)
                    : -1;

    ns[n > 0 ? n : 0] = '\0';
    return !strcmp(ns, INITIAL_PIDNS);
}

void nng_devshm_read(const int *pids, int n, struct nng_shm *out)
{
    char path[512];
    struct look *k = calloc(1, sizeof *k);
    struct orphan *orphan = calloc(FILES_MAX, sizeof *orphan);

    memset(out, 0, sizeof *out);
    out->held_by_run = out->sized_by_run = out->leaked = out->biggest_ask = -1;
    if (!k || !orphan || !room(out, &k->dev))
        goto out;
    k->until_ns = nng_probes_clock(CLOCK_MONOTONIC) + TIME_NS;
    if (nng_probes_path(k->prefix, sizeof k->prefix, "/dev/shm/") &&
        nng_probes_path(path, sizeof path, "/dev/shm")) {
        ssize_t len = readlink(path, k->link, sizeof k->link - 1);
        k->link[len > 0 ? len : 0] = '\0';
    }
    int orphans = look_at_names(k, out, orphan, FILES_MAX);
    if (n <= 0)
        goto out;
    out->held_by_run = 0;
    for (int i = 0; i < n && !spent(k); i++) {
        int held = look_at_fds(k, pids[i], true);
        held += look_at_maps(k, pids[i], true);
        out->holders += held > 0;
    }
    if (orphans && !nng_devshm_all_visible())
        k->hidden = true;
    else if (orphans)
        look_at_others(k, pids, n);
    sum_up(k, orphan, orphans, !k->cut && (!orphans || !k->hidden), out);
out:
    free(orphan);
    free(k);
}

int64_t nng_devshm_used(void)
{
    struct nng_shm s;
    dev_t dev;

    memset(&s, 0, sizeof s);
    return room(&s, &dev) ? s.total - s.free : -1;
}
