/* SPDX-License-Identifier: MIT
 *
 * From the model and the outside facts to the evidence of one incident. Cheap facts first; what is slow
 * (who holds /dev/shm) is only asked where it can matter, because the words on the screen wait for it.
 */
#include "mon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void who(struct nng_mon *m, const struct nng_tracked *t, struct nng_evidence *ev)
{
    const struct nng_tracked *parent = nng_model_find(&m->model, t->ppid);

    ev->who.pid = t->pid;
    ev->who.ppid = t->ppid;
    ev->who.role = t->role;
    ev->who.method = t->method;
    ev->who.ordinal = t->ordinal;
    ev->who.of = parent && parent->peak >= t->ordinal ? parent->peak : t->ordinal;
    ev->who.rank = t->rank;
    ev->who.python = t->python;
    nng_text_clean_line(ev->who.name, sizeof ev->who.name, t->comm, strlen(t->comm));
    nng_text_clean_line(ev->who.cmdline, sizeof ev->who.cmdline, t->cmdline, strlen(t->cmdline));
    ev->who.birth_ns = t->birth_ns;
    ev->who.death_ns = t->death_ns;
    ev->cpu_time_ns = t->cpu_ns;
    ev->cpu_limit_s = t->cpu_limit;
    ev->victim_rss = t->rss;
    ev->run_rss = m->run_rss;
}

/* What the process itself left in its journal entry. */
static void entry(struct nng_mon *m, const struct nng_tracked *t, struct nng_evidence *ev)
{
    struct nng_proc *p = malloc(sizeof *p);
    char *tail = malloc(NNG_TAIL_SIZE + 1);

    if (!p || !tail)
        goto out;
    if (t->proc_index < 0 || !nng_view_proc(&m->view, (unsigned)t->proc_index, p) ||
        p->pid != (uint32_t)t->pid || (t->generation && p->generation != t->generation))
        goto out;
    uint32_t state = atomic_load_explicit(&p->fault.state, memory_order_relaxed);
    if (state != NNG_F_NONE && state != NNG_F_FILLING && state != NNG_F_REPAIRED) {
        ev->has_fault = true;
        ev->fault = p->fault;
    }
    if (atomic_load_explicit(&p->usage.valid, memory_order_relaxed)) {
        ev->has_usage = true;
        ev->usage = p->usage;
        if (!ev->cpu_time_ns)
            ev->cpu_time_ns = p->usage.utime_ns + p->usage.stime_ns;
    }
    unsigned n = nng_proc_tail(p, tail);
    nng_text_clean(ev->tail, sizeof ev->tail, tail, n);
    nng_stack_python(ev->tail, &ev->stack);
    for (unsigned i = 0; i < NNG_FILES_N; i++) {
        const char *path = nng_proc_file(p, i);
        if (path && *path)
            nng_text_clean_line(ev->files[ev->n_files++], NNG_PATH, path, strlen(path));
    }
    nng_text_traceback(ev->tail, &ev->tb);
out:
    free(tail);
    free(p);
}

static void add_fails(struct nng_evidence *ev, const struct nng_tracked *t, uint64_t since,
                      uint64_t until)
{
    int have = t->n_fails < NNG_T_FAILS ? t->n_fails : NNG_T_FAILS;

    for (int i = 0; i < have && ev->n_fails < (int)(sizeof ev->fails / sizeof ev->fails[0]); i++) {
        const struct nng_failcall *f = &t->fails[(t->n_fails - 1 - i) % NNG_T_FAILS];
        if (f->time_ns >= since && f->time_ns <= until)
            ev->fails[ev->n_fails++] = *f;
    }
}

static bool fails_with(const struct nng_evidence *ev, int err)
{
    for (int i = 0; i < ev->n_fails; i++)
        if (ev->fails[i].err == err)
            return true;
    return false;
}

/* When it failed so last, the victim's own failures first. */
static uint64_t failed_at(const struct nng_evidence *ev, int err)
{
    for (int i = 0; i < ev->n_fails; i++)
        if (ev->fails[i].err == err)
            return ev->fails[i].time_ns;
    return 0;
}

static void shm(struct nng_mon *m, struct nng_evidence *ev)
{
    bool matters = (ev->has_fault && ev->fault.signo == SIGBUS) || fails_with(ev, ENOSPC);
    int pids[256] = {0};
    int n = 0;

    if (matters)
        for (size_t i = 0; i < m->model.n && n < 256; i++)
            if (!m->model.t[i]->dead || m->model.t[i]->pid == ev->who.pid)
                pids[n++] = m->model.t[i]->pid;
    nng_devshm_read(pids, n, &ev->shm);
    ev->shm.biggest_ask = m->model.biggest_ask;
    ev->shm.rescued = (int64_t)(nng_rescued_bound(&m->view.j->hdr) & INT64_MAX);
    if (!matters)
        ev->shm.held_by_run = ev->shm.sized_by_run = -1;
    m->run.shm = ev->shm;
}

