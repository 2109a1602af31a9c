/* SPDX-License-Identifier: MIT
 *
 * Holding what was rescued (preload/rescue.h): a segment that has a name must live on when its maker
 * closes it or dies, until the name is gone. So the monitor keeps a reference to each, and one to the
 * empty file that has the name, whose link count tells when it is gone. A thread of its own answers,
 * because makers wait for it; it touches nothing but the table of segments and its descriptors. A
 * second thread counts what lives; the main thread speaks.
 *
 * Only references are held (O_PATH): no right to read the content is needed, none is used.
 */
#include "mon.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
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
#define LINGER (2 * NNG_SECOND)

static struct nng_journal *journal;
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;    /* holding thread and the end */
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER; /* counting thread and the end */

/* ---- the holding thread ------------------------------------------------------------------------ */
static bool gone(uint32_t pid)
{
    return pid == 0 || (kill((pid_t)pid, 0) && errno == ESRCH);
}

static int reference(uint32_t pid, int fd, uint64_t ino)
{
    char path[64];
    struct stat st;

    if (fd < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/%u/fd/%d", pid, fd);
    int got = open(path, O_PATH | O_CLOEXEC);
    if (got >= 0 && (fstat(got, &st) || st.st_ino != ino)) {
        close(got);
        got = -1;
    }
    return got;
}

/* In any case an answer: the maker waits. Without a reference others try the maker itself. */
static void take(struct nng_segment *s)
{
    uint32_t want = NNG_SG_WANT;

    s->held = reference(s->pid, s->mem_fd, s->mem_ino);
    s->held_name = reference(s->pid, s->name_fd, atomic_load(&s->ino));
    atomic_compare_exchange_strong(&s->state, &want, NNG_SG_HELD);
    syscall(SYS_futex, &s->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void let_go(struct nng_segment *s)
{
    if (s->held >= 0)
        close(s->held);
    if (s->held_name >= 0)
        close(s->held_name);
    s->held = s->held_name = -1;
    atomic_store(&s->ino, 0);
    atomic_store_explicit(&s->state, NNG_SG_FREE, memory_order_release);
}

static void drop(struct nng_segment *s)
{
    uint32_t held = NNG_SG_HELD;

    if (atomic_compare_exchange_strong(&s->state, &held, NNG_SG_DROP)) {
        atomic_fetch_sub(&journal->hdr.rescue_named, 1);
        let_go(s);
    }
}

static bool name_is_gone(const struct nng_segment *s)
{
    struct stat st;
    if (s->held_name >= 0)
        return !fstat(s->held_name, &st) && st.st_nlink == 0;
    return s->held < 0 && gone(s->pid);
}

/* `tidy`: also what nobody asked for, once a second. */
static unsigned serve(bool tidy)
{
    uint32_t top = atomic_load(&journal->hdr.rescue_top);
    unsigned n = 0;

    for (uint32_t i = 0; i < top && i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &journal->segments[i];
        uint32_t state = atomic_load(&s->state);
        n += state != NNG_SG_FREE;
        if (state == NNG_SG_WANT)
            take(s);
        else if (state == NNG_SG_DROP)
            let_go(s);
        else if (state == NNG_SG_HELD && tidy && name_is_gone(s))
            drop(s);
        else if (state == NNG_SG_FILLING && tidy && gone(s->pid))
            atomic_compare_exchange_strong(&s->state, &state, NNG_SG_FREE);
    }
    return n;
}

static void *hold_thread(void *unused)
{
    struct nng_header *h = &journal->hdr;
    uint64_t tidied = 0;

    (void)unused;
    for (;;) {
        uint32_t seen = atomic_load(&h->rescue_bell);
        uint64_t now = nng_mon_now();
        bool tidy = now - tidied >= NNG_SECOND;
        pthread_mutex_lock(&table);
        unsigned n = serve(tidy);
        pthread_mutex_unlock(&table);
        atomic_store(&h->rescue_deaf, 0); /* only slow to start, or stopped for a while */
        if (tidy)
            tidied = now;
        struct timespec ts = {.tv_sec = n ? 1 : 3600};
        syscall(SYS_futex, &h->rescue_bell, FUTEX_WAIT, seen, &ts, NULL, 0);
    }
    return NULL;
}

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

/* ---- start ------------------------------------------------------------------------------------- */
static bool asked_for(void)
{
    const char *v = getenv("NNGUARD_RESCUE");
    return v && (strstr(v, "shm") || strstr(v, "all"));
}

static bool start(void *(*body)(void *))
{
    pthread_t th;
    pthread_attr_t at;

    pthread_attr_init(&at);
    pthread_attr_setstacksize(&at, 64 << 10);
    pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
    return pthread_create(&th, &at, body, NULL) == 0;
}

void nng_hold_start(struct nng_mon *m)
{
    if (!asked_for())
        return;
    journal = m->view.j;
    if (!start(hold_thread))
        atomic_store(&journal->hdr.rescue_deaf, 1);
    start(count_thread);
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

void nng_hold_look(struct nng_mon *m)
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

void nng_hold_closing(struct nng_mon *m)
{
    static uint64_t told;

    nng_hold_look(m);
    if (!journal || m->run.rescued.segments == told)
        return;
    told = m->run.rescued.segments;
    pthread_mutex_lock(&counting);
    measure();
    pthread_mutex_unlock(&counting);
    fill(m);
    nng_speak_rescued(m);
}

/* ---- the end ----------------------------------------------------------------------------------- */
/* What still has a name loses its content with us: the empty file goes too. A resource tracker that
 * outlives its trainer is first given the time to do it itself. */
static void remove_name(struct nng_segment *s)
{
    char link[32], path[512];
    struct stat held, now;

    snprintf(link, sizeof link, "/proc/self/fd/%d", s->held_name);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return;
    path[n] = '\0';
    if (!fstat(s->held_name, &held) && !lstat(path, &now) && held.st_ino == now.st_ino &&
        held.st_dev == now.st_dev && now.st_blocks == 0)
        unlink(path);
}

void nng_hold_finish(struct nng_mon *m)
{
    if (!journal)
        return;
    uint64_t until = nng_mon_now() + LINGER;
    while (atomic_load(&m->view.j->hdr.rescue_named) && nng_mon_now() < until) {
        struct timespec ts = {.tv_nsec = 50000000};
        nanosleep(&ts, NULL);
        pthread_mutex_lock(&table);
        serve(true);
        pthread_mutex_unlock(&table);
    }
    pthread_mutex_lock(&table); /* for ever: nothing is taken any more */
    for (unsigned i = 0; i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &journal->segments[i];
        if (atomic_load(&s->state) == NNG_SG_HELD && s->held_name >= 0)
            remove_name(s);
    }
}
