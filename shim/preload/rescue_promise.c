/* SPDX-License-Identifier: MIT
 *
 * Does a size fit? ftruncate takes no page, so the free space alone does not tell: what others have been
 * given and have not yet touched belongs to them. Two kinds are known: what this run sized (a table in
 * the journal: torch unlinks a file at once, only its maker's descriptor leads there) and the holes of
 * all files that have a name in /dev/shm, whoever made them. Both are looked up only where their upper
 * bound does not fit, the names not more than a fifth of the time. Any context.
 */
#include "rescue.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define HOLES_EVERY 5000000u      /* ns */
#define YOUNG 250000000u          /* a closed file may still be filled through its mapping */
#define YOUNG_MEMORY 30000000000u /* ... and here too much trust ends in an out-of-memory kill */
#define SLACK 20000000u           /* between the entry here and the ftruncate itself */

static int64_t hole(const struct stat *st, int64_t size)
{
    int64_t left = size - (int64_t)st->st_blocks * 512;
    return left > 0 ? left : 0;
}

static void retire(struct nng_promise *p, uint64_t ticket)
{
    atomic_compare_exchange_strong(&p->ticket, &ticket, 0);
}

uint64_t nng_promise_add(int fd, uint64_t ino, int64_t size, bool memory)
{
    struct nng_journal *j = nng_journal;
    if (!j)
        return 0;
    for (unsigned i = 0; i < NNG_PROMISES_N; i++) { /* it grows: one entry a file */
        uint64_t old = atomic_load_explicit(&j->promises[i].ticket, memory_order_acquire);
        if (old && j->promises[i].ino == ino && j->promises[i].memory == memory)
            retire(&j->promises[i], old);
    }
    uint64_t ticket = atomic_fetch_add(&j->hdr.promises, 1) + 1;
    struct nng_promise *p = &j->promises[ticket % NNG_PROMISES_N];
    if (!nng_journal_fit(p, sizeof *p))
        return 0;
    atomic_store(&p->ticket, 0);
    p->pid = (uint32_t)nng_sys0(SYS_getpid);
    p->fd = fd;
    p->ino = ino;
    p->size = (uint64_t)size;
    p->time_ns = nng_now();
    p->memory = memory;
    atomic_store(&p->ticket, ticket);
    return ticket;
}

/* The file behind that descriptor, if it is still that one. */
static bool look_there(const struct nng_promise *p, struct stat *st)
{
    char path[48], *end = path + sizeof path;
    char *at = nng_fmt_u64(nng_fmt_str(path, end, "/proc/"), end, p->pid);
    nng_fmt_u64(nng_fmt_str(at, end, "/fd/"), end, (uint64_t)p->fd);
    return !nng_sys4(SYS_newfstatat, AT_FDCWD, path, st, 0) && st->st_ino == p->ino;
}

/* Without the file `own`. `named_since`: files that have a name and are older were counted by it. */
static int64_t open_promises(bool memory, uint64_t own, uint64_t named_since)
{
    struct nng_journal *j = nng_journal;
    int64_t sum = 0;
    if (!j || !atomic_load(&j->hdr.promises))
        return 0;
    uint64_t now = nng_now();
    for (unsigned i = 0; i < NNG_PROMISES_N; i++) {
        struct nng_promise copy, *p = &j->promises[i];
        struct stat st;
        uint64_t ticket = atomic_load(&p->ticket);
        if (!ticket)
            continue;
        copy.pid = p->pid, copy.fd = p->fd, copy.ino = p->ino, copy.size = p->size;
        copy.time_ns = p->time_ns, copy.memory = p->memory;
        if (atomic_load(&p->ticket) != ticket || !copy.memory == memory || copy.ino == own)
            continue;
        uint64_t age = now > copy.time_ns ? now - copy.time_ns : 0;
        if (look_there(&copy, &st)) {
            bool set = age > SLACK && st.st_size < (int64_t)copy.size; /* refused, or cut since */
            int64_t left = hole(&st, set ? st.st_size : (int64_t)copy.size);
            if (!left)
                retire(p, ticket);
            else if (memory || !st.st_nlink || copy.time_ns + SLACK > named_since)
                sum += left;
        } else if (age < (memory ? YOUNG_MEMORY : YOUNG) ||
                   (!memory && copy.time_ns + SLACK > named_since)) {
            sum += (int64_t)copy.size;
        } else {
            retire(p, ticket);
        }
    }
    return sum;
}

int64_t nng_promised_memory(uint64_t own)
{
    return open_promises(true, own, 0);
}

static int64_t holes_of_names(void)
{
    char buf[1024];
    struct stat st;
    int64_t sum = 0;
    long n;
    long dir = nng_sys4(SYS_openat, AT_FDCWD, "/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    while (dir >= 0 && (n = nng_sys3(SYS_getdents64, dir, buf, sizeof buf)) > 0)
        for (long at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(buf + at);
            if (d->d_type == DT_REG &&
                !nng_sys4(SYS_newfstatat, dir, d->d_name, &st, AT_SYMLINK_NOFOLLOW))
                sum += hole(&st, st.st_size);
            at += d->d_reclen;
        }
    if (dir >= 0)
        nng_sys1(SYS_close, dir);
    return sum;
}

/* What is given and not used, without `own`. */
static int64_t all_holes(struct nng_header *h, uint64_t own)
{
    uint64_t now = nng_now(), cost = atomic_load(&h->holes_cost), at = atomic_load(&h->holes_at);
    if (now - at > (cost * 4 > HOLES_EVERY ? cost * 4 : HOLES_EVERY)) {
        int64_t holes = holes_of_names();
        atomic_store(&h->holes, holes);
        atomic_store(&h->holes_at, now);
        atomic_store(&h->holes_cost, nng_now() - now);
        at = now;
    }
    return atomic_load(&h->holes) + open_promises(false, own, at);
}

int64_t nng_free_bytes(int fd)
{
    struct statfs fs;
    if (nng_sys2(SYS_fstatfs, fd, &fs) || !fs.f_blocks) /* no limit */
        return INT64_MAX;
    return (int64_t)fs.f_bavail * (int64_t)fs.f_bsize;
}

bool nng_promise_fits(int fd, const struct stat *st, int64_t size, bool keep)
{
    struct nng_journal *j = nng_journal;
    int64_t more = hole(st, size);
    if (!j || !more)
        return true;
    struct nng_header *h = &j->hdr;
    int64_t before = atomic_fetch_add(&h->promised, more);
    uint64_t own = nng_promise_add(fd, st->st_ino, size, false);
    bool fits =
        before <= INT64_MAX / 4 && more <= INT64_MAX / 4 && before + more <= nng_free_bytes(fd);
    if (!fits) { /* two that ask at the same time see each other: rather both go elsewhere */
        int64_t holes = all_holes(h, st->st_ino);
        atomic_fetch_add(&h->promised, holes - before);
        fits = more <= INT64_MAX / 4 && holes + more <= nng_free_bytes(fd);
    }
    if (!fits || !keep) {
        retire(&j->promises[own % NNG_PROMISES_N], own);
        atomic_fetch_sub(&h->promised, more);
    }
    return fits;
}
