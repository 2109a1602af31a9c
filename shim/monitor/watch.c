/* SPDX-License-Identifier: MIT
 *
 * Once a second: memory of each process, of the cgroups they live in, kill counters, room in
 * /dev/shm. So the moments before a death are known, and a counter's rise can be told from its
 * level. A kill counter and a death belong together only within NNG_WINDOW, and each counted kill
 * explains one death only.
 */
#include "mon.h"

#include "../journal/append.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t nng_mon_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * NNG_SECOND + (uint64_t)ts.tv_nsec;
}

/* ---- which cgroup ----------------------------------------------------------------------------- */
static struct nng_watched *watched_of(struct nng_mon *m, const struct nng_cgroup *cg)
{
    for (unsigned i = 0; i < m->n_watched; i++)
        if (!strcmp(m->watched[i].folder, cg->mem))
            return &m->watched[i];
    return NULL;
}

static void read_counts(struct nng_watched *w, uint64_t now)
{
    struct nng_count *c = &w->history[w->n_history++ % NNG_HISTORY];

    if (nng_cgroup_mem(w->folder, w->version, &w->now))
        w->now.kills = w->now.fails = w->now.oomd = -1;
    if (w->now.peak > w->peak_seen)
        w->peak_seen = w->now.peak;
    if (w->now.usage > w->peak_seen)
        w->peak_seen = w->now.usage;
    c->time_ns = now;
    c->kills = w->now.kills;
    c->fails = w->now.fails;
    c->oomd = w->now.oomd;
    if (now - w->chain_ns >= NNG_WINDOW) {
        memcpy(w->chain_before, w->chain, sizeof w->chain);
        w->n_chain_before = w->n_chain;
        w->n_chain = nng_cgroup_chain(&w->cg, w->chain, NNG_LEVELS);
        w->chain_ns = now;
    }
}

