/* SPDX-License-Identifier: MIT
 *
 * A run that ended without a word: its monitor was killed with it (a container's end, memory.oom.group,
 * kill -9 of everything), or it never had one. The journal is all there is; the same model and the same
 * causes are asked, and what cannot be known is left unknown.
 */
#include "mon.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOOK_BACK (7 * 24 * 3600) /* seconds: older silent ends are no news */

enum life { DEAD, LIVES, CANNOT_TELL };

/* On some network file systems a lock cannot be tried (EBADF on a file that is open for reading, ENOLCK,
 * ENOSYS): that says nothing. */
static enum life followed(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB))
        return errno == EWOULDBLOCK ? LIVES : CANNOT_TELL;
    flock(fd, LOCK_UN);
    return DEAD;
}

static bool same_boot(const struct nng_header *h)
{
    char boot[40] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

    if (f) {
        if (fgets(boot, sizeof boot, f))
            boot[strcspn(boot, "\n")] = '\0';
        fclose(f);
    }
    return !strcmp(boot, h->boot_id);
}

static bool root_lives(const struct nng_header *h)
{
    struct stat ns;
    struct nng_pstat st;

    return same_boot(h) && !stat("/proc/self/ns/pid", &ns) && ns.st_ino == h->pidns &&
           !nng_proc_stat((int)h->root_pid, &st) && st.start_ticks == h->root_start_ticks &&
           st.state != 'Z';
}

bool nng_run_lives(const struct nng_view *v)
{
    return root_lives(&v->hdr) || followed(v->fd) == LIVES;
}

/* Only where that is sure is a run of others told of, and marked so. */
static bool surely_over(const struct nng_view *v)
{
    char host[64] = "";

    gethostname(host, sizeof host - 1);
    if (!same_boot(&v->hdr) && strncmp(host, v->hdr.host, sizeof host - 1) != 0)
        return false; /* another machine's, on a shared file system where locks may be local */
    return !root_lives(&v->hdr) && followed(v->fd) == DEAD;
}

static void feed(struct nng_mon *m)
{
    struct nng_got g;

    while (nng_cursor_next(&m->events, &m->view, true, &g)) {
        struct nng_tracked *t = nng_model_record(&m->model, &m->view, &g);
        m->run.end_boot_ns = g.rec.time_ns;
        if (t && g.rec.type == NNG_R_FAIL && g.rec.err == ENOSPC && (g.rec.flags & NNG_RF_DEVSHM))
            nng_judge_shm_failure(m, t);
    }
}

/* The monitor's last sample is often the last sign of life. */
static void last_sample(struct nng_mon *m)
{
    struct nng_cursor c;
    struct nng_got g;

    nng_cursor_init(&c, &m->view, NNG_RING_SAMPLES);
    while (nng_cursor_next(&c, &m->view, true, &g))
        if (g.rec.time_ns > m->run.end_boot_ns)
            m->run.end_boot_ns = g.rec.time_ns;
}

/* Deaths in the order of their own times. */
static int by_death(const void *a, const void *b)
{
    const struct nng_tracked *const *x = a, *const *y = b;
    return (*x)->death_ns < (*y)->death_ns ? -1 : (*x)->death_ns > (*y)->death_ns;
}

static void judge_the_dead(struct nng_mon *m)
{
    size_t n = m->model.n;
    struct nng_tracked **t = malloc(n * sizeof(struct nng_tracked *));

    if (!t || n == 0) {
        free(t);
        return;
    }
    memcpy(t, m->model.t, n * sizeof(struct nng_tracked *));
    for (size_t i = 0; i < n; i++) {
        struct nng_tracked *p = t[i];
        bool by_signal =
            p->signalled && (p->held || m->run.end_boot_ns <= p->signalled_ns + NNG_SECOND);
        if (!p->dead && (p->left || by_signal)) {
            p->dead = true;
            p->death_ns = p->left ? p->left_ns : p->signalled_ns;
        }
        p->death_seen_ns = 1; /* nothing to wait for */
    }
    qsort(t, n, sizeof(struct nng_tracked *), by_death);
    for (size_t i = 0; i < n; i++) {
        if (t[i] == m->model.root)
            m->root_dead = t[i]->dead;
        nng_judge(m, t[i]);
    }
    nng_judge_due(m, true);
    free(t);
}

