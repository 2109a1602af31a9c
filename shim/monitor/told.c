/* SPDX-License-Identifier: MIT
 *
 * What the trainer tells of a worker that said nothing itself. torch.multiprocessing.spawn catches a
 * worker's exception, hands its text to the parent through a file and lets the worker leave with 1; the
 * parent raises it again, as "-- Process N terminated with the following error:" and the worker's own
 * traceback below (torch/multiprocessing/spawn.py). At the death there was only an exit code to tell.
 */
#include "mon.h"

#include <stdlib.h>
#include <string.h>

static const char introduction[] = "terminated with the following error:\n";

/* The incident of a worker that left with 1 and without a word on why. */
static struct nng_incident *unexplained(struct nng_mon *m)
{
    for (int k = 0; k < m->run.n_incidents; k++) {
        struct nng_incident *i = &m->run.incident[k];
        if (!strcmp(i->verdict.cause, "worker_exit") && i->ev.status.known &&
            !i->ev.status.signal && i->ev.status.code == 1 && i->ev.who.role == NNG_ROLE_WORKER &&
            !i->ev.tb.present)
            return i;
    }
    return NULL;
}

/* The words become part of what the worker said, so that the report shows them. */
static void append(struct nng_evidence *ev, const char *words)
{
    size_t have = strlen(ev->tail), n = strlen(words), room = sizeof ev->tail - 1;

    if (n > room)
        n = room;
    if (have + n > room) {
        memmove(ev->tail, ev->tail + (have + n - room), room - n);
        have = room - n;
    }
    memcpy(ev->tail + have, words, n);
    ev->tail[have + n] = '\0';
}

void nng_told_by_trainer(struct nng_mon *m, const struct nng_tracked *root)
{
    static struct nng_verdict verdict; /* large */
    struct nng_incident *i = unexplained(m);
    char *tail = i ? malloc(NNG_TAIL_SIZE + 1) : NULL;
    struct nng_evidence *ev = tail ? malloc(sizeof *ev) : NULL;
    const char *words;

    if (!ev || !nng_judge_tail(m, root, tail))
        goto out;
    words = strstr(tail, introduction);
    if (!words)
        goto out;
    words += strlen(introduction);
    *ev = i->ev;
    nng_text_traceback(words, &ev->tb);
    if (!ev->tb.complete || ev->tb.keyboard)
        goto out;
    ev->tb.told = true;
    append(ev, words);
    nng_causes_decide(ev, &verdict);
    if (strcmp(verdict.cause, "unknown") != 0) {
        i->ev = *ev;
        i->verdict = verdict;
        m->reports_stale = true;
    }
out:
    free(ev);
    free(tail);
}
