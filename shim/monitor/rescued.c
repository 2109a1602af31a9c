/* SPDX-License-Identifier: MIT
 *
 * What is told of rescue (NNGUARD_RESCUE=shm): the first line, refusals, how much lived at a time. Counting
 * is a thread of its own, since neither makers nor words may wait for it; the main thread speaks.
 */
#include "mon.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define SEEN 4096 /* segments counted at a time */
#define SHARE 50  /* counting takes at most this part of the time */

static struct nng_journal *journal;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER; /* counting thread and the end */

/* ---- how much lives ---------------------------------------------------------------------------- */
struct seen {
    uint64_t ino;
    int64_t bytes;
    bool exact;
};

static void add(struct seen *seen, uint64_t ino, int64_t bytes, bool exact)
{
    unsigned i = (unsigned)((ino * 0x9e3779b97f4a7c15ULL) >> 52) % SEEN;

    for (unsigned probes = 0; probes < 64; probes++, i = (i + 1) % SEEN) {
        struct seen *s = &seen[i];
        if (s->ino && s->ino != ino)
            continue;
        if (!s->ino || (exact && !s->exact) || (exact == s->exact && bytes > s->bytes))
            *s = (struct seen){ino, bytes, exact};
        return;
    }
}

static void look_at_fds(struct seen *seen, uint32_t pid)
{
    char path[64], link[32];
    struct dirent *e;
    struct stat st;

    snprintf(path, sizeof path, "/proc/%u/fd", pid);
    DIR *d = opendir(path);
    if (!d)
        return;
    while ((e = readdir(d))) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, link, sizeof link);
        if (n >= 14 && !memcmp(link, "/memfd:nnguard", 14) && !fstatat(dirfd(d), e->d_name, &st, 0))
            add(seen, st.st_ino, (int64_t)st.st_blocks * 512, true);
    }
    closedir(d);
}

