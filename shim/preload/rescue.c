/* SPDX-License-Identifier: MIT
 *
 * See rescue.h. Any context: raw system calls, no lock; every wait is bounded. Fails open: whatever
 * goes wrong here, the program gets the result it would have had without us.
 */
#include "rescue.h"
#include "start.h"
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#define STEP                                                                                       \
    (4ll << 20)    /* pages are taken in such steps: a profiler's signals interrupt longer ones */
#define TRIES 1000 /* interrupted steps */
#define ABSURD 16  /* so many times all memory */
#define SPARSE (32ll << 20) /* larger ones that are only sized get their pages when touched */
#define FAR 65536           /* a byte so far behind the end gives a size (np.memmap) */
#define HOLD_NS 3000000000ll
#define SLICE_NS 50000000ll
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

bool nng_rescue_shm;
_Atomic unsigned nng_rescue_written;

static const char mem_name[] = "nnguard";

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
    return !nng_sys2(SYS_fstat, fd, st) && S_ISREG(st->st_mode);
}

static bool in_devshm(int fd, struct stat *st)
{
    return look(fd, st) && nng_on_devshm(st->st_dev);
}

static bool is_writable(int fd)
{
    long flags = nng_sys3(SYS_fcntl, fd, F_GETFL, 0);
    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
}

static long link_of_fd(int fd, char *path, size_t size)
{
    char link[40], *end = link + sizeof link;
    nng_fmt_u64(nng_fmt_str(link, end, "/proc/self/fd/"), end, (uint64_t)fd);
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    path[n > 0 ? n : 0] = 0;
    return n;
}

/* Memory of ours, by the name that memfd_create got: it may have come from another process. */
static bool is_memory(int fd)
{
    static const char ours[] = "/memfd:nnguard (deleted)";
    char path[64];
    return link_of_fd(fd, path, sizeof path) > 0 && !__builtin_strncmp(path, ours, sizeof ours);
}

