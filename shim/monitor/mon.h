/* SPDX-License-Identifier: MIT
 *
 * State of the monitor, shared by its files: follow.c (the loop: journal, deaths, time), watch.c
 * (samples: memory, cgroup, /dev/shm), gather.c (evidence of one case), incident.c (the case in hand),
 * judge.c, judge_shm.c and held.c (is it an incident, which one), conclude.c (what follows from it),
 * speak.c (stderr and files). Data flows in that order.
 */
#ifndef NNG_MONITOR_MON_H
#define NNG_MONITOR_MON_H

#include "model.h"
#include "monitor.h"

#define NNG_SECOND 1000000000ULL
#define NNG_MS 1000000ULL
#define NNG_WINDOW                                                                                 \
    (10 * NNG_SECOND) /* a kill counter's rise and a death belong together within it */
#define NNG_CHAIN (20 * NNG_SECOND) /* the trainer drains up to 10 s before it gives up */
#define NNG_WATCHED 8               /* memory cgroups of one run */
#define NNG_HISTORY 32
#define NNG_FOREIGN 128
#define NNG_LEVELS 8

struct nng_count { /* one reading of counters that only rise */
    uint64_t time_ns;
    int64_t kills, fails, oomd;
};

struct nng_stranger { /* a process in our cgroup that is not of this run */
    int pid;
    uint64_t start_ticks, seen_ns;
    bool ours; /* a descendant that is not Python: looked up once */
};

struct nng_watched { /* a memory cgroup in which processes of the run live */
    char folder[512];
    int version;
    struct nng_cgroup cg;
    int64_t first_kills;
    unsigned n_history; /* ring, one a second */
    struct nng_count history[NNG_HISTORY];
    unsigned n_taken; /* kills already attributed to a victim: when */
    uint64_t taken[NNG_HISTORY];
    unsigned n_strangers;
    struct nng_stranger stranger[NNG_FOREIGN];
    uint64_t
        strangers_unknown_ns; /* when last too many, of another pid namespace, or not readable */
    struct nng_cgmem now;
    int64_t peak_seen;
    uint64_t chain_ns;
    int n_chain, n_chain_before;
    struct nng_cglevel chain[NNG_LEVELS], chain_before[NNG_LEVELS];
};

struct nng_pids_watched { /* a pids cgroup in which processes of the run live */
    struct nng_cgroup cg;
    unsigned n_history;
    struct nng_refused { /* forks that its limits refused so far */
        uint64_t time_ns;
        int64_t events;
    } history[NNG_HISTORY];
};

struct nng_mon {
    bool live; /* false: post-mortem, nothing outside the journal may be looked at */
    bool
        rebooted; /* post-mortem: the machine has been started anew since, or it is another one's */
    struct nng_view view;
    struct nng_cursor events;
    struct nng_model model;
    struct nng_run run;
    struct nng_style style;
    bool quiet;
    bool end_on_stall;
    uint64_t stall_ns;
    int err_fd; /* 2, or -1 after it was closed */

    unsigned n_watched;
    struct nng_watched watched[NNG_WATCHED];
    unsigned n_pids;
    struct nng_pids_watched pids[NNG_WATCHED / 2];
    unsigned n_vmstat;
    struct nng_count vmstat[NNG_HISTORY];
    struct nng_kmsg_reader *kmsg;
    int64_t run_rss, shm_used;
    uint64_t sampled_ns;

    bool root_dead;
    bool root_judged;
    bool closing_spoken;
    bool reports_stale; /* something became known since the last write */
    uint64_t reports_ns;
    int stall_incident;   /* index of the incident that made the run stand still, or -1 */
    uint64_t progress_ns; /* last sign of progress of the root */
    uint32_t root_tail_pos;
    uint64_t root_cpu_ns, workers_cpu_ns;
    uint64_t reminded_ns;
    int ending; /* steps of NNGUARD_ON_STALL=end taken */
    uint64_t ending_ns;
};

uint64_t nng_mon_now(void); /* BOOTTIME */

/* watch.c */
void nng_watch_sample(struct nng_mon *m);
void nng_watch_cpu_limit(struct nng_tracked *t);                /* also of a zombie */
void nng_watch_place(struct nng_mon *m, struct nng_tracked *t); /* find its cgroup */
void nng_watch_memory(struct nng_mon *m, const struct nng_tracked *t, struct nng_memscope *out);
/* Forks that the limits of t's pids cgroup had refused shortly before `when`; -1 unknown. */
int64_t nng_watch_refused(struct nng_mon *m, const struct nng_tracked *t, uint64_t when);
int64_t nng_watch_vmstat(struct nng_mon *m);
/* Who sent t its fatal signal, one of this run or not? Asked at once, because senders are short-lived. */
void nng_watch_sender(struct nng_mon *m, struct nng_tracked *t);
void nng_watch_took(struct nng_mon *m, const struct nng_tracked *t); /* a kill is accounted for */
/* post-mortem: fill memory fields from the last samples of the journal */
void nng_watch_from_samples(struct nng_mon *m, struct nng_memscope *mem, int64_t *run_rss);

