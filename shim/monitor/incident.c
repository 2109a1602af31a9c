/* SPDX-License-Identifier: MIT
 *
 * The case in hand: its evidence is gathered and weighed, and where the judges find that it is an incident
 * it becomes one of the run's, new or one more of the same, and is spoken of.
 */
#include "mon.h"

#include <string.h>

static struct nng_evidence scratch; /* large: not for the stack */
static struct nng_verdict scratch_verdict;

bool nng_incident_is(const char *id)
{
    return scratch_verdict.cause && !strcmp(scratch_verdict.cause, id);
}

const struct nng_evidence *nng_incident_evidence(void)
{
    return &scratch;
}

const struct nng_verdict *nng_incident_verdict(void)
{
    return &scratch_verdict;
}

static int merge(struct nng_mon *m)
{
    int k = nng_same_find(&m->run, &scratch, &scratch_verdict);

    if (k >= 0) {
        struct nng_incident *i = &m->run.incident[k];
        uint64_t first = i->ev.time_ns, last = i->last_time_ns > first ? i->last_time_ns : first;
        i->count++;
        /* the first by its own time stands for all, unless less is known of it */
        if (scratch_verdict.confidence > i->verdict.confidence ||
            (scratch.time_ns < first && scratch_verdict.confidence == i->verdict.confidence)) {
            i->ev = scratch;
            i->verdict = scratch_verdict;
        }
        i->last_time_ns = scratch.time_ns > last ? scratch.time_ns : last;
        if (i->ev.time_ns > first && scratch.time_ns > first)
            i->ev.time_ns = first;
    }
    return k;
}

int nng_incident_tell(struct nng_mon *m, struct nng_tracked *t)
{
    int k = merge(m);
    bool fresh = k < 0;

    if (fresh) {
        if (m->run.n_incidents == NNG_INCIDENTS) {
            m->run.n_beyond++;
            return -1;
        }
        k = m->run.n_incidents++;
        struct nng_incident *i = &m->run.incident[k];
        memset(i, 0, sizeof *i);
        i->ev = scratch;
        i->verdict = scratch_verdict;
        i->count = 1;
    }
    t->incident = k;
    if (nng_incident_is("cgroup_oom") || nng_incident_is("host_oom"))
        nng_watch_took(m, t);
    nng_model_moment(&m->model, scratch.time_ns, "%s: pid %d, %s", fresh ? "incident" : "again",
                     t->pid, scratch_verdict.cause);
    m->reports_stale = true;
    if (m->live) {
        if (fresh)
            nng_speak_incident(m, &m->run.incident[k]);
        atomic_store_explicit(&m->view.j->hdr.incidents, (uint32_t)m->run.n_incidents,
                              memory_order_release);
    }
    return k;
}

/* A signal that nobody saw: no cause can be sure of what only the absence of a record tells. */
static void cap_inferred(const struct nng_mon *m)
{
    struct nng_verdict *v = &scratch_verdict;

    if (!scratch.status.inferred || strcmp(scratch.status.source, NNG_NO_RECORD) != 0)
        return;
    if (v->confidence > NNG_LIKELY)
        v->confidence = NNG_LIKELY;
    if (m->rebooted && nng_incident_is("killed_unknown")) {
        v->cause = "unknown";
        v->n_fix = v->n_proof = 0;
        nng_v_why(v,
                  "it left no record of its end; its machine may have gone down, it has been "
                  "started since",
                  "它没有留下结束记录;它所在的机器可能已停机,此后重新启动过");
        v->short_why = v->why;
    } else if (nng_incident_is("killed_unknown")) {
        nng_v_why(v, "ended without a record of it, most likely killed (SIGKILL)",
                  "结束时没有留下记录,很可能被杀死(SIGKILL)");
        nng_v_short(v, "a process ended without a record of it, most likely killed (SIGKILL)",
                    "有进程结束时没有留下记录,很可能被杀死(SIGKILL)");
    }
    if (m->live || m->rebooted)
        memset(&scratch.status, 0, sizeof scratch.status); /* nobody saw it: null in the report */
    nng_v_doubt(v,
                "the signal is inferred: it left no record of its end, as SIGKILL would; "
                "a signal that Python does not handle (SIGALRM, SIGUSR1) ends so too",
                "信号是推断的:它没有留下结束记录,如同 SIGKILL;Python 不处理的信号 "
                "(SIGALRM、SIGUSR1) 也会如此");
}

void nng_incident_weigh(struct nng_mon *m, struct nng_tracked *t, enum nng_kind kind)
{
    nng_gather(m, t, kind, &scratch);
    nng_causes_decide(&scratch, &scratch_verdict);
    cap_inferred(m);
    for (int k = 0; k < m->run.n_incidents; k++)
        scratch.same_before += !strcmp(m->run.incident[k].verdict.cause, scratch_verdict.cause);
}
