/* SPDX-License-Identifier: MIT
 *
 * See rescue.h. Any context: raw system calls, no lock; every wait is bounded. Fails open: whatever
 * goes wrong here, the program gets the result it would have had without us.
 */
#include "rescue.h"
#include "start.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <linux/stat.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>

#define STEP                                                                                       \
    (4ll << 20)    /* pages are taken in such steps: a profiler's signals interrupt longer ones */
#define TRIES 1000 /* interrupted steps */
#define TIGHT 64   /* less than so many times the request is left: take the pages now */
#define HOLD_NS 1000000000ll
#define SLICE_NS 50000000ll
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

bool nng_rescue_shm;
_Atomic unsigned nng_rescue_written;

static _Atomic uint64_t mem_dev; /* st_dev of every memfd; 0 before the first */

/* ---- settings ------------------------------------------------------------------------------------- */
static void raise_descriptors(void)
{
    struct rlimit l;
    if (nng_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &l) || l.rlim_cur >= l.rlim_max)
        return;
    l.rlim_cur = l.rlim_max;
    nng_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, &l, NULL);
}

void nng_rescue_init(void)
{
    const char *v = nng_env("NNGUARD_RESCUE");
    bool fd = false, shm = false, known = true;
    while (v && *v) {
        size_t n = 0;
        while (v[n] && v[n] != ',')
            n++;
        bool all = n == 3 && !__builtin_memcmp(v, "all", 3);
        bool one = n == 3 && !__builtin_memcmp(v, "shm", 3);
        bool two = n == 2 && !__builtin_memcmp(v, "fd", 2);
        shm |= all || one;
        fd |= all || two;
        known &= all || one || two || !n || (n == 1 && *v == '0');
        v += n + (v[n] == ',');
    }
    if (!known && nng_st.root)
        nng_say("NNGUARD_RESCUE knows shm, fd (or shm,fd) and all; the rest of it is ignored",
                NULL);
    if (fd)
        raise_descriptors();
    nng_rescue_shm = shm && nng_journal && nng_journal->hdr.shm_dev;
}

/* ---- small things --------------------------------------------------------------------------------- */
static bool look(int fd, struct stat *st)
{
    return nng_journal && !nng_sys2(SYS_fstat, fd, st) && S_ISREG(st->st_mode);
}

static bool in_devshm(int fd, struct stat *st)
{
    return look(fd, st) && nng_on_devshm(st->st_dev);
}

/* Pages for [from, to); -errno of the first step that failed. */
static long take_pages(int fd, int mode, int64_t from, int64_t to)
{
    while (from < to) {
        int64_t n = to - from < STEP ? to - from : STEP;
        long r = -EINTR;
        for (unsigned i = 0; i < TRIES && r == -EINTR; i++)
            r = nng_sys4(SYS_fallocate, fd, mode, from, n);
        if (r)
            return r;
        from += n;
    }
    return 0;
}

static void give_pages(int fd, int64_t size)
{
    nng_sys4(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size);
}

static uint64_t birth_of(int fd)
{
    struct statx sx;
    if (nng_sys5(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) ||
        !(sx.stx_mask & STATX_BTIME))
        return 0;
    return (uint64_t)sx.stx_btime.tv_sec * 1000000000u + sx.stx_btime.tv_nsec;
}

static bool monitor_follows(const struct nng_header *h)
{
    uint32_t state = atomic_load(&h->monitor_state);
    int pid = atomic_load(&h->monitor_pid);
    return (state == NNG_M_READY || state == NNG_M_STARTED) && pid > 0 &&
           nng_sys2(SYS_kill, pid, 0) != -ESRCH;
}

static void ring(struct nng_header *h)
{
    atomic_fetch_add(&h->rescue_bell, 1);
    nng_sys3(SYS_futex, &h->rescue_bell, FUTEX_WAKE, 0x7fffffff);
}

