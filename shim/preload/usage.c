/* SPDX-License-Identifier: MIT
 *
 * Limits and use of the calling process, read from the kernel. Any context, a signal handler
 * included; frames stay small. What cannot be read stays 0.
 */
#include "internal.h"
#include "start.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void limits(struct nng_usage *u)
{
    for (unsigned i = 0; i < 16; i++) {
        struct {
            uint64_t soft, hard;
        } lim = {0, 0};
        nng_sys4(SYS_prlimit64, 0, i, NULL, &lim);
        u->rlim_soft[i] = lim.soft;
        u->rlim_hard[i] = lim.hard;
    }
}

/* The number behind "\nName:" in /proc/self/status; kB become bytes. */
static uint64_t field(const char *status, size_t n, const char *name, unsigned unit)
{
    size_t len = __builtin_strlen(name);
    for (size_t i = 0; i + len < n; i++) {
        if (status[i] != '\n' || __builtin_memcmp(status + i, name, len))
            continue;
        const char *p = status + i + len, *end = status + n;
        uint64_t v;
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        nng_parse_u64(p, end, &v);
        return v * unit;
    }
    return 0;
}

static void memory(struct nng_usage *u)
{
    char buf[768]; /* what is wanted comes first, up to Threads */
    long n = nng_read_file("/proc/self/status", buf, sizeof buf);
    if (n <= 0)
        return;
    u->vm_peak = field(buf, (size_t)n, "\nVmPeak:", 1024);
    u->vm_size = field(buf, (size_t)n, "\nVmSize:", 1024);
    u->vm_hwm = field(buf, (size_t)n, "\nVmHWM:", 1024);
    u->vm_rss = field(buf, (size_t)n, "\nVmRSS:", 1024);
}

/* Field 20 of stat: `Threads:` in status comes behind lines of any length. */
static uint32_t threads(void)
{
    char buf[512];
    long n = nng_read_file("/proc/self/stat", buf, sizeof buf);
    const char *end = buf + (n > 0 ? n : 0), *p = end;
    while (p > buf && *p != ')')
        p--;
    int skip = 2;
    for (; skip < 20 && p < end; p++)
        skip += *p == ' ';
    uint64_t v;
    nng_parse_u64(p, end, &v);
    return (uint32_t)v;
}

static uint32_t count_fds(uint64_t soft_limit)
{
    char buf[512];
    long dir =
        nng_sys4(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir == -EMFILE)
        return (uint32_t)soft_limit; /* the limit itself is the answer */
    if (dir < 0)
        return 0;
    uint32_t count = 0;
    long n;
    while ((n = nng_sys3(SYS_getdents64, dir, buf, sizeof buf)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(buf + at);
            count += d->d_name[0] != '.';
            at += d->d_reclen;
        }
    }
    nng_sys1(SYS_close, dir);
    return count ? count - 1 : 0; /* without the one that looked */
}

static uint64_t nanoseconds(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_usec * 1000u;
}

void nng_usage_fill(struct nng_usage *u)
{
    struct rusage r;
    if (!nng_journal_fit(u, sizeof *u))
        return;
    atomic_store_explicit(&u->valid, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    limits(u);
    memory(u);
    u->threads = threads();
    u->fds = count_fds(u->rlim_soft[RLIMIT_NOFILE]);
    if (!nng_sys2(SYS_getrusage, RUSAGE_SELF, &r)) {
        u->utime_ns = nanoseconds(&r.ru_utime);
        u->stime_ns = nanoseconds(&r.ru_stime);
    }
    /* release: pairs with the reader's acquire */
    atomic_store_explicit(&u->valid, 1, memory_order_release);
}
