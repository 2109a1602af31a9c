/* SPDX-License-Identifier: MIT
 *
 * A run that stands still after an incident: is there progress, when to remind, and, where the user asked
 * for it (NNGUARD_ON_STALL=end), ending it step by step so that it does not hold a GPU for days.
 */
#include "mon.h"

#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAMILY 128 /* descendants looked at */
#define REMIND_EVERY (600 * NNG_SECOND)
#define ENDING_STEP (10 * NNG_SECOND)
#define SIGN_OF_LIFE (NNG_SECOND / 5) /* processor time in one second that counts as work */

static uint64_t cpu_of(int pid)
{
    struct nng_pstat st;
    return nng_proc_stat(pid, &st) ? 0 : st.utime_ns + st.stime_ns;
}

/* Processor time of what the trainer started and may be waiting for: the processes of the run; and where a
 * run may be ended for it, all descendants, also those that no library of ours is in. */
static uint64_t others_cpu(const struct nng_mon *m)
{
    int pids[FAMILY], n = 0;
    uint64_t sum = 0;

    if (m->end_on_stall) {
        n = nng_proc_children(m->run.root_pid, pids, FAMILY);
        for (int i = 0; i < n; i++) {
            int more = nng_proc_children(pids[i], pids + n, FAMILY - n);
            n += more > 0 ? more : 0;
        }
    } else {
        for (size_t i = 0; i < m->model.n && n < FAMILY; i++)
            if (!m->model.t[i]->dead && m->model.t[i] != m->model.root)
                pids[n++] = m->model.t[i]->pid;
    }
    for (int i = 0; i < n; i++)
        sum += cpu_of(pids[i]);
    return sum;
}

/* Progress of the run: the root writes something or computes; or its workers compute, unless they are
 * those that cannot get shared memory (they print tracebacks without end) or are killed as fast as they
 * are replaced. A trainer that waits in a loop for a worker that is gone uses next to no time. */
static void look_for_progress(struct nng_mon *m, uint64_t now, const struct nng_incident *on)
{
    struct nng_tracked *r = m->model.root;
    struct nng_pstat st;

    if (!r || r->dead || nng_proc_stat(r->pid, &st))
        return;
    uint64_t cpu = st.utime_ns + st.stime_ns;
    uint64_t workers = others_cpu(m);
    uint32_t tail =
        r->proc_index >= 0
            ? atomic_load_explicit(&m->view.j->procs[r->proc_index].tail_pos, memory_order_relaxed)
            : 0;
    bool in_vain =
        on->ev.kind == NNG_K_STALL || (on->last_time_ns && now < on->last_time_ns + m->stall_ns);
    if (tail != m->root_tail_pos || cpu - m->root_cpu_ns > SIGN_OF_LIFE ||
        (!in_vain && workers > m->workers_cpu_ns + SIGN_OF_LIFE))
        m->progress_ns = now;
    m->root_tail_pos = tail;
    m->root_cpu_ns = cpu;
    m->workers_cpu_ns = workers;
}

bool nng_stall_went_on(const struct nng_mon *m, uint64_t since)
{
    const struct nng_tracked *r = m->model.root;

    return m->progress_ns > since ||
           (m->live && r && r->proc_index >= 0 &&
            atomic_load_explicit(&m->view.j->procs[r->proc_index].tail_pos, memory_order_relaxed) !=
                m->root_tail_pos);
}

static struct nng_incident *standing_on(struct nng_mon *m)
{
    if (m->stall_incident >= 0)
        return &m->run.incident[m->stall_incident];
    return m->run.n_incidents ? &m->run.incident[m->run.n_incidents - 1] : NULL;
}

static void end_the_run(struct nng_mon *m, uint64_t now)
{
    static const int steps[] = {SIGINT, SIGTERM, SIGKILL};
    char en[160], zh[160];

    if (m->ending == 3 || (m->ending && now - m->ending_ns < ENDING_STEP))
        return;
    if (m->ending == 0) {
        unsigned s = (unsigned)(m->stall_ns / NNG_SECOND);
        snprintf(en, sizeof en,
                 "no progress for %u s after that: ending the run (NNGUARD_ON_STALL=end)", s);
        snprintf(zh, sizeof zh, "此后 %u 秒没有进展:结束本次训练 (NNGUARD_ON_STALL=end)", s);
        nng_speak_line(m, en, zh);
    }
    int sig = steps[m->ending++];
    m->ending_ns = now;
    nng_model_moment(&m->model, now, "nnguard sends %s to the trainer", nng_signal_name(sig));
    /* the pidfd, not the number: it cannot hit somebody else */
    if (m->model.root && m->model.root->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, m->model.root->pidfd, sig, NULL, 0);
    else if (m->model.root && !m->model.root->dead)
        kill(m->model.root->pid, sig);
    if (sig == SIGKILL)
        for (size_t i = 0; i < m->model.n; i++)
            if (!m->model.t[i]->dead && m->model.t[i]->pidfd >= 0)
                syscall(SYS_pidfd_send_signal, m->model.t[i]->pidfd, SIGKILL, NULL, 0);
}

void nng_stall_mind(struct nng_mon *m, uint64_t now)
{
    struct nng_incident *i = standing_on(m);

    if (!i || m->root_dead || m->root_judged)
        return;
    look_for_progress(m, now, i);
    uint64_t since = i->ev.time_ns > m->progress_ns ? i->ev.time_ns : m->progress_ns;
    if (m->end_on_stall && now > since && now - since >= m->stall_ns)
        end_the_run(m, now);
    if (!m->reminded_ns)
        m->reminded_ns = i->ev.time_ns;
    if (now > m->reminded_ns && now - m->reminded_ns >= REMIND_EVERY) {
        m->reminded_ns = now;
        if (now > since && now - since >= REMIND_EVERY / 2)
            nng_speak_reminder(m, i);
    }
}
