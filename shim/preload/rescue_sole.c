/* SPDX-License-Identifier: MIT
 *
 * May a descriptor be replaced? Only where nobody else has the file: not by another open (the kernel
 * tells, by a lease), and not by dup, fork, a message or a mapping. For those there is a short way: this
 * thread opened it, and nothing of that kind has happened in this process since. The long way looks at
 * the descriptors and mappings of every process that it may look at. Any context.
 */
#include "rescue.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#define OPENERS_MS 20      /* who polls for a size has it open for a moment, again and again */
#define LONGEST 200000000u /* ns: the long way on a crowded machine */

_Atomic unsigned nng_rescue_spread;
static __thread struct {
    int fd;
    unsigned spread;
    uint64_t ino;
} opened = {.fd = -1};

void nng_rescue_note_open(int fd)
{
    struct stat st;
    if (fd < 0 || nng_sys2(SYS_fstat, fd, &st) || !nng_on_devshm(st.st_dev))
        return;
    opened.fd = fd;
    opened.spread = atomic_load(&nng_rescue_spread);
    opened.ino = st.st_ino;
}

void nng_rescue_note_map(int fd)
{
    if (opened.fd == fd)
        opened.fd = -1;
}

bool nng_lease(int fd, bool wait)
{
    long r;
    nng_sys3(SYS_fcntl, fd, F_SETSIG, SIGURG); /* should it be broken: ignored by default */
    for (unsigned i = 0;
         (r = nng_sys3(SYS_fcntl, fd, F_SETLEASE, F_WRLCK)) == -EAGAIN && wait && i < OPENERS_MS;
         i++)
        nng_sys2(SYS_nanosleep, &((struct timespec){0, 1000000}), NULL);
    if (r)
        nng_sys3(SYS_fcntl, fd, F_SETSIG, 0);
    return !r;
}

bool nng_lease_end(int fd)
{
    bool whole = nng_sys2(SYS_fcntl, fd, F_GETLEASE) == F_WRLCK;
    nng_sys3(SYS_fcntl, fd, F_SETLEASE, F_UNLCK);
    nng_sys3(SYS_fcntl, fd, F_SETSIG, 0);
    return whole;
}

static char *proc_path(char *p, char *end, uint64_t pid, const char *what)
{
    p = nng_fmt_u64(nng_fmt_str(p, end, "/proc/"), end, pid);
    return nng_fmt_str(p, end, what);
}

/* Is it mapped in that process? Reads in pieces; the inode stands between blanks. The same number on
 * another device counts too: a rescue less. */
static bool is_mapped(uint64_t pid, const struct stat *st)
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
static unsigned descriptors(uint64_t pid, const struct stat *st)
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

static bool others_have(uint64_t self, const struct stat *st)
{
    char buf[768];
    bool found = false;
    long n;
    uint64_t until = nng_now() + LONGEST, pid;
    long dir = nng_sys4(SYS_openat, AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir < 0)
        return true;
    while (!found && (n = nng_sys3(SYS_getdents64, dir, buf, sizeof buf)) > 0)
        for (long at = 0; at < n && !found;) {
            const struct dirent64 *d = (const struct dirent64 *)(buf + at);
            const char *end = d->d_name + __builtin_strlen(d->d_name);
            if (nng_parse_u64(d->d_name, end, &pid) == end && end > d->d_name && pid != self)
                found = descriptors(pid, st) || is_mapped(pid, st) || nng_now() > until;
            at += d->d_reclen;
        }
    nng_sys1(SYS_close, dir);
    return found;
}

bool nng_rescue_is_sole(int fd, const struct stat *st)
{
    if (!nng_lease(fd, true))
        return false;
    nng_lease_end(fd);
    if (opened.fd == fd && opened.ino == st->st_ino &&
        opened.spread == atomic_load(&nng_rescue_spread))
        return true;
    uint64_t self = (uint64_t)nng_sys0(SYS_getpid);
    return descriptors(self, st) == 1 && !is_mapped(self, st) && !others_have(self, st);
}
