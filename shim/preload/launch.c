/* SPDX-License-Identifier: MIT
 *
 * Starting the monitor: a program of its own that is nobody's child, so that wait(-1) of the guarded
 * program never meets it.
 *
 * Double fork by raw clone. The middle process has exit signal 0: no SIGCHLD, and wait() without
 * __WALL does not see it. Normally it leaves at once and the monitor goes to init; both run in the
 * root's memory on stacks of their own (copying the root's tables costs 0.3 ms) beside the root, which
 * does not wait for them either (on a busy machine that is 10 ms and more): what is left of the middle
 * one is collected by the next hook that comes along. So they touch nothing but their stacks and the
 * journal, and no thread-local data, errno included.
 *
 * Where orphans come back to us (PID 1, child subreaper) the middle process stays, with memory of its
 * own, so that the monitor remains *its* child: an exec'd process gets exit signal SIGCHLD again
 * (kernel, de_thread), one that never execs does not. [init]
 */
#include "start.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

char nng_launch_path[512];
_Atomic int nng_launch_middle;
bool nng_launch_keeper;

/* Runs fn(arg), which must not return, in a clone on the given stack. Pid or -errno. */
long nng_clone_call(unsigned long flags, void *stack_top, void (*fn)(void *), void *arg)
    __attribute__((visibility("hidden")));
#if defined(__x86_64__)
__asm__(".text\n.globl nng_clone_call\n.hidden nng_clone_call\n.type nng_clone_call,@function\n"
        "nng_clone_call:\n"
        "  mov %rdx, %r8\n" /* the kernel keeps r8 and r9, and reads r8 only with CLONE_SETTLS */
        "  mov %rcx, %r9\n"
        "  xor %edx, %edx\n"
        "  xor %r10d, %r10d\n"
        "  mov $56, %eax\n"
        "  syscall\n"
        "  test %rax, %rax\n"
        "  jz 1f\n"
        "  ret\n"
        "1: xor %ebp, %ebp\n"
        "  mov %r9, %rdi\n"
        "  call *%r8\n"
        "  hlt\n"
        ".size nng_clone_call, .-nng_clone_call\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl nng_clone_call\n.hidden nng_clone_call\n.type nng_clone_call,%function\n"
        "nng_clone_call:\n"
        "  mov x9, x2\n"
        "  mov x10, x3\n"
        "  mov x2, xzr\n"
        "  mov x3, xzr\n"
        "  mov x4, xzr\n"
        "  mov x8, #220\n"
        "  svc #0\n"
        "  cbz x0, 1f\n"
        "  ret\n"
        "1: mov x29, xzr\n"
        "  mov x30, xzr\n"
        "  mov x0, x10\n"
        "  blr x9\n"
        "  brk #0\n"
        ".size nng_clone_call, .-nng_clone_call\n");
#endif

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
    uint64_t limit
        [2]; /* soft, hard: the program's soft one may leave no room (the monitor raises it too) */
    if (!nng_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, limit)) {
        limit[0] = limit[1];
        nng_sys4(SYS_prlimit64, 0, RLIMIT_NOFILE, limit, NULL);
    }
    long j = nng_sys3(SYS_fcntl, journal_fd, F_DUPFD, 4);
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

/* The environment without what would load us (or anything) into the monitor's own children. The
 * array is left to the process: nobody can tell when the exec has read it. */