static void outside(struct nng_mon *m, const struct nng_tracked *t, struct nng_evidence *ev)
{
    nng_watch_memory(m, t, &ev->mem);
    nng_hostmem_read(&ev->host);
    ev->host.vmstat_kills = nng_watch_vmstat(m);
    if (m->kmsg) {
        uint64_t to = nng_mon_now();
        uint64_t from = to > 15 * NNG_SECOND ? to - 15 * NNG_SECOND : 0;
        if (t->birth_ns > from)
            from = t->birth_ns;
        nng_kmsg_poll(m->kmsg);
        nng_kmsg_match(m->kmsg, t->pid, t->comm, t->rss, from, to + NNG_SECOND, &ev->kmsg);
    }
    shm(m, ev);
    if (fails_with(ev, EAGAIN)) {
        uint64_t when = failed_at(ev, EAGAIN);
        nng_pidscope_read(t->pid, &t->cg, nng_watch_refused(m, t, when), &ev->pids);
        for (size_t i = 0; i < m->model.n; i++) {
            const struct nng_tracked *o = m->model.t[i];
            ev->pids.others_lost +=
                o != t && o->dead && o->death_ns >= when && o->birth_ns && o->birth_ns <= when;
        }
    }
    if (!ev->has_usage && (ev->status.signal == SIGKILL || !t->dead)) {
        nng_limits_read(t->pid, &ev->usage);
        ev->has_usage = atomic_load_explicit(&ev->usage.valid, memory_order_relaxed) != 0;
    }
}

void nng_gather(struct nng_mon *m, struct nng_tracked *t, enum nng_kind kind,
                struct nng_evidence *ev)
{
    uint64_t when;

    memset(ev, 0, sizeof *ev);
    ev->kind = kind;
    ev->alive = !t->dead && kind == NNG_K_STALL;
    ev->status = t->status;
    ev->shm.held_by_run = ev->shm.sized_by_run = ev->shm.total = ev->shm.free =
        ev->shm.biggest_ask = -1;
    ev->host.vmstat_kills = -1;
    ev->host.total = ev->host.available = -1;
    ev->mem.kills = ev->mem.limit = ev->mem.limit_hit = -1;
    ev->mem.foreign = -1;
    ev->mem.kills_fresh = -1;
    ev->pids.max = ev->pids.current = ev->pids.max_events = ev->pids.user_tasks = -1;
    ev->pids.nproc_soft = -2;
    ev->stack.culprit = -1;
    who(m, t, ev);
    entry(m, t, ev);
    /* A death's own time comes from the dying process where it left one. */
    when = nng_model_signal_ended(t) ? t->signalled_ns : t->left ? t->left_ns : t->death_ns;
    if (kind == NNG_K_STALL && t->n_fails)
        when = t->fails[(t->n_fails - 1) % NNG_T_FAILS].time_ns;
    ev->time_ns = when ? when : nng_mon_now();
    if (!ev->status.known && (kind != NNG_K_STALL || !t->left))
        nng_model_own_status(t, &ev->status);
    ev->n_kills = t->n_kills;
    for (int i = 0; i < t->n_kills; i++)
        ev->kills[i] = t->kills[t->n_kills - 1 - i];
    add_fails(ev, t, 0, ~0ULL);
    for (size_t i = m->model.n; i-- > 0;)
        if (m->model.t[i] != t)
            add_fails(ev, m->model.t[i], ev->time_ns > NNG_WINDOW ? ev->time_ns - NNG_WINDOW : 0,
                      ~0ULL);
    ev->one_of_several = t->one_of_several;
    ev->parent_gone = t->why == NNG_WHY_PARENT_GONE;
    int sig = ev->status.signal;
    ev->handed_blind = (t->python || !t->generation) && !ev->has_fault &&
                       (sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGFPE ||
                        sig == SIGILL || sig == SIGSYS || sig == SIGTRAP);
    ev->sender = t->sender_is;
    ev->machine = m->run.machine;
    ev->workers_alive = nng_model_alive_workers(&m->model);
    ev->workers_seen = m->model.workers_seen;
    ev->workers_at_once = m->model.workers_at_once;
    if (m->live)
        outside(m, t, ev);
    else
        nng_watch_from_samples(m, &ev->mem, &ev->run_rss);
}
