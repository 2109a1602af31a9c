/* SPDX-License-Identifier: MIT
 *
 * See model.h. Records are taken in ring order, which is nearly the order of time; nothing here may
 * depend on a BIRTH being seen before a WAIT or a KILL of the same process.
 */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND 1000000000ULL

bool nng_status_final(const struct nng_status *s)
{
    return s->known && !s->inferred && strcmp(s->source, "its own record") != 0;
}

/* A handler may have jumped out of a signal (a probe of the processor by SIGILL and siglongjmp): unless
 * the default action was next, it counts only shortly before the death. */
bool nng_model_signal_ended(const struct nng_tracked *t)
{
    return t->signalled && (t->held || !t->dead || !t->death_ns ||
                            t->death_ns <= t->signalled_ns + SECOND + SECOND / 2);
}

bool nng_model_own_status(const struct nng_tracked *t, struct nng_status *s)
{
    if (!t->left && !nng_model_signal_ended(t))
        return false;
    if (t->left)
        s->code = t->left_code;
    else
        s->signal = t->signalled;
    s->known = true;
    s->inferred = t->left || !t->held;
    snprintf(s->source, sizeof s->source, "its own record");
    return true;
}

void nng_model_init(struct nng_model *m, int root_pid)
{
    memset(m, 0, sizeof *m);
    m->root_pid = root_pid;
    m->biggest_ask = -1;
}

static void drop(struct nng_tracked *t)
{
    if (t->pidfd >= 0)
        close(t->pidfd);
    free(t);
}

void nng_model_free(struct nng_model *m)
{
    for (size_t i = 0; i < m->n; i++)
        drop(m->t[i]);
    free(m->t);
    memset(m, 0, sizeof *m);
}

struct nng_tracked *nng_model_find(const struct nng_model *m, int pid)
{
    for (size_t i = m->n; i-- > 0;)
        if (m->t[i]->pid == pid)
            return m->t[i];
    return NULL;
}

struct nng_tracked *nng_model_add(struct nng_model *m, int pid)
{
    struct nng_tracked *t = nng_model_find(m, pid);
    if (t && !t->dead)
        return t;
    if (m->n == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 64;
        struct nng_tracked **grown = realloc(m->t, cap * sizeof(*grown));
        if (!grown)
            return NULL;
        m->t = grown;
        m->cap = cap;
    }
    t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->pid = pid;
    t->ppid = -1;
    t->pgrp = -1;
    t->proc_index = -1;
    t->pidfd = -1;
    t->rank = -1;
    t->incident = -1;
    t->rss = -1;
    t->signal_sender = -1;
    m->t[m->n++] = t;
    if (pid == m->root_pid && !m->root)
        m->root = t;
    return t;
}

bool nng_model_above(const struct nng_model *m, int who, const struct nng_tracked *of)
{
    if (who <= 0 || who == of->pid)
        return false;
    if (of->pid == m->root_pid)
        return false;
    if (who == m->root_pid || who == of->ppid)
        return true;
    int up = of->ppid;
    /* not beyond the root: what started the run is outside of it, and its signals are incidents */
    for (int depth = 0; depth < 16 && up > 0 && up != m->root_pid; depth++) {
        if (up == who)
            return true;
        const struct nng_tracked *p = nng_model_find(m, up);
        if (!p || p->ppid == up)
            return false;
        up = p->ppid;
    }
    return false;
}

int nng_model_alive_workers(const struct nng_model *m)
{
    int n = 0;
    for (size_t i = 0; i < m->n; i++)
        n += m->t[i]->role == NNG_ROLE_WORKER && !m->t[i]->dead;
    return n;
}

void nng_model_prune(struct nng_model *m, uint64_t now)
{
    if (m->n < 256)
        return;
    size_t kept = 0;
    size_t surplus = m->n - 128;
    for (size_t i = 0; i < m->n; i++) {
        struct nng_tracked *t = m->t[i];
        bool old = t->dead && t->judged && t != m->root && now - t->death_seen_ns > 2 * SECOND;
        if (old && surplus > 0) {
            surplus--;
            drop(t);
            continue;
        }
        m->t[kept++] = t;
    }
    m->n = kept;
}