/* ---- the table ------------------------------------------------------------------------------------ */
struct nng_segment *nng_rescue_claim(int64_t size)
{
    struct nng_header *h = &nng_journal->hdr;
    for (uint32_t i = 0; i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &nng_journal->segments[i];
        uint32_t free = NNG_SG_FREE;
        if (atomic_load_explicit(&s->state, memory_order_relaxed) != NNG_SG_FREE)
            continue;
        uint32_t top = atomic_load(&h->rescue_top);
        while (top < i + 1 && !atomic_compare_exchange_weak(&h->rescue_top, &top, i + 1))
            ;
        if (!atomic_compare_exchange_strong(&s->state, &free, NNG_SG_FILLING))
            continue;
        s->pid = (uint32_t)nng_sys0(SYS_getpid); /* maybe a vfork child */
        s->size = (uint64_t)size;
        s->mem_fd = s->name_fd = s->held = s->held_name = -1;
        s->born_ns = s->mem_ino = 0;
        s->time_ns = nng_now();
        atomic_store_explicit(&s->ino, 0, memory_order_relaxed);
        return s;
    }
    return NULL;
}

void nng_rescue_release(struct nng_segment *s)
{
    if (s)
        atomic_store_explicit(&s->state, NNG_SG_FREE, memory_order_release);
}

static struct nng_segment *find(uint64_t ino, uint64_t mem_ino)
{
    struct nng_journal *j = nng_journal;
    uint32_t top = atomic_load_explicit(&j->hdr.rescue_top, memory_order_acquire);
    for (uint32_t i = 0; i < top && i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &j->segments[i];
        uint32_t state = atomic_load_explicit(&s->state, memory_order_acquire);
        if ((state == NNG_SG_WANT || state == NNG_SG_HELD) &&
            (ino ? atomic_load_explicit(&s->ino, memory_order_relaxed) == ino
                 : s->mem_ino == mem_ino))
            return s;
    }
    return NULL;
}

/* Files with pages are themselves; and the birth time tells a number that was given again. */
struct nng_segment *nng_rescue_find(int fd, const struct stat *name)
{
    struct nng_segment *s = name->st_blocks ? NULL : find(name->st_ino, 0);
    if (!s || !s->born_ns)
        return s;
    uint64_t born = birth_of(fd);
    return !born || born == s->born_ns ? s : NULL;
}

static void wait_held(struct nng_header *h, struct nng_segment *s)
{
    uint64_t until = nng_now() + HOLD_NS;
    while (atomic_load(&s->state) == NNG_SG_WANT && !atomic_load(&h->rescue_deaf)) {
        struct timespec ts = {0, SLICE_NS};
        if (!monitor_follows(h))
            return;
        nng_sys4(SYS_futex, &s->state, FUTEX_WAIT, NNG_SG_WANT, &ts);
        if (nng_now() > until)
            atomic_store(&h->rescue_deaf, 1);
    }
}

void nng_rescue_publish(struct nng_segment *s, int name_fd, const struct stat *name, int mem_fd)
{
    struct nng_header *h = &nng_journal->hdr;
    struct stat st;
    if (!s || nng_sys2(SYS_fstat, mem_fd, &st))
        return;
    s->born_ns = birth_of(name_fd);
    s->mem_ino = st.st_ino;
    s->mem_fd = mem_fd;
    s->name_fd = name_fd;
    atomic_store_explicit(&s->ino, name->st_ino, memory_order_relaxed);
    atomic_fetch_add(&h->rescue_named, 1);
    atomic_store(&s->state, NNG_SG_WANT); /* release: the fields above are whole */
    if (!monitor_follows(h))
        return;
    ring(h);
    wait_held(h, s);
}

uint64_t nng_rescue_name_of(int dir, const char *path)
{
    struct stat st;
    if (!path || nng_sys4(SYS_newfstatat, dir, path, &st, AT_SYMLINK_NOFOLLOW) ||
        !S_ISREG(st.st_mode) || !nng_on_devshm(st.st_dev) || st.st_blocks || st.st_nlink != 1)
        return 0;
    return st.st_ino;
}

