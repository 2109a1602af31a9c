/* SPDX-License-Identifier: MIT
 *
 * Is this death an incident, or somebody's will, or a consequence? Silence at every normal end is as
 * important as words at a bad one. What cannot be told yet is postponed by a bounded time, never for
 * ever, and never where the process waits for us.
 */
#include "mon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_STATUS (150 * NNG_MS) /* for the parent to reap where the kernel does not tell */
#define WAIT_OTHERS (300 * NNG_MS) /* to see whether the whole run got the same signal */
#define WAIT_KILLS (5 * NNG_MS)    /* kills of one OOM or one kill -9 of a group come together */

static bool is_fault(int sig)
{
    return sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGFPE || sig == SIGILL ||
           sig == SIGSYS || sig == SIGTRAP;
}

static void silent(struct nng_tracked *t, enum nng_why why, int by)
{
    t->judged = true;
    t->judge_at = 0;
    t->why = why;
    t->why_signal_by = by;
}

/* True: wait until `after` the death was seen has passed. */
static bool postpone(struct nng_tracked *t, uint64_t after)
{
    uint64_t now = nng_mon_now();
    if (now >= t->death_seen_ns + after)
        return false;
    t->judge_at = t->death_seen_ns + after;
    return true;
}

/* ---- by whose will? --------------------------------------------------------------------------- */
/* By its own record where it left one: the monitor may have been told late. */
static uint64_t died_at(const struct nng_tracked *t)
{
    if (t->held && t->signalled_ns && t->signalled_ns < t->death_ns)
        return t->signalled_ns;
    return t->left && t->left_ns < t->death_ns ? t->left_ns : t->death_ns;
}

/* A handler took that TERM (to save a checkpoint, say); what ended it later was an exception of its own. */
static bool outlived(struct nng_mon *m, const struct nng_tracked *t, const struct nng_killrec *k)
{
    struct nng_traceback tb = {0};

    return k->signal != SIGKILL && k->time_ns + NNG_SECOND < died_at(t) &&
           nng_judge_traceback(m, t, &tb) && tb.own && tb.complete && !tb.keyboard &&
           strcmp(tb.type, "SystemExit") != 0 && !nng_judge_is_aftermath(&tb);
}

bool nng_judge_by_parent(struct nng_mon *m, const struct nng_tracked *t, int *sender)
{
    int sig = t->status.signal;

    for (int i = t->n_kills; i-- > 0;) {
        const struct nng_killrec *k = &t->kills[i];
        bool fits = sig ? k->signal == sig
                        : (k->signal == SIGTERM || k->signal == SIGINT || k->signal == SIGKILL);
        /* An executor's teardown signals every worker, also the one that is dead by itself already. */
        if (k->by_parent && fits && k->time_ns <= died_at(t) && !(sig == 0 && outlived(m, t, k))) {
            *sender = k->sender;
            return true;
        }
    }
    if (sig && t->signalled == sig && t->signal_sender > 0 &&
        nng_model_above(&m->model, t->signal_sender, t)) {
        *sender = t->signal_sender;
        return true;
    }
    return false;
}

bool nng_judge_polite(int sig)
{
    return sig == SIGTERM || sig == SIGHUP || sig == SIGINT;
}

/* Was `t`'s TERM or HUP part of a signal to the whole run (a cancelled job, a closed terminal)? The root
 * got one too, or ended as one does that caught one; or every worker that lived got it. The root's own
 * failure afterwards is no sign: it may be what t's death led to. */