void nng_model_moment(struct nng_model *m, uint64_t time_ns, const char *fmt, ...)
{
    struct nng_moment *mo = &m->moment[m->n_moments++ % NNG_TIMELINE];
    va_list ap;
    mo->time_ns = time_ns;
    va_start(ap, fmt);
    vsnprintf(mo->text, sizeof mo->text, fmt, ap);
    va_end(ap);
}

/* ---- records ---------------------------------------------------------------------------------- */
/* A process may be dead before its birth is read: the root, where the monitor starts late, or a child
 * known by its parent's FORK. It is the same one, not a new user of its number. */
static struct nng_tracked *awaited(const struct nng_model *m, const struct nng_rec *r)
{
    struct nng_tracked *t = nng_model_find(m, (int)r->pid);
    uint64_t ticks = (uint64_t)r->d;

    if (!t || !t->dead || (t->start_ticks && t->start_ticks != ticks))
        return NULL;
    /* a fork that became another Python program by exec keeps its start time */
    return !t->generation || (!t->judged && t->start_ticks) ? t : NULL;
}

static struct nng_tracked *on_birth(struct nng_model *m, const struct nng_view *v,
                                    const struct nng_got *g)
{
    const struct nng_rec *r = &g->rec;
    struct nng_tracked *t = awaited(m, r);
    struct nng_proc *p;

    if (!t)
        t = nng_model_add(m, (int)r->pid);
    if (!t)
        return NULL;
    t->ppid = (int)r->a;
    t->birth = (enum nng_birth)r->c;
    t->start_ticks = (uint64_t)r->d;
    t->birth_ns = r->time_ns;
    t->generation = g->ticket;
    t->proc_index = r->b >= 0 && r->b < (int64_t)NNG_PROCS_N ? (int)r->b : -1;
    t->execed = false;
    t->left = false;
    snprintf(t->comm, sizeof t->comm, "%.15s", g->text);
    p = malloc(sizeof *p);
    if (p && t->proc_index >= 0 && nng_view_proc(v, (unsigned)t->proc_index, p) &&
        p->pid == r->pid) {
        snprintf(t->cmdline, sizeof t->cmdline, "%s", p->cmdline);
        t->rank = p->rank;
        t->python = p->python != 0;
    }
    free(p);
    if (m->live && !t->cmdline[0]) { /* more processes than the journal has entries for */
        nng_proc_cmdline(t->pid, t->cmdline, sizeof t->cmdline);
        t->python |= strstr(t->cmdline, "python") != NULL;
    }
    nng_roles_assign(m, t);
    nng_model_moment(m, r->time_ns, "%s started: pid %d (%s), parent %d",
                     t->role == NNG_ROLE_TRAINER  ? "trainer"
                     : t->role == NNG_ROLE_WORKER ? "worker"
                                                  : "helper",
                     t->pid, t->comm, t->ppid);
    return t;
}

static struct nng_tracked *on_fork(struct nng_model *m, const struct nng_got *g)
{
    const struct nng_rec *r = &g->rec;
    struct nng_tracked *t;

    if (!r->err && r->a > 0 && r->call != NNG_C_FORK)
        m->started[m->n_started++ % NNG_M_WAITS] = (int)r->a;
    if (r->err || r->a <= 0 || r->call != NNG_C_FORK)
        return NULL;
    t = nng_model_find(m, (int)r->a);
    if (t && t->birth_ns + SECOND > r->time_ns)
        return t; /* the child's own record came first */
    t = nng_model_add(m, (int)r->a);
    if (!t || t->birth)
        return t;
    t->ppid = (int)r->pid;
    t->birth = NNG_B_FORK;
    t->birth_ns = r->time_ns;
    nng_roles_assign(m, t);
    return t;
}

static struct nng_tracked *on_exec(struct nng_model *m, const struct nng_got *g)
{
    struct nng_tracked *t = nng_model_find(m, (int)g->rec.pid);

