/* SPDX-License-Identifier: MIT
 *
 * Who is a worker, who a helper. A worker was forked by a Python process and has not exec'd since, or
 * its command line is multiprocessing's, loky's or a launcher's rank; everything else that was exec'd is
 * a helper, whose death is no incident. The command lines are those of CPython's
 * multiprocessing/{spawn,forkserver,resource_tracker}.py, joblib/loky's popen_loky_posix and torch's
 * _inductor/compile_worker.
 */
#include "model.h"

#include <string.h>

static bool says(const struct nng_tracked *t, const char *needle)
{
    return strstr(t->cmdline, needle) != NULL;
}

static bool is_launcher(const struct nng_tracked *t)
{
    return says(t, "torchrun") || says(t, "torch.distributed.run") ||
           says(t, "torch.distributed.launch") || says(t, "torch/distributed/run") ||
           says(t, "accelerate launch") || says(t, "accelerate.commands.launch") ||
           says(t, "bin/deepspeed") || says(t, "deepspeed.launcher");
}

static void by_command(struct nng_tracked *t, const struct nng_tracked *parent)
{
    t->method = NNG_SM_EXEC;
    t->role = NNG_ROLE_HELPER;
    if (says(t, "multiprocessing.resource_tracker") || says(t, "semaphore_tracker") ||
        says(t, "loky.backend.resource_tracker"))
        return;
    if (says(t, "multiprocessing.forkserver")) {
        t->forkserver = true;
        return;
    }
    if (says(t, "_inductor/compile_worker") || says(t, "_inductor.compile_worker")) {
        t->compile_worker = true;
        return;
    }
    if (says(t, "--multiprocessing-fork") || says(t, "multiprocessing.spawn import spawn_main") ||
        says(t, "popen_loky")) {
        t->method = NNG_SM_SPAWN;
        t->role = NNG_ROLE_WORKER;
        return;
    }
    if (parent && parent->launcher && t->rank >= 0)
        t->role = NNG_ROLE_WORKER;
}

/* A Pool replaces a killed worker before the monitor has been told of the death: both would count. */
static int really_alive(const struct nng_model *m)
{
    int n = 0;

    for (size_t i = 0; i < m->n; i++) {
        struct nng_pstat st;
        const struct nng_tracked *t = m->t[i];
        n += t->role == NNG_ROLE_WORKER && !t->dead && !nng_proc_stat(t->pid, &st) &&
             st.state != 'Z';
    }
    return n;
}

static bool started_before(const struct nng_tracked *a, const struct nng_tracked *b)
{
    if (a->start_ticks && b->start_ticks && a->start_ticks != b->start_ticks)
        return a->start_ticks < b->start_ticks;
    return a->pid < b->pid;
}

/* Spawned workers report their birth from their own start-up, which on a busy machine is not the order in
 * which they were started: those that came at about the same time swap their numbers. */
static void in_order(struct nng_model *m, struct nng_tracked *t)
{
    int swaps = 0;
    for (size_t i = 0; i < m->n && swaps < 64; i++) {
        struct nng_tracked *o = m->t[i];
        if (o == t || o->ppid != t->ppid || o->role != NNG_ROLE_WORKER || o->dead ||
            o->birth_ns + 5000000000ULL < t->birth_ns)
            continue;
        if (started_before(t, o) == (t->ordinal < o->ordinal))
            continue;
        int swap = t->ordinal;
        t->ordinal = o->ordinal;
        o->ordinal = swap;
        swaps++;
        i = (size_t)-1; /* again from the start */
    }
}

/* The lowest number that no living sibling bears, so that a Pool that replaces its workers for ever
 * still has "worker 2 of 3". */
static void number(struct nng_model *m, struct nng_tracked *t, struct nng_tracked *parent)
{
    int alive = 1;
    int want = 1;
    for (bool taken = true; taken;) {
        taken = false;
        for (size_t i = 0; i < m->n; i++) {
            const struct nng_tracked *o = m->t[i];
            if (o != t && o->ppid == t->ppid && o->role == NNG_ROLE_WORKER && !o->dead &&
                o->ordinal == want) {
                taken = true;
                want++;
                break;
            }
        }
    }
    for (size_t i = 0; i < m->n; i++) {
        const struct nng_tracked *o = m->t[i];
        alive += o != t && o->ppid == t->ppid && o->role == NNG_ROLE_WORKER && !o->dead;
    }
    t->ordinal = want;
    in_order(m, t);
    if (parent && alive > parent->peak && m->live)
        alive = alive - (nng_model_alive_workers(m) - really_alive(m));
    if (parent && alive > parent->peak) {
        parent->peak = alive;
        t->raised = true;
    }
    m->workers_seen++;
    int all = nng_model_alive_workers(m);
    if (all > m->workers_at_once && m->live)
        all = really_alive(m);
    if (all > m->workers_at_once) {
        m->workers_at_once = all;
        t->raised_all = true;
    }
}

void nng_roles_assign(struct nng_model *m, struct nng_tracked *t)
{
    struct nng_tracked *parent = nng_model_find(m, t->ppid);
    bool was_worker = t->role == NNG_ROLE_WORKER && t->ordinal > 0;

    t->launcher = is_launcher(t);
    if (t->pid == m->root_pid) {
        t->role = NNG_ROLE_TRAINER;
        t->method = NNG_SM_EXEC;
        return;
    }
    if (t->birth == NNG_B_FORK && !t->execed) {
        t->method = parent && parent->forkserver ? NNG_SM_FORKSERVER : NNG_SM_FORK;
        t->role = NNG_ROLE_WORKER;
        if (parent && parent->compile_worker) {
            t->compile_worker = true;
            t->role = NNG_ROLE_HELPER;
        }
    } else if (t->birth == NNG_B_EXEC && !t->execed) {
        by_command(t, parent);
    } else {
        t->role = NNG_ROLE_HELPER;
    }
    if (t->role == NNG_ROLE_WORKER && !was_worker)
        number(m, t, parent);
    else if (t->role != NNG_ROLE_WORKER && was_worker) {
        t->ordinal = 0; /* a fork on its way to an exec had been taken for a worker */
        m->workers_seen--;
        m->workers_at_once -= t->raised_all;
        if (parent)
            parent->peak -= t->raised;
        t->raised = t->raised_all = false;
    }
}