static bool whole_run_signalled(const struct nng_mon *m, const struct nng_tracked *t)
{
    const struct nng_tracked *r = m->model.root;
    int spared = 0, also = 0;

    if (!r)
        return m->root_dead;
    if (nng_judge_polite(r->signalled) || (r->status.known && nng_judge_polite(r->status.signal)))
        return true;
    for (int i = 0; i < r->n_kills; i++)
        if (nng_judge_polite(r->kills[i].signal))
            return true;
    if ((r->left && (r->left_code == 130 || r->left_code == 143 || r->left_code == 129)) ||
        (r->dead && r->death_ns <= died_at(t)) || (r->left && r->left_ns <= died_at(t)))
        return true;
    for (size_t i = 0; i < m->model.n; i++) {
        const struct nng_tracked *o = m->model.t[i];
        if (o == t || o->role != NNG_ROLE_WORKER || (o->judged && o->why != NNG_WHY_INTERRUPT))
            continue;
        if (nng_judge_polite(o->signalled) && !nng_model_above(&m->model, o->signal_sender, o))
            also++;
        else if (!o->dead && !o->left)
            spared++;
    }
    return also > 0 && spared == 0;
}

bool nng_judge_tail(struct nng_mon *m, const struct nng_tracked *t, char *out)
{
    struct nng_proc *p = malloc(sizeof *p);
    char *raw = malloc(NNG_TAIL_SIZE + 1);
    bool ok = p && raw && t->proc_index >= 0 &&
              nng_view_proc(&m->view, (unsigned)t->proc_index, p) && p->pid == (uint32_t)t->pid;

    if (ok)
        nng_text_clean(out, NNG_TAIL_SIZE + 1, raw, nng_proc_tail(p, raw));
    free(raw);
    free(p);
    return ok;
}

bool nng_judge_traceback(struct nng_mon *m, const struct nng_tracked *t, struct nng_traceback *tb)
{
    char *tail = malloc(NNG_TAIL_SIZE + 1);
    bool ok = tail && nng_judge_tail(m, t, tail);

    if (ok)
        nng_text_traceback(tail, tb);
    free(tail);
    return ok && tb->present;
}

bool nng_judge_is_aftermath(const struct nng_traceback *tb)
{
    return nng_text_lost_peer(tb);
}

static bool after_an_incident(const struct nng_mon *m, uint64_t when)
{
    for (int k = 0; k < m->run.n_incidents; k++) {
        uint64_t at = m->run.incident[k].last_time_ns;
        if (m->run.incident[k].ev.time_ns > at)
            at = m->run.incident[k].ev.time_ns;
        if (when + NNG_SECOND >= at && when <= at + NNG_CHAIN)
            return true;
    }
    return false;
}

static bool threads_failed(const struct nng_tracked *t)
{
    int have = t->n_fails < NNG_T_FAILS ? t->n_fails : NNG_T_FAILS;
    for (int i = 0; i < have; i++)
        if (t->fails[i].err == EAGAIN)
            return true;
    return false;
}

/* ---- workers ---------------------------------------------------------------------------------- */
static void judge_clean(struct nng_mon *m, struct nng_tracked *t)
{
    struct nng_traceback tb = {0};

    /* batchgenerators catches what its worker raises, prints it and ends with status 0 */
    if (t->role == NNG_ROLE_WORKER && nng_judge_traceback(m, t, &tb) && tb.background_worker &&
        !tb.keyboard) {
        nng_incident_weigh(m, t, NNG_K_DEATH);
        if (nng_incident_is("unknown") || nng_incident_is("worker_exit")) {
            silent(t, NNG_WHY_NONE, 0);
            return;
        }
        t->judged = true;
        nng_incident_tell(m, t);
        return;
    }
    silent(t, NNG_WHY_NONE, 0);
}

/* kill -9 of the whole group, memory.oom.group: the trainer's own death tells of it, once. */
static bool killed_with_root(const struct nng_mon *m, const struct nng_tracked *t)
{
    const struct nng_tracked *r = m->model.root;
    return r && r->dead && r->status.signal == SIGKILL && r->death_ns < t->death_ns + 50 * NNG_MS;
}

/* _posixsubprocess leaves so where the exec fails (no such program or folder, a preexec_fn that raises): the
 * parent raises what the child told it through a pipe; 126 and 127 are the shell's words for it. It was on its
 * way to be a helper. */
