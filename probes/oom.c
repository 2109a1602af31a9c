/* SPDX-License-Identifier: MIT
 *
 * The kernel's own words about OOM kills (/dev/kmsg) and its counters for the whole machine.
 * Only records of the kernel itself are believed: what programs write to /dev/kmsg has another
 * facility. A process may choose its name, so a line is cut at the last place that fits, and a
 * match by name alone is marked as such (by_pid false).
 *
 * Stamps of kmsg come from the scheduler's clock, which follows CLOCK_MONOTONIC but is not steered
 * by NTP: over a long uptime they drift apart. The tolerance grows with the uptime, and a record
 * is also known to be no older than the last look at the log before it was read.
 */
#include "../shim/causes/text.h"
#include "probes.h"
#include "read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define KEPT 64
#define RECORDS_A_POLL 8192
#define SECOND 1000000000ULL
#define INITIAL_PIDNS 4026531836UL /* fixed by the kernel */

struct kill {
    uint64_t mono_ns;         /* the record's own stamp */
    uint64_t after_ns, by_ns; /* BOOTTIME between which it was written */
    int pid;
    int matched_pid; /* a line explains one death only; 0: none yet */
    bool global;
    char comm[20];
    int64_t anon_rss, rss;
    char line[256];
};

struct nng_kmsg_reader {
    int fd;
    uint64_t polled_ns;
    bool initial_pidns;
    bool last_global; /* of the announcement before a bare "Killed process" of old kernels */
    int last_pid;
    unsigned n;
    struct kill kill[KEPT];
};

static bool in_initial_pidns(void)
{
    char path[512];
    struct stat st;
    return nng_probes_path(path, sizeof path, "/proc/self/ns/pid") && stat(path, &st) == 0 &&
           st.st_ino == INITIAL_PIDNS;
}

/* 1:11, Documentation/admin-guide/devices.txt; a plain file stands for it in tests with a root of their
 * own. */
static bool is_kmsg(int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        return false;
    if (nng_probe_root[0])
        return true;
    return S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 11);
}

struct nng_kmsg_reader *nng_kmsg_open(void)
{
    char path[512];
    struct nng_kmsg_reader *k;

    if (!nng_probes_path(path, sizeof path, "/dev/kmsg") || !(k = calloc(1, sizeof *k)))
        return NULL;
    k->fd = nng_probes_open(path);
    /* Containers often have /dev/null in its place: silence there proves nothing. */
    if (k->fd < 0 || !is_kmsg(k->fd) || lseek(k->fd, 0, SEEK_END) < 0) {
        nng_kmsg_close(k);
        return NULL;
    }
    k->initial_pidns = in_initial_pidns();
    k->polled_ns = nng_probes_clock(CLOCK_BOOTTIME);
    return k;
}

void nng_kmsg_close(struct nng_kmsg_reader *k)
{
    if (!k)
        return;
    if (k->fd >= 0)
        close(k->fd);
    free(k);
}

