/* SPDX-License-Identifier: MIT
 *
 * The loop: wait for the bell, for deaths and for time; take in the journal; judge; answer the root
 * that waits to leave. A second thread waits on the futex and rings an eventfd, because a futex
 * cannot be polled; it touches nothing else.
 */
#include "mon.h"

#include "../journal/append.h"
#include "../journal/words.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAMPLE_EVERY NNG_SECOND
#define LINGER_MS 150 /* after the closing block: for the root's true status */

static struct nng_mon mon;
static int epoll_fd = -1, bell_fd = -1;
static bool no_pidfd; /* pidfd_open is missing or forbidden: scan once a second */

/* ---- start ------------------------------------------------------------------------------------ */
static void settle_in(void)
{
    struct rlimit rl;
    struct sched_param sp = {0};
    struct sigaction ign = {.sa_handler = SIG_IGN};
    sigset_t none;

    sigemptyset(&none);
    for (int s = 1; s < 32; s++)
        signal(s, SIG_DFL);
    /* Ends with its run, not before: a scheduler or a terminal signals every process of a job. */
    const int ignored[] = {SIGPIPE, SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGTSTP, SIGTTOU, SIGXCPU};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        sigaction(ignored[i], &ign, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    sched_setscheduler(0, SCHED_OTHER, &sp);
    if (!getrlimit(RLIMIT_NOFILE, &rl)) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
    /* The limits of the run are not ours: we must outlive them. Only soft ones can be raised. */
    const int unlimited[] = {RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_AS, RLIMIT_DATA};
    for (size_t i = 0; i < sizeof unlimited / sizeof unlimited[0]; i++)
        if (!getrlimit((__rlimit_resource_t)unlimited[i], &rl)) {
            rl.rlim_cur = rl.rlim_max;
            setrlimit((__rlimit_resource_t)unlimited[i], &rl);
        }
    if (chdir("/"))
        return;
}

static void *bell_thread(void *arg)
{
    struct nng_header *h = arg;
    uint32_t seen = atomic_load_explicit(&h->bell, memory_order_acquire);

    for (;;) {
        uint64_t one = 1;
        struct timespec ts = {.tv_sec = 3600};
        syscall(SYS_futex, &h->bell, FUTEX_WAIT, seen, &ts, NULL, 0);
        uint32_t now = atomic_load_explicit(&h->bell, memory_order_acquire);
        if (now != seen) {
            seen = now;
            if (write(bell_fd, &one, sizeof one) < 0 && errno != EINTR && errno != EAGAIN)
                return NULL;
        }
    }
}

static bool start_bell(void)
{
    pthread_t th;
    pthread_attr_t at;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (epoll_fd < 0 || bell_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, bell_fd, &ev))
        return false;
    pthread_attr_init(&at);
    pthread_attr_setstacksize(&at, 64 << 10);
    pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
    return pthread_create(&th, &at, bell_thread, &mon.view.j->hdr) == 0;
}

/* ---- deaths ----------------------------------------------------------------------------------- */
static void set_status(struct nng_tracked *t, int status, const char *source)
{
    t->status.known = true;
    t->status.inferred = false;
    t->status.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    t->status.code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    t->status.core = WIFSIGNALED(status) && WCOREDUMP(status);
    snprintf(t->status.source, sizeof t->status.source, "%s", source);
}

static void learn_status(struct nng_tracked *t)
{
    struct nng_pstat st;
    int status;

    if (nng_status_final(&t->status))
        return;
    if (!nng_proc_stat(t->pid, &st) && st.state == 'Z' &&
        (!t->start_ticks || st.start_ticks == t->start_ticks)) {
        t->cpu_ns = st.utime_ns + st.stime_ns;
        nng_watch_cpu_limit(t);
        if (st.exit_code_readable) {
            set_status(t, st.exit_code, "/proc/PID/stat");
            return;
        }
    }
    if (t->pidfd >= 0 && nng_pidfd_status(t->pidfd, &status) == 1)
        set_status(t, status, "PIDFD_GET_INFO");
}

