/* SPDX-License-Identifier: MIT
 *
 * Starting the monitor: a program of its own that is nobody's child, so that wait(-1) of the guarded
 * program never meets it.
 *
 * Double fork by raw clone. The middle process has exit signal 0: no SIGCHLD, and wait() without
 * __WALL does not see it. Normally it leaves at once and the monitor goes to init. Where orphans come
 * back to us (PID 1, child subreaper) it stays instead, so that the monitor remains *its* child: an
 * exec'd process gets exit signal SIGCHLD again (kernel, de_thread), one that never execs does not.
 * Nothing of libc that keeps state runs in either child. [init]
 */
#include "start.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

char nng_launch_path[512];

/* ---- where is it? ------------------------------------------------------------------------------- */
static bool beside(const char *library)
{
    static const char *const places[] = {"nnguard", "../bin/nnguard"};
    char dir[400];
    if (!nng_ids_absolute(library, dir, sizeof dir))
        return false;
    char *slash = __builtin_strrchr(dir, '/');
    slash[1] = 0;
    for (unsigned i = 0; i < 2; i++) {
        char *p = nng_launch_path, *end = p + sizeof nng_launch_path;
        nng_fmt_str(nng_fmt_str(p, end, dir), end, places[i]);
        if (!nng_sys3(SYS_faccessat, AT_FDCWD, nng_launch_path, X_OK))
            return true;
    }
    nng_fmt_str(nng_fmt_str(nng_launch_path, nng_launch_path + sizeof nng_launch_path, dir),
                nng_launch_path + sizeof nng_launch_path, places[0]);
    return false;
}

static bool find_program(void)
{
    if (beside(nng_library_path))
        return true;
    /* the library may be linked to from elsewhere */
    char dir[400], target[400];
    nng_fmt_str(dir, dir + sizeof dir, nng_library_path);
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, dir, target, sizeof target - 1);
    if (n <= 0)
        return false;
    target[n] = 0;
    if (target[0] == '/')
        return beside(target);
    char *slash = __builtin_strrchr(dir, '/');
    nng_fmt_str(slash ? slash + 1 : dir, dir + sizeof dir, target);
    return beside(dir);
}

/* ---- in the children ---------------------------------------------------------------------------- */
static void close_from(unsigned first)
{
    if (!nng_sys3(SYS_close_range, first, ~0U, 0))
        return;
    char buf[1024];
    long dir = nng_sys4(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY, 0);
    long n;
    while (dir >= 0 && (n = nng_sys3(SYS_getdents64, dir, buf, sizeof buf)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *d = (const struct dirent64 *)(buf + at);
            uint64_t fd;
            if (nng_parse_u64(d->d_name, d->d_name + 12, &fd) > d->d_name && fd >= first &&
                fd != (uint64_t)dir)
                nng_sys1(SYS_close, fd);
            at += d->d_reclen;
        }
    }
    if (dir >= 0)
        nng_sys1(SYS_close, dir);
    for (unsigned fd = first; dir < 0 && fd < 1024; fd++)
        nng_sys1(SYS_close, fd);
}

/* 0 and 1 to /dev/null, 2 as it is (or /dev/null), 3 the journal, nothing else. */
static bool arrange_fds(int journal_fd)
{
    long j = nng_sys3(SYS_fcntl, journal_fd, F_DUPFD, 10);
    bool no_stderr = nng_sys3(SYS_fcntl, 2, F_GETFD, 0) < 0 || journal_fd == 2;
    long null = nng_sys4(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0);
    if (j < 0)
        return false;
    for (long fd = 0; fd < 3; fd++) {
        if (fd == 2 && !no_stderr)
            continue;
        if (null < 0)
            nng_sys1(SYS_close, fd);
        else if (null != fd)
            nng_sys3(SYS_dup3, null, fd, 0);
    }
    if (nng_sys3(SYS_dup3, j, 3, 0) < 0)
        return false;
    close_from(4);
    return true;
}