void nng_rescue_unlinked(uint64_t ino)
{
    struct nng_header *h = &nng_journal->hdr;
    struct nng_segment *s = ino ? find(ino, 0) : NULL;
    uint32_t state = s ? atomic_load(&s->state) : NNG_SG_FREE;
    while (state == NNG_SG_WANT || state == NNG_SG_HELD)
        if (atomic_compare_exchange_weak(&s->state, &state, NNG_SG_DROP)) {
            atomic_fetch_sub(&h->rescue_named, 1);
            if (monitor_follows(h))
                ring(h);
            else
                nng_rescue_release(s);
            return;
        }
}

/* ---- memory --------------------------------------------------------------------------------------- */
static void refuse(int64_t ask, int64_t room, int64_t limit)
{
    struct nng_header *h = &nng_journal->hdr;
    atomic_store_explicit(&h->rescue_refused_ask, (uint64_t)ask, memory_order_relaxed);
    atomic_store_explicit(&h->rescue_refused_room, (uint64_t)room, memory_order_relaxed);
    atomic_store_explicit(&h->rescue_refused_limit, (uint64_t)limit, memory_order_relaxed);
    if (atomic_fetch_add(&h->rescue_refused, 1) == 0) {
        if (monitor_follows(h))
            nng_ring_bell();
        else
            nng_say("rescue refused: memory is short too, see the limit of the container", NULL);
    }
}

static void made(int64_t size)
{
    struct nng_header *h = &nng_journal->hdr;
    atomic_fetch_add_explicit(&h->rescue_bytes, (uint64_t)size, memory_order_release);
    uint64_t biggest = atomic_load(&h->rescue_biggest);
    while (biggest < (uint64_t)size &&
           !atomic_compare_exchange_weak(&h->rescue_biggest, &biggest, (uint64_t)size))
        ;
    if (atomic_fetch_add(&h->rescue_segments, 1) == 0) {
        if (monitor_follows(h))
            nng_ring_bell();
        else
            nng_say("/dev/shm is too small: what does not fit goes to ordinary memory "
                    "(NNGUARD_RESCUE=shm)",
                    NULL);
    }
}

static int new_memory(void)
{
    long m = nng_sys2(SYS_memfd_create, "nnguard", MFD_CLOEXEC);
    if (m == -EACCES) /* vm.memfd_noexec=2 */
        m = nng_sys2(SYS_memfd_create, "nnguard", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (m >= 0 && !atomic_load_explicit(&mem_dev, memory_order_relaxed)) {
        struct stat st;
        if (!nng_sys2(SYS_fstat, m, &st))
            atomic_store_explicit(&mem_dev, st.st_dev, memory_order_relaxed);
    }
    return (int)m;
}

int nng_rescue_memory(int64_t size, int64_t filled, const struct nng_segment *s)
{
    int64_t room = 0, limit = 0;
    if (!nng_rescue_room(filled, s, &room, &limit)) {
        refuse(filled, room, limit);
        return -ENOSPC;
    }
    int m = new_memory();
    if (m < 0)
        return m;
    long r = nng_sys2(SYS_ftruncate, m, size);
    if (!r)
        r = take_pages(m, filled > size ? FALLOC_FL_KEEP_SIZE : 0, 0, filled);
    if (r) {
        nng_sys1(SYS_close, m);
        return (int)r;
    }
    made(filled);
    return m;
}

/* ---- replacing a descriptor ----------------------------------------------------------------------- */
/* Nobody else has opened this file by itself. A lease is the one question that the kernel answers;
 * should somebody open the file in this very moment, the signal is one that is ignored by default. */
static bool has_one_opener(int fd)
{
    nng_sys3(SYS_fcntl, fd, F_SETSIG, SIGURG);
    long r = nng_sys3(SYS_fcntl, fd, F_SETLEASE, F_WRLCK);
    if (!r)
        nng_sys3(SYS_fcntl, fd, F_SETLEASE, F_UNLCK);
    nng_sys3(SYS_fcntl, fd, F_SETSIG, 0);
    return !r;
}

static char *proc_path(char *p, char *end, uint32_t pid, const char *what)
{
    p = nng_fmt_u64(nng_fmt_str(p, end, "/proc/"), end, pid);
    return nng_fmt_str(p, end, what);
}

/* Is it mapped in that process? Reads in pieces; the inode stands between blanks. The same number on
 * another device counts too: a rescue less. */
static bool is_mapped(uint32_t pid, const struct stat *st)
{
    char path[40], want[32], buf[512], *end = want + sizeof want;
    nng_fmt_str(nng_fmt_u64(nng_fmt_str(want, end, " "), end, st->st_ino), end, " ");
    proc_path(path, path + sizeof path, pid, "/maps");
    long fd = nng_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0), n;
    size_t keep = 0, len = __builtin_strlen(want);
    bool found = false;
    while (fd >= 0 && !found &&
           (n = nng_sys3(SYS_read, fd, buf + keep, sizeof buf - 1 - keep)) != 0) {
        if (n == -EINTR)
            continue;
        if (n < 0)
            break;
        size_t have = keep + (size_t)n;
        buf[have] = 0;
        found = __builtin_strstr(buf, want) != NULL;
        keep = have < len ? have : len;
        __builtin_memmove(buf, buf + have - keep, keep);
    }
    if (fd >= 0)
        nng_sys1(SYS_close, fd);
    return found;
}