static void died(struct nng_tracked *t)
{
    uint64_t now = nng_mon_now();

    learn_status(t);
    if (!t->dead || !t->death_ns) {
        t->dead = true;
        t->death_ns = now;
    }
    if (!t->death_seen_ns) {
        t->death_seen_ns = now;
        nng_model_moment(&mon.model, now, "pid %d (%s) is gone", t->pid, t->comm);
    }
    if (t == mon.model.root)
        mon.root_dead = true;
    if (t->pidfd >= 0) {
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, t->pidfd, NULL);
        if (nng_status_final(&t->status) || t->judged) {
            close(t->pidfd);
            t->pidfd = -1;
        } /* else it tells the status once its parent has reaped it */
    }
}

static void learn_late(struct nng_tracked *t)
{
    if (!t->dead || t->pidfd < 0 || !t->death_seen_ns)
        return;
    if (!t->judged)
        learn_status(t);
    if (nng_status_final(&t->status) || t->judged) {
        close(t->pidfd);
        t->pidfd = -1;
    }
}

static void attach(struct nng_tracked *t)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = t};
    struct nng_pstat st;

    if (t->pidfd >= 0 || t->dead)
        return;
    int fd = nng_pidfd_open(t->pid);
    if (fd == -ENOSYS || fd == -EPERM)
        no_pidfd = true;
    if (!nng_proc_stat(t->pid, &st)) {
        t->pgrp = st.pgrp;
        if (t->start_ticks && st.start_ticks != t->start_ticks) {
            /* the number was given to somebody else already */
            if (fd >= 0)
                close(fd);
            died(t);
            return;
        }
        t->start_ticks = st.start_ticks;
        if (t->ppid < 0)
            t->ppid = st.ppid;
        nng_watch_place(&mon, t);
    }
    if (fd < 0) {
        if (fd == -ESRCH)
            died(t);
        return;
    }
    t->pidfd = fd;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
        close(fd);
        t->pidfd = -1;
        no_pidfd = true;
    }
}

static void scan_without_pidfd(void)
{
    for (size_t i = 0; i < mon.model.n; i++) {
        struct nng_tracked *t = mon.model.t[i];
        struct nng_pstat st;
        if (t->dead || t->pidfd >= 0)
            continue;
        int e = nng_proc_stat(t->pid, &st);
        if (e == -ESRCH || e == -ENOENT || (!e && st.state == 'Z') ||
            (!e && t->start_ticks && st.start_ticks != t->start_ticks))
            died(t);
    }
}

/* Deaths that the kernel has already announced. */
static void collect_deaths(int timeout_ms)
{
    struct epoll_event ev[64];
    int n = epoll_wait(epoll_fd, ev, 64, timeout_ms);

    for (int i = 0; i < n; i++) {
        uint64_t count;
        if (!ev[i].data.ptr) {
            while (read(bell_fd, &count, sizeof count) > 0)
                ;
            continue;
        }
        died(ev[i].data.ptr);
    }
}

/* A child of the run whose environment was emptied runs without us: only a look at /proc shows it. It is
 * followed where its command line says that it is a worker; its death is then known, if not its fault. */
static void find_unguarded(void)
{
    size_t n = mon.model.n;

    for (size_t i = 0; i < n && n <= 128; i++) {
        int kids[64];
        char cmdline[512];
        if (mon.model.t[i]->dead || !mon.model.t[i]->python)
            continue;
        int k = nng_proc_children(mon.model.t[i]->pid, kids, 64);
        for (int j = 0; j < k; j++) {
            struct nng_tracked *t = nng_model_find(&mon.model, kids[j]);
            if ((t && !t->dead) || kids[j] == getpid())
                continue;
            nng_proc_cmdline(kids[j], cmdline, sizeof cmdline);
            if (!strstr(cmdline, "--multiprocessing-fork") && !strstr(cmdline, "popen_loky"))
                continue;
            t = nng_model_add(&mon.model, kids[j]);
            if (!t)
                return;
            t->ppid = mon.model.t[i]->pid;
            t->birth = NNG_B_EXEC;
            t->birth_ns = nng_mon_now();
            snprintf(t->cmdline, sizeof t->cmdline, "%s", cmdline);
            nng_proc_name(t->pid, t->comm, sizeof t->comm);
            nng_roles_assign(&mon.model, t);
            nng_model_moment(&mon.model, t->birth_ns, "worker found that runs unguarded: pid %d",
                             t->pid);
            attach(t);
        }
    }
}

