/* SPDX-License-Identifier: MIT
 *
 * Is it the same thing again? A Pool that replaces its killed workers for ever is one incident with a
 * count; two workers that fail for different reasons are two, or the second would be told nowhere.
 */
#include "mon.h"

#include <ctype.h>
#include <string.h>

#define DIFFERENT                                                                                  \
    6 /* of one cause and role that are told apart; a Pool may find new words each time */

/* What ran out is one thing, whoever met it and in whatever words. */
static bool of_a_resource(const char *cause)
{
    static const char *const ids[] = {"shm_exhausted",       "cgroup_oom", "host_oom",
                                      "oomd_kill",           "fd_limit",   "threads_limit",
                                      "address_space_limit", "walltime",   "file_size_limit",
                                      "disk_full",           "cpu_limit",  "killed_unknown"};

    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (!strcmp(cause, ids[i]))
            return true;
    return false;
}

/* Equal but for the numbers in them: pids, addresses, line counts, "sample 17". */
static bool same_words(const char *a, const char *b)
{
    for (;;) {
        bool number = isdigit((unsigned char)*a) && isdigit((unsigned char)*b);
        if (number && a[0] == '0' && a[1] == 'x' && b[0] == '0' && b[1] == 'x') {
            for (a += 2; isxdigit((unsigned char)*a); a++)
                ;
            for (b += 2; isxdigit((unsigned char)*b); b++)
                ;
            continue;
        }
        if (number) {
            while (isdigit((unsigned char)*a))
                a++;
            while (isdigit((unsigned char)*b))
                b++;
            continue;
        }
        if (*a != *b)
            return false;
        if (!*a)
            return true;
        a++;
        b++;
    }
}

static bool same_exception(const struct nng_traceback *a, const struct nng_traceback *b)
{
    return !strcmp(a->type, b->type) && same_words(a->message, b->message) &&
           !strcmp(a->origin, b->origin);
}

bool nng_same_thing(const struct nng_evidence *a, const struct nng_verdict *va,
                    const struct nng_evidence *b, const struct nng_verdict *vb)
{
    bool nobody_died = a->kind == NNG_K_STALL || b->kind == NNG_K_STALL;

    if (strcmp(va->cause, vb->cause) != 0)
        return false;
    if (nobody_died)
        return true;
    if (a->who.role != b->who.role || a->status.signal != b->status.signal)
        return false;
    if (of_a_resource(va->cause))
        return true;
    if (!a->status.signal) {
        if (a->status.code != b->status.code || a->tb.present != b->tb.present)
            return false;
        if (a->tb.present && !same_exception(&a->tb, &b->tb))
            return false;
    }
    if (a->has_fault && b->has_fault) {
        if (strcmp(a->fault.ip_path, b->fault.ip_path) != 0 ||
            strcmp(a->fault.sender_name, b->fault.sender_name) != 0)
            return false;
    }
    if (a->stack.n_python && b->stack.n_python && strcmp(a->stack.python[0], b->stack.python[0]))
        return false;
    /* the first words name the file, the message, the sender: they were chosen to tell causes apart */
    return same_words(va->why.en, vb->why.en) || !strcmp(va->cause, "worker_exception");
}

int nng_same_find(const struct nng_run *r, const struct nng_evidence *ev,
                  const struct nng_verdict *v)
{
    int alike = 0, last = -1;

    for (int k = 0; k < r->n_incidents; k++) {
        const struct nng_incident *i = &r->incident[k];
        if (nng_same_thing(&i->ev, &i->verdict, ev, v))
            return k;
        if (strcmp(i->verdict.cause, v->cause) != 0 || i->ev.who.role != ev->who.role)
            continue;
        alike++;
        last = k;
    }
    return alike >= DIFFERENT ? last : -1;
}