/* Takes out what would load us (or anything) into the static monitor's own children. The child has
 * its own copy of the memory. */
static void strip_environment(void)
{
    char **to = environ;
    for (char **e = environ; e && *e; e++)
        if (__builtin_strncmp(*e, "LD_PRELOAD=", 11) && __builtin_strncmp(*e, "LD_AUDIT=", 9) &&
            __builtin_strncmp(*e, "LD_LIBRARY_PATH=", 16))
            *to++ = *e;
    if (to)
        *to = NULL;
}

static void failed(struct nng_journal *j)
{
    atomic_store_explicit(&j->hdr.monitor_state, NNG_M_FAILED, memory_order_release);
    atomic_fetch_add_explicit(&j->hdr.health[NNG_H_NO_MONITOR], 1, memory_order_relaxed);
}

static void set_mask(const uint64_t *mask)
{
    nng_sys4(SYS_rt_sigprocmask, SIG_SETMASK, mask, NULL, 8);
}

__attribute__((noreturn)) static void leave(int code)
{
    for (;;)
        nng_sys1(SYS_exit_group, code);
}

__attribute__((noreturn)) static void be_monitor(struct nng_journal *j, int journal_fd,
                                                 const uint64_t *mask)
{
    static const char *const args[] = {"nnguard", "monitor", "--journal-fd", "3", NULL};
    nng_sys0(SYS_setsid);
    nng_sys1(SYS_chdir, "/");
    if (arrange_fds(journal_fd)) {
        strip_environment();
        set_mask(mask);
        nng_sys3(SYS_execve, nng_launch_path, args, environ);
    }
    failed(j);
    leave(127);
}

/* The middle process. `stay`: until the monitor leaves. */
__attribute__((noreturn)) static void be_middle(struct nng_journal *j, int journal_fd, bool stay,
                                                const uint64_t *mask)
{
    nng_sys0(SYS_setsid); /* a Ctrl-C at the terminal is not for it */
    long pid = nng_sys5(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        be_monitor(j, journal_fd, mask);
    if (pid < 0)
        failed(j);
    atomic_store_explicit(&j->hdr.monitor_pid, pid < 0 ? -1 : (int)pid, memory_order_release);
    nng_sys6(SYS_futex, &j->hdr.monitor_pid, FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
    if (stay && pid > 0) {
        close_from(0);
        nng_sys5(SYS_prctl, PR_SET_NAME, "nnguard-keeper", 0, 0, 0);
        nng_sys1(SYS_chdir, "/");
        while (nng_sys4(SYS_wait4, pid, NULL, __WALL, NULL) == -EINTR)
            ;
    }
    leave(0);
}

void nng_launch_monitor(struct nng_journal *j, int journal_fd)
{
    uint64_t all = ~0ULL, mask = 0;
    if (!find_program()) {
        failed(j);
        return;
    }
    atomic_store_explicit(&j->hdr.monitor_state, NNG_M_STARTED, memory_order_release);
    /* The lock belongs to the open file, which the monitor inherits: the run counts as alive without
     * a gap, and not at all when the exec fails. */
    nng_sys2(SYS_flock, journal_fd, LOCK_EX | LOCK_NB);
    nng_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
    bool stay = j->hdr.flags & (NNG_HF_PID1 | NNG_HF_SUBREAPER);
    long pid = nng_sys5(SYS_clone, 0, 0, 0, 0, 0);
    if (pid == 0)
        be_middle(j, journal_fd, stay, &mask);
    if (pid < 0) {
        failed(j);
    } else if (!stay) {
        while (nng_sys4(SYS_wait4, pid, NULL, __WALL, NULL) == -EINTR)
            ;
    } else {
        struct timespec limit = {.tv_nsec = 100000000};
        nng_sys6(SYS_futex, &j->hdr.monitor_pid, FUTEX_WAIT, 0, &limit, 0, 0);
    }
    set_mask(&mask);
}
