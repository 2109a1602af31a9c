/* SPDX-License-Identifier: MIT
 *
 * The model of a run: who was born, who died how, who signalled whom, which calls failed. Built from
 * journal records and, while the run lives, from observations; the post-mortem feeds it from the
 * journal alone. It knows roles and times, but no cause and no words.
 */
#ifndef NNG_MONITOR_MODEL_H
#define NNG_MONITOR_MODEL_H

#include "../../probes/probes.h"
#include "../journal/snapshot.h"
#include "../report/report.h"

#define NNG_T_FAILS 16
#define NNG_T_KILLS 8
#define NNG_M_WAITS 64

enum nng_why { /* why a death is no incident of its own */
               NNG_WHY_NONE = 0,
               NNG_WHY_BY_PARENT,   /* signalled by its parent, an ancestor or the root */
               NNG_WHY_PARENT_GONE, /* its parent or the root was gone before */
               NNG_WHY_AFTERMATH,   /* broken pipe, connection reset ... after an incident */
               NNG_WHY_INTERRUPT,   /* Ctrl-C, or a signal the whole run got from outside */
               NNG_WHY_MONITOR,     /* ended by us (NNGUARD_ON_STALL=end) */
};

struct nng_tracked {
    int pid, ppid, pgrp;
    uint64_t generation; /* of its journal entry; 0: it has none */
    int proc_index;      /* journal entry or -1 */
    uint64_t start_ticks, birth_ns;
    enum nng_birth birth;
    enum nng_role role;
    enum nng_method method;
    bool forkserver;     /* is a forkserver: its children are workers */
    bool compile_worker; /* Inductor's: its children are helpers too */
    bool launcher;       /* torchrun, accelerate, ...: its Python children are ranks */
    bool execed;         /* left Python by exec */
    bool python;
    int rank;
    int ordinal, peak; /* own number among its parent's workers; most workers it had at once */
    bool raised, raised_all; /* its birth made the highest number of workers so far */
    char comm[16];
    char cmdline[512];
    int pidfd; /* -1 */

    bool dead;
    uint64_t death_ns;
    struct nng_status status;
    bool left;
    int left_code;
    uint64_t left_ns;
    int signalled; /* fatal signal that arrived last (SIGNAL record), not repaired; 0 */
    bool held;     /* ... and its default action is next: as good as seen */
    uint64_t signalled_ns;
    int signal_sender; /* si_pid of that, -1 kernel */
    enum nng_sender sender_is;

    bool judged;
    uint64_t judge_at;      /* BOOTTIME of a postponed judgement; 0 none */
    uint64_t death_seen_ns; /* when we learned of it */
    enum nng_why why;
    int why_signal_by;   /* pid of the sender */
    int incident;        /* index or -1 */
    bool one_of_several; /* others left in the same way about then: which was missed is not known */
    uint64_t shm_judge_at; /* ENOSPC on /dev/shm: when to call it a standstill; 0 none */
    bool shm_told;

    int64_t rss; /* last sample; -1 */
    struct nng_cgroup cg;
    bool cg_known;
    int n_kills;
    struct nng_killrec kills[NNG_T_KILLS]; /* signals sent to it, newest last */
    int n_fails;                           /* ring: newest at (n_fails - 1) % NNG_T_FAILS */
    struct nng_failcall fails[NNG_T_FAILS];
    uint64_t cpu_ns;
    int64_t cpu_limit; /* hard RLIMIT_CPU in seconds; 0 none or unknown */
};

struct nng_wait { /* of a child that is not followed: a program that the run started */
    int pid, status;
    uint64_t time_ns;
};

struct nng_model {
    struct nng_tracked **t;
    size_t n, cap;
    struct nng_tracked *root;
    int root_pid;
    bool live; /* /proc may be asked whether a process still lives */
    int workers_seen, workers_at_once;
    int64_t biggest_ask; /* largest request for shared memory that was seen; -1 */
    struct nng_moment moment[NNG_TIMELINE]; /* ring */
    unsigned n_moments;
    struct nng_wait wait[NNG_M_WAITS]; /* ring */
    unsigned n_waits;
    int started[NNG_M_WAITS]; /* ring: programs that the run started and that are not followed */
    unsigned n_started;
};

/* The kernel's or a parent's word, not only what the process itself left. */
bool nng_status_final(const struct nng_status *s);
/* What t itself left of its end (a good-bye with a code, else a signal that arrived) into *s. False: it
 * left nothing. `inferred` unless it was held with the default action next. */
bool nng_model_own_status(const struct nng_tracked *t, struct nng_status *s);
/* Is the signal that arrived last what ended t? */
bool nng_model_signal_ended(const struct nng_tracked *t);
void nng_model_init(struct nng_model *m, int root_pid);
void nng_model_free(struct nng_model *m);
/* Newest entry with this pid, or NULL. */
struct nng_tracked *nng_model_find(const struct nng_model *m, int pid);
/* New entry (or the existing one while it lives). */
struct nng_tracked *nng_model_add(struct nng_model *m, int pid);
/* Take in a record. Returns the process it is about (the victim of a WAIT, the born, the writer), or
 * NULL where that is nobody of interest. */
struct nng_tracked *nng_model_record(struct nng_model *m, const struct nng_view *v,
                                     const struct nng_got *g);
/* Is `who` an ancestor of `of` inside the run, or its root? */
bool nng_model_above(const struct nng_model *m, int who, const struct nng_tracked *of);
int nng_model_alive_workers(const struct nng_model *m);
/* Drop old, uninteresting dead so that thousands of short-lived children cost nothing. */
void nng_model_prune(struct nng_model *m, uint64_t now);
void nng_model_moment(struct nng_model *m, uint64_t time_ns, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* roles.c: from birth, parent and command line. */
void nng_roles_assign(struct nng_model *m, struct nng_tracked *t);

#endif