#define EXEC_SOON (500 * NNG_MS)
static bool failed_exec(struct nng_mon *m, const struct nng_tracked *t)
{
    char *tail;
    bool said;

    if (t->birth != NNG_B_FORK || t->status.signal ||
        (t->status.code != 255 && t->status.code != 127 && t->status.code != 126) ||
        died_at(t) > t->birth_ns + EXEC_SOON)
        return false;
    tail = malloc(NNG_TAIL_SIZE + 1);
    said = tail && nng_judge_tail(m, t, tail) && tail[0];
    free(tail);
    return !said;
}

/* Up to Python 3.6 every child of a forkserver leaves with 1: the true code goes to its parent through a
 * pipe (multiprocessing/forkserver.py). The version shows in the server's command line. */
static bool code_means_nothing(const struct nng_tracked *t)
{
    static const char *const old[] = {"python3.4", "python3.5", "python3.6"};

    if (t->method != NNG_SM_FORKSERVER || t->status.signal || t->status.code != 1)
        return false;
    for (size_t i = 0; i < sizeof old / sizeof old[0]; i++)
        if (strstr(t->cmdline, old[i]))
            return true;
    return false;
}

/* 1: it is an incident, 0: settled as silent, -1: postponed */
static int worker_is_incident(struct nng_mon *m, struct nng_tracked *t)
{
    struct nng_traceback tb = {0};
    const struct nng_tracked *parent = nng_model_find(&m->model, t->ppid);
    int sig = t->status.signal;
    int by = 0;

    if (nng_judge_by_parent(m, t, &by)) {
        silent(t, NNG_WHY_BY_PARENT, by);
        return 0;
    }
    if (m->ending) {
        silent(t, NNG_WHY_MONITOR, 0);
        return 0;
    }
    if (failed_exec(m, t)) {
        silent(t, NNG_WHY_NONE, 0);
        return 0;
    }
    if (!is_fault(sig) &&
        ((m->root_dead && m->model.root && m->model.root->death_ns <= died_at(t)) ||
         (parent && parent->dead && parent->death_ns <= died_at(t)))) {
        silent(t, NNG_WHY_PARENT_GONE, t->ppid);
        return 0;
    }
    if (sig == SIGINT && !threads_failed(t)) {
        silent(t, NNG_WHY_INTERRUPT, 0);
        return 0;
    }
    if (sig == SIGTERM || sig == SIGHUP) {
        if (whole_run_signalled(m, t)) {
            silent(t, NNG_WHY_INTERRUPT, 0);
            return 0;
        }
        return postpone(t, WAIT_OTHERS) ? -1 : 1;
    }
    if (sig == SIGQUIT) { /* Ctrl-\\ goes to the whole foreground group */
        const struct nng_tracked *r = m->model.root;
        if (r && r->dead && r->status.signal == SIGQUIT) {
            silent(t, NNG_WHY_INTERRUPT, 0);
            return 0;
        }
        return postpone(t, WAIT_OTHERS) ? -1 : 1;
    }
    if (sig == SIGKILL) {
        if (postpone(t, WAIT_KILLS))
            return -1;
        if (killed_with_root(m, t)) {
            silent(t, NNG_WHY_PARENT_GONE, m->run.root_pid);
            return 0;
        }
        return 1;
    }
    if (sig == 0) {
        bool has = nng_judge_traceback(m, t, &tb);
        if (!has && code_means_nothing(t)) {
            silent(t, NNG_WHY_NONE, 0);
            return 0;
        }
        if ((has && tb.keyboard && !threads_failed(t)) || (t->status.code == 130 && !has)) {
            silent(t, NNG_WHY_INTERRUPT, 0);
            return 0;
        }
        if (has && nng_judge_is_aftermath(&tb)) {
            if (after_an_incident(m, t->death_ns) || whole_run_signalled(m, t)) {
                silent(t, NNG_WHY_AFTERMATH, 0);
                return 0;
            }
            return postpone(t, WAIT_OTHERS) ? -1 : 1;
        }
    }
    return 1;
}