    if (g->rec.flags & NNG_RF_VFORK)
        m->started[m->n_started++ % NNG_M_WAITS] = (int)g->rec.pid;
    if (g->rec.flags & NNG_RF_VFORK)
        nng_model_moment(m, g->rec.time_ns, "helper started: pid %u %s", g->rec.pid, g->text);
    if (!t || (g->rec.flags & NNG_RF_VFORK))
        return NULL;
    if (t->pid ==
        m->root_pid) { /* it stays the trainer, but leaves no record of its end any more */
        t->execed = true;
        return NULL;
    }
    /* It says so before it execs, and a short-lived tool's death may be told first: the record is of the
     * dead one unless the number has been given away, and then it would have a birth of its own. */
    if (t->dead && (t->judged || g->rec.time_ns < t->birth_ns))
        return NULL;
    t->execed = true; /* a Python child says otherwise by its own BIRTH */
    nng_roles_assign(m, t);
    return t;
}

static struct nng_tracked *on_wait(struct nng_model *m, const struct nng_got *g)
{
    int status = (int)g->rec.b;
    struct nng_tracked *t = nng_model_find(m, (int)g->rec.a);

    if (!WIFEXITED(status) && !WIFSIGNALED(status))
        return NULL;
    if (!t) {
        m->wait[m->n_waits++ % NNG_M_WAITS] =
            (struct nng_wait){(int)g->rec.a, status, g->rec.time_ns};
        if (status)
            nng_model_moment(m, g->rec.time_ns, "helper pid %d ended: %s %d", (int)g->rec.a,
                             WIFSIGNALED(status) ? "signal" : "exit code",
                             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        return NULL;
    }
    if (!nng_status_final(&t->status)) {
        t->status.known = true;
        t->status.inferred = false;
        t->status.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        t->status.code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
        t->status.core = WIFSIGNALED(status) && WCOREDUMP(status);
        snprintf(t->status.source, sizeof t->status.source, "%s in pid %u",
                 nng_call_name(g->rec.call), g->rec.pid);
    }
    /* The parent may have known before the monitor was told. */
    if (!t->dead || g->rec.time_ns < t->death_ns)
        t->death_ns = g->rec.time_ns;
    t->dead = true;
    return t;
}

static void kill_one(struct nng_model *m, const struct nng_got *g, struct nng_tracked *t)
{
    struct nng_tracked *s = nng_model_find(m, (int)g->rec.pid);
    struct nng_killrec *k;

    if (t->n_kills == NNG_T_KILLS) {
        memmove(&t->kills[0], &t->kills[1], (NNG_T_KILLS - 1) * sizeof t->kills[0]);
        t->n_kills--;
    }
    k = &t->kills[t->n_kills++];
    memset(k, 0, sizeof *k);
    k->sender = (int)g->rec.pid;
    k->sender_role = s ? s->role : NNG_ROLE_HELPER;
    k->by_parent = nng_model_above(m, k->sender, t);
    k->signal = (int)g->rec.b;
    k->time_ns = g->rec.time_ns;
    if (s)
        snprintf(k->sender_name, sizeof k->sender_name, "%s", s->comm);
}

static struct nng_tracked *on_kill(struct nng_model *m, const struct nng_got *g)
{
    int64_t target = g->rec.a;

    if (g->rec.b == 0 || g->rec.err || (target > 0 && g->rec.flags & NNG_RF_DEAD))
        return NULL;
    if (target > 0) {
        struct nng_tracked *t = nng_model_find(m, (int)target);
        if (t && !t->judged) /* its death may have been seen before this record was read */
            kill_one(m, g, t);
        return t;
    }
    for (size_t i = 0; i < m->n; i++) {
        struct nng_tracked *t = m->t[i];
        int64_t group = target == 0 ? g->rec.c : -target;
        if (g->rec.flags & NNG_RF_DEAD && t->pid == group)
            continue;
        if (!t->judged && (target == -1 || (group > 0 && t->pgrp == group)))
            kill_one(m, g, t);
    }
    return NULL;
}

static struct nng_tracked *on_fail(struct nng_model *m, const struct nng_got *g)
{
    const struct nng_rec *r = &g->rec;
    struct nng_tracked *t = nng_model_find(m, (int)r->pid);
    struct nng_failcall *f;

