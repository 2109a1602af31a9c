/* SPDX-License-Identifier: MIT
 *
 * Facts about the world outside the journal, one file each. All [reap]: called by the monitor or
 * the command line, never inside the trainer. Every reader takes its paths relative to a root folder
 * (nng_probe_root, "" in production) so that tests can show it a made-up /proc or /sys. Nothing here
 * blocks: no file on a network is touched, statfs is only asked of /dev/shm and cgroup mounts.
 * Unknown is -1 (see causes/evidence.h); a missing file is not an error. Not one of these may call
 * setlocale, getpw*, iconv or dlopen: the program is static.
 */
#ifndef NNG_PROBES_PROBES_H
#define NNG_PROBES_PROBES_H

#include "../shim/causes/evidence.h"

extern const char *nng_probe_root;

/* ---- procfs.c ---- */
struct nng_pstat {
    int pid, ppid, pgrp, session;
    char state; /* 'R' 'S' 'Z' ... */
    char comm[16];
    uint64_t start_ticks;
    int exit_code; /* wait status, meaningful only for 'Z'; 0 may mean "may not be read" */
    bool exit_code_readable; /* false where the kernel hides it (no ptrace access) */
    uint64_t utime_ns, stime_ns;
    int threads;
};
int nng_proc_stat(int pid, struct nng_pstat *out); /* 0 or -errno (-ESRCH gone) */
int64_t nng_proc_rss(int pid);                     /* bytes, /proc/PID/statm; -1 */
/* Arguments separated by spaces, cleaned, secrets replaced; "" where unreadable. */
void nng_proc_cmdline(int pid, char *out, size_t n);
void nng_proc_name(int pid, char *out, size_t n);  /* comm, cleaned */
int nng_proc_children(int pid, int *out, int max); /* via task/PID/children, else a scan; count */

/* ---- pidfd.c ---- */
int nng_pidfd_open(int pid); /* fd (close-on-exec) or -errno; -ENOSYS/-EPERM: use a 1 s scan */
/* Exit status of a process that has ended, also after it was reaped (kernel >= 6.15):
 * 1 known (*status as waitpid gives it), 0 not (yet) known, -errno not supported. */
int nng_pidfd_status(int pidfd, int *status);

/* ---- cgroup.c ---- */
struct
    nng_cgroup { /* where a process' memory and pids controllers are; resolved once, cheap to read */
    int version;       /* of memory: 1, 2, 0 none */
    char mem[512];     /* absolute folder of its own memory cgroup, as seen from here */
    char mem_top[512]; /* topmost folder reachable above it (mount point) */
    int pids_version;
    char pids[512];
    char pids_top[512];
};
int nng_cgroup_find(int pid, struct nng_cgroup *out); /* 0, -errno */
struct nng_cgmem {
    int64_t usage, limit, swap_limit, peak;
    int64_t kills; /* own oom_kill: v2 memory.events.local (memory.events where absent and it has no
                        children), v1 memory.oom_control; -1 */
    int64_t fails; /* v2 memory.events.local max + oom, v1 memory.failcnt; -1 */
    bool group;
    int64_t oomd; /* user.oomd_kill xattr as number; -1 none */
};
int nng_cgroup_mem(const char *folder, int version, struct nng_cgmem *out);
/* The nearest of own and ancestor cgroups whose fail counter rose since `before` was taken, i.e. whose
 * limit was hit. before/after: arrays filled by nng_cgroup_chain, own first. */
struct nng_cglevel {
    char folder[512];
    struct nng_cgmem mem;
};
int nng_cgroup_chain(const struct nng_cgroup *cg, struct nng_cglevel *out, int max);
/* Who is charged to it, also from groups below that have no memory controller. Count or -errno; -EXDEV:
 * there are some whose number cannot be known here. */
int nng_cgroup_procs(const char *folder, int *pids, int max);
/* pids controller: the level with the least room; max -1 none. events: forks refused, all levels. */
int nng_cgroup_pids(const struct nng_cgroup *cg, int64_t *max, int64_t *current, int64_t *events,
                    char *path, size_t path_n);

/* ---- oom.c ---- */
struct nng_kmsg_reader;
struct nng_kmsg_reader *nng_kmsg_open(void); /* at the end of /dev/kmsg; NULL: not readable */
void nng_kmsg_close(struct nng_kmsg_reader *k);
/* Read new lines, keep OOM kills of the last minutes. Never blocks. */
void nng_kmsg_poll(struct nng_kmsg_reader *k);
/* Does a kill line within [from_ns, to_ns] (BOOTTIME; kmsg stamps are monotonic, see source) fit this
 * victim? pid compared only if this is the initial pid namespace, else name and RSS and time. */
void nng_kmsg_match(struct nng_kmsg_reader *k, int pid, const char *comm, int64_t rss,
                    uint64_t from_ns, uint64_t to_ns, struct nng_kmsg *out);
int64_t nng_vmstat_oom_kill(void);              /* /proc/vmstat oom_kill, -1 */
void nng_hostmem_read(struct nng_hostmem *out); /* vmstat_kills is left at -1 */

/* ---- devshm.c ---- */
/* Fill *out; pids: processes of the run (their fds and maps are looked at). Bounded: at most 50 ms or
 * 4096 fds, whichever comes first. */
void nng_devshm_read(const int *pids, int n, struct nng_shm *out);
int64_t nng_devshm_used(void);     /* statfs only; -1 */
bool nng_devshm_all_visible(void); /* false: in a pid namespace, processes outside are hidden */

/* ---- limits.c ---- */
void nng_limits_read(int pid,
                     struct nng_usage *out); /* prlimit + /proc/PID/status of a live process */
/* events_before: what nng_cgroup_pids counted before the failure, -1 unknown. */
void nng_pidscope_read(int pid, const struct nng_cgroup *cg, int64_t events_before,
                       struct nng_pidscope *out);

/* ---- machine.c ---- */
/* Place (Docker, Kubernetes, Slurm, Apptainer, host), cpus, kernel, trainer line from the command.
 * env: allow-listed NAME=VALUE block of the journal's header; command: NUL separated. */
void nng_machine_read(const char *env, size_t env_n, const char *command, size_t command_n,
                      struct nng_machine *out);

/* ---- stack.c ---- */
/* Step the frames of thread `tid` of `pid` by ptrace (PTRACE_SEIZE, INTERRUPT; other threads are stopped
 * too) and let it go again; names are not resolved here, only ips and the module map are taken.
 * Bounded by limit_ms. `fault` gives ip/sp of the fault: frames of the handlers above it are dropped.
 * *err: 0 or -errno. NULL only where there is no memory: a failure, too, goes to nng_stack_resolve, which
 * then gives the top frame of the fault record and says why in out->why_not. All of it runs in a child
 * that is killed when late, so the process is let go whatever happens; frames found until then stay. */
struct nng_stack_raw;
struct nng_stack_raw *nng_stack_take(int pid, int tid, const struct nng_fault *fault, int limit_ms,
                                     int *err);
/* Resolve names (reads ELF files: slow, after the process was let go), find the culprit, free raw. */
void nng_stack_resolve(struct nng_stack_raw *raw, const struct nng_fault *fault,
                       struct nng_stack *out);
/* Without ptrace: the top frame from the fault record. */
void nng_stack_from_fault(const struct nng_fault *fault, struct nng_stack *out);
/* Python frames from faulthandler's dump in a tail ("Fatal Python error: ..." block). */
void nng_stack_python(const char *tail, struct nng_stack *out);

#endif
