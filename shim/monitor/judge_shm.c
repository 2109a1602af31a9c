/* SPDX-License-Identifier: MIT
 *
 * /dev/shm is full and nobody dies of it: torch from 2.10 on raises in a thread that nobody watches, the
 * worker lives on and the trainer waits for ever. So the failed call itself is the incident, at once, and
 * the thousands that follow are counted.
 */
#include "mon.h"

#include <errno.h>
#include <string.h>

#define WAIT_SHM (200 * NNG_MS) /* does the process that got ENOSPC live on? */

static bool told_shm(struct nng_mon *m, struct nng_tracked *t)
{
    uint64_t total = 0;

    if (m->stall_incident < 0)
        return false;
    for (size_t i = 0; i < m->model.n; i++) {
        const struct nng_tracked *o = m->model.t[i];
        int have = o->n_fails < NNG_T_FAILS ? o->n_fails : NNG_T_FAILS;
        uint64_t most = 0;
        for (int k = 0; k < have; k++)
            if (o->fails[k].err == ENOSPC && (o->fails[k].flags & NNG_RF_DEVSHM) &&
                o->fails[k].count > most)
                most = o->fails[k].count;
        total += most;
    }
    struct nng_incident *i = &m->run.incident[m->stall_incident];
    if (total > i->count) {
        i->count = (unsigned)total;
        i->last_time_ns = t->fails[(t->n_fails - 1) % NNG_T_FAILS].time_ns;
        m->reports_stale = true;
    }
    t->shm_told = true;
    return true;
}

static bool trainers_name(const char *path)
{
    static const char *const names[] = {"torch_", "psm_", "pym-", "sem.", "mp-", "wnsm_"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strstr(path, names[i]))
            return true;
    return false;
}

void nng_judge_shm_failure(struct nng_mon *m, struct nng_tracked *t)
{
    const struct nng_failcall *f = &t->fails[(t->n_fails - 1) % NNG_T_FAILS];

    if (told_shm(m, t) || t->shm_told || t->shm_judge_at)
        return;
    if (!trainers_name(f->path)) {
        const struct nng_failcall *before = NULL;
        for (int i = 1; i < NNG_T_FAILS && i < t->n_fails && !before; i++) {
            const struct nng_failcall *o = &t->fails[(t->n_fails - 1 - i) % NNG_T_FAILS];
            if (o->err == ENOSPC && (o->flags & NNG_RF_DEVSHM) &&
                f->time_ns - o->time_ns <= 5 * NNG_SECOND)
                before = o;
        }
        if (!before)
            return;
    }
    t->shm_judge_at = nng_mon_now() + WAIT_SHM;
}

void nng_judge_shm_due(struct nng_mon *m, struct nng_tracked *t)
{
    t->shm_judge_at = 0;
    if (t->dead || t->left || t->signalled || told_shm(m, t))
        return; /* its death speaks, or another's failure already did */
    nng_incident_weigh(m, t, NNG_K_STALL);
    if (!nng_incident_is("shm_exhausted"))
        return;
    t->shm_told = true;
    int before = t->incident;
    m->stall_incident = nng_incident_tell(m, t);
    t->incident = before; /* it lives: its death, if any, is a matter of its own */
    told_shm(m, t);
}