/* ---- the journal ------------------------------------------------------------------------------ */
/* Entries are used again: of the dead once they are judged, and of a process that exec'd itself. */
static void free_entry(struct nng_tracked *t, uint64_t new_generation)
{
    if (!t || t->proc_index < 0 || !t->generation || t->generation == new_generation)
        return;
    nng_view_free_proc(&mon.view, (unsigned)t->proc_index, t->generation);
    t->proc_index = -1;
}

static void free_entries_of_dead(uint64_t now)
{
    for (size_t i = 0; i < mon.model.n; i++) {
        struct nng_tracked *t = mon.model.t[i];
        if (t->dead && t->judged && t != mon.model.root && now - t->death_seen_ns > NNG_SECOND)
            free_entry(t, 0);
    }
}

static void take_in(bool final)
{
    struct nng_got g;

    while (nng_cursor_next(&mon.events, &mon.view, final, &g)) {
        if (g.rec.type == NNG_R_BIRTH)
            free_entry(nng_model_find(&mon.model, (int)g.rec.pid), g.ticket);
        struct nng_tracked *t = nng_model_record(&mon.model, &mon.view, &g);
        if (!t)
            continue;
        if (g.rec.type == NNG_R_BIRTH || g.rec.type == NNG_R_FORK) {
            attach(t);
        } else if (g.rec.type == NNG_R_SIGNAL) {
            nng_watch_sender(&mon, t);
        } else if (g.rec.type == NNG_R_HELD) {
            nng_judge_held(&mon, t);
        } else if (g.rec.type == NNG_R_WAIT) {
            if (t->dead && !t->death_seen_ns)
                died(t);
        } else if (g.rec.type == NNG_R_FAIL && g.rec.err == ENOSPC &&
                   (g.rec.flags & NNG_RF_DEVSHM)) {
            nng_judge_shm_failure(&mon, t);
        }
    }
}

static void judge_dead(void)
{
    for (size_t i = 0; i < mon.model.n; i++) {
        learn_late(mon.model.t[i]);
        if (mon.model.t[i]->dead && !mon.model.t[i]->judged)
            nng_judge(&mon, mon.model.t[i]);
    }
    nng_judge_due(&mon, false);
}

