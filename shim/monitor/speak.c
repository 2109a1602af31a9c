/* SPDX-License-Identifier: MIT
 *
 * The only place that writes to the trainer's stderr, and the one that brings the reports to disk. A
 * block is one write of at most PIPE_BUF bytes; where nobody reads the pipe it is given up after a
 * second rather than waited for (O_NONBLOCK is never set: the open file description is shared with
 * the trainer).
 */
#include "mon.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say(struct nng_mon *m, const char *bytes, size_t n)
{
    struct pollfd p = {.fd = m->err_fd, .events = POLLOUT};

    if (m->quiet || m->err_fd < 0 || n == 0 || !m->live)
        return;
    if (poll(&p, 1, 1000) <= 0 || !(p.revents & POLLOUT))
        return;
    while (write(m->err_fd, bytes, n) < 0 && errno == EINTR)
        ;
}

/* Did this process leave a line unfinished (a progress bar, a thread that was ended while it printed)? */
static bool mid_line(const struct nng_mon *m, const struct nng_tracked *t)
{
    if (!m->live || !t || t->proc_index < 0)
        return false;
    const struct nng_proc *p = &m->view.j->procs[t->proc_index];
    uint32_t pos = atomic_load_explicit(&p->tail_pos, memory_order_acquire);
    return pos > 0 && p->tail[(pos - 1) % NNG_TAIL_SIZE] != '\n';
}

/* Every line of ours begins a line: where the trainer or the dead one left one open, it is ended first. */
static void say_block(struct nng_mon *m, char *block, size_t n, const struct nng_tracked *also)
{
    if (n > 0 && n < NNG_BLOCK_MAX && (mid_line(m, m->model.root) || mid_line(m, also))) {
        memmove(block + 1, block, n);
        block[0] = '\n';
        n++;
    }
    say(m, block, n);
}

static void fill_run(struct nng_mon *m)
{
    unsigned n = m->model.n_moments;
    unsigned first = n > NNG_TIMELINE ? n - NNG_TIMELINE : 0;

    nng_judge_conclude(m);
    m->run.lost_records = m->events.lost;
    m->run.torn_records = m->events.torn;
    for (unsigned i = 0; i < NNG_H_COUNT; i++)
        m->run.health[i] = atomic_load_explicit(&m->view.j->hdr.health[i], memory_order_relaxed);
    m->run.n_moments = 0;
    for (unsigned i = first; i < n; i++)
        m->run.moment[m->run.n_moments++] = m->model.moment[i % NNG_TIMELINE];
}

void nng_speak_incident(struct nng_mon *m, struct nng_incident *i)
{
    static char block[NNG_BLOCK_MAX];
    size_t n = nng_report_block(block, &m->run, i, &m->style);
    say_block(m, block, n, nng_model_find(&m->model, i->ev.who.pid));
}

void nng_speak_rescued(struct nng_mon *m)
{
    static char block[NNG_BLOCK_MAX];
    say(m, block, nng_report_rescued(block, &m->run, &m->style));
}

void nng_speak_closing(struct nng_mon *m)
{
    static char block[NNG_BLOCK_MAX];
    fill_run(m);
    say_block(m, block, nng_report_closing(block, &m->run, &m->style), NULL);
}

void nng_speak_reminder(struct nng_mon *m, struct nng_incident *i)
{
    static char block[NNG_BLOCK_MAX];
    say(m, block, nng_report_reminder(block, &m->run, i, &m->style));
}

void nng_speak_line(struct nng_mon *m, const char *en, const char *zh)
{
    char line[1024];
    int n = snprintf(line, sizeof line, "nnguard: %s\n",
                     m->style.lang == NNG_ZH && m->style.utf8 ? zh : en);
    if (n > 0)
        say(m, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

void nng_speak_reports(struct nng_mon *m)
{
    fill_run(m);
    m->reports_ns = nng_mon_now();
    m->reports_stale = false;
    if (m->run.dir[0])
        nng_report_write(
            &m->run); /* a full disk leaves the older version; the screen has the words */
}