/* ---- one record ------------------------------------------------------------------------------- */
static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void unescape(char *s) /* the kernel writes odd bytes as \xNN */
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] == 'x' && hex(s[2]) >= 0 && hex(s[3]) >= 0) {
            char c = (char)(hex(s[2]) * 16 + hex(s[3]));
            *to++ = c ? c : '?';
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

static int64_t kib_after(const char *text, const char *word)
{
    const char *p = strstr(text, word);
    unsigned long long v;
    return p && sscanf(p + strlen(word), "%llu", &v) == 1 && v < INT64_MAX / 1024
               ? (int64_t)v * 1024
               : -1;
}

/* "4711 (python3) total-vm:..." Names hold at most 15 bytes, whatever they are. */
static bool parse_victim(const char *p, struct kill *k)
{
    char *end;
    const char *close = NULL, *next;

    long pid = strtol(p, &end, 10);
    if (end == p || pid <= 0 || strncmp(end, " (", 2))
        return false;
    k->pid = (int)pid;
    p = end + 2;
    for (next = p; (next = strchr(next, ')')) && next - p <= 15; next++)
        if (!strncmp(next, ") total-vm:", 11) || !strncmp(next, "), ", 3) || next[1] == ' ')
            close = next;
    if (!close)
        return false;
    snprintf(k->comm, sizeof k->comm, "%.*s", (int)(close - p), p);
    k->anon_rss = kib_after(close, "anon-rss:");
    k->rss = k->anon_rss;
    int64_t file = kib_after(close, "file-rss:"), shmem = kib_after(close, "shmem-rss:");
    if (k->rss >= 0)
        k->rss += (file > 0 ? file : 0) + (shmem > 0 ? shmem : 0);
    return true;
}

static const char *after(const char *text, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(text, prefix, n) ? NULL : text + n;
}

/* The oom-kill: summary and the "Kill process" of old kernels announce the victim. */
static void announcement(struct nng_kmsg_reader *r, const char *text)
{
    const char *p;

    if ((p = after(text, "oom-kill:constraint="))) {
        /* task= is a name, hence anything; the pid is the last ",pid=" */
        const char *pid = NULL;
        for (const char *q = p; (q = strstr(q, ",pid=")); q += 5)
            pid = q;
        r->last_global = !strncmp(p, "CONSTRAINT_NONE", 15) ||
                         !strncmp(p, "CONSTRAINT_CPUSET", 17) ||
                         !strncmp(p, "CONSTRAINT_MEMORY_POLICY", 24);
        r->last_pid = pid ? atoi(pid + 5) : 0;
    } else if ((p = after(text, "Memory cgroup out of memory: Kill process "))) {
        r->last_global = false;
        r->last_pid = atoi(p);
    } else if ((p = after(text, "Out of memory: Kill process "))) {
        r->last_global = true;
        r->last_pid = atoi(p);
    }
}

static bool parse_kill(struct nng_kmsg_reader *r, const char *text, struct kill *k)
{
    const char *p;

    memset(k, 0, sizeof *k);
    if ((p = after(text, "Memory cgroup out of memory: Killed process "))) {
        k->global = false;
    } else if ((p = after(text, "Out of memory: Killed process ")) ||
               (p = after(text, "Out of memory (oom_kill_allocating_task): Killed process "))) {
        k->global = true;
    } else if ((p = after(text, "Killed process "))) {
        k->global = r->last_global;
        if (atoi(p) != r->last_pid)
            return false;
    } else {
        announcement(r, text);
        return false;
    }
    if (!parse_victim(p, k))
        return false;
    nng_text_clean_line(k->line, sizeof k->line, text, strlen(text));
    return true;
}

/* "6,1234,987654321,-;text\n KEY=value\n" */
static void record(struct nng_kmsg_reader *r, char *buf, uint64_t now)
{
    unsigned long long prio, usec;
    char *text = strchr(buf, ';');
    struct kill k;

    if (!text || sscanf(buf, "%llu,%*u,%llu", &prio, &usec) != 2 || prio >> 3 != 0)
        return;
    *strchrnul(++text, '\n') = '\0';
    unescape(text);
    if (!parse_kill(r, text, &k))
        return;
    k.mono_ns = usec > UINT64_MAX / 1000 ? UINT64_MAX : usec * 1000;
    k.after_ns = r->polled_ns;
    k.by_ns = now;
    r->kill[r->n++ % KEPT] = k;
}

void nng_kmsg_poll(struct nng_kmsg_reader *k)
{
    char buf[8192 + 1];
    uint64_t now;

    for (int i = 0; i < RECORDS_A_POLL; i++) {
        ssize_t n = read(k->fd, buf, sizeof buf - 1);
        if (n < 0 && (errno == EPIPE || errno == EINTR || errno == EINVAL))
            continue; /* overwritten before we came, or longer than the buffer: the next one */
        if (n <= 0)
            break;
        buf[n] = '\0';
        record(k, buf, nng_probes_clock(CLOCK_BOOTTIME));
    }
    now = nng_probes_clock(CLOCK_BOOTTIME);
    k->polled_ns = now;
}

/* ---- matching --------------------------------------------------------------------------------- */
static bool in_window(const struct kill *k, uint64_t from, uint64_t to)
{
    uint64_t boot = nng_probes_clock(CLOCK_BOOTTIME), mono = nng_probes_clock(CLOCK_MONOTONIC);
    uint64_t slept = boot > mono ? boot - mono : 0;
    uint64_t slack = 2 * SECOND + mono / 10000; /* 100 ppm */
    uint64_t at = k->mono_ns > UINT64_MAX - slept ? UINT64_MAX : k->mono_ns + slept;

    if (slack > 120 * SECOND)
        slack = 120 * SECOND;
    if (k->by_ns < from || k->after_ns > to)
        return false;
    return at + slack >= from && (at <= to || at - to <= slack);
}

/* A sample taken before the death: the victim may have grown since, but hardly halved. */
static bool rss_fits(const struct kill *k, int64_t rss)
{
    return rss < 0 || k->rss < 0 || k->rss >= rss / 2;
}

static bool fits(const struct nng_kmsg_reader *r, const struct kill *k, int pid, const char *comm,
                 int64_t rss)
{
    if (r->initial_pidns)
        return k->pid == pid;
    return (!k->matched_pid || k->matched_pid == pid) && comm && *comm && !strcmp(k->comm, comm) &&
           rss_fits(k, rss);
}

void nng_kmsg_match(struct nng_kmsg_reader *k, int pid, const char *comm, int64_t rss,
                    uint64_t from_ns, uint64_t to_ns, struct nng_kmsg *out)
{
    struct kill *best = NULL;

    memset(out, 0, sizeof *out);
    out->anon_rss = -1;
    if (!k)
        return;
    out->readable = true;
    unsigned first = k->n > KEPT ? k->n - KEPT : 0;
    for (unsigned i = k->n; i-- > first;) { /* newest first */
        struct kill *c = &k->kill[i % KEPT];
        if (!in_window(c, from_ns, to_ns))
            continue;
        out->others = true;
        if (!fits(k, c, pid, comm, rss))
            continue;
        if (!best || (c->matched_pid == pid && best->matched_pid != pid))
            best = c;
    }
    if (!best)
        return;
    best->matched_pid = pid;
    out->others = false;
    out->found = true;
    out->by_pid = k->initial_pidns;
    out->global = best->global;
    out->anon_rss = best->anon_rss;
    memcpy(out->line, best->line, sizeof out->line);
}

/* ---- the whole machine ------------------------------------------------------------------------ */
int64_t nng_vmstat_oom_kill(void)
{
    char buf[32768];
    return nng_probes_slurp("/proc/vmstat", buf, sizeof buf) > 0 ? nng_probes_keyed(buf, "oom_kill")
                                                                 : -1;
}

static int64_t kib(const char *text, const char *key)
{
    int64_t v = nng_probes_keyed(text, key);
    return v < 0 || v > INT64_MAX / 1024 ? -1 : v * 1024;
}

void nng_hostmem_read(struct nng_hostmem *out)
{
    char buf[8192];

    memset(out, 0, sizeof *out);
    if (nng_probes_slurp("/proc/meminfo", buf, sizeof buf) < 0)
        buf[0] = '\0';
    out->total = kib(buf, "MemTotal");
    out->available = kib(buf, "MemAvailable");
    out->swap_total = kib(buf, "SwapTotal");
    out->swap_free = kib(buf, "SwapFree");
    out->commit_limit = kib(buf, "CommitLimit");
    out->committed = kib(buf, "Committed_AS");
    out->overcommit = (int)nng_probes_number("/proc/sys/vm/overcommit_memory", -1);
    out->vmstat_kills = -1;
}