/* gather.c */
void nng_gather(struct nng_mon *m, struct nng_tracked *t, enum nng_kind kind,
                struct nng_evidence *ev);

/* incident.c: the case in hand */
/* Gather the evidence about t and weigh it. */
void nng_incident_weigh(struct nng_mon *m, struct nng_tracked *t, enum nng_kind kind);
const struct nng_evidence *nng_incident_evidence(void); /* of the last weighing, until the next */
const struct nng_verdict *nng_incident_verdict(void);
bool nng_incident_is(const char *id); /* is it this cause? */
/* Make it an incident of t's, or one more of a kind that was told before, and speak. Its index, or -1
 * when there is no room for another. */
int nng_incident_tell(struct nng_mon *m, struct nng_tracked *t);

/* same.c: is it the same thing again? */
bool nng_same_thing(const struct nng_evidence *a, const struct nng_verdict *va,
                    const struct nng_evidence *b, const struct nng_verdict *vb);
/* The incident of the run that it is one more of, or -1. */
int nng_same_find(const struct nng_run *r, const struct nng_evidence *ev,
                  const struct nng_verdict *v);

/* judge.c */
#define NNG_NO_RECORD                                                                              \
    "it left no record of an exit" /* source of a status that is inferred from that */
/* Something is new about t: judge it if the time has come. */
void nng_judge(struct nng_mon *m, struct nng_tracked *t);
/* Judge whatever was postponed and is due; `all`: now, without waiting longer. */
void nng_judge_due(struct nng_mon *m, bool all);
bool nng_judge_pending(const struct nng_mon *m);
/* Was it the parent's will that t ended? Its pid then in *sender. */
bool nng_judge_by_parent(struct nng_mon *m, const struct nng_tracked *t, int *sender);
/* Signals that ask to end: TERM, HUP, INT. */
bool nng_judge_polite(int sig);
/* The root has said that it leaves (code), or will die of a signal, and waits for us. */
void nng_judge_root_leaving(struct nng_mon *m);
/* What t printed last, cleaned: NNG_TAIL_SIZE + 1 bytes at out. */
bool nng_judge_tail(struct nng_mon *m, const struct nng_tracked *t, char *out);
/* The last traceback in what t printed; false: there is none. */
bool nng_judge_traceback(struct nng_mon *m, const struct nng_tracked *t, struct nng_traceback *tb);
/* Does a message speak of workers, so that it may be what the trainer says of a lost one? */
bool nng_judge_of_workers(const char *message);
/* Broken pipes and the like: words of one who lost somebody else. */
bool nng_judge_is_aftermath(const struct nng_traceback *tb);

/* judge_shm.c: /dev/shm is full and nobody dies of it */
void nng_judge_shm_failure(struct nng_mon *m, struct nng_tracked *t); /* t left a FAIL record */
void nng_judge_shm_due(struct nng_mon *m, struct nng_tracked *t);     /* its time has come */

/* held.c: a fatal signal's default action is next and the process waits for its stack */
void nng_judge_held(struct nng_mon *m, struct nng_tracked *t);

/* told.c: as the root leaves with an error, what it tells of a worker that said nothing itself */
void nng_told_by_trainer(struct nng_mon *m, const struct nng_tracked *root);
/* Its last traceback says that a worker is gone, and one left with 0: that is the incident. False: none. */
bool nng_told_of_absent(struct nng_mon *m, const struct nng_tracked *root,
                        const struct nng_traceback *tb);

/* stall.c: once a second, with what nng_watch_sample saw */
void nng_stall_mind(struct nng_mon *m, uint64_t now);
/* Has the root shown a sign of life (output, processor time) after `since`? */
bool nng_stall_went_on(const struct nng_mon *m, uint64_t since);

/* conclude.c: fill consequences and the root incident; call before writing reports. */
void nng_judge_conclude(struct nng_mon *m);

/* hold.c: a thread that holds rescued segments that have a name */
void nng_hold_start(struct nng_mon *m);
void nng_hold_finish(struct nng_mon *m);
bool nng_mon_thread(void *(*body)(void *)); /* detached, on a small stack; false: there is none */

/* rescued.c: counts what was rescued, and says so */
void nng_rescued_start(struct nng_mon *m);
void nng_rescued_look(struct nng_mon *m); /* each round: first words, refusals */
void nng_rescued_closing(struct nng_mon *m);
/* No more rescued bytes than these lived at a time. */
uint64_t nng_rescued_bound(const struct nng_header *h);

/* speak.c */
void nng_speak_rescued(struct nng_mon *m);
void nng_speak_incident(struct nng_mon *m, struct nng_incident *i);
void nng_speak_closing(struct nng_mon *m);
void nng_speak_reminder(struct nng_mon *m, struct nng_incident *i);
void nng_speak_line(struct nng_mon *m, const char *en, const char *zh);
void nng_speak_reports(struct nng_mon *m); /* report.txt and report.json */

/* postmortem.c: a run beside this one that ended together with its monitor is told of, once */
void nng_postmortem_of_others(struct nng_mon *m);

/* run.c */
void nng_mon_run_init(struct nng_mon *m); /* struct nng_run from the header */

#endif