/* ---- the root --------------------------------------------------------------------------------- */
static bool known_failure(void)
{
    static const char *const general[] = {"worker_exception", "worker_exit", "unknown",
                                          "killed_unknown"};
    if (nng_incident_verdict()->confidence < NNG_LIKELY)
        return false;
    for (size_t i = 0; i < sizeof general / sizeof general[0]; i++)
        if (nng_incident_is(general[i]))
            return false;
    return true;
}

static bool sent_itself(const struct nng_tracked *t, int sig)
{
    for (int i = 0; i < t->n_kills; i++)
        if (t->kills[i].sender == t->pid && t->kills[i].signal == sig)
            return true;
    return t->signalled == sig && t->signal_sender == t->pid;
}

static bool told_before(const struct nng_mon *m)
{
    for (int k = 0; k < m->run.n_incidents; k++)
        if (nng_incident_is(m->run.incident[k].verdict.cause))
            return true;
    return false;
}

static void judge_root(struct nng_mon *m, struct nng_tracked *t)
{
    struct nng_traceback tb = {0};
    int sig = t->status.signal;

    m->root_judged = true;
    t->judged = true;
    t->judge_at = 0;
    /* Ctrl-C and Ctrl-\\: a person's will */
    if (m->ending || sig == SIGINT || (sig == SIGQUIT && t->n_kills == 0) ||
        (!sig && t->status.code == 130)) {
        t->why = m->ending ? NNG_WHY_MONITOR : NNG_WHY_INTERRUPT;
        return;
    }
    if (sig) {
        if ((sig == SIGTERM || sig == SIGHUP || sig == SIGKILL) && sent_itself(t, sig)) {
            t->why = NNG_WHY_INTERRUPT;
            return;
        }
        nng_incident_weigh(m, t, NNG_K_DEATH);
        nng_incident_tell(m, t);
        return;
    }
    if (!t->status.known || t->status.code == 0)
        return; /* nothing tells that it ended badly */
    nng_told_by_trainer(m, t);
    bool has = nng_judge_traceback(m, t, &tb);
    if (after_an_incident(m, nng_mon_now())) {
        /* mostly what that one led to; but a tolerated death excuses no full disk five seconds later */
        if (!has || !tb.last || nng_judge_is_aftermath(&tb) || nng_judge_of_workers(tb.message))
            return;
        nng_incident_weigh(m, t, NNG_K_FAILURE);
        if (known_failure() && !told_before(m))
            nng_incident_tell(m, t);
        return;
    }
    if (has && tb.keyboard) {
        t->why = NNG_WHY_INTERRUPT;
        return;
    }
    if (nng_told_of_absent(m, t, &tb))
        return;
    nng_incident_weigh(m, t, NNG_K_FAILURE);
    if (known_failure())
        nng_incident_tell(m, t);
}

void nng_judge_root_leaving(struct nng_mon *m)
{
    struct nng_tracked *t = m->model.root;

    if (!t || t->judged)
        return;
    if (!t->status.known && !nng_model_own_status(t, &t->status))
        return;
    if (t->incident < 0)
        judge_root(m, t);
    t->judged = true;
    m->root_judged = true;
}

/* ---- entry points ----------------------------------------------------------------------------- */
/* A process of the run, or t itself, sent it a signal right before it was gone. */
static int sent_shortly_before(const struct nng_tracked *t)
{
    for (int i = t->n_kills; i-- > 0;) {
        const struct nng_killrec *k = &t->kills[i];
        bool harmless = k->signal == SIGCHLD || k->signal == SIGCONT || k->signal == SIGURG ||
                        k->signal == SIGWINCH || k->signal == SIGSTOP || k->signal == SIGTSTP;
        if (!harmless && k->time_ns <= t->death_ns && k->time_ns + NNG_SECOND > t->death_ns)
            return k->signal;
    }
    return 0;
}

