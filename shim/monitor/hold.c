/* SPDX-License-Identifier: MIT
 *
 * Holding what was rescued (preload/rescue.h): a segment that has a name must live on when its maker
 * closes it or dies, until the name is gone. The name is a link to /proc/self/fd/N here: so the monitor
 * keeps a reference to each segment, at a number that its maker knows beforehand, and one to the link,
 * whose link count tells when it is gone. A thread of its own answers, because makers wait for it; it
 * touches nothing but the table of segments and its descriptors.
 *
 * Only references are held (O_PATH): no right to read the content is needed, none is used.
 */
#include "mon.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINGER (2 * NNG_SECOND)
#define FIRST_NUMBER 1024u

static struct nng_journal *journal;
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER; /* holding thread and the end */

/* ---- the holding thread ------------------------------------------------------------------------ */
static bool gone(uint32_t pid)
{
    return pid == 0 || (kill((pid_t)pid, 0) && errno == ESRCH);
}

/* Our numbers for a segment: its memory, its link. */
static int number_of(const struct nng_segment *s, int which)
{
    return (int)atomic_load(&journal->hdr.rescue_fd_base) + 2 * (int)(s - journal->segments) +
           which;
}

static int reference(uint32_t pid, int fd, uint64_t ino, int number)
{
    char path[64];
    struct stat st;

    if (fd < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/%u/fd/%d", pid, fd);
    int got = open(path, O_PATH | O_CLOEXEC);
    if (got < 0)
        return -1;
    bool taken = fcntl(number, F_GETFD) >= 0; /* by ourselves, where few numbers are allowed */
    int kept = taken || fstat(got, &st) || st.st_ino != ino ? -1 : dup3(got, number, O_CLOEXEC);
    close(got);
    return kept;
}

/* In any case an answer: the maker waits. Without both references it does not rescue. */
static void take(struct nng_segment *s)
{
    uint32_t want = NNG_SG_WANT;

    s->held = reference(s->pid, s->mem_fd, s->mem_ino, number_of(s, 0));
    s->held_name = reference(s->pid, s->name_fd, atomic_load(&s->ino), number_of(s, 1));
    atomic_compare_exchange_strong(&s->state, &want, NNG_SG_HELD);
    syscall(SYS_futex, &s->state, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* The maker was killed before it had put the link in its place, or taken away what lay there. */
static void tidy_after(const struct nng_segment *s)
{
    char path[64];

    snprintf(path, sizeof path, "/dev/shm/.nnguard-%u-%u", s->pid,
             (unsigned)(s - journal->segments));
    unlink(path);
}

static void let_go(struct nng_segment *s)
{
    if (s->held == number_of(s, 0))
        close(s->held);
    if (s->held_name == number_of(s, 1))
        close(s->held_name);
    s->held = s->held_name = -1;
    if (s->mem_fd >= 0 && gone(s->pid)) /* another one has removed the name meanwhile */
        tidy_after(s);
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

static bool name_is_gone(struct nng_segment *s)
{
    struct stat st;

    if (s->mem_fd >= 0 && gone(s->pid)) {
        tidy_after(s);
        s->mem_fd = -1;
    }
    return s->held_name != number_of(s, 1) || fstat(s->held_name, &st) ? gone(s->pid)
                                                                       : st.st_nlink == 0;
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
        else if (state == NNG_SG_FILLING && tidy && gone(s->pid)) {
            tidy_after(s);
            atomic_compare_exchange_strong(&s->state, &state, NNG_SG_FREE);
        }
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

/* ---- start ------------------------------------------------------------------------------------- */
static bool asked_for(void)
{
    const char *v = getenv("NNGUARD_RESCUE");
    return v && (strstr(v, "shm") || strstr(v, "all"));
}

bool nng_mon_thread(void *(*body)(void *))
{
    pthread_t th;
    pthread_attr_t at;

    pthread_attr_init(&at);
    pthread_attr_setstacksize(&at, 64 << 10);
    pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
    return pthread_create(&th, &at, body, NULL) == 0;
}

/* Two a segment, above all that the monitor opens for itself. */
static void reserve_numbers(struct nng_header *h)
{
    struct rlimit l;
    uint32_t base = FIRST_NUMBER, n = NNG_SEGMENTS_N;

    if (getrlimit(RLIMIT_NOFILE, &l))
        return;
    if (l.rlim_cur < base + 2 * n) {
        base = (uint32_t)(l.rlim_cur / 2);
        n = (uint32_t)(l.rlim_cur - base) / 2;
    }
    atomic_store(&h->rescue_fd_n, n);
    atomic_store_explicit(&h->rescue_fd_base, base, memory_order_release);
}

void nng_hold_start(struct nng_mon *m)
{
    if (!asked_for())
        return;
    journal = m->view.j;
    reserve_numbers(&journal->hdr);
    if (!nng_mon_thread(hold_thread))
        atomic_store(&journal->hdr.rescue_deaf, 1);
    nng_rescued_start(m);
}

/* ---- the end ----------------------------------------------------------------------------------- */
/* What still has a name loses its content with us: the link goes too. A resource tracker that
 * outlives its trainer is first given the time to do it itself. */
static void remove_name(struct nng_segment *s)
{
    char link[40], path[512];
    struct stat held, now;

    snprintf(link, sizeof link, "/proc/self/fd/%d", number_of(s, 1));
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return;
    path[n] = '\0';
    if (!fstat(number_of(s, 1), &held) && !lstat(path, &now) && held.st_ino == now.st_ino &&
        held.st_dev == now.st_dev && S_ISLNK(now.st_mode))
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
    uint32_t top =
        atomic_load(&journal->hdr.rescue_top); /* untouched entries stay untouched pages */
    for (uint32_t i = 0; i < top && i < NNG_SEGMENTS_N; i++) {
        struct nng_segment *s = &journal->segments[i];
        if (atomic_load(&s->state) == NNG_SG_HELD && s->held_name == number_of(s, 1))
            remove_name(s);
        if (s->pid && gone(s->pid))
            tidy_after(s);
    }
}
