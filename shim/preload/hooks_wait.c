/* SPDX-License-Identifier: MIT
 *
 * Deaths as their parent learns of them: the wait family. A status is recorded when it is collected;
 * one that is only looked at (WNOWAIT: torch's DataLoader polls so) once. A bad status wakes the
 * monitor before the program itself can act on it.
 */
#include "internal.h"
#include "start.h"
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Children whose status was only looked at so far, each in one of a few places that its pid names: with
 * room for far more than a trainer has, since one that is forgotten is recorded again at each look, and
 * torch looks at all workers at each SIGCHLD. Pids of a process's own children: after a fork they no
 * longer match anything, so nobody needs to clear them. */
#define PEEKED 4096u
#define PLACES 8u
static _Atomic int peeked[PEEKED];

static _Atomic int *place(int pid, unsigned i)
{
    return &peeked[((unsigned)pid + i) % PEEKED];
}

static bool first_look(int pid)
{
    _Atomic int *at = place(pid, 0);
    for (unsigned i = PLACES; i-- > 0;) {
        int there = atomic_load_explicit(place(pid, i), memory_order_relaxed);
        if (there == pid)
            return false;
        if (!there)
            at = place(pid, i);
    }
    atomic_store_explicit(at, pid, memory_order_relaxed);
    return true;
}

static void forget_look(int pid)
{
    for (unsigned i = 0; i < PLACES; i++)
        if (atomic_load_explicit(place(pid, i), memory_order_relaxed) == pid)
            atomic_store_explicit(place(pid, i), 0, memory_order_relaxed);
}

/* ---- the line that stands in for a monitor that could not be started ----------------------------- */
static const char *crash_name(int sig)
{
    switch (sig) {
    case SIGBUS:
        return "SIGBUS";
    case SIGSEGV:
        return "SIGSEGV";
    case SIGABRT:
        return "SIGABRT";
    case SIGFPE:
        return "SIGFPE";
    case SIGILL:
        return "SIGILL";
    case SIGSYS:
        return "SIGSYS";
    case SIGKILL:
        return "SIGKILL";
    case SIGXCPU:
        return "SIGXCPU";
    case SIGXFSZ:
        return "SIGXFSZ";
    default:
        return NULL;
    }
}

/* A guarded process that nobody of the run killed on purpose? */
static bool unwanted_death(struct nng_journal *j, int pid)
{
    bool ours = false;
    for (unsigned i = 0; i < NNG_PROCS_N; i++)
        ours |= j->procs[i].pid == (uint32_t)pid;
    for (unsigned i = 0; ours && i < NNG_EVENTS_N; i++)
        if (j->events[i].type == NNG_R_KILL && j->events[i].a == pid)
            return false;
    return ours;
}

/* A zombie that nobody reaps (PID 1 of many containers does not) is as good as gone. */
static bool gone(int pid)
{
    char path[40], buf[256];
    char *p = nng_fmt_str(path, path + sizeof path, "/proc/");
    p = nng_fmt_u64(p, path + sizeof path, (uint64_t)pid);
    nng_fmt_str(p, path + sizeof path, "/stat");
    if (nng_sys2(SYS_kill, pid, 0) == -ESRCH)
        return true;
    if (nng_read_file(path, buf, sizeof buf) <= 0)
        return false;
    const char *name_end = __builtin_strrchr(buf, ')');
    return name_end && (name_end[2] == 'Z' || name_end[2] == 'X');
}

/* Does nobody follow the journal although somebody should? */
static bool monitor_missing(const struct nng_header *h)
{
    uint32_t state = atomic_load_explicit(&h->monitor_state, memory_order_relaxed);
    int pid = atomic_load_explicit(&h->monitor_pid, memory_order_relaxed);
    if (state == NNG_M_STARTED || state == NNG_M_READY)
        return pid > 0 && gone(pid);
    return state == NNG_M_FAILED;
}

static void say_without_monitor(int pid, int sig)
{
    static _Atomic bool said;
    struct nng_journal *j = nng_journal;
    const char *name = crash_name(sig);
    char num[24];
    if (!j || !name || !monitor_missing(&j->hdr) || !unwanted_death(j, pid) ||
        atomic_exchange_explicit(&said, true, memory_order_relaxed))
        return;
    bool failed = atomic_load_explicit(&j->hdr.monitor_state, memory_order_relaxed) == NNG_M_FAILED;
    bool kept = j->hdr.run_dir[0];
    nng_fmt_u64(num, num + sizeof num, (uint64_t)pid);
    nng_say("process ", num, " died (", name, "); the monitor ",
            failed ? "could not be started (" : "is gone (",
            nng_launch_path[0] ? nng_launch_path : "nnguard", failed ? " missing?)" : ")",
            kept ? ": run 'nnguard report " : "", kept ? j->hdr.run_dir : "",
            kept ? "' for the cause" : "", NULL);
}

