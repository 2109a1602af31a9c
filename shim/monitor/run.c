/* SPDX-License-Identifier: MIT
 *
 * What is known of a run before anything happens: from the journal's header.
 */
#include "mon.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The blocks are padded with NULs; an empty last argument is lost with them, which harms nobody. */
static size_t used(const char *block, size_t n)
{
    while (n > 0 && block[n - 1] == '\0')
        n--;
    return n ? n + 1 : 0;
}

void nng_mon_run_init(struct nng_mon *m)
{
    struct nng_run *r = &m->run;
    const struct nng_header *h = &m->view.hdr;
    const char *base = strrchr(h->run_dir, '/');

    snprintf(r->dir, sizeof r->dir, "%s", h->run_dir);
    snprintf(r->id, sizeof r->id, "%.127s", base ? base + 1 : h->run_dir);
    snprintf(r->host, sizeof r->host, "%s", h->host);
    r->root_pid = (int)h->root_pid;
    r->rank = h->rank;
    memcpy(r->command, h->command, sizeof r->command);
    r->command[sizeof r->command - 1] = r->command[sizeof r->command - 2] = '\0';
    r->start_real_ns = h->start_real_ns;
    r->start_boot_ns = h->start_boot_ns;
    r->root = -1;
    nng_machine_read(h->env, used(h->env, sizeof h->env), h->command,
                     used(h->command, sizeof h->command), &r->machine);
    r->rescued.segments = atomic_load_explicit(&h->rescue_segments, memory_order_relaxed);
    r->rescued.bytes = atomic_load_explicit(&h->rescue_bytes, memory_order_relaxed);
    r->rescued.peak = nng_rescued_bound(h);
    r->rescued.refused = atomic_load_explicit(&h->rescue_refused, memory_order_relaxed);
    r->rescued.shm_total = r->machine.shm_total;
    m->stall_incident = -1;
    m->run_rss = m->shm_used = -1;
}
