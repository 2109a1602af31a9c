/* SPDX-License-Identifier: MIT
 *
 * What a living process may use and uses: /proc/PID/limits and status; and who limits the number of
 * its tasks. /proc/PID/limits is readable where prlimit(2) on a foreign process is refused.
 */
#include "probes.h"
#include "read.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 65536
#define SCAN_MAX 16384
#define SCAN_NS 100000000ULL
#define CAP_ADMIN 21
#define CAP_RESOURCE 24

static const struct {
    const char *name;
    unsigned resource;
} known[] = {
    {"Max cpu time", RLIMIT_CPU},
    {"Max file size", RLIMIT_FSIZE},
    {"Max data size", RLIMIT_DATA},
    {"Max stack size", RLIMIT_STACK},
    {"Max core file size", RLIMIT_CORE},
    {"Max resident set", RLIMIT_RSS},
    {"Max processes", RLIMIT_NPROC},
    {"Max open files", RLIMIT_NOFILE},
    {"Max locked memory", RLIMIT_MEMLOCK},
    {"Max address space", RLIMIT_AS},
    {"Max file locks", RLIMIT_LOCKS},
    {"Max pending signals", RLIMIT_SIGPENDING},
    {"Max msgqueue size", RLIMIT_MSGQUEUE},
    {"Max nice priority", RLIMIT_NICE},
    {"Max realtime priority", RLIMIT_RTPRIO},
    {"Max realtime timeout", RLIMIT_RTTIME},
};

static bool limit_value(const char **p, uint64_t *out)
{
    char *end;

    while (**p == ' ')
        ++*p;
    if (!strncmp(*p, "unlimited", 9)) {
        *out = ~0ULL;
        *p += 9;
        return true;
    }
    if (!isdigit((unsigned char)**p))
        return false;
    *out = strtoull(*p, &end, 10);
    *p = end;
    return true;
}

static bool read_limits(int pid, struct nng_usage *out)
{
    char path[64], text[4096];
    bool any = false;

    snprintf(path, sizeof path, "/proc/%d/limits", pid);
    if (nng_probes_slurp(path, text, sizeof text) <= 0)
        return false;
    for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            size_t n = strlen(known[i].name);
            const char *p = line + n;
            if (strncmp(line, known[i].name, n) || *p != ' ')
                continue;
            if (limit_value(&p, &out->rlim_soft[known[i].resource]) &&
                limit_value(&p, &out->rlim_hard[known[i].resource]))
                any = true;
        }
    return any;
}

static uint64_t kib(const char *text, const char *key)
{
    int64_t v = nng_probes_keyed(text, key);
    return v < 0 || v > INT64_MAX / 1024 ? 0 : (uint64_t)v * 1024;
}

static ssize_t read_status(int pid, char *text, size_t n)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    return nng_probes_slurp(path, text, n);
}