/* ---- records ------------------------------------------------------------------------------------ */
static void collected(enum nng_call call, int pid, int status, bool peek)
{
    if (!nng_st.on || pid <= 0 || WIFSTOPPED(status) || WIFCONTINUED(status))
        return;
    if (peek && !first_look(pid))
        return;
    int e = errno;
    nng_launch_tidy();
    if (!peek)
        forget_look(pid);
    nng_put(&(struct nng_put){.type = NNG_R_WAIT,
                              .call = call,
                              .flags = status ? NNG_RF_SUSPECT : 0,
                              .a = pid,
                              .b = status,
                              .c = peek});
    if (WIFSIGNALED(status))
        say_without_monitor(pid, WTERMSIG(status));
    errno = e;
}

/* A wait for any child at all must not meet the keeper: with it there is always one more. */
static int without_keeper(bool any, int options)
{
    return nng_launch_keeper && any ? options & ~__WALL : options;
}

HOOK(pid_t, waitpid, (pid_t which, int *status, int options))
{
    options = without_keeper(which == -1, options);
    int own = 0;
    int *at = status ? status : &own;
    pid_t pid = NEXT(waitpid) ? NEXT(waitpid)(which, at, options)
                              : (pid_t)nng_ret(nng_sys4(SYS_wait4, which, at, options, NULL));
    if (pid > 0)
        collected(NNG_C_WAITPID, pid, *at, false);
    return pid;
}

HOOK(pid_t, wait, (int *status))
{
    int own = 0;
    int *at = status ? status : &own;
    pid_t pid = NEXT(wait) ? NEXT(wait)(at) : (pid_t)nng_ret(nng_sys4(SYS_wait4, -1, at, 0, NULL));
    if (pid > 0)
        collected(NNG_C_WAITPID, pid, *at, false);
    return pid;
}

HOOK(pid_t, wait3, (int *status, int options, struct rusage *usage))
{
    options = without_keeper(true, options);
    int own = 0;
    int *at = status ? status : &own;
    pid_t pid = NEXT(wait3) ? NEXT(wait3)(at, options, usage)
                            : (pid_t)nng_ret(nng_sys4(SYS_wait4, -1, at, options, usage));
    if (pid > 0)
        collected(NNG_C_WAIT4, pid, *at, false);
    return pid;
}

HOOK(pid_t, wait4, (pid_t which, int *status, int options, struct rusage *usage))
{
    options = without_keeper(which == -1, options);
    int own = 0;
    int *at = status ? status : &own;
    pid_t pid = NEXT(wait4) ? NEXT(wait4)(which, at, options, usage)
                            : (pid_t)nng_ret(nng_sys4(SYS_wait4, which, at, options, usage));
    if (pid > 0)
        collected(NNG_C_WAIT4, pid, *at, false);
    return pid;
}

/* The status as waitpid would have given it; false: not a death. */
static bool as_status(const siginfo_t *info, int *status)
{
    switch (info->si_code) {
    case CLD_EXITED:
        *status = (info->si_status & 0xff) << 8;
        return true;
    case CLD_KILLED:
        *status = info->si_status & 0x7f;
        return true;
    case CLD_DUMPED:
        *status = (info->si_status & 0x7f) | 0x80;
        return true;
    default:
        return false;
    }
}

HOOK(int, waitid, (idtype_t type, id_t id, siginfo_t *info, int options))
{
    options = without_keeper(type == P_ALL, options);
    siginfo_t own;
    siginfo_t *at = info ? info : &own;
    own.si_pid = 0;
    int r = NEXT(waitid) ? NEXT(waitid)(type, id, at, options)
                         : (int)nng_ret(nng_sys5(SYS_waitid, type, id, at, options, NULL));
    int status;
    if (r == 0 && at->si_pid > 0 && options & WEXITED && as_status(at, &status))
        collected(NNG_C_WAITID, at->si_pid, status, options & WNOWAIT);
    return r;
}
