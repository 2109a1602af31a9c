/* SPDX-License-Identifier: MIT
 *
 * Everything that may be known about one incident, gathered by the monitor (or by `nnguard report`
 * from a journal left behind) before any cause is asked. A cause reads this and nothing else: no
 * I/O, no clock, no global state. Numbers are bytes and nanoseconds; -1 (or ~0 for unsigned) is
 * unknown unless said otherwise. Strings are terminated and never NULL unless said otherwise.
 */
#ifndef NNG_CAUSES_EVIDENCE_H
#define NNG_CAUSES_EVIDENCE_H

#include "../journal/format.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum nng_kind { NNG_K_DEATH, NNG_K_STALL, NNG_K_FAILURE };
enum nng_role { NNG_ROLE_TRAINER, NNG_ROLE_WORKER, NNG_ROLE_HELPER };
enum nng_method { NNG_SM_FORK, NNG_SM_SPAWN, NNG_SM_FORKSERVER, NNG_SM_EXEC };
enum nng_sender { NNG_SENDER_UNKNOWN, NNG_SENDER_INSIDE, NNG_SENDER_OUTSIDE }; /* of this run */
enum nng_confidence { NNG_NO = 0, NNG_UNKNOWN, NNG_POSSIBLE, NNG_LIKELY, NNG_CERTAIN };

struct nng_who {
    int pid, ppid;
    enum nng_role role;
    enum nng_method method;
    int ordinal, of; /* worker 3 of 6; 0: does not apply */
    int rank;        /* -1 none */
    bool python;
    char name[64]; /* comm or what the command line says; cleaned */
    char cmdline[512];
    uint64_t birth_ns, death_ns; /* BOOTTIME; death 0: alive */
};

struct nng_status {
    bool known;
    bool inferred; /* from a record of the process itself, not from the kernel */
    int signal;    /* 0: none */
    int code;      /* valid where signal == 0 */
    bool core;
    char source[48]; /* "waitpid in pid 12", "/proc/12/stat", "PIDFD_GET_INFO", "its own record" */
};

struct nng_failcall { /* a failed call, from a FAIL record */
    int pid;
    enum nng_role role;
    enum nng_call call;
    int err;
    int64_t asked, free, total; /* at that instant */
    uint64_t count;             /* how often in that process so far */
    uint64_t time_ns;
    unsigned flags; /* NNG_RF_DEVSHM, NNG_RF_INODES */
    char path[NNG_TEXT + 1];
};

struct nng_killrec { /* somebody of this run sent a signal to the victim (or its group) */
    int sender;
    enum nng_role sender_role;
    bool by_parent; /* the sender is the victim's parent, an ancestor of it, or the root */
    int signal;
    uint64_t time_ns;
    char sender_name[64];
};

struct nng_memscope { /* memory cgroup of the victim and the ancestor whose limit was hit */
    bool present;
    int version;                /* 1 or 2 */
    char path[256];             /* of the victim's own cgroup */
    int64_t limit, usage, peak; /* limit -1: none */
    int64_t swap_limit;
    int64_t
        kills; /* own oom_kill counter: rise since the last sample before the death; -1 unknown */
    int64_t kills_total; /* its rise since the run's start */
    int64_t fails;       /* rise of failcnt / memory.events max since that sample; -1 */
    int sigkills; /* SIGKILL deaths in this run, in that cgroup, in the same window, without sender */
    int64_t
        kills_fresh; /* of `kills`, those that rose just before this death (a second or two); -1 */
    int sigkills_fresh; /* ... of `sigkills`, those since then */
    int others_gone; /* helpers and other programs of this run that were killed, or are gone nobody
                        knows how, since the count rose: it may be theirs */
    int foreign; /* processes in that cgroup (seen in the window) that are not this run's; -1 unknown */
    int foreign_gone; /* ... of these, how many are gone now */
    bool group;       /* memory.oom.group is set */
    int64_t
        limit_hit; /* limit of the nearest ancestor (or own) whose limit was reached; -1 unknown */
    char limit_path[256];
    bool oomd; /* user.oomd_kill xattr rose in the window */
};

struct nng_kmsg { /* the kernel's own record of an OOM kill */
    bool readable;
    bool found;       /* a kill line fits the victim */
    bool others;      /* kill lines in the window, none fits */
    bool by_pid;      /* fits by pid, in the initial pid namespace */
    bool global;      /* CONSTRAINT_NONE / "Out of memory:", not a memory cgroup */
    int64_t anon_rss; /* of the victim, bytes */
    char line[256];
};

struct nng_hostmem {
    int64_t total, available, swap_total, swap_free;
    int64_t commit_limit, committed;
    int overcommit;       /* vm.overcommit_memory, -1 */
    int64_t vmstat_kills; /* rise of /proc/vmstat oom_kill over the window; -1 unknown */
};

struct nng_shm {
    bool present;
    int64_t total, free, inodes_free;
    int64_t held_by_run;  /* by processes of this run, each file counted once */
    int64_t sized_by_run; /* the same files at the size they were given, used or not */
    int64_t rescued; /* what did not fit and went to ordinary memory: no more lived at a time */
    int holders;     /* how many processes hold it */
    int64_t named;   /* files with a name in /dev/shm: bytes ... */
    int named_count;
    int64_t leaked; /* ... of which left by processes that are gone (pid in the name) */
    int leaked_count;
    int64_t biggest_ask; /* largest single request seen in this run; -1 */
};