/* Descriptors of it in that process. */
static unsigned descriptors(uint32_t pid, const struct stat *st)
{
    char buf[768];
    struct stat other;
    unsigned found = 0;
    long n;
    proc_path(buf, buf + sizeof buf, pid, "/fd");
    long dir = nng_sys4(SYS_openat, AT_FDCWD, buf, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    while (dir >= 0 && (n = nng_sys3(SYS_getdents64, dir, buf, sizeof buf)) > 0)
        for (long at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(buf + at);
            found += d->d_name[0] != '.' && !nng_sys4(SYS_newfstatat, dir, d->d_name, &other, 0) &&
                     other.st_ino == st->st_ino && other.st_dev == st->st_dev;
            at += d->d_reclen;
        }
    if (dir >= 0)
        nng_sys1(SYS_close, dir);
    return found;
}

/* A file with content may be replaced only where no other descriptor or mapping of it exists: not by
 * another open, and not by dup, fork or a message to a process of this run. */
static bool is_sole(int fd, const struct stat *st)
{
    uint32_t self = (uint32_t)nng_sys0(SYS_getpid);
    if (!st->st_blocks)
        return true;
    if (!has_one_opener(fd) || descriptors(self, st) != 1 || is_mapped(self, st))
        return false;
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        const struct nng_proc *p = &nng_journal->procs[i];
        if (atomic_load_explicit(&p->state, memory_order_acquire) == NNG_P_LIVE && p->pid != self &&
            (descriptors(p->pid, st) || is_mapped(p->pid, st)))
            return false;
    }
    return true;
}

/* The program may have it open for writing only. */
static long copy(int fd, int to, int64_t size)
{
    char path[40];
    nng_fmt_u64(nng_fmt_str(path, path + sizeof path, "/proc/self/fd/"), path + sizeof path,
                (uint64_t)fd);
    long from = nng_sys4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0), n = 1;
    off_t off = 0;
    if (from < 0)
        return from;
    while (off < size && n > 0) {
        n = nng_sys4(SYS_sendfile, to, from, &off, size - off);
        if (n == -EINTR)
            n = 1;
    }
    nng_sys1(SYS_close, from);
    return off < size ? -EIO : nng_sys3(SYS_lseek, to, 0, 0 /* SEEK_SET */);
}

/* What the program can ask about the file: mode, owner, position, flags. */
static void make_alike(int m, int fd, const struct stat *st)
{
    long pos = nng_sys3(SYS_lseek, fd, 0, 1 /* SEEK_CUR */);
    long flags = nng_sys3(SYS_fcntl, fd, F_GETFL, 0);
    if (pos > 0)
        nng_sys3(SYS_lseek, m, pos, 0);
    if (flags > 0)
        nng_sys3(SYS_fcntl, m, F_SETFL, flags & (O_APPEND | O_NONBLOCK));
    nng_sys3(SYS_fchown, m, st->st_uid, st->st_gid);
    nng_sys2(SYS_fchmod, m, st->st_mode & 07777);
}

