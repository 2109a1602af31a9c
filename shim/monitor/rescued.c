/* SPDX-License-Identifier: MIT
 *
 * What is told of rescue (NNGUARD_RESCUE=shm): the first line, refusals, how much lived at a time. Counting
 * is a thread of its own, since neither makers nor words may wait for it; the main thread speaks.
 *
 * How much lived at a time is a bound, not what a look now and then happened to meet: what lived at
 * one look and all that was made until the next. Often looking makes it a narrow one.
 */
#include "mon.h"

#include <dirent.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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
    uint64_t before = atomic_load(&h->rescue_bytes);
    int64_t now = living();
    uint64_t after = atomic_load(&h->rescue_bytes);

    atomic_store(&h->rescue_peak, nng_rescued_bound(h));
    if (now < 0)
        return; /* no memory to count with: the next look bounds both */
    /* What was made during the look may be in it already; counted twice rather than not at all. */
    atomic_store(&h->rescue_lived, (uint64_t)now < after ? (uint64_t)now : after);
    atomic_store(&h->rescue_lived_at, before);
}

/* Looks ten times a second while segments are made, at first oftener, less often where looking takes
 * long, and not at all before the first. */
static _Atomic uint32_t begun;

static void *count_thread(void *unused)
{
    uint64_t last = 0, pause = 0, first;

    (void)unused;
    while (!atomic_load(&begun))
        syscall(SYS_futex, &begun, FUTEX_WAIT, 0, NULL, NULL, 0);
    first = nng_mon_now();
    for (;;) {
        struct timespec ts = {(time_t)(pause / NNG_SECOND), (long)(pause % NNG_SECOND)};
        nanosleep(&ts, NULL);
        uint64_t now = nng_mon_now(), n = atomic_load(&journal->hdr.rescue_bytes);
        bool more = n != last;
        pthread_mutex_lock(&counting);
        measure();
        pthread_mutex_unlock(&counting);
        last = n;
        pause = SHARE * (nng_mon_now() - now);
        uint64_t least = now - first < 2 * NNG_SECOND ? NNG_SECOND / 50
                         : more                       ? NNG_SECOND / 10
                                                      : NNG_SECOND;
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
uint64_t nng_rescued_bound(const struct nng_header *h)
{
    uint64_t made = atomic_load(&h->rescue_bytes), at = atomic_load(&h->rescue_lived_at);
    uint64_t bound = atomic_load(&h->rescue_lived) + (made > at ? made - at : 0);
    uint64_t peak = atomic_load(&h->rescue_peak);

    if (bound < peak)
        bound = peak;
    return bound < made ? bound : made;
}

static void fill(struct nng_mon *m)
{
    const struct nng_header *h = &m->view.j->hdr;
    struct nng_rescued *r = &m->run.rescued;
    struct statfs fs;

    r->segments = atomic_load(&h->rescue_segments);
    r->bytes = atomic_load(&h->rescue_bytes);
    r->biggest = atomic_load(&h->rescue_biggest);
    r->peak = nng_rescued_bound(h);
    r->refused = atomic_load(&h->rescue_refused);
    r->refused_ask = (int64_t)atomic_load(&h->rescue_refused_ask);
    r->refused_room = (int64_t)atomic_load(&h->rescue_refused_room);
    r->refused_limit = (int64_t)atomic_load(&h->rescue_refused_limit);
    if (m->live && !statfs("/dev/shm", &fs))
        r->shm_total = (int64_t)fs.f_blocks * (int64_t)fs.f_bsize;
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
        atomic_store(&begun, 1);
        syscall(SYS_futex, &begun, FUTEX_WAKE, 1, NULL, NULL, 0);
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
    nng_speak_rescued(m);
}
