/* SPDX-License-Identifier: MIT
 *
 * What the trainer tells of a worker that said nothing itself. torch.multiprocessing.spawn catches a
 * worker's exception, hands its text to the parent through a file and lets the worker leave with 1; the
 * parent raises it again, as "-- Process N terminated with the following error:" and the worker's own
 * traceback below (torch/multiprocessing/spawn.py). At the death there was only an exit code to tell.
 *
 * And a worker that left with 0, as if its work were done: only the trainer's words tell that it was not.
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

/* ---- the absent -------------------------------------------------------------------------------- */
static bool is_absent(const struct nng_tracked *w)
{
    return w && w->dead && w->role == NNG_ROLE_WORKER && w->incident < 0 && w->status.known &&
           !w->status.signal && !w->status.code && w->why == NNG_WHY_NONE;
}

static bool tell(struct nng_mon *m, struct nng_tracked *w, bool several)
{
    w->one_of_several = several;
    nng_incident_weigh(m, w, NNG_K_DEATH);
    return !nng_incident_is("unknown") && nng_incident_tell(m, w) >= 0;
}

/* torch's DataLoader names them: "DataLoader worker (pid(s) 12, 13) exited unexpectedly". */
static bool tell_of_the_named(struct nng_mon *m, const char *p)
{
    for (p += strlen("(pid(s) "); *p >= '0' && *p <= '9'; p += strspn(p, " ,")) {
        char *end;
        struct nng_tracked *w = nng_model_find(&m->model, (int)strtol(p, &end, 10));
        p = end;
        if (is_absent(w) && tell(m, w, false))
            return true;
    }
    return false;
}

/* batchgenerators, concurrent.futures and loky say only that one is gone. */
static bool says_that_one_is_gone(const struct nng_traceback *tb)
{
    static const char *const words[] = {"no longer alive", "terminated abruptly",
                                        "unexpectedly terminated", "exited unexpectedly"};
    static const char *const types[] = {"BrokenProcessPool", "TerminatedWorkerError"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strstr(tb->message, words[i]))
            return true;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(tb->type, types[i]))
            return true;
    return false;
}

/* Its parent made others after it had left, or looked on for long: nobody missed it. */
static bool was_done(const struct nng_mon *m, const struct nng_tracked *w,
                     const struct nng_tracked *root)
{
    if (root->left && w->death_ns + NNG_CHAIN < root->left_ns)
        return true;
    for (size_t i = 0; i < m->model.n; i++) {
        const struct nng_tracked *o = m->model.t[i];
        if (o->role == NNG_ROLE_WORKER && o->ppid == w->ppid && o->birth_ns > w->death_ns)
            return true;
    }
    return false;
}

bool nng_told_of_absent(struct nng_mon *m, const struct nng_tracked *root,
                        const struct nng_traceback *tb)
{
    const char *named = strstr(tb->message, "(pid(s) ");
    struct nng_tracked *first = NULL;
    bool first_raised = false;
    int n = 0;

    if (!says_that_one_is_gone(tb))
        return false;
    if (named)
        return tell_of_the_named(m, named);
    /* The first, since the others may have left because of it; rather one that showed an exception. */
    for (size_t i = 0; i < m->model.n; i++) {
        struct nng_tracked *w = m->model.t[i];
        struct nng_traceback own = {0};
        if (!is_absent(w) || was_done(m, w, root))
            continue;
        n++;
        bool raised = nng_judge_traceback(m, w, &own);
        if (!first || raised > first_raised ||
            (raised == first_raised && w->death_ns < first->death_ns)) {
            first = w;
            first_raised = raised;
        }
    }
    return first && tell(m, first, n > 1 && !first_raised);
}