static bool in_memory(int fd, struct stat *st)
{
    struct nng_journal *j = nng_journal;
    uint64_t dev = j ? atomic_load_explicit(&j->hdr.rescue_mem_dev, memory_order_relaxed) : 0;
    return dev && look(fd, st) && st->st_dev == dev && is_memory(fd);
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
/* Can the monitor hold names? Where it is just starting: wait for it, bounded. */
static bool can_hold(struct nng_header *h)
{
    uint64_t until = nng_now() + HOLD_NS;
    while (!atomic_load(&h->rescue_deaf)) {
        uint32_t state = atomic_load(&h->monitor_state);
        int pid = atomic_load(&h->monitor_pid); /* 0: being started */
        if ((state != NNG_M_STARTED && state != NNG_M_READY) || pid < 0 ||
            (pid && nng_sys2(SYS_kill, pid, 0) == -ESRCH))
            return false;
        if (atomic_load_explicit(&h->rescue_fd_base, memory_order_acquire))
            return true;
        if (nng_now() > until)
            atomic_store(&h->rescue_deaf, 1);
        nng_sys2(SYS_nanosleep, &((struct timespec){0, 1000000}), NULL);
    }
    return false;
}

struct nng_segment *nng_rescue_claim(int64_t size, bool named)
{
    struct nng_journal *j = nng_journal;
    if (!j || (named && !can_hold(&j->hdr)))
        return NULL;
    struct nng_header *h = &j->hdr;
    uint32_t n = named ? atomic_load(&h->rescue_fd_n) : NNG_SEGMENTS_N;
    for (uint32_t i = 0; i < n && i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &j->segments[i];
        uint32_t free = NNG_SG_FREE;
        if (atomic_load_explicit(&s->state, memory_order_relaxed) != NNG_SG_FREE)
            continue;
        if (!nng_journal_fit(s, sizeof *s))
            return NULL;
        uint32_t top = atomic_load(&h->rescue_top);
        while (top < i + 1 && !atomic_compare_exchange_weak(&h->rescue_top, &top, i + 1))
            ;
        if (!atomic_compare_exchange_strong(&s->state, &free, NNG_SG_FILLING))
            continue;
        s->pid = (uint32_t)nng_sys0(SYS_getpid); /* maybe a vfork child */
        s->size = (uint64_t)size;
        s->mem_fd = s->name_fd = s->held = s->held_name = -1;
        s->mem_ino = 0;
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
    uint32_t top = j ? atomic_load_explicit(&j->hdr.rescue_top, memory_order_acquire) : 0;
    for (uint32_t i = 0; i < top && i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &j->segments[i];
        if (atomic_load_explicit(&s->state, memory_order_acquire) == NNG_SG_HELD &&
            (ino ? atomic_load_explicit(&s->ino, memory_order_relaxed) == ino
                 : s->mem_ino == mem_ino))
            return s;
    }
    return NULL;
}

/* The name is gone, or never came to be. */
static void drop(struct nng_header *h, struct nng_segment *s)
{
    uint32_t state = atomic_load(&s->state);
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

/* True: the monitor holds both, at the numbers it was to. */
static bool is_held(struct nng_header *h, struct nng_segment *s)
{
    uint64_t until = nng_now() + HOLD_NS;
    while (atomic_load(&s->state) == NNG_SG_WANT && !atomic_load(&h->rescue_deaf)) {
        struct timespec ts = {0, SLICE_NS};
        if (!monitor_follows(h))
            return false;
        nng_sys4(SYS_futex, &s->state, FUTEX_WAIT, NNG_SG_WANT, &ts);
        if (nng_now() > until)
            atomic_store(&h->rescue_deaf, 1);
    }
    return atomic_load(&s->state) == NNG_SG_HELD && s->held >= 0 && s->held_name >= 0;
}

/* ---- names ---------------------------------------------------------------------------------------- */
/* The file gives its name to the link, while nobody can open it. */
static bool exchange(const char *link, const char *path, int fd, const struct stat *st)
{
    struct stat now;
    if (!nng_lease(fd, true))
        return false;
    bool ok = !nng_sys4(SYS_newfstatat, AT_FDCWD, path, &now, AT_SYMLINK_NOFOLLOW) &&
              now.st_ino == st->st_ino && now.st_dev == st->st_dev && now.st_nlink == 1 &&
              now.st_blocks == st->st_blocks &&
              !nng_sys5(SYS_renameat2, AT_FDCWD, link, AT_FDCWD, path, RENAME_EXCHANGE);
    bool mine = ok && !nng_sys4(SYS_newfstatat, AT_FDCWD, link, &now, AT_SYMLINK_NOFOLLOW) &&
                now.st_ino == st->st_ino;
    /* somebody opened it in this very moment, and waits: the file is what he gets */
    bool alone = nng_sys2(SYS_fcntl, fd, F_GETLEASE) == F_WRLCK;
    if (ok && !(mine && alone)) {
        nng_sys5(SYS_renameat2, AT_FDCWD, link, AT_FDCWD, path, RENAME_EXCHANGE);
        ok = false;
    }
    nng_lease_end(fd);
    return ok;
}

static int make_link(struct nng_journal *j, struct nng_segment *s, char *tmp, char *end,
                     struct stat *st)
{
    char target[48], *tend = target + sizeof target;
    uint32_t i = (uint32_t)(s - j->segments);
    char *p = nng_fmt_str(target, tend, "/proc/");
    p = nng_fmt_u64(p, tend, (uint64_t)(uint32_t)atomic_load(&j->hdr.monitor_pid));
    nng_fmt_u64(nng_fmt_str(p, tend, "/fd/"), tend, atomic_load(&j->hdr.rescue_fd_base) + 2 * i);
    p = nng_fmt_u64(nng_fmt_str(tmp, end, "/dev/shm/.nnguard-"), end, s->pid);
    nng_fmt_u64(nng_fmt_str(p, end, "-"), end, i);
    nng_sys3(SYS_unlinkat, AT_FDCWD, tmp, 0);
    long r = nng_sys3(SYS_symlinkat, target, AT_FDCWD, tmp);
    if (r)
        return (int)r;
    long fd = nng_sys4(SYS_openat, AT_FDCWD, tmp, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd >= 0 && (nng_sys2(SYS_fstat, fd, st) || !nng_on_devshm(st->st_dev))) {
        nng_sys1(SYS_close, fd);
        fd = -EXDEV;
    }
    if (fd < 0)
        nng_sys3(SYS_unlinkat, AT_FDCWD, tmp, 0);
    return (int)fd;
}

int nng_rescue_name(struct nng_segment *s, const char *path, int fd, const struct stat *st,
                    int mem_fd)
{
    struct nng_journal *j = nng_journal;
    struct stat mem, link;
    char tmp[64];
    int r = -EIO, link_fd = -1;
    if (!j || nng_sys2(SYS_fstat, mem_fd, &mem) ||
        (link_fd = make_link(j, s, tmp, tmp + sizeof tmp, &link)) < 0) {
        nng_rescue_release(s);
        return link_fd < 0 ? link_fd : r;
    }
    struct nng_header *h = &j->hdr;
    s->mem_ino = mem.st_ino;
    s->mem_fd = mem_fd;
    s->name_fd = link_fd;
    atomic_store_explicit(&s->ino, link.st_ino, memory_order_relaxed);
    atomic_fetch_add(&h->rescue_named, 1);
    atomic_store(&s->state, NNG_SG_WANT); /* release: the fields above are whole */
    ring(h);
    if (is_held(h, s))
        r = fd < 0 ? (int)nng_sys5(SYS_renameat2, AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE)
            : exchange(tmp, path, fd, st) ? 0
                                          : -EBUSY;
    if (r || fd >= 0) /* the link, or the file that had the name */
        nng_sys3(SYS_unlinkat, AT_FDCWD, tmp, 0);
    nng_sys1(SYS_close, link_fd);
    if (r)
        drop(h, s);
    return r;
}

uint64_t nng_rescue_name_of(int dir, const char *path)
{
    struct stat st;
    if (!path || nng_sys4(SYS_newfstatat, dir, path, &st, AT_SYMLINK_NOFOLLOW) ||
        !S_ISLNK(st.st_mode) || !nng_on_devshm(st.st_dev) || st.st_nlink != 1)
        return 0;
    return st.st_ino;
}

void nng_rescue_unlinked(uint64_t ino)
{
    struct nng_segment *s = ino ? find(ino, 0) : NULL;
    struct nng_journal *j = nng_journal;
    if (s && j)
        drop(&j->hdr, s);
}

/* "/proc/N/fd/N" and nothing else. */
static bool is_our_form(const char *target, const char *end)
{
    uint64_t v;
    const char *p = target + 6, *q;
    if (end - target < 6 || __builtin_strncmp(target, "/proc/", 6) ||
        (q = nng_parse_u64(p, end, &v)) == p || end - q < 5 || __builtin_strncmp(q, "/fd/", 4))
        return false;
    return nng_parse_u64(q + 4, end, &v) == end;
}

int nng_rescue_follow(const char *path, int flags)
{
    char target[64];
    struct stat st;
    int e = errno;
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, path, target, sizeof target - 1);
    if (n <= 0)
        return -e;
    target[n] = 0;
    if (!is_our_form(target, target + n))
        return -e;
    /* first without touching it: O_TRUNC must not hit what the number may mean by now */
    int keep = flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CLOEXEC);
    long fd = nng_sys4(SYS_openat, AT_FDCWD, target, keep, 0);
    if (fd < 0)
        return (int)fd;
    if (!look((int)fd, &st) || !is_memory((int)fd)) {
        nng_sys1(SYS_close, fd);
        return -e;
    }
    if (flags & O_TRUNC)
        nng_sys2(SYS_ftruncate, fd, 0);
    struct nng_journal *j = nng_journal;
    if (j)
        atomic_store_explicit(&j->hdr.rescue_mem_dev, st.st_dev, memory_order_relaxed);
    atomic_store_explicit(&nng_rescue_written, 1, memory_order_relaxed);
    return (int)fd;
}

/* ---- memory --------------------------------------------------------------------------------------- */
static void refuse(int64_t ask, int64_t room, int64_t limit)
{
    struct nng_journal *j = nng_journal;
    if (!j || ask / ABSURD > limit) /* an error of the program, which says so itself */
        return;
    struct nng_header *h = &j->hdr;
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

void nng_rescue_made(int64_t size)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return;
    struct nng_header *h = &j->hdr;
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
    struct nng_journal *j = nng_journal;
    struct stat st;
    long m = nng_sys2(SYS_memfd_create, mem_name, MFD_CLOEXEC);
    if (m == -EACCES) /* vm.memfd_noexec=2 */
        m = nng_sys2(SYS_memfd_create, mem_name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (m >= 0 && j && !atomic_load_explicit(&j->hdr.rescue_mem_dev, memory_order_relaxed) &&
        !nng_sys2(SYS_fstat, m, &st))
        atomic_store_explicit(&j->hdr.rescue_mem_dev, st.st_dev, memory_order_relaxed);
    return (int)m;
}

int nng_rescue_memory(int64_t size, int64_t filled, int64_t room, const struct nng_segment *s,
                      bool quiet)
{
    int64_t left = 0, limit = 0;
    if (!nng_rescue_room(room, s, 0, &left, &limit)) {
        if (!quiet)
            refuse(room, left, limit);
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
    return m;
}

/* ---- replacing a descriptor ----------------------------------------------------------------------- */
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

/* fd (as `st` tells it) becomes memory of `size`, with room for `room` and its pages taken up to
 * `filled`. */
static bool rescue(int fd, const struct stat *st, int64_t size, int64_t filled, int64_t room,
                   bool quiet)
{
    char path[280];
    bool named = st->st_nlink > 0, done = false;
    if (st->st_nlink > 1 || !nng_rescue_is_shm(fd, st) || !nng_rescue_is_sole(fd, st) ||
        (named &&
         (link_of_fd(fd, path, sizeof path) <= 0 || __builtin_strncmp(path, "/dev/shm/", 9))))
        return false;
    struct nng_segment *s = nng_rescue_claim(room, named);
    if (named && !s)
        return false;
    int m = nng_rescue_memory(size, filled, room, s, quiet);
    if (m >= 0 && !(st->st_blocks && copy(fd, m, st->st_size < size ? st->st_size : size))) {
        make_alike(m, fd, st);
        struct stat mem;
        if (filled < size && !nng_sys2(SYS_fstat, m, &mem))
            nng_promise_add(fd, mem.st_ino, size, true);
        if (named) {
            done = !nng_rescue_name(s, path, fd, st, m);
            s = NULL;
        } else {
            done = true;
        }
    }
    nng_rescue_release(s);
    if (done) {
        nng_rescue_made(room);
        atomic_store_explicit(&nng_rescue_written, 1, memory_order_relaxed);
        return put_in_place(m, fd);
    }
    if (m >= 0)
        nng_sys1(SYS_close, m);
    return false;
}

/* ---- what the hooks call -------------------------------------------------------------------------- */
/* The rescued file `ino` gets `more`. */
static bool may_have(int64_t more, uint64_t ino)
{
    int64_t room = 0, limit = 0;
    if (nng_rescue_room(more, NULL, ino, &room, &limit))
        return true;
    refuse(more, room, limit);
    return false;
}

int64_t nng_rescue_size_of(int fd)
{
    struct stat st;
    return in_memory(fd, &st) ? st.st_size : -1;
}

static void grew(int64_t more)
{
    struct nng_journal *j = nng_journal;
    if (j)
        atomic_fetch_add(&j->hdr.rescue_bytes, (uint64_t)more);
}

static int64_t beyond_pages(const struct stat *st, int64_t end)
{
    return end - (int64_t)st->st_blocks * 512;
}

static int grow(int fd, const struct stat *st, int64_t size)
{
    int64_t more = beyond_pages(st, size);
    struct nng_segment *s = find(0, st->st_ino);
    if (more > 0 && size > st->st_size) {
        if (!may_have(more, st->st_ino))
            return -ENOSPC;
        nng_promise_add(fd, st->st_ino, size, true);
    }
    if (s)
        s->size = (uint64_t)size;
    return 0;
}

static bool over_limit(int64_t size)
{
    struct rlimit l;
    return !nng_sys4(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &l) && (uint64_t)size > l.rlim_cur;
}

int nng_rescue_size(int fd, int64_t size)
{
    struct stat st;
    int e = errno, r = 0;
    if (size < 0 || !look(fd, &st) || !is_writable(fd))
        return 0;
    if (!nng_on_devshm(st.st_dev)) {
        if (in_memory(fd, &st))
            r = grow(fd, &st, size);
    } else if (size > st.st_size && !nng_promise_fits(fd, &st, size, true) && !over_limit(size)) {
        /* where only what others may use is in the way, the file itself may do: not worth a word */
        r = rescue(fd, &st, size, size <= SPARSE ? size : 0, size, size <= nng_free_bytes(fd));
    }
    errno = e;
    return r;
}

int nng_rescue_may_allocate(int fd, int64_t end)
{
    struct stat st;
    int e = errno, r = 0;
    if (end > 0 && is_writable(fd) && in_memory(fd, &st)) {
        int64_t more = beyond_pages(&st, end);
        r = more > 0 && !may_have(more, st.st_ino) ? -ENOSPC : 0;
        if (!r && more > 0)
            grew(more);
    }
    errno = e;
    return r;
}

bool nng_rescue_allocate(int fd, int64_t end, bool keep)
{
    struct stat st;
    int e = errno;
    bool ok = end > 0 && is_writable(fd) && in_devshm(fd, &st) &&
              rescue(fd, &st, keep || st.st_size > end ? st.st_size : end, end, end, false);
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

void nng_rescue_stretch(int fd, int64_t off)
{
    struct stat st;
    int e = errno;
    int64_t end;
    if (in_devshm(fd, &st) && (end = end_of_write(fd, &st, off, 1)) - st.st_size > FAR)
        nng_rescue_size(fd, end);
    errno = e;
}

bool nng_rescue_write(int fd, int64_t off, int64_t more)
{
    struct stat st;
    int e = errno;
    int64_t end = -1;
    bool ok = in_devshm(fd, &st) && (end = end_of_write(fd, &st, off, more)) > 0 &&
              rescue(fd, &st, st.st_size, end > st.st_size ? end : st.st_size,
                     end > st.st_size ? end : st.st_size, false);
    errno = e;
    return ok;
}

bool nng_rescue_may_grow(int fd, int64_t off, int64_t more)
{
    struct stat st;
    if (!in_memory(fd, &st))
        return true;
    int64_t end = end_of_write(fd, &st, off, more), have = (int64_t)st.st_blocks * 512;
    if (end <= have)
        return true;
    /* in steps, so that small writes do not ask each time */
    int64_t step = end / 8 < STEP ? end / 8 : STEP;
    if (end > st.st_size && step > 65536 && end <= INT64_MAX - step)
        end += step;
    if (may_have(end - have, st.st_ino) && !take_pages(fd, FALLOC_FL_KEEP_SIZE, have, end)) {
        grew(end - have);
        return true;
    }
    errno = ENOSPC;
    return false;
}