struct nng_pidscope {     /* the pids cgroup and RLIMIT_NPROC at the failure */
    int64_t max, current; /* -1: no limit / unknown */
    int64_t max_events;   /* rise of pids.events max about the failure; -1 unknown */
    int64_t threads_now;  /* of the failing process as all this was read; 0: it is gone */
    int64_t others_lost;  /* other processes of the run that ended between the failure and then */
    char path[256];
    int64_t nproc_soft;  /* RLIMIT_NPROC of the failing process; -1 infinity, -2 unknown */
    int64_t user_tasks;  /* tasks of that uid now; -1 */
    bool privileged;     /* root or CAP_SYS_RESOURCE: RLIMIT_NPROC does not apply */
    int64_t threads_max; /* kernel.threads-max */
};

struct nng_traceback { /* the last Python traceback in the victim's tail */
    bool present;
    bool complete; /* ended with an exception line */
    char type[64]; /* "RuntimeError" */
    char message[384];
    char file[256]; /* innermost frame outside the standard library and site-packages if any, */
    int line;       /* else the innermost */
    char func[64];
    char origin[256];       /* innermost frame: "file:line func" */
    bool background_worker; /* introduced by batchgenerators' "Exception in background worker" */
    bool keyboard;          /* KeyboardInterrupt */
    int after;              /* lines of other output behind it */
    bool
        own; /* multiprocessing's: below "Process NAME:", from its _bootstrap: it ended this process */
    bool top;           /* begins at the top of a program (<module>): nobody below it caught it */
    bool logged;        /* the line above it is a logger's: somebody caught it */
    char root_type[64]; /* first exception of its chain, where there is one; "" none */
    char root_message[192];
    bool told; /* not its own words: the trainer told what had ended it */
    bool last; /* nothing but a few lines follows it in the text */
};

enum nng_place { NNG_PL_HOST, NNG_PL_DOCKER, NNG_PL_KUBERNETES, NNG_PL_SLURM, NNG_PL_APPTAINER };

struct nng_machine {
    enum nng_place place;
    char place_detail[64]; /* "Slurm job 8812", "podman" */
    int cpus;              /* usable by this process */
    int64_t shm_total;     /* at start */
    char kernel[64], libc[32];
    char trainer[160]; /* what the user typed, shortened, ready to be put after a fix:
                              "nnUNetv2_train 1 2d 0" */
    char env[1024];    /* allow-listed NAME=VALUE, NUL separated, double NUL ends */
    bool nnunet;       /* the command or a file of the run shows nnU-Net */
    int n_proc_da;     /* nnUNet_n_proc_DA as set, -1 */
};

/* A frame resolved by the stack probe; names only where they are true. */
struct nng_frame {
    uint64_t ip, offset; /* offset: in module */
    char module[160];
    char symbol[96]; /* "" unknown */
};

struct nng_stack {
    bool taken;
    int n;
    int culprit; /* index of the first frame outside libc and the loader above the fault, or -1 */
    char why_not[96];
    struct nng_frame frame[48];
    int n_python;
    char python[16][200]; /* from faulthandler, innermost first: "file:line func" */
};

struct nng_evidence {
    enum nng_kind kind;
    uint64_t time_ns; /* of the incident itself */
    struct nng_who who;
    struct nng_status status;
    bool alive; /* stall: the process lives on */
    bool has_fault;
    struct nng_fault fault;
    enum nng_sender sender; /* of the fault's signal, whoever fault.sender_pid is */
    bool has_usage;
    struct nng_usage usage;
    int n_kills;
    struct nng_killrec kills[8];
    /* failed calls of the victim first, newest first, then of the rest of the run within 10 s */
    int n_fails;
    struct nng_failcall fails[32];
    struct nng_memscope mem;
    struct nng_kmsg kmsg;
    struct nng_hostmem host;
    struct nng_shm shm;
    struct nng_pidscope pids;
    int64_t victim_rss;      /* last sample before; -1 */
    int64_t run_rss;         /* sum over the run, last sample; -1 */
    uint64_t cpu_time_ns;    /* of the victim, 0 unknown */
    int64_t cpu_limit_s;     /* its hard RLIMIT_CPU as the monitor saw it; 0: none or unknown */
    bool parent_gone;        /* its parent (or the root) died before it */
    bool handed_blind;       /* died of a fault signal, and no record exists although it had our
                                handlers, or because it ran unguarded */
    struct nng_traceback tb; /* of the victim */
    char tail[NNG_TAIL_SIZE + 1]; /* cleaned: no control characters but \n and \t */
    int n_files;
    char files[NNG_FILES_N][NNG_PATH];
    struct nng_stack stack;
    int workers_alive, workers_seen;
    int workers_at_once; /* most that lived at the same time so far */
    bool one_of_several; /* the trainer misses a worker, and several had left in this way */
    int same_before;     /* incidents of the same cause already in this run */
    struct nng_machine machine;
};

/* [any-thread] First failed call that satisfies the mask; NULL if none. err 0: any. call OTHER: any.
 * only_victim: of who.pid only. */
const struct nng_failcall *nng_ev_fail(const struct nng_evidence *ev, int err, enum nng_call call,
                                       bool only_victim);
/* Value of an allow-listed environment variable or NULL. */
const char *nng_ev_env(const struct nng_evidence *ev, const char *name);
/* The tail or the traceback's message contains this (case-sensitive). */
bool nng_ev_says(const struct nng_evidence *ev, const char *needle);

#endif
