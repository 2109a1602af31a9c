/* SPDX-License-Identifier: MIT
 *
 * A fatal signal's default action is next and the process waits for us: the words go out first, then its
 * stack is taken, then it is let go, whatever happened.
 */
#include "mon.h"

#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_MS 400

static void release(struct nng_mon *m, const struct nng_tracked *t)
{
    _Atomic uint32_t *word;

    if (t->proc_index < 0)
        return;
    word = &m->view.j->procs[t->proc_index].fault.release;
    atomic_store_explicit(word, 1, memory_order_release);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void take_stack(struct nng_mon *m, struct nng_tracked *t, struct nng_stack *out)
{
    static struct nng_stack stack;
    const struct nng_evidence *ev = nng_incident_evidence();
    struct nng_stack_raw *raw;
    int err = 0;

    memset(&stack, 0, sizeof stack);
    raw = nng_stack_take(t->pid, (int)ev->fault.tid, &ev->fault, STACK_MS, &err);
    release(m, t);
    if (!raw) {
        nng_stack_from_fault(&ev->fault, &stack);
        if (!stack.why_not[0])
            snprintf(stack.why_not, sizeof stack.why_not, "ptrace: %s", nng_errno_name(-err));
    } else {
        nng_stack_resolve(raw, &ev->fault, &stack);
    }
    stack.n_python = out->n_python;
    memcpy(stack.python, out->python, sizeof stack.python);
    *out = stack;
}

void nng_judge_held(struct nng_mon *m, struct nng_tracked *t)
{
    int by;

    if (t->judged || t->incident >= 0 || t->role == NNG_ROLE_HELPER ||
        nng_judge_polite(t->signalled)) {
        release(m, t); /* TERM and HUP are judged by the death: by then the others' are known too */
        return;
    }
    struct nng_status before = t->status;
    t->status.signal = t->signalled; /* so that by_parent compares the right one */
    bool will = t != m->model.root && nng_judge_by_parent(m, t, &by);
    t->status = before;
    if (will || m->ending) {
        release(m, t);
        return;
    }
    nng_incident_weigh(m, t, NNG_K_DEATH);
    if (!nng_incident_evidence()->has_fault) {
        release(m, t);
        return;
    }
    int k = nng_incident_tell(m, t);
    struct nng_incident *i = k >= 0 ? &m->run.incident[k] : NULL;
    if (i && i->ev.who.pid == t->pid) {
        take_stack(m, t, &i->ev.stack);
        /* the log and the closing words may name the library that the screen could not yet know */
        static struct nng_verdict with_stack; /* large */
        nng_causes_decide(&i->ev, &with_stack);
        if (!strcmp(with_stack.cause, i->verdict.cause) &&
            with_stack.confidence >= i->verdict.confidence)
            i->verdict = with_stack;
        m->reports_stale = true;
    } else {
        release(m, t); /* the same thing again: its stack is not needed */
    }
}