/* The membership of a process as the kernel words it; 0: unreadable. */
static size_t membership(int pid, char *text, size_t n)
{
    char path[512];
    ssize_t got;

    snprintf(path, sizeof path, "%s/proc/%d/cgroup", nng_probe_root, pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    got = read(fd, text, n);
    close(fd);
    return got > 0 && (size_t)got < n ? (size_t)got : 0;
}

/* Nearly every process lives where the last one did: the mount table is read once, not at every birth. */
static bool find_cgroup(int pid, struct nng_cgroup *out)
{
    static char last[2048];
    static size_t last_n;
    static struct nng_cgroup cg;
    char text[2048];
    size_t n = membership(pid, text, sizeof text);

    if (n == 0 || n != last_n || memcmp(text, last, n) != 0) {
        if (nng_cgroup_find(pid, &cg)) {
            last_n = 0;
            return false;
        }
        memcpy(last, text, n);
        last_n = n;
    }
    *out = cg;
    return true;
}

static void read_refused(struct nng_pids_watched *w, uint64_t now)
{
    struct nng_refused *r = &w->history[w->n_history++ % NNG_HISTORY];
    int64_t max, current;

    r->time_ns = now;
    if (nng_cgroup_pids(&w->cg, &max, &current, &r->events, NULL, 0))
        r->events = -1;
}

static struct nng_pids_watched *pids_of(struct nng_mon *m, const struct nng_cgroup *cg)
{
    for (unsigned i = 0; i < m->n_pids; i++)
        if (!strcmp(m->pids[i].cg.pids, cg->pids))
            return &m->pids[i];
    return NULL;
}

static void place_pids(struct nng_mon *m, const struct nng_cgroup *cg, uint64_t now)
{
    if (!cg->pids_version || m->n_pids == NNG_WATCHED / 2 || pids_of(m, cg))
        return;
    m->pids[m->n_pids].cg = *cg;
    read_refused(&m->pids[m->n_pids++], now);
}

int64_t nng_watch_refused(struct nng_mon *m, const struct nng_tracked *t, uint64_t when)
{
    const struct nng_pids_watched *w = t->cg.pids_version ? pids_of(m, &t->cg) : NULL;
    int64_t before = -1;

    for (unsigned i = w && w->n_history > NNG_HISTORY ? w->n_history - NNG_HISTORY : 0;
         w && i < w->n_history; i++) {
        const struct nng_refused *r = &w->history[i % NNG_HISTORY];
        /* a second's worth of failures at least, where there is an older reading */
        if (r->time_ns + 50 * NNG_MS > when)
            break;
        if (before < 0 || r->time_ns + 3 * NNG_SECOND / 2 <= when)
            before = r->events;
    }
    return before;
}

void nng_watch_place(struct nng_mon *m, struct nng_tracked *t)
{
    struct nng_cgroup cg;
    struct nng_watched *w;
    uint64_t now = nng_mon_now();

    if (!m->live || !find_cgroup(t->pid, &cg) || (cg.version == 0 && cg.pids_version == 0))
        return;
    t->cg = cg;
    place_pids(m, &cg, now);
    if (cg.version == 0)
        return;
    t->cg_known = true;
    w = watched_of(m, &cg);
    if (w || m->n_watched == NNG_WATCHED)
        return;
    w = &m->watched[m->n_watched++];
    memset(w, 0, sizeof *w);
    snprintf(w->folder, sizeof w->folder, "%s", cg.mem);
    w->version = cg.version;
    w->cg = cg;
    read_counts(w, now);
    w->first_kills = w->now.kills;
}

/* ---- strangers -------------------------------------------------------------------------------- */
static bool is_ours(struct nng_mon *m, int pid, uint64_t *ticks)
{
    int up = pid;
    for (int depth = 0; depth < 16 && up > 1; depth++) {
        struct nng_pstat st;
        /* not our parent: it may be a reaper that adopts strangers too */
        if (up == getpid() || up == m->run.root_pid)
            return true;
        const struct nng_tracked *t = nng_model_find(&m->model, up);
        if (t && !t->dead)
            return true;
        if (nng_proc_stat(up, &st))
            return false;
        if (up == pid)
            *ticks = st.start_ticks;
        up = st.ppid;
    }
    return false;
}

static void look_for_strangers(struct nng_mon *m, struct nng_watched *w, uint64_t now)
{
    static int pids[1024];
    int n = nng_cgroup_procs(w->folder, pids, 1024);

    if (n < 0 || n >= 1024) {
        w->strangers_unknown_ns = now;
        return;
    }
    for (int i = 0; i < n; i++) {
        const struct nng_tracked *t = nng_model_find(&m->model, pids[i]);
        unsigned k = 0;
        if ((t && !t->dead) || pids[i] == getpid())
            continue;
        while (k < w->n_strangers && w->stranger[k].pid != pids[i])
            k++;
        if (k == w->n_strangers) {
            if (k == NNG_FOREIGN) { /* forget the oldest */
                unsigned old = 0;
                for (unsigned j = 1; j < NNG_FOREIGN; j++)
                    if (w->stranger[j].seen_ns < w->stranger[old].seen_ns)
                        old = j;
                k = old;
            } else {
                w->n_strangers++;
            }
            w->stranger[k].pid = pids[i];
            w->stranger[k].start_ticks = 0;
            w->stranger[k].ours = is_ours(m, pids[i], &w->stranger[k].start_ticks);
        }
        w->stranger[k].seen_ns = now;
    }
}

/* ---- the sample ------------------------------------------------------------------------------- */
static void put_sample(struct nng_mon *m, const struct nng_watched *w, int64_t available)
{
    char text[NNG_TEXT];
    int n = snprintf(text, sizeof text, "limit=%lld kills=%lld fails=%lld",
                     w ? (long long)w->now.limit : -1LL, w ? (long long)w->now.kills : -1LL,
                     w ? (long long)w->now.fails : -1LL);
    for (size_t i = 0; i < m->model.n && n > 0 && (size_t)n < sizeof text - 32; i++) {
        const struct nng_tracked *t = m->model.t[i];
        if (!t->dead && t->rss >= 0)
            n += snprintf(text + n, sizeof text - (size_t)n, " %d:%lld", t->pid,
                          (long long)(t->rss >> 10));
    }
    struct nng_put p = {.type = NNG_R_SAMPLE,
                        .a = w ? w->now.usage : -1,
                        .b = m->run_rss,
                        .c = m->shm_used,
                        .d = available,
                        .text = text};
    nng_put(&p);
}

/* The SIGKILL at the hard limit leaves no record, and after the reaping nobody can ask any more. */
void nng_watch_cpu_limit(struct nng_tracked *t)
{
    struct rlimit rl;

    if (!prlimit(t->pid, RLIMIT_CPU, NULL, &rl))
        t->cpu_limit = rl.rlim_max == RLIM_INFINITY ? 0 : (int64_t)rl.rlim_max;
}

void nng_watch_sample(struct nng_mon *m)
{
    uint64_t now = nng_mon_now();
    struct nng_hostmem host;
    struct nng_watched *main_scope = NULL;
    struct nng_count *vm = &m->vmstat[m->n_vmstat++ % NNG_HISTORY];
    unsigned tick = m->n_vmstat;

    m->run_rss = 0;
    for (size_t i = 0; i < m->model.n; i++) {
        struct nng_tracked *t = m->model.t[i];
        struct nng_pstat st;
        if (t->dead)
            continue;
        int64_t rss = nng_proc_rss(t->pid);
        if (rss > 0) {
            t->rss = rss;
            m->run_rss += rss;
        }
        nng_watch_cpu_limit(t);
        if (tick % 8 == 1 || t->pgrp < 0 || t->cpu_limit) {
            if (!nng_proc_stat(t->pid, &st)) {
                t->pgrp = st.pgrp;
                t->cpu_ns = st.utime_ns + st.stime_ns;
            }
            nng_watch_place(m, t);
        }
    }
    for (unsigned i = 0; i < m->n_pids; i++)
        read_refused(&m->pids[i], now);
    for (unsigned i = 0; i < m->n_watched; i++) {
        read_counts(&m->watched[i], now);
        look_for_strangers(m, &m->watched[i], now);
    }
    if (m->model.root && m->model.root->cg_known)
        main_scope = watched_of(m, &m->model.root->cg);
    m->shm_used = nng_devshm_used();
    vm->time_ns = now;
    vm->kills = nng_vmstat_oom_kill();
    vm->fails = vm->oomd = 0;
    nng_hostmem_read(&host);
    m->run.hostmem = host;
    put_sample(m, main_scope, host.available);
    m->sampled_ns = now;
}

/* ---- questions -------------------------------------------------------------------------------- */
/* The newest reading at or before `t`, else the oldest kept. */
static const struct nng_count *reading_before(const struct nng_count *ring, unsigned n, uint64_t t)
{
    unsigned first = n > NNG_HISTORY ? n - NNG_HISTORY : 0;
    const struct nng_count *best = n ? &ring[first % NNG_HISTORY] : NULL;
    for (unsigned i = first; i < n; i++)
        if (ring[i % NNG_HISTORY].time_ns <= t)
            best = &ring[i % NNG_HISTORY];
    return best;
}

static unsigned taken_since(const struct nng_watched *w, uint64_t t)
{
    unsigned first = w->n_taken > NNG_HISTORY ? w->n_taken - NNG_HISTORY : 0;
    unsigned n = 0;
    for (unsigned i = first; i < w->n_taken; i++)
        n += w->taken[i % NNG_HISTORY] > t;
    return n;
}

static void limit_hit(struct nng_watched *w, struct nng_memscope *out)
{
    struct nng_cglevel now[NNG_LEVELS];
    int n = nng_cgroup_chain(&w->cg, now, NNG_LEVELS);
    const struct nng_cglevel *before = w->n_chain_before ? w->chain_before : w->chain;
    int nb = w->n_chain_before ? w->n_chain_before : w->n_chain;

    for (int i = 0; i < n && i < nb; i++) {
        if (strcmp(now[i].folder, before[i].folder) || now[i].mem.fails <= before[i].mem.fails)
            continue;
        out->limit_hit = now[i].mem.limit;
        snprintf(out->limit_path, sizeof out->limit_path, "%.255s", now[i].folder);
        return;
    }
}

/* Killed, and no SIGKILL by this run is known. */
static bool unsent_kill(const struct nng_tracked *o)
{
    for (int i = 0; i < o->n_kills; i++)
        if (o->kills[i].signal == SIGKILL && o->kills[i].time_ns <= o->death_ns)
            return false;
    return o->status.known && o->status.signal == SIGKILL;
}

static int sigkills_like(const struct nng_mon *m, const struct nng_tracked *t, uint64_t since)
{
    int n = 0;
    for (size_t i = 0; i < m->model.n; i++) {
        const struct nng_tracked *o = m->model.t[i];
        if (o == t) {
            n++;
            continue;
        }
        if (!o->dead || o->incident >= 0 || o->role == NNG_ROLE_HELPER || !unsent_kill(o))
            continue;
        if (o->death_ns > since && (!o->cg_known || !strcmp(o->cg.mem, t->cg.mem)))
            n++;
    }
    return n;
}

/* A shell passes on that its command was killed. */
static bool may_be_killed(int status)
{
    return WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL
                               : WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGKILL;
}

static const struct nng_wait *waited_for(const struct nng_model *m, int pid, uint64_t since)
{
    unsigned first = m->n_waits > NNG_M_WAITS ? m->n_waits - NNG_M_WAITS : 0;
    for (unsigned i = m->n_waits; i-- > first;) {
        const struct nng_wait *got = &m->wait[i % NNG_M_WAITS];
        if (got->pid == pid && got->time_ns >= since)
            return got;
    }
    return NULL;
}

static bool is_gone(const struct nng_stranger *s)
{
    struct nng_pstat st;
    return nng_proc_stat(s->pid, &st) || st.state == 'Z' || st.start_ticks != s->start_ticks;
}

/* Helpers, and programs that are not followed, for whom a kill may have been: killed since then, or gone
 * and nobody saw how. */
static int others_gone(const struct nng_mon *m, const struct nng_watched *w,
                       const struct nng_tracked *t, uint64_t since)
{
    unsigned waits = m->model.n_waits < NNG_M_WAITS ? m->model.n_waits : NNG_M_WAITS;
    int n = 0;

    for (unsigned i = 0; i < waits; i++)
        n += m->model.wait[i].time_ns >= since && may_be_killed(m->model.wait[i].status);
    for (size_t i = 0; i < m->model.n; i++) {
        const struct nng_tracked *o = m->model.t[i];
        if (o != t && o->role == NNG_ROLE_HELPER && o->dead && o->death_ns >= since)
            n += !o->status.known || unsent_kill(o) ||
                 (!o->status.signal && o->status.code == 128 + SIGKILL);
    }
    for (unsigned i = 0; i < w->n_strangers; i++) {
        const struct nng_stranger *s = &w->stranger[i];
        if (s->ours && s->seen_ns >= since && is_gone(s) && !nng_model_find(&m->model, s->pid))
            n += !waited_for(&m->model, s->pid, since);
    }
    return n;
}

/* The last reading before the death that cannot hold its kill: between the kill and the death lies the
 * giving back of its memory. */
static uint64_t just_before(const struct nng_tracked *t, uint64_t now)
{
    uint64_t death = t->dead && t->death_ns ? t->death_ns : now;
    uint64_t take = NNG_SECOND / 2 + (t->rss > 0 ? (uint64_t)t->rss / 2 : 0); /* 2 GB a second */

    if (take > 6 * NNG_SECOND)
        take = 6 * NNG_SECOND;
    return death > take ? death - take : 0;
}

static void count_fresh(struct nng_mon *m, const struct nng_watched *w, const struct nng_tracked *t,
                        uint64_t now, struct nng_memscope *out)
{
    const struct nng_count *ref = reading_before(w->history, w->n_history - 1, just_before(t, now));
    uint64_t since = ref ? ref->time_ns : now;

    if (ref && ref->kills >= 0 && w->now.kills >= 0) {
        out->kills_fresh = w->now.kills - ref->kills - (int64_t)taken_since(w, since);
        if (out->kills_fresh < 0)
            out->kills_fresh = 0;
    }
    out->sigkills_fresh = sigkills_like(m, t, since);
    /* an old rise: whoever went since it can have been */
    if (out->kills_fresh == 0 && out->kills > 0)
        since = now > NNG_WINDOW ? now - NNG_WINDOW : 0;
    out->others_gone = others_gone(m, w, t, since);
}

void nng_watch_memory(struct nng_mon *m, const struct nng_tracked *t, struct nng_memscope *out)
{
    uint64_t now = nng_mon_now();
    uint64_t since = now > NNG_WINDOW ? now - NNG_WINDOW : 0;
    const struct nng_tracked *place = t->cg_known ? t : nng_model_find(&m->model, t->ppid);
    const struct nng_count *before;
    struct nng_watched *w;

    memset(out, 0, sizeof *out);
    out->limit = out->usage = out->peak = out->swap_limit = -1;
    out->kills = out->kills_total = out->fails = out->limit_hit = -1;
    out->foreign = -1;
    out->kills_fresh = -1;
    if (!place || !place->cg_known)
        place = m->model.root;
    if (!place || !place->cg_known || !(w = watched_of(m, &place->cg)))
        return;
    read_counts(w, now);
    look_for_strangers(m, w, now);
    before = reading_before(w->history, w->n_history - 1, since);
    out->present = true;
    out->version = w->version;
    snprintf(out->path, sizeof out->path, "%.255s", w->folder);
    out->limit = w->now.limit;
    out->usage = w->now.usage;
    out->peak = w->peak_seen > 0 ? w->peak_seen : w->now.peak;
    out->swap_limit = w->now.swap_limit;
    out->group = w->now.group;
    if (w->now.kills >= 0 && before && before->kills >= 0) {
        out->kills = w->now.kills - before->kills - (int64_t)taken_since(w, before->time_ns);
        if (out->kills < 0)
            out->kills = 0;
        out->kills_total = w->now.kills - w->first_kills;
    }
    if (w->now.fails >= 0 && before && before->fails >= 0)
        out->fails = w->now.fails - before->fails;
    out->sigkills = sigkills_like(m, t, since);
    count_fresh(m, w, t, now, out);
    if (before) /* set for the first time is a rise, too */
        out->oomd = w->now.oomd > (before->oomd > 0 ? before->oomd : 0);
    if (!w->strangers_unknown_ns || w->strangers_unknown_ns < since) {
        out->foreign = 0;
        for (unsigned i = 0; i < w->n_strangers; i++) {
            const struct nng_stranger *s = &w->stranger[i];
            if (s->ours || s->seen_ns < since)
                continue;
            out->foreign++;
            out->foreign_gone += is_gone(s);
        }
    }
    limit_hit(w, out);
}

int64_t nng_watch_vmstat(struct nng_mon *m)
{
    uint64_t now = nng_mon_now();
    const struct nng_count *before =
        reading_before(m->vmstat, m->n_vmstat, now > NNG_WINDOW ? now - NNG_WINDOW : 0);
    int64_t kills = nng_vmstat_oom_kill();

    return before && before->kills >= 0 && kills >= 0 ? kills - before->kills : -1;
}

void nng_watch_took(struct nng_mon *m, const struct nng_tracked *t)
{
    const struct nng_tracked *place = t->cg_known ? t : m->model.root;
    struct nng_watched *w = place && place->cg_known ? watched_of(m, &place->cg) : NULL;
    if (w)
        w->taken[w->n_taken++ % NNG_HISTORY] = nng_mon_now();
}

/* ---- who sent it ------------------------------------------------------------------------------ */
static bool was_started(const struct nng_model *m, int pid, uint64_t since)
{
    unsigned n = m->n_started < NNG_M_WAITS ? m->n_started : NNG_M_WAITS;
    for (unsigned i = 0; i < n; i++)
        if (m->started[i] == pid)
            return true;
    return waited_for(m, pid, since) != NULL;
}

/* What is older than the run is outside, and so is what such a one started: it lives in the session of
 * its parent, where a daemon that a reaper took over does not. For the rest there is no telling. */
static enum nng_sender by_ancestry(const struct nng_mon *m, int pid)
{
    const uint64_t began = m->model.root ? m->model.root->start_ticks : 0;
    struct nng_pstat st;
    int session = -1, up = pid;

    for (int depth = 0; depth < 16 && up > 0; depth++) {
        const struct nng_tracked *t = nng_model_find(&m->model, up);
        if (up == m->run.root_pid || (t && !t->dead))
            return NNG_SENDER_INSIDE;
        if (nng_proc_stat(up, &st) || !began)
            return NNG_SENDER_UNKNOWN;
        if (st.start_ticks < began)
            return up == pid || (up > 1 && st.session == session) ? NNG_SENDER_OUTSIDE
                                                                  : NNG_SENDER_UNKNOWN;
        if (st.ppid == 0 && up > 1)
            return NNG_SENDER_OUTSIDE; /* it entered this pid namespace, as docker exec does */
        session = st.session;
        up = st.ppid;
    }
    return NNG_SENDER_UNKNOWN;
}

void nng_watch_sender(struct nng_mon *m, struct nng_tracked *t)
{
    const uint64_t now = nng_mon_now();
    int pid = t->signal_sender;
    const struct nng_tracked *s = pid > 0 ? nng_model_find(&m->model, pid) : NULL;

    if (pid < 0 || t->sender_is != NNG_SENDER_UNKNOWN)
        return;
    if (pid == 0)
        t->sender_is = NNG_SENDER_OUTSIDE;
    else if ((s && (!s->dead || now - s->death_ns < NNG_WINDOW)) ||
             was_started(&m->model, pid, now - NNG_WINDOW))
        t->sender_is = NNG_SENDER_INSIDE;
    else if (m->live)
        t->sender_is = by_ancestry(m, pid);
}

/* ---- post-mortem ------------------------------------------------------------------------------ */
void nng_watch_from_samples(struct nng_mon *m, struct nng_memscope *mem, int64_t *run_rss)
{
    struct nng_cursor c;
    struct nng_got g;
    long long limit, kills, fails, first_kills = -1;

    memset(mem, 0, sizeof *mem);
    mem->limit = mem->usage = mem->peak = mem->swap_limit = mem->limit_hit = -1;
    mem->kills = mem->kills_total = mem->fails = -1;
    mem->foreign = -1;
    mem->kills_fresh = -1;
    nng_cursor_init(&c, &m->view, NNG_RING_SAMPLES);
    while (nng_cursor_next(&c, &m->view, true, &g)) {
        if (sscanf(g.text, "limit=%lld kills=%lld fails=%lld", &limit, &kills, &fails) != 3)
            continue;
        mem->present = g.rec.a >= 0;
        mem->usage = g.rec.a;
        if (g.rec.a > mem->peak)
            mem->peak = g.rec.a;
        mem->limit = limit;
        if (first_kills < 0)
            first_kills = kills;
        mem->kills_total = kills >= 0 ? kills - first_kills : -1;
        *run_rss = g.rec.b;
    }
}
