/* SPDX-License-Identifier: MIT
 *
 * Asks the probes about real things and prints what they say as name=value lines. Linked with the
 * program's own objects by test_probes_real.py.
 *
 *   probes find PID                     which cgroup
 *   probes oom FOLDER [SIBLING]         a child enters FOLDER and eats memory until it is killed
 *   probes stack N PID TID IP SP BP     stack of a process that waits in its handler, N times
 *   probes shm N PID...                 /dev/shm, N times
 */
#include "probes/probes.h"
#include "probes/read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ULL

static void number(const char *name, int64_t v)
{
    printf("%s=%lld\n", name, (long long)v);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void timing(const char *name, double *ms, int n)
{
    qsort(ms, (size_t)n, sizeof *ms, compare);
    printf("%s_median_ms=%.3f\n%s_max_ms=%.3f\n", name, ms[n / 2], name, ms[n - 1]);
}

static double since(uint64_t start)
{
    return (double)(nng_probes_clock(CLOCK_MONOTONIC) - start) / 1e6;
}

static int find(int pid)
{
    struct nng_cgroup cg;
    number("rc", nng_cgroup_find(pid, &cg));
    number("version", cg.version);
    printf("mem=%s\ntop=%s\npids=%s\n", cg.mem, cg.mem_top, cg.pids);
    return 0;
}

static void eat(const char *folder, int go)
{
    char path[600], c;
    snprintf(path, sizeof path, "%s/cgroup.procs", folder);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, "0", 1) != 1)
        _exit(3);
    if (read(go, &c, 1) != 1)
        _exit(4);
    for (int i = 0; i < 4096; i++)
        memset(malloc(1 << 20), 1, 1 << 20);
    _exit(5);
}

static int oom(const char *folder, const char *sibling)
{
    struct nng_kmsg_reader *k = nng_kmsg_open();
    struct nng_cgroup cg;
    struct nng_cgmem before, after, other;
    struct nng_cglevel chain_before[8], chain[8];
    struct nng_kmsg km;
    struct nng_pstat st;
    char comm[32];
    int go[2], status = 0;

    if (pipe(go))
        return 1;
    int64_t vm = nng_vmstat_oom_kill();
    uint64_t start = nng_probes_clock(CLOCK_BOOTTIME);
    int pid = fork();
    if (pid == 0)
        eat(folder, go[0]);
    for (int i = 0; i < 500; i++) { /* until it has moved */
        if (!nng_cgroup_find(pid, &cg) && !strcmp(folder, cg.mem))
            break;
        usleep(10000);
    }
    number("version", cg.version);
    printf("mem=%s\n", cg.mem);
    nng_cgroup_mem(cg.mem, cg.version, &before);
    int n = nng_cgroup_chain(&cg, chain_before, 8);
    nng_proc_name(pid, comm, sizeof comm);
    int pidfd = nng_pidfd_open(pid);
    if (write(go[1], "x", 1) != 1)
        return 1;
    siginfo_t si;
    waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT);
    nng_cgroup_mem(cg.mem, cg.version, &after); /* the counter has risen when the death is seen */
    number("stat_rc", nng_proc_stat(pid, &st));
    printf("state=%c\n", st.state);
    number("stat_code", st.exit_code);
    waitpid(pid, &status, 0);
    number("status", status);
    int from_pidfd = -1;
    number("pidfd_rc", nng_pidfd_status(pidfd, &from_pidfd));
    number("pidfd_status", from_pidfd);
    number("kills", after.kills - before.kills);
    number("fails", after.fails - before.fails);
    number("limit", after.limit);
    number("peak", after.peak);
    number("vmstat", nng_vmstat_oom_kill() - vm);
    int m = nng_cgroup_chain(&cg, chain, 8);
    for (int i = 0; i < m && i < n; i++)
        if (chain[i].mem.fails > chain_before[i].mem.fails) {
            printf("hit=%s\n", chain[i].folder);
            break;
        }
    if (sibling && !nng_cgroup_mem(sibling, cg.version, &other))
        number("sibling_kills", other.kills);
    if (k) {
        nng_kmsg_poll(k);
        nng_kmsg_match(k, pid, comm, -1, start, nng_probes_clock(CLOCK_BOOTTIME) + SECOND, &km);
        number("found", km.found);
        number("by_pid", km.by_pid);
        number("global", km.global);
        number("anon_rss", km.anon_rss);
        printf("line=%s\n", km.line);
        nng_kmsg_match(k, pid + 1, comm, -1, start, nng_probes_clock(CLOCK_BOOTTIME), &km);
        number("found_other", km.found);
    }
    nng_kmsg_close(k);
    return 0;
}

static int stack(int n, char **v)
{
    static struct nng_stack s;
    static double take[1000], resolve[1000];
    struct nng_fault f;
    struct nng_stack_raw *raw;
    int err = 0;

    memset(&f, 0, sizeof f);
    f.ip = strtoull(v[2], NULL, 16);
    f.sp = strtoull(v[3], NULL, 16);
    f.bp = strtoull(v[4], NULL, 16);
    for (int i = 0; i < n && i < 1000; i++) {
        uint64_t start = nng_probes_clock(CLOCK_MONOTONIC);
        raw = nng_stack_take(atoi(v[0]), atoi(v[1]), &f, 1000, &err);
        take[i] = since(start);
        start = nng_probes_clock(CLOCK_MONOTONIC);
        nng_stack_resolve(raw, &f, &s);
        resolve[i] = since(start);
    }
    number("err", err);
    printf("why_not=%s\n", s.why_not);
    timing("take", take, n);
    timing("resolve", resolve, n);
    number("culprit", s.culprit);
    for (int i = 0; i < s.n; i++)
        printf("frame=%d %s %s\n", i, *s.frame[i].symbol ? s.frame[i].symbol : "?",
               *s.frame[i].module ? s.frame[i].module : "?");
    number("rss", nng_proc_rss(getpid()));
    return 0;
}

static int shm(int n, int count, char **v)
{
    static double ms[1000];
    static int pids[1000];
    struct nng_shm s;

    for (int i = 0; i < count && i < 1000; i++)
        pids[i] = atoi(v[i]);
    for (int i = 0; i < n && i < 1000; i++) {
        uint64_t start = nng_probes_clock(CLOCK_MONOTONIC);
        nng_devshm_read(pids, count, &s);
        ms[i] = since(start);
    }
    timing("shm", ms, n);
    number("total", s.total);
    number("free", s.free);
    number("held", s.held_by_run);
    number("holders", s.holders);
    number("named", s.named);
    number("leaked", s.leaked);
    number("leaked_count", s.leaked_count);
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc >= 3 && !strcmp(argv[1], "find"))
        return find(!strcmp(argv[2], "self") ? getpid() : atoi(argv[2]));
    if (argc >= 3 && !strcmp(argv[1], "oom"))
        return oom(argv[2], argc > 3 ? argv[3] : NULL);
    if (argc == 8 && !strcmp(argv[1], "stack"))
        return stack(atoi(argv[2]), argv + 3);
    if (argc >= 4 && !strcmp(argv[1], "shm"))
        return shm(atoi(argv[2]), argc - 3, argv + 3);
    return 2;
}