static bool put_in_place(int m, int fd)
{
    long cloexec = nng_sys3(SYS_fcntl, fd, F_GETFD, 0);
    bool ok = cloexec >= 0 && nng_sys3(SYS_dup3, m, fd, cloexec & FD_CLOEXEC ? O_CLOEXEC : 0) == fd;
    nng_sys1(SYS_close, m);
    return ok;
}

/* fd (as `st` tells it) becomes memory of `size`, its pages taken up to `filled`. */
static bool rescue(int fd, const struct stat *st, int64_t size, int64_t filled)
{
    bool named = st->st_nlink > 0;
    if (!nng_rescue_is_shm(fd, st))
        return false;
    struct nng_segment *s = nng_rescue_claim(filled);
    if (named && !s)
        return false;
    int m = nng_rescue_memory(size, filled, s);
    if (m < 0 || (st->st_blocks && copy(fd, m, st->st_size < size ? st->st_size : size))) {
        if (m >= 0)
            nng_sys1(SYS_close, m);
        nng_rescue_release(s);
        return false;
    }
    if (st->st_blocks)
        give_pages(fd, INT64_MAX);
    if (size != st->st_size)
        nng_sys2(SYS_ftruncate, fd, size);
    make_alike(m, fd, st);
    if (named)
        nng_rescue_publish(s, fd, st, m);
    else
        nng_rescue_release(s);
    bool ok = put_in_place(m, fd);
    if (named) { /* a monitor that comes late looks here */
        s->mem_fd = fd;
        s->name_fd = -1;
    }
    return ok;
}

/* ---- what the hooks call -------------------------------------------------------------------------- */
bool nng_rescue_fresh(int fd)
{
    struct stat st;
    return in_devshm(fd, &st) && !st.st_size && !st.st_blocks;
}

void nng_rescue_sized(int fd, int64_t size)
{
    struct statfs fs;
    struct stat st;
    int64_t ignored;
    if (size <= 0 || nng_sys2(SYS_fstatfs, fd, &fs) || !fs.f_blocks)
        return;
    int64_t free = (int64_t)fs.f_bavail * (int64_t)fs.f_bsize;
    if (size <= free / TIGHT)
        return;
    int e = errno;
    if (size <= free) {
        /* no memory for it: what happens at the touch is not ours to hasten */
        if (!nng_rescue_room(size, NULL, &ignored, &ignored) || !take_pages(fd, 0, 0, size))
            goto out;
        give_pages(fd, size);
    }
    if (look(fd, &st))
        rescue(fd, &st, size, size);
out:
    errno = e;
}

void nng_rescue_resized(int fd, int64_t size)
{
    struct stat st;
    char path[64], *end = path + sizeof path;
    if (!look(fd, &st) || nng_on_devshm(st.st_dev))
        return;
    struct nng_segment *s = find(0, st.st_ino);
    if (!s || atomic_load(&s->state) != NNG_SG_HELD || s->held_name < 0)
        return;
    s->size = (uint64_t)size;
    char *p = nng_fmt_str(path, end, "/proc/");
    p = nng_fmt_u64(p, end, (uint64_t)atomic_load(&nng_journal->hdr.monitor_pid));
    nng_fmt_u64(nng_fmt_str(p, end, "/fd/"), end, (uint64_t)s->held_name);
    nng_sys2(SYS_truncate, path, size);
}

bool nng_rescue_allocate(int fd, int64_t end)
{
    struct stat st;
    int e = errno;
    bool ok = end > 0 && in_devshm(fd, &st) && is_sole(fd, &st) &&
              rescue(fd, &st, st.st_size > end ? st.st_size : end, end);
    errno = e;
    return ok;
}

static int64_t end_of_write(int fd, const struct stat *st, int64_t off, int64_t more)
{
    if (off < 0)
        off = nng_sys3(SYS_fcntl, fd, F_GETFL, 0) & O_APPEND ? st->st_size
                                                             : nng_sys3(SYS_lseek, fd, 0, 1);
    int64_t end;
    return off < 0 || __builtin_add_overflow(off, more, &end) ? -1 : end;
}