static void acknowledge(uint32_t suspects)
{
    struct nng_header *h = &mon.view.j->hdr;

    if (nng_judge_pending(&mon) ||
        atomic_load_explicit(&h->suspects_seen, memory_order_relaxed) == suspects)
        return;
    atomic_store_explicit(&h->suspects_seen, suspects, memory_order_release);
    syscall(SYS_futex, &h->suspects_seen, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* ---- the end ---------------------------------------------------------------------------------- */
/* The root's own death or failure was just told, and nothing led to it: that block is the last word. */
static bool already_said(void)
{
    nng_judge_conclude(&mon);
    if (mon.run.n_incidents != 1)
        return mon.run.n_incidents == 0;
    const struct nng_incident *i = &mon.run.incident[0];
    return mon.run.root == 0 && i->ev.who.pid == mon.run.root_pid && i->ev.kind != NNG_K_STALL;
}

static void close_words(void)
{
    if (mon.closing_spoken)
        return;
    mon.closing_spoken = true;
    nng_rescued_closing(&mon);
    if (!already_said())
        nng_speak_closing(&mon);
}

static void remove_run(void)
{
    char path[640];

    if (!mon.run.dir[0])
        return;
    snprintf(path, sizeof path, "%s/journal", mon.run.dir);
    unlink(path);
    rmdir(mon.run.dir);
}

static void answer_root(void)
{
    struct nng_header *h = &mon.view.j->hdr;
    struct nng_tracked *r = mon.model.root;

    if (atomic_load_explicit(&h->closing, memory_order_acquire) != NNG_CL_ASKED)
        return;
    collect_deaths(0);
    take_in(false);
    for (size_t i = 0; i < mon.model.n; i++)
        nng_judge(&mon, mon.model.t[i]);
    nng_judge_due(&mon, true);
    nng_judge_root_leaving(&mon);
    mon.run.end_boot_ns = nng_mon_now();
    close_words();
    if (r && r->left && (h->flags & NNG_HF_PID1)) { /* we end with it */
        if (mon.run.n_incidents)
            nng_speak_reports(&mon);
        else
            remove_run();
        atomic_store_explicit(&h->monitor_state, NNG_M_GONE, memory_order_release);
    }
    atomic_store_explicit(&h->closing, NNG_CL_SPOKEN, memory_order_release);
    syscall(SYS_futex, &h->closing, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    /* Only PID 1 can change its mind: the kernel drops a SIGTERM that it does not handle. Any other root
     * is on its way out, however long the kernel takes to tear down its memory. */
    if (!r || r->left || !(h->flags & NNG_HF_PID1))
        return;
    uint64_t until = nng_mon_now() + LINGER_MS * NNG_MS;
    while (!mon.root_dead && nng_mon_now() < until)
        collect_deaths(10);
    if (!mon.root_dead) {
        mon.closing_spoken = false;
        mon.root_judged = r->judged = false;
        mon.run.end_boot_ns = 0;
        memset(&r->status, 0, sizeof r->status);
        r->left = r->held = false;
        r->signalled = 0;
        atomic_store_explicit(&h->closing, NNG_CL_NONE, memory_order_release);
    }
}

static void finish(void)
{
    struct nng_header *h = &mon.view.j->hdr;
    uint64_t until = nng_mon_now() + 200 * NNG_MS;

    take_in(false);
    judge_dead();
    while (nng_judge_pending(&mon) && nng_mon_now() < until) {
        collect_deaths(5);
        take_in(false);
        judge_dead();
    }
    nng_judge_due(&mon, true);
    if (mon.model.root && !mon.model.root->judged)
        nng_judge(&mon, mon.model.root);
    if (!mon.run.end_boot_ns)
        mon.run.end_boot_ns =
            mon.model.root && mon.model.root->death_ns ? mon.model.root->death_ns : nng_mon_now();
    close_words();
    close(2); /* `| tee` waits for every holder */
    mon.err_fd = -1;
    nng_hold_finish(&mon);
    if (mon.run.n_incidents)
        nng_speak_reports(&mon);
    else
        remove_run();
    atomic_store_explicit(&h->monitor_state, NNG_M_GONE, memory_order_release);
}

static int wait_ms(uint64_t now)
{
    uint64_t next = mon.sampled_ns + SAMPLE_EVERY;

    for (size_t i = 0; i < mon.model.n; i++) {
        const struct nng_tracked *t = mon.model.t[i];
        if (t->judge_at && !t->judged && t->judge_at < next)
            next = t->judge_at;
        if (t->shm_judge_at && t->shm_judge_at < next)
            next = t->shm_judge_at;
    }
    return next <= now ? 0 : (int)((next - now) / NNG_MS) + 1;
}

static void follow(void)
{
    struct nng_header *h = &mon.view.j->hdr;

    while (!mon.root_dead) {
        uint32_t suspects = atomic_load_explicit(&h->suspects, memory_order_acquire);
        nng_rescued_look(&mon); /* a refusal is said before the failure that follows from it */
        take_in(false);
        judge_dead();
        answer_root();
        acknowledge(suspects);
        uint64_t now = nng_mon_now();
        if (now - mon.sampled_ns >= SAMPLE_EVERY) {
            if (no_pidfd)
                scan_without_pidfd();
            if (mon.kmsg)
                nng_kmsg_poll(mon.kmsg);
            find_unguarded();
            nng_watch_sample(&mon);
            nng_stall_mind(&mon, now);
            free_entries_of_dead(now);
            nng_model_prune(&mon.model, now);
        }
        if (mon.reports_stale && (mon.reports_ns == 0 || now - mon.reports_ns > NNG_SECOND))
            nng_speak_reports(&mon);
        if (!mon.root_dead)
            collect_deaths(wait_ms(now));
    }
    finish();
}

/* ---- main ------------------------------------------------------------------------------------- */
static int journal_fd_of(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--journal-fd")) {
            char *end;
            long fd = strtol(argv[i + 1], &end, 10);
            if (*argv[i + 1] && !*end && fd >= 0 && fd < 1 << 20)
                return (int)fd;
        }
    return -1;
}

static void settings(void)
{
    const char *stall = getenv("NNGUARD_ON_STALL");
    const char *after = getenv("NNGUARD_STALL_S");
    char *end;

    mon.quiet = nng_word_answer(getenv("NNGUARD_QUIET")) == NNG_SAYS_YES;
    mon.end_on_stall = stall && !strcmp(stall, "end");
    mon.stall_ns = 300 * NNG_SECOND;
    if (!nng_style_knows_lang())
        nng_speak_line(&mon, "NNGUARD_LANG knows en, zh and auto: auto is used",
                       "NNGUARD_LANG 只接受 en、zh 和 auto:使用 auto");
    if (!nng_style_knows_color())
        nng_speak_line(&mon, "NNGUARD_COLOR knows auto, always and never: auto is used",
                       "NNGUARD_COLOR 只接受 auto、always 和 never:使用 auto");
    if (after && *after) {
        unsigned long s = strtoul(after, &end, 10);
        if (!*end && s > 0 && s < 1UL << 31)
            mon.stall_ns = s * NNG_SECOND;
        else
            nng_speak_line(&mon, "NNGUARD_STALL_S is not a number of seconds: 300 is used",
                           "NNGUARD_STALL_S 不是秒数:使用 300");
    }
    if (stall && *stall && strcmp(stall, "end") && strcmp(stall, "report"))
        nng_speak_line(&mon, "NNGUARD_ON_STALL knows report and end: report is used",
                       "NNGUARD_ON_STALL 只接受 report 和 end:使用 report");
}

int nng_monitor_main(int argc, char **argv)
{
    int fd = journal_fd_of(argc, argv);
    int e;

    if (fd < 0) {
        fprintf(stderr,
                "nnguard: monitor is started by libnnguard.so; to run a program under guard: "
                "nnguard run CMD...\n");
        return 2;
    }
    settle_in();
    mon.live = true;
    mon.err_fd = 2;
    e = nng_view_open(&mon.view, "journal", fd, true);
    if (e) {
        fprintf(stderr, "nnguard: the monitor cannot read its journal: %s\n", strerror(-e));
        return 1;
    }
    nng_view_guard(&mon.view);
    flock(mon.view.fd, LOCK_EX | LOCK_NB);
    nng_journal_attach(mon.view.j); /* samples are written by the same code as all records */
    mon.run.incident = calloc(NNG_INCIDENTS, sizeof *mon.run.incident);
    if (!mon.run.incident || !start_bell()) {
        atomic_store(&mon.view.j->hdr.monitor_state, NNG_M_FAILED);
        return 1;
    }
    nng_style_from_env(&mon.style, 2);
    settings();
    nng_mon_run_init(&mon);
    nng_model_init(&mon.model, mon.run.root_pid);
    mon.model.live = true;
    nng_cursor_init(&mon.events, &mon.view, NNG_RING_EVENTS);
    struct nng_tracked *root = nng_model_add(&mon.model, mon.run.root_pid);
    if (!root)
        return 1;
    root->start_ticks = mon.view.hdr.root_start_ticks;
    root->role = NNG_ROLE_TRAINER;
    attach(root);
    atomic_store_explicit(&mon.view.j->hdr.monitor_pid, getpid(), memory_order_relaxed);
    atomic_store_explicit(&mon.view.j->hdr.monitor_state, NNG_M_READY, memory_order_release);
    nng_hold_start(&mon);
    mon.kmsg = nng_kmsg_open();
    nng_watch_sample(&mon);
    nng_postmortem_of_others(&mon);
    follow();
    return 0;
}