    if (!t)
        return NULL;
    f = &t->fails[t->n_fails++ % NNG_T_FAILS];
    memset(f, 0, sizeof *f);
    f->pid = t->pid;
    f->role = t->role;
    f->call = (enum nng_call)r->call;
    f->err = r->err;
    f->asked = r->a;
    f->free = r->b;
    f->total = r->c;
    f->count = r->d > 0 ? (uint64_t)r->d : 1;
    f->time_ns = r->time_ns;
    f->flags = r->flags;
    nng_text_clean_line(f->path, sizeof f->path, g->text, strlen(g->text));
    if ((r->flags & NNG_RF_DEVSHM) && r->a > m->biggest_ask)
        m->biggest_ask = r->a;
    if (f->count == 1)
        nng_model_moment(m, r->time_ns, "pid %d: %s failed: %s %s", t->pid, nng_call_name(r->call),
                         nng_errno_name(r->err), f->path);
    return t;
}

/* The kill at the hard CPU limit leaves no record of its own. */
static void on_limit(struct nng_model *m, const struct nng_got *g)
{
    int pid = g->rec.d > 0 ? (int)g->rec.d : (int)g->rec.pid;
    struct nng_tracked *t = nng_model_find(m, pid);

    if (t && !g->rec.err && g->rec.a == RLIMIT_CPU)
        t->cpu_limit = g->rec.c > 0 ? g->rec.c : 0;
}

static struct nng_tracked *on_leave(struct nng_model *m, const struct nng_got *g)
{
    struct nng_tracked *t = nng_model_find(m, (int)g->rec.pid);
    if (!t)
        return NULL;
    t->left = true;
    t->left_code = (int)(g->rec.a & 0xff);
    t->left_ns = g->rec.time_ns;
    return t;
}

static struct nng_tracked *on_signal(struct nng_model *m, const struct nng_got *g)
{
    struct nng_tracked *t = nng_model_find(m, (int)g->rec.pid);
    if (!t)
        return NULL;
    if (g->rec.type == NNG_R_REPAIRED) {
        t->signalled = 0;
        t->held = false;
        return t;
    }
    if (g->rec.type == NNG_R_HELD)
        t->held = true;
    if (g->rec.type == NNG_R_SIGNAL) {
        t->signalled = (int)g->rec.a;
        t->signalled_ns = g->rec.time_ns;
        t->signal_sender = g->rec.b <= 0 ? (int)g->rec.c : -1;
        t->sender_is = NNG_SENDER_UNKNOWN;
    }
    return t;
}

struct nng_tracked *nng_model_record(struct nng_model *m, const struct nng_view *v,
                                     const struct nng_got *g)
{
    switch ((enum nng_rec_type)g->rec.type) {
    case NNG_R_BIRTH:
        return on_birth(m, v, g);
    case NNG_R_FORK:
        return on_fork(m, g);
    case NNG_R_EXEC:
        return on_exec(m, g);
    case NNG_R_WAIT:
        return on_wait(m, g);
    case NNG_R_KILL:
        return on_kill(m, g);
    case NNG_R_FAIL:
        return on_fail(m, g);
    case NNG_R_LEAVE:
        return on_leave(m, g);
    case NNG_R_SIGNAL:
    case NNG_R_HELD:
    case NNG_R_REPAIRED:
        return on_signal(m, g);
    case NNG_R_LIMIT:
        on_limit(m, g);
        return NULL;
    case NNG_R_NONE:
    case NNG_R_NOTE:
    case NNG_R_SHM_OPEN:
    case NNG_R_SHM_UNLINK:
    case NNG_R_SEM_OPEN:
    case NNG_R_SIZE:
    case NNG_R_MAP:
    case NNG_R_SAMPLE:
    case NNG_R_COUNT:
    default:
        return NULL;
    }
}