static char **monitor_environment(void)
{
    size_t n = 0;
    while (environ && environ[n])
        n++;
    long m = nng_sys6(SYS_mmap, 0, (n + 1) * sizeof(char *), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m < 0 && m >= -4095)
        return environ;
    char **env = (char **)m, **to = env;
    for (size_t i = 0; i < n; i++)
        if (__builtin_strncmp(environ[i], "LD_PRELOAD=", 11) &&
            __builtin_strncmp(environ[i], "LD_AUDIT=", 9) &&
            __builtin_strncmp(environ[i], "LD_LIBRARY_PATH=", 16))
            *to++ = environ[i];
    return env;
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

struct launch {
    struct nng_journal *j;
    int journal_fd;
    bool stay;
    uint64_t mask; /* the signal mask to give back */
    char **env;
    _Alignas(16) char middle_stack[4096], monitor_stack[8192];
};
static struct launch launch; /* static: the monitor-to-be may outlive every frame of the root */

static void be_monitor(void *arg)
{
    static const char *const args[] = {"nnguard", "monitor", "--journal-fd", "3", NULL};
    struct launch *l = arg;
    nng_sys0(SYS_setsid);
    nng_sys1(SYS_chdir, "/");
    if (arrange_fds(l->journal_fd)) {
        set_mask(&l->mask);
        nng_sys3(SYS_execve, nng_launch_path, args, l->env);
    }
    failed(l->j);
    leave(127);
}

/* The middle process. */
static void be_middle(void *arg)
{
    struct launch *l = arg;
    nng_sys0(SYS_setsid); /* a Ctrl-C at the terminal is not for it */
    long pid = nng_clone_call(l->stay ? SIGCHLD : CLONE_VM | SIGCHLD,
                              l->monitor_stack + sizeof l->monitor_stack, be_monitor, l);
    if (pid < 0)
        failed(l->j);
    atomic_store_explicit(&l->j->hdr.monitor_pid, pid < 0 ? -1 : (int)pid, memory_order_release);
    nng_sys6(SYS_futex, &l->j->hdr.monitor_pid, FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
    if (l->stay && pid > 0) {
        close_from(0);
        nng_sys5(SYS_prctl, PR_SET_NAME, "nnguard-keeper", 0, 0, 0);
        nng_sys1(SYS_chdir, "/");
        while (nng_sys4(SYS_wait4, pid, NULL, __WALL, NULL) == -EINTR)
            ;
    }
    leave(0);
}

/* `unshare --pid` without --fork: our first child would be PID 1 of a new namespace, and once that is
 * gone no fork succeeds any more. It must be the program's own, so this run is recorded only. */
static bool child_would_be_first(void)
{
    static const char children[] = "/proc/self/ns/pid_for_children";
    char own[48], next[48];
    struct stat st;
    long n = nng_sys4(SYS_readlinkat, AT_FDCWD, "/proc/self/ns/pid", own, sizeof own);
    long m = nng_sys4(SYS_readlinkat, AT_FDCWD, children, next, sizeof next);
    if (m ==
        -ENOENT) /* a namespace without any process yet has no name; before 4.12 no such link */
        return !nng_sys4(SYS_newfstatat, AT_FDCWD, children, &st, AT_SYMLINK_NOFOLLOW);
    return n > 0 && m > 0 && (m != n || __builtin_memcmp(own, next, (size_t)n));
}

void nng_launch_monitor(struct nng_journal *j, int journal_fd)
{
    uint64_t all = ~0ULL;
    if (child_would_be_first())
        return;
    if (!find_program()) {
        failed(j);
        return;
    }
    launch.j = j;
    launch.journal_fd = journal_fd;
    launch.stay = j->hdr.flags & (NNG_HF_PID1 | NNG_HF_SUBREAPER);
    launch.env = monitor_environment();
    atomic_store_explicit(&j->hdr.monitor_state, NNG_M_STARTED, memory_order_release);
    /* The lock belongs to the open file, which the monitor inherits: the run counts as alive without
     * a gap, and not at all when the exec fails. */
    nng_sys2(SYS_flock, journal_fd, LOCK_EX | LOCK_NB);
    nng_sys4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &launch.mask, 8);
    long pid = nng_clone_call(launch.stay ? 0 : CLONE_VM,
                              launch.middle_stack + sizeof launch.middle_stack, be_middle, &launch);
    if (pid < 0)
        failed(j);
    else if (launch.stay)
        nng_launch_keeper = true;
    else
        atomic_store_explicit(&nng_launch_middle, (int)pid, memory_order_release);
    set_mask(&launch.mask);
}

int nng_launch_pid(struct nng_journal *j)
{
    struct timespec limit = {.tv_nsec = 100000000};
    if (atomic_load_explicit(&j->hdr.monitor_state, memory_order_acquire) == NNG_M_STARTED)
        nng_sys6(SYS_futex, &j->hdr.monitor_pid, FUTEX_WAIT, 0, &limit, 0, 0);
    return atomic_load_explicit(&j->hdr.monitor_pid, memory_order_acquire);
}

void nng_launch_reap(void)
{
    int pid = atomic_load_explicit(&nng_launch_middle, memory_order_relaxed);
    /* -1: one of several threads is at it; twice could hit a child that was given the same number */
    if (pid <= 0 || !nng_is_self() ||
        !atomic_compare_exchange_strong_explicit(&nng_launch_middle, &pid, -1, memory_order_acquire,
                                                 memory_order_relaxed))
        return;
    long r = nng_sys4(SYS_wait4, pid, NULL, WNOHANG | __WALL, NULL);
    atomic_store_explicit(&nng_launch_middle, r == 0 || r == -EINTR ? pid : 0,
                          memory_order_release);
}
