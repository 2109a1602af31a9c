/* SPDX-License-Identifier: MIT
 *
 * A hook saw a failure that can be a cause: record it with the room on that file system, thinned so
 * that 12,000 equal failures cost a handful of slots. Any context; raw system calls, errno kept.
 */
#include "rescue.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

static const int errs[] = {EMFILE, ENFILE, ENOSPC, EDQUOT, EFBIG, EIO, ENOMEM, EAGAIN};
#define ERRS_N (sizeof errs / sizeof *errs)

/* Plain numbers changed by relaxed atomics: a lost count between threads does no harm. */
static struct seen {
    _Atomic uint64_t count, last_ns;
} seen[NNG_C_COUNT][ERRS_N];

static int err_index(int err)
{
    for (unsigned i = 0; i < ERRS_N; i++)
        if (errs[i] == err)
            return (int)i;
    return -1;
}

bool nng_err_matters(int err)
{
    return err_index(err) >= 0;
}

bool nng_on_devshm(uint64_t dev)
{
    struct nng_journal *j = nng_journal;
    return j && j->hdr.shm_dev && j->hdr.shm_dev == dev;
}

void nng_fails_after_fork(void)
{
    __builtin_memset(seen, 0, sizeof seen);
}

/* The first four, then powers of two, and at least one a second. */
static bool due(struct seen *s, uint64_t *count)
{
    uint64_t n = atomic_fetch_add_explicit(&s->count, 1, memory_order_relaxed) + 1;
    uint64_t now = nng_now(), last = atomic_load_explicit(&s->last_ns, memory_order_relaxed);
    *count = n;
    if (n > 4 && n & (n - 1) && now - last < 1000000000u)
        return false;
    atomic_store_explicit(&s->last_ns, now, memory_order_relaxed);
    return true;
}

struct place {
    int64_t free, total;
    unsigned flags;
};

static void room(struct place *at, const struct statfs *fs, uint64_t dev)
{
    at->free = (int64_t)fs->f_bavail * (int64_t)fs->f_bsize;
    at->total = (int64_t)fs->f_blocks * (int64_t)fs->f_bsize;
    if (fs->f_files && !fs->f_ffree)
        at->flags |= NNG_RF_INODES;
    if (nng_on_devshm(dev))
        at->flags |= NNG_RF_DEVSHM;
}

static void look_at_fd(struct place *at, int fd, char *path, size_t size)
{
    struct stat st;
    struct statfs fs;
    if (!nng_sys2(SYS_fstatfs, fd, &fs) && !nng_sys2(SYS_fstat, fd, &st))
        room(at, &fs, st.st_dev);
    if (path) {
        char link[40];
        char *p = nng_fmt_str(link, link + sizeof link, "/proc/self/fd/");
        nng_fmt_u64(p, link + sizeof link, (uint64_t)fd);
        long n = nng_sys4(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
        path[n > 0 ? n : 0] = 0;
    }
}

/* The file may not exist: then its folder says which file system it would have been on. */
static void look_at_path(struct place *at, const char *path)
{
    char dir[256];
    struct stat st;
    struct statfs fs;
    if (nng_sys4(SYS_newfstatat, AT_FDCWD, path, &st, 0) || nng_sys2(SYS_statfs, path, &fs)) {
        const char *slash = __builtin_strrchr(path, '/');
        size_t n = slash ? (size_t)(slash - path) : 0;
        if (n >= sizeof dir)
            return;
        __builtin_memcpy(dir, path, n);
        dir[n] = 0;
        const char *d = slash ? (n ? dir : "/") : ".";
        if (nng_sys4(SYS_newfstatat, AT_FDCWD, d, &st, 0) || nng_sys2(SYS_statfs, d, &fs))
            return;
    }
    room(at, &fs, st.st_dev);
}

static bool about_space(int err)
{
    return err == ENOSPC || err == EDQUOT || err == EFBIG || err == EIO;
}

/* EAGAIN is daily bread of every non-blocking fd; of a birth it is a limit. */
static bool daily(enum nng_call call, int err)
{
    return err == EAGAIN && call != NNG_C_FORK && call != NNG_C_POSIX_SPAWN &&
           call != NNG_C_PTHREAD_CREATE;
}

void nng_fail(enum nng_call call, int err, int fd, const char *path, int64_t asked)
{
    int i = err_index(err);
    uint64_t count;
    /* once: a refused page of the journal takes it away in the middle of this */
    struct nng_proc *self = nng_self;
    if (i < 0 || daily(call, err) || !nng_journal || !due(&seen[call][i], &count))
        return;
    int keep = errno;
    struct place at = {.free = -1, .total = -1};
    char name[256];
    name[0] = 0;
    int64_t size = err == ENOSPC && fd >= 0 && nng_rescue_shm ? nng_rescue_size_of(fd) : -1;
    if (size >= 0) { /* the program's own view of it (rescue.h) */
        fd = -1, path = "/dev/shm/";
        asked += call == NNG_C_WRITE && asked > 0 ? size : 0;
    }
    if (fd >= 0)
        look_at_fd(&at, fd, path ? NULL : name, sizeof name);
    else if (path && about_space(err))
        look_at_path(&at, path);
    if (err == ENOSPC && at.flags & NNG_RF_DEVSHM)
        at.flags |= NNG_RF_SUSPECT;
    if (self && !about_space(err)) { /* limits and use are what tells these causes apart */
        nng_usage_fill(&self->usage);
        /* Use at this instant: at the end, which is recorded over it, all may be given back. */
        if (err == EMFILE || err == EAGAIN) {
            bool fds = err == EMFILE;
            at.free = fds ? self->usage.fds : self->usage.threads;
            at.total = (int64_t)self->usage.rlim_soft[fds ? RLIMIT_NOFILE : RLIMIT_NPROC];
        }
    }
    nng_put(&(struct nng_put){.type = NNG_R_FAIL,
                              .call = call,
                              .err = err,
                              .flags = at.flags,
                              .a = asked,
                              .b = at.free,
                              .c = at.total,
                              .d = (int64_t)count,
                              .text = path ? path : name});
    errno = keep;
}