static uint32_t count_fds(int pid)
{
    char path[512];
    struct stat st;
    struct dirent *e;
    uint32_t n = 0;

    if (!nng_probes_path(path, sizeof path, "/proc/%d/fd", pid))
        return 0;
    if (stat(path, &st) == 0 && st.st_size > 0 && !*nng_probe_root)
        return (uint32_t)st.st_size; /* from Linux 6.2 on the size is the number */
    DIR *d = opendir(path);
    if (!d)
        return 0;
    while (n < FDS_MAX && (e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

void nng_limits_read(int pid, struct nng_usage *out)
{
    char text[4096];
    struct nng_pstat st;
    bool limits;

    memset(out, 0, sizeof *out);
    limits = read_limits(pid, out);
    if (!limits) {
        memset(out->rlim_soft, 0xff, sizeof out->rlim_soft);
        memset(out->rlim_hard, 0xff, sizeof out->rlim_hard);
    }
    if (read_status(pid, text, sizeof text) > 0) {
        int64_t threads = nng_probes_keyed(text, "Threads");
        out->vm_size = kib(text, "VmSize");
        out->vm_peak = kib(text, "VmPeak");
        out->vm_rss = kib(text, "VmRSS");
        out->vm_hwm = kib(text, "VmHWM");
        out->threads = threads > 0 ? (uint32_t)threads : 0;
    }
    out->fds = count_fds(pid);
    if (!nng_proc_stat(pid, &st)) {
        out->utime_ns = st.utime_ns;
        out->stime_ns = st.stime_ns;
    }
    if (limits)
        atomic_store_explicit(&out->valid, 1, memory_order_relaxed); /* not shared with anybody */
}

/* ---- how many tasks --------------------------------------------------------------------------- */
static bool initial_user_namespace(int pid)
{
    char path[64], text[128];
    unsigned long long inside, outside, count;

    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    if (nng_probes_slurp(path, text, sizeof text) <= 0)
        return true; /* a kernel without user namespaces has no such file */
    return sscanf(text, "%llu %llu %llu", &inside, &outside, &count) == 3 && inside == 0 &&
           outside == 0 && count == 4294967295ULL;
}

/* RLIMIT_NPROC binds neither the real root nor these two capabilities in the initial namespace. */
static bool exempt(int pid, const char *status)
{
    const char *cap = strstr(status, "\nCapEff:");
    unsigned long long bits = cap ? strtoull(cap + 8, NULL, 16) : 0;

    return initial_user_namespace(pid) && (nng_probes_keyed(status, "Uid") == 0 ||
                                           bits & (1ULL << CAP_ADMIN | 1ULL << CAP_RESOURCE));
}

static int64_t tasks_of(int64_t uid)
{
    char path[512], text[4096];
    uint64_t until = nng_probes_clock(CLOCK_MONOTONIC) + SCAN_NS;
    struct dirent *e;
    int64_t n = 0;
    int seen = 0;
    bool cut = false;

    if (uid < 0 || !nng_probes_path(path, sizeof path, "/proc"))
        return -1;
    DIR *d = opendir(path);
    if (!d)
        return -1;
    while (!cut && (e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        cut = ++seen > SCAN_MAX || nng_probes_clock(CLOCK_MONOTONIC) > until;
        if (read_status(atoi(e->d_name), text, sizeof text) <= 0 ||
            nng_probes_keyed(text, "Uid") != uid)
            continue;
        int64_t threads = nng_probes_keyed(text, "Threads");
        n += threads > 0 ? threads : 1;
    }
    closedir(d);
    return cut ? -1 : n;
}

void nng_pidscope_read(int pid, const struct nng_cgroup *cg, int64_t events_before,
                       struct nng_pidscope *out)
{
    char text[4096];
    struct nng_usage *u = calloc(1, sizeof *u);
    struct nng_pstat st;
    int64_t events;

    memset(out, 0, sizeof *out);
    out->max = out->current = out->max_events = out->user_tasks = out->threads_max = -1;
    out->nproc_soft = -2;
    if (!nng_proc_stat(pid, &st) && st.state != 'Z' && st.state != 'X')
        out->threads_now = st.threads;
    if (cg &&
        !nng_cgroup_pids(cg, &out->max, &out->current, &events, out->path, sizeof out->path) &&
        events >= 0 && events_before >= 0 && events >= events_before)
        out->max_events = events - events_before;
    if (u && read_limits(pid, u))
        out->nproc_soft =
            u->rlim_soft[RLIMIT_NPROC] > INT64_MAX ? -1 : (int64_t)u->rlim_soft[RLIMIT_NPROC];
    free(u);
    /* Where it is gone: we are of the same user, and of the same rights as far as can be known. */
    if (read_status(pid, text, sizeof text) > 0 || read_status(getpid(), text, sizeof text) > 0) {
        out->user_tasks = tasks_of(nng_probes_keyed(text, "Uid"));
        out->privileged = exempt(pid, text);
    }
    out->threads_max = nng_probes_number("/proc/sys/kernel/threads-max", -1);
}