int nng_monitor_postmortem(const char *run_dir, struct nng_run *out)
{
    char path[768];
    struct nng_mon *m = calloc(1, sizeof *m);
    int e = -ENOMEM;

    if (!m)
        return e;
    snprintf(path, sizeof path, "%s/journal", run_dir);
    e = nng_view_open(&m->view, path, -1, false);
    if (e)
        goto out;
    if (nng_run_lives(&m->view)) {
        e = -EBUSY;
        goto close;
    }
    m->run.incident = calloc(NNG_INCIDENTS, sizeof *m->run.incident);
    if (!m->run.incident) {
        e = -ENOMEM;
        goto close;
    }
    m->err_fd = -1;
    m->rebooted = !same_boot(&m->view.hdr);
    nng_mon_run_init(m);
    /* the folder may have been moved since; where it lies now is what the reader can open */
    snprintf(m->run.dir, sizeof m->run.dir, "%s", run_dir);
    nng_model_init(&m->model, m->run.root_pid);
    nng_cursor_init(&m->events, &m->view, NNG_RING_EVENTS);
    feed(m);
    last_sample(m);
    judge_the_dead(m);
    struct nng_tracked *root = m->model.root;
    if (!root || !root->dead) {
        m->run.ended_silently = true;
        if (!root)
            root = nng_model_add(&m->model, m->run.root_pid);
        if (root) {
            root->role = NNG_ROLE_TRAINER;
            root->dead = true;
            root->death_ns = m->run.end_boot_ns;
            root->death_seen_ns = 1;
            m->root_dead = true;
            nng_judge(m, root);
        }
    }
    nng_judge_conclude(m);
    m->run.lost_records = m->events.lost;
    m->run.torn_records = m->events.torn;
    for (unsigned i = 0; i < NNG_H_COUNT; i++)
        m->run.health[i] = atomic_load_explicit(&m->view.hdr.health[i], memory_order_relaxed);
    unsigned n = m->model.n_moments, first = n > NNG_TIMELINE ? n - NNG_TIMELINE : 0;
    for (unsigned i = first; i < n; i++)
        m->run.moment[m->run.n_moments++] = m->model.moment[i % NNG_TIMELINE];
    *out = m->run;
    e = 0;
close:
    nng_view_close(&m->view);
out:
    nng_model_free(&m->model);
    free(m);
    return e;
}

/* A run of ours beside this one that ended with its monitor: tell it once, and write its report. */
static bool tell_of(struct nng_mon *m, const char *dir)
{
    char path[1024];
    char en[1024], zh[1024];
    struct nng_view v;
    struct nng_run *r;
    struct stat st;
    bool told = false;

    snprintf(path, sizeof path, "%s/journal", dir);
    if (stat(path, &st) || st.st_uid != getuid() || time(NULL) - st.st_mtime > LOOK_BACK ||
        nng_view_open(&v, path, -1, true))
        return false;
    bool over = surely_over(&v);
    nng_view_close(&v);
    /* read again: its monitor may have finished, and removed the run, between the two looks */
    if (!over || nng_view_open(&v, path, -1, true))
        return false;
    uint32_t state = atomic_load(&v.j->hdr.monitor_state);
    bool silent_end = state == NNG_M_READY || state == NNG_M_STARTED;
    if (silent_end)
        atomic_store(&v.j->hdr.monitor_state, NNG_M_GONE);
    nng_view_close(&v);
    r = silent_end ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return false;
    if (!nng_monitor_postmortem(dir, r)) {
        if (r->n_incidents) {
            snprintf(path, sizeof path, "%s/report.json", dir);
            if (stat(path, &st)) /* what a monitor saw alive is better than what is left of it */
                nng_report_write(r);
            snprintf(en, sizeof en,
                     "an earlier run (%s) ended without a word, its monitor with it: "
                     "nnguard report %s",
                     r->id, dir);
            snprintf(zh, sizeof zh,
                     "之前的一次训练 (%s) 连同其监视进程一起突然结束: nnguard report %s", r->id,
                     dir);
            nng_speak_line(m, en, zh);
            told = true;
        }
        free(r->incident);
    }
    free(r);
    return told;
}

void nng_postmortem_of_others(struct nng_mon *m)
{
    char parent[512], dir[768];
    char *slash;
    struct dirent *e;
    DIR *d;
    int looked = 0;

    snprintf(parent, sizeof parent, "%s", m->run.dir);
    slash = strrchr(parent, '/');
    if (!slash || slash == parent)
        return;
    *slash = '\0';
    d = opendir(parent);
    if (!d)
        return;
    while ((e = readdir(d)) && looked < 64) {
        if (e->d_name[0] == '.' || !strcmp(e->d_name, "latest") || !strcmp(e->d_name, m->run.id))
            continue;
        looked++;
        snprintf(dir, sizeof dir, "%s/%s", parent, e->d_name);
        if (tell_of(m, dir))
            break;
    }
    closedir(d);
}