static void look_at_maps(struct seen *seen, uint32_t pid)
{
    char path[64], *line = NULL;
    size_t cap = 0;
    unsigned long long from, to, off, ino;

    snprintf(path, sizeof path, "/proc/%u/maps", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    while (getline(&line, &cap, f) > 0)
        if (strstr(line, "/memfd:nnguard") &&
            sscanf(line, "%llx-%llx %*s %llx %*s %llu", &from, &to, &off, &ino) == 4 && to > from)
            add(seen, ino, (int64_t)(off + to - from), false);
    free(line);
    fclose(f);
}

static int64_t living(void)
{
    struct seen *seen = calloc(SEEN, sizeof *seen);
    int64_t sum = 0;

    if (!seen)
        return -1;
    for (unsigned i = 0; i < NNG_PROCS_N; i++) {
        const struct nng_proc *p = &journal->procs[i];
        if (atomic_load(&p->state) != NNG_P_LIVE)
            continue;
        look_at_fds(seen, p->pid);
        look_at_maps(seen, p->pid);
    }
    uint32_t top = atomic_load(&journal->hdr.rescue_top);
    for (uint32_t i = 0; i < top && i < NNG_SEGMENTS_N; i++) {
        const struct nng_segment *s = &journal->segments[i];
        if (atomic_load(&s->state) == NNG_SG_HELD && s->mem_ino)
            add(seen, s->mem_ino, (int64_t)s->size, false);
    }
    for (unsigned i = 0; i < SEEN; i++)
        sum += seen[i].bytes;
    free(seen);
    return sum;
}

static void measure(void)
{
    struct nng_header *h = &journal->hdr;
    int64_t now = living();
    uint64_t peak = atomic_load(&h->rescue_peak), biggest = atomic_load(&h->rescue_biggest);

    if (now < (int64_t)(biggest & INT64_MAX))
        now = (int64_t)(biggest & INT64_MAX);
    while (now > 0 && (uint64_t)now > peak &&
           !atomic_compare_exchange_weak(&h->rescue_peak, &peak, (uint64_t)now))
        ;
}

/* A thread of its own too: neither makers nor words wait for it. Looks ten times a second while
 * segments are made, less often where looking takes long, not at all before the first. */
static void *count_thread(void *unused)
{
    uint64_t last = 0, pause = NNG_SECOND;

    (void)unused;
    for (;;) {
        struct timespec ts = {(time_t)(pause / NNG_SECOND), (long)(pause % NNG_SECOND)};
        nanosleep(&ts, NULL);
        uint64_t now = nng_mon_now(), n = atomic_load(&journal->hdr.rescue_segments);
        bool more = n != last;
        if (n) {
            pthread_mutex_lock(&counting);
            measure();
            pthread_mutex_unlock(&counting);
        }
        last = n;
        pause = SHARE * (nng_mon_now() - now);
        uint64_t least = more ? NNG_SECOND / 10 : NNG_SECOND;
        if (pause < least)
            pause = least;
    }
    return NULL;
}

void nng_rescued_start(struct nng_mon *m)
{
    journal = m->view.j;
    nng_mon_thread(count_thread);
}

/* ---- words ------------------------------------------------------------------------------------- */
static void fill(struct nng_mon *m)
{
    const struct nng_header *h = &m->view.j->hdr;
    struct nng_rescued *r = &m->run.rescued;
    struct statfs fs;

    r->segments = atomic_load(&h->rescue_segments);
    r->bytes = atomic_load(&h->rescue_bytes);
    r->biggest = atomic_load(&h->rescue_biggest);
    r->peak = atomic_load(&h->rescue_peak);
    r->refused = atomic_load(&h->rescue_refused);
    r->refused_ask = (int64_t)atomic_load(&h->rescue_refused_ask);
    r->refused_room = (int64_t)atomic_load(&h->rescue_refused_room);
    r->refused_limit = (int64_t)atomic_load(&h->rescue_refused_limit);
    r->workers = m->model.workers_at_once;
    if (m->live && !statfs("/dev/shm", &fs)) {
        int64_t used = (int64_t)(fs.f_blocks - fs.f_bfree) * (int64_t)fs.f_bsize;
        r->shm_total = (int64_t)fs.f_blocks * (int64_t)fs.f_bsize;
        if (used > r->shm_used)
            r->shm_used = used;
    }
}

static void say_first(struct nng_mon *m)
{
    char en[256], zh[256], size[32];
    const struct nng_rescued *r = &m->run.rescued;

    nng_text_bytes(size, sizeof size, r->shm_total);
    snprintf(en, sizeof en,
             "/dev/shm is too small (%s): what does not fit goes to ordinary memory "
             "(NNGUARD_RESCUE)",
             size);
    snprintf(zh, sizeof zh, "/dev/shm 太小(%s):放不下的数据改用普通内存 (NNGUARD_RESCUE)", size);
    nng_speak_line(m, en, zh);
    nng_model_moment(&m->model, nng_mon_now(), "/dev/shm is too small: rescue begins");
}

static void say_refused(struct nng_mon *m)
{
    char en[320], zh[320], ask[32], room[32], limit[32];
    const struct nng_rescued *r = &m->run.rescued;

    nng_text_bytes(ask, sizeof ask, r->refused_ask);
    nng_text_bytes(room, sizeof room, r->refused_room);
    nng_text_bytes(limit, sizeof limit, r->refused_limit);
    snprintf(en, sizeof en,
             "rescue refused: %s are needed, only %s of %s of memory can be taken safely", ask,
             room, limit);
    snprintf(zh, sizeof zh, "无法改用普通内存:需要 %s,内存共 %s,可安全占用的只有 %s", ask, limit,
             room);
    nng_speak_line(m, en, zh);
    nng_model_moment(&m->model, nng_mon_now(), "rescue refused: %s needed, %s of %s can be taken",
                     ask, room, limit);
}

void nng_rescued_look(struct nng_mon *m)
{
    static bool said, said_refused;

    if (!journal)
        return;
    fill(m);
    if (m->run.rescued.segments && !said) {
        said = true;
        say_first(m);
    }
    if (m->run.rescued.refused && !said_refused) {
        said_refused = true;
        say_refused(m);
    }
}

void nng_rescued_closing(struct nng_mon *m)
{
    static uint64_t told;

    nng_rescued_look(m);
    if (!journal || m->run.rescued.segments == told)
        return;
    told = m->run.rescued.segments;
    pthread_mutex_lock(&counting);
    measure();
    pthread_mutex_unlock(&counting);
    fill(m);
    nng_speak_rescued(m);
}