bool nng_rescue_write(int fd, int64_t off, int64_t more)
{
    struct stat st;
    int e = errno;
    int64_t end = -1;
    bool ok = in_devshm(fd, &st) && (end = end_of_write(fd, &st, off, more)) > 0 &&
              is_sole(fd, &st) && rescue(fd, &st, st.st_size, end > st.st_size ? end : st.st_size);
    if (ok)
        atomic_fetch_add_explicit(&nng_rescue_written, 1, memory_order_relaxed);
    errno = e;
    return ok;
}

bool nng_rescue_may_grow(int fd, int64_t off, int64_t more)
{
    struct stat st;
    int64_t room, limit, end;
    if (!look(fd, &st) || st.st_dev != atomic_load_explicit(&mem_dev, memory_order_relaxed))
        return true;
    end = end_of_write(fd, &st, off, more);
    int64_t have = (int64_t)st.st_blocks * 512;
    if (end <= have)
        return true;
    end += STEP - 1; /* in steps, so that small writes do not ask each time */
    end -= end % STEP;
    if (nng_rescue_room(end - have, NULL, &room, &limit) &&
        !take_pages(fd, FALLOC_FL_KEEP_SIZE, have, end)) {
        atomic_fetch_add(&nng_journal->hdr.rescue_bytes, (uint64_t)(end - have));
        return true;
    }
    refuse(end - have, room, limit);
    errno = ENOSPC;
    return false;
}

/* ---- by name -------------------------------------------------------------------------------------- */
static int open_fd_of(uint32_t pid, int fd, uint64_t ino, int flags)
{
    char path[64], *end = path + sizeof path;
    struct stat st;
    if (fd < 0)
        return -ENOENT;
    char *p = nng_fmt_u64(nng_fmt_str(path, end, "/proc/"), end, pid);
    nng_fmt_u64(nng_fmt_str(p, end, "/fd/"), end, (uint64_t)fd);
    /* first without touching it: O_TRUNC must not hit what the number may mean by now */
    long r = nng_sys4(SYS_openat, AT_FDCWD, path, (flags & ~O_TRUNC) | O_CLOEXEC, 0);
    if (r < 0)
        return (int)r;
    if (nng_sys2(SYS_fstat, r, &st) || st.st_ino != ino || nng_on_devshm(st.st_dev)) {
        nng_sys1(SYS_close, r);
        return -ENOENT;
    }
    if (flags & O_TRUNC)
        nng_sys2(SYS_ftruncate, r, 0);
    return (int)r;
}

int nng_rescue_reopen(struct nng_segment *s, int flags)
{
    struct nng_header *h = &nng_journal->hdr;
    uint64_t ino = s->mem_ino;
    if (atomic_load(&s->state) == NNG_SG_WANT && monitor_follows(h))
        wait_held(h, s);
    int m = atomic_load(&s->state) == NNG_SG_HELD
                ? open_fd_of((uint32_t)atomic_load(&h->monitor_pid), s->held, ino, flags)
                : -ENOENT;
    return m >= 0 || m == -EACCES ? m : open_fd_of(s->pid, s->mem_fd, ino, flags);
}

/* 0: not one, or replaced; -errno: it is one, and cannot be had. Keeps errno. */
static int become(int fd, int flags)
{
    struct stat st;
    int e = errno, r = 0;
    struct nng_segment *s = in_devshm(fd, &st) ? nng_rescue_find(fd, &st) : NULL;
    if (s) {
        int m = nng_rescue_reopen(s, flags & (O_ACCMODE | O_TRUNC | O_APPEND | O_NONBLOCK));
        r = m < 0 ? m : put_in_place(m, fd) ? 0 : -EIO;
    }
    errno = e;
    return r;
}

int nng_rescue_opened(int fd, int flags)
{
    int r = fd < 0 || flags & O_PATH ? 0 : become(fd, flags);
    if (!r)
        return fd;
    /* the empty file would kill at the first touch */
    nng_sys1(SYS_close, fd);
    errno = -r;
    return -1;
}

void nng_rescue_stream(int fd, const char *mode)
{
    long flags = nng_sys3(SYS_fcntl, fd, F_GETFL, 0);
    if (flags >= 0)
        become(fd, (int)flags | (mode && *mode == 'w' ? O_TRUNC : 0));
}