/* A Python trainer leaves a record of an exit and of every signal that usually ends one; without any, a
 * kill is left, unless one of the run sent it something else. A program that it became by exec, or that is
 * not Python, leaves none whatever its end was. */
static void infer_status(struct nng_mon *m, struct nng_tracked *t)
{
    if (t->status.known)
        return;
    if (!nng_model_own_status(t, &t->status)) {
        if (t != m->model.root)
            return;
        int sig = sent_shortly_before(t);
        if (!sig && (t->execed || (m->live && !t->python)))
            return;
        if (sig) {
            t->status.signal = sig;
            snprintf(t->status.source, sizeof t->status.source, "a signal of this run to it");
            t->status.known = t->status.inferred = true;
            return;
        }
        t->status.signal = SIGKILL;
        snprintf(t->status.source, sizeof t->status.source, "%s", NNG_NO_RECORD);
    }
    t->status.known = t->status.inferred = true;
}

/* Already told while it was held: now the true status is known. */
static void settle(struct nng_mon *m, struct nng_tracked *t)
{
    struct nng_incident *i = &m->run.incident[t->incident];
    if (i->ev.who.pid == t->pid) {
        i->ev.status = t->status;
        i->ev.who.death_ns = t->death_ns;
    }
    t->judged = true;
    t->judge_at = 0;
    if (t == m->model.root)
        m->root_judged = true;
    m->reports_stale = true;
}

void nng_judge(struct nng_mon *m, struct nng_tracked *t)
{
    if (t->judged || !t->dead)
        return;
    if (!t->death_seen_ns)
        t->death_seen_ns = nng_mon_now();
    if (!t->status.known && m->live && postpone(t, WAIT_STATUS))
        return;
    infer_status(m, t);
    t->judge_at = 0;
    if (t->incident >= 0) {
        settle(m, t);
        return;
    }
    if (t->role == NNG_ROLE_HELPER) {
        if (t->status.known && (t->status.signal || t->status.code))
            nng_model_moment(&m->model, t->death_ns, "helper pid %d (%s) ended: %s %d", t->pid,
                             t->comm, t->status.signal ? "signal" : "exit code",
                             t->status.signal ? t->status.signal : t->status.code);
        silent(t, NNG_WHY_NONE, 0);
        return;
    }
    if (t == m->model.root) {
        judge_root(m, t);
        return;
    }
    if (!t->status.known) { /* nobody told, and it left nothing: no ground to speak on */
        silent(t, NNG_WHY_NONE, 0);
        return;
    }
    if (!t->status.signal && t->status.code == 0) {
        judge_clean(m, t);
        return;
    }
    if (worker_is_incident(m, t) <= 0)
        return;
    nng_incident_weigh(m, t, NNG_K_DEATH);
    t->judged = true;
    t->judge_at = 0;
    nng_incident_tell(m, t);
}

void nng_judge_due(struct nng_mon *m, bool all)
{
    uint64_t now = nng_mon_now();

    for (size_t i = 0; i < m->model.n; i++) {
        struct nng_tracked *t = m->model.t[i];
        if (t->judge_at && !t->judged && (all || now >= t->judge_at)) {
            if (all && now < t->death_seen_ns + WAIT_OTHERS)
                t->death_seen_ns = now - WAIT_OTHERS;
            nng_judge(m, t);
        }
        if (t->shm_judge_at && (now >= t->shm_judge_at || (all && t != m->model.root)))
            nng_judge_shm_due(m, t);
    }
}

bool nng_judge_pending(const struct nng_mon *m)
{
    for (size_t i = 0; i < m->model.n; i++)
        if ((m->model.t[i]->judge_at && !m->model.t[i]->judged) || m->model.t[i]->shm_judge_at)
            return true;
    return false;
}
