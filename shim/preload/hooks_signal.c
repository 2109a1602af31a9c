/* SPDX-License-Identifier: MIT
 *
 * Hooks of the signal family: dispositions (virtual for the fatal signals, see signals.c) and
 * sending (recorded before the call, since the target's death may be seen before it returns).
 *
 * In a vfork child every call here acts on the kernel alone: CPython's subprocess resets all handled
 * signals there, in its parent's memory.
 */
#include "signals.h"
#include "start.h"
#include <fcntl.h>
#include <sys/syscall.h>

/* ---- the kernel's table ------------------------------------------------------------------------- */
/* Only for calls before the constructor; afterwards libc's sigaction knows best. */
#if defined(__x86_64__)
__asm__(".text\n.balign 16\n.type nng_restore, @function\nnng_restore:\n"
        "mov $15, %eax\nsyscall\n.size nng_restore, .-nng_restore");
void nng_restore(void) __attribute__((visibility("hidden")));
#define RESTORER nng_restore
#define RESTORER_FLAG 0x04000000ul
#else
#define RESTORER 0
#define RESTORER_FLAG 0ul
#endif

struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static int raw_sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    struct kernel_action in = {0}, out = {0};
    if (act) {
        in.handler = act->sa_handler;
        in.flags = (unsigned long)(unsigned)act->sa_flags | RESTORER_FLAG;
        in.restorer = RESTORER;
        __builtin_memcpy(&in.mask, &act->sa_mask, sizeof in.mask);
    }
    long rc = nng_sys4(SYS_rt_sigaction, sig, act ? &in : 0, old ? &out : 0, sizeof in.mask);
    if (rc == 0 && old) {
        old->sa_handler = out.handler;
        old->sa_flags = (int)out.flags;
        old->sa_restorer = out.restorer;
        sigemptyset(&old->sa_mask);
        __builtin_memcpy(&old->sa_mask, &out.mask, sizeof out.mask);
    }
    return (int)rc;
}

typedef int (*sigaction_fn)(int, const struct sigaction *, struct sigaction *);

static int kernel_by(sigaction_fn fn, int sig, const struct sigaction *act, struct sigaction *old)
{
    if (!fn)
        return raw_sigaction(sig, act, old);
    int saved = errno;
    int rc = fn(sig, act, old) ? -errno : 0;
    errno = saved;
    return rc;
}

static int any_sigaction(sigaction_fn fn, int sig, const struct sigaction *act,
                         struct sigaction *old)
{
    if (!nng_sig_is_virtual(sig) || (!act && !old))
        return (int)nng_ret(kernel_by(fn, sig, act, old));
    return (int)nng_ret(nng_sig_action(sig, act, old));
}

HOOK(int, sigaction, (int sig, const struct sigaction *act, struct sigaction *old))
{
    return any_sigaction(NEXT(sigaction), sig, act, old);
}

HOOK(int, __sigaction, (int sig, const struct sigaction *act, struct sigaction *old))
{
    return any_sigaction(NEXT(__sigaction), sig, act, old);
}

int nng_sig_kernel(int sig, const struct sigaction *act, struct sigaction *old)
{
    return kernel_by(NEXT(sigaction), sig, act, old);
}

/* ---- the older calls, said in terms of sigaction ----------------------------------------------- */
typedef void (*handler_fn)(int);
typedef handler_fn (*signal_fn)(int, handler_fn);

static _Atomic uint64_t interrupting; /* siginterrupt(sig, 1), as libc keeps it for signal() */

static handler_fn by_sigaction(int sig, handler_fn handler, int flags, bool self_masked)
{
    struct sigaction act = {0}, old = {0};
    act.sa_handler = handler;
    act.sa_flags = flags;
    if (self_masked)
        sigaddset(&act.sa_mask, sig);
    return nng_ret(nng_sig_action(sig, &act, &old)) ? SIG_ERR : old.sa_handler;
}

static handler_fn any_bsd_signal(signal_fn fn, int sig, handler_fn handler)
{
    if (handler == SIG_ERR || (fn && !nng_sig_is_virtual(sig)))
        return fn ? fn(sig, handler) : (errno = EINVAL, SIG_ERR);
    int flags = atomic_load(&interrupting) & NNG_SIGBIT(sig) ? 0 : SA_RESTART;
    if (nng_sig_is_virtual(sig))
        return by_sigaction(sig, handler, flags, true);
    struct sigaction act = {.sa_flags = SA_RESTART}, old = {0};
    act.sa_handler = handler;
    return nng_ret(raw_sigaction(sig, &act, &old)) ? SIG_ERR : old.sa_handler;
}

HOOK(handler_fn, signal, (int sig, handler_fn handler))
{
    return any_bsd_signal(NEXT(signal), sig, handler);
}

HOOK(handler_fn, bsd_signal, (int sig, handler_fn handler))
{
    return any_bsd_signal(NEXT(bsd_signal), sig, handler);
}

HOOK(handler_fn, ssignal, (int sig, handler_fn handler))
{
    return any_bsd_signal(NEXT(ssignal), sig, handler);
}

static handler_fn any_sysv_signal(signal_fn fn, int sig, handler_fn handler)
{
    if (handler == SIG_ERR || !nng_sig_is_virtual(sig))
        return fn ? fn(sig, handler) : (errno = EINVAL, SIG_ERR);
    return by_sigaction(sig, handler, (int)SA_RESETHAND | SA_NODEFER, false);
}

HOOK(handler_fn, sysv_signal, (int sig, handler_fn handler))
{
    return any_sysv_signal(REAL(sysv_signal), sig, handler);
}

HOOK(handler_fn, __sysv_signal, (int sig, handler_fn handler))
{
    return any_sysv_signal(REAL(__sysv_signal), sig, handler);
}

HOOK(handler_fn, sigset, (int sig, handler_fn disp))
{
    if (!nng_sig_is_virtual(sig) || disp == SIG_ERR)
        return REAL(sigset) ? NEXT(sigset)(sig, disp) : (errno = EINVAL, SIG_ERR);
    bool hold = disp == SIG_HOLD;
    bool held =
        nng_sigmask(hold ? SIG_BLOCK : SIG_UNBLOCK, hold ? NNG_SIGBIT(sig) : 0) & NNG_SIGBIT(sig);
    struct sigaction old = {0};
    handler_fn before;
    if (hold) {
        nng_sig_action(sig, 0, &old);
        before = old.sa_handler;
    } else {
        before = by_sigaction(sig, disp, 0, false);
        if (before == SIG_ERR)
            return before;
        nng_sigmask(SIG_UNBLOCK, NNG_SIGBIT(sig));
    }
    return held ? SIG_HOLD : before;
}

HOOK(int, sigignore, (int sig))
{
    if (!nng_sig_is_virtual(sig))
        return REAL(sigignore) ? NEXT(sigignore)(sig) : (int)nng_ret(-EINVAL);
    return by_sigaction(sig, SIG_IGN, 0, false) == SIG_ERR ? -1 : 0;
}

HOOK(int, siginterrupt, (int sig, int on))
{
    /* libc's works on the kernel's action, which is ours: right. The view follows. */
    int rc = REAL(siginterrupt) ? NEXT(siginterrupt)(sig, on) : (int)nng_ret(-ENOSYS);
    if (rc || !nng_sig_is_virtual(sig))
        return rc;
    if (on)
        atomic_fetch_or(&interrupting, NNG_SIGBIT(sig));
    else
        atomic_fetch_and(&interrupting, ~NNG_SIGBIT(sig));
    struct sigaction act;
    nng_sig_lookup(sig, &act);
    act.sa_flags = on ? act.sa_flags & ~SA_RESTART : act.sa_flags | SA_RESTART;
    return (int)nng_ret(nng_sig_action(sig, &act, 0));
}

/* ---- sending ------------------------------------------------------------------------------------ */
static int raw_pid(void)
{
    return (int)nng_sys0(SYS_getpid);
}

/* kill() of a zombie succeeds, and a sentinel wakes the parent before its child is even one: a signal that
 * comes then ended nothing. The flags of /proc/PID/stat tell. */
static bool is_dying(int64_t pid)
{
    const uint64_t exiting = 4; /* PF_EXITING */
    char path[40], buf[256];
    char *to = nng_fmt_str(path, path + sizeof path, "/proc/");
    to = nng_fmt_u64(to, path + sizeof path, (uint64_t)pid);
    nng_fmt_str(to, path + sizeof path, "/stat");
    long n = nng_read_file(path, buf, sizeof buf);
    const char *end = buf + (n > 0 ? n : 0), *p = end;
    uint64_t flags = 0;
    while (p > buf && *p != ')')
        p--;
    if (end - p < 4)
        return false;
    if (p[2] == 'Z' || p[2] == 'X')
        return true;
    for (int skip = 0; skip < 7 && p < end; p++)
        skip += *p == ' ';
    nng_parse_u64(p, end, &flags);
    return flags & exiting;
}

static void record(enum nng_call call, int64_t target, int sig, int64_t pgid)
{
    struct nng_put p = {.type = NNG_R_KILL, .call = call, .a = target, .b = sig, .c = pgid};
    if (sig <= 0 || !nng_journal)
        return;
    int64_t who = target < -1 ? -target : target; /* of a group: its leader */
    if (who > 0 && who != nng_st.pid && is_dying(who))
        p.flags = NNG_RF_DEAD;
    nng_put(&p);
}

static bool spares_by_default(int sig)
{
    return sig == SIGCHLD || sig == SIGCONT || sig == SIGURG || sig == SIGWINCH || sig == SIGSTOP ||
           sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

/* The root sends itself a signal that will end it (Ctrl-C in CPython: SIG_DFL, then kill(getpid())).
 * There will be no later place to say good-bye. A signal that meets our handler has its own. */
static void before_suicide(int sig)
{
    struct sigaction act = {0};
    if (!nng_st.on || !nng_st.root || sig <= 0 || sig > 64 || spares_by_default(sig) ||
        nng_sigmask(SIG_BLOCK, 0) & NNG_SIGBIT(sig))
        return;
    if (sig != SIGKILL && (nng_sig_kernel(sig, 0, &act) || act.sa_handler != SIG_DFL))
        return;
    nng_leave_handshake();
}

static bool hits_self(int64_t target)
{
    if (target == 0 || target == -1) /* -1 spares the caller on Linux */
        return target == 0;
    if (target > 0)
        return target == raw_pid();
    return -target == nng_sys1(SYS_getpgid, 0);
}

static void sending(enum nng_call call, int64_t target, int sig, int64_t pgid)
{
    if (sig <= 0)
        return;
    record(call, target, sig, pgid);
    if (nng_st.root && hits_self(target))
        before_suicide(sig);
}

HOOK(int, kill, (pid_t pid, int sig))
{
    sending(NNG_C_KILL, pid, sig, pid < -1 ? -(int64_t)pid : 0);
    return NEXT(kill) ? NEXT(kill)(pid, sig) : (int)nng_ret(nng_sys2(SYS_kill, pid, sig));
}

HOOK(int, sigqueue, (pid_t pid, int sig, const union sigval value))
{
    sending(NNG_C_KILL, pid, sig, 0);
    if (NEXT(sigqueue))
        return NEXT(sigqueue)(pid, sig, value);
    siginfo_t si = {.si_signo = sig, .si_code = SI_QUEUE};
    si.si_pid = (pid_t)nng_sys0(SYS_getpid);
    si.si_uid = (uid_t)nng_sys0(SYS_getuid);
    si.si_value = value;
    return (int)nng_ret(nng_sys3(SYS_rt_sigqueueinfo, pid, sig, &si));
}

HOOK(int, killpg, (pid_t pgrp, int sig))
{
    sending(NNG_C_KILLPG, pgrp > 0 ? -(int64_t)pgrp : 0, sig, pgrp);
    if (NEXT(killpg))
        return NEXT(killpg)(pgrp, sig);
    return (int)nng_ret(pgrp < 0 ? -EINVAL : nng_sys2(SYS_kill, -pgrp, sig));
}

HOOK(int, tgkill, (pid_t tgid, pid_t tid, int sig))
{
    sending(NNG_C_TGKILL, tgid, sig, 0);
    if (NEXT(tgkill)) /* libc has it since 2.30 */
        return NEXT(tgkill)(tgid, tid, sig);
    return (int)nng_ret(nng_sys3(SYS_tgkill, tgid, tid, sig));
}

/* The process behind a pidfd, from /proc/self/fdinfo; -1 unknown. */
static int64_t pidfd_target(int fd)
{
    char path[48], text[512];
    char *p = nng_fmt_str(path, path + sizeof path, "/proc/self/fdinfo/");
    nng_fmt_u64(p, path + sizeof path, (uint64_t)(fd < 0 ? 0 : fd));
    long in = nng_sys3(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return -1;
    long n = nng_sys3(SYS_read, in, text, sizeof text);
    nng_sys1(SYS_close, in);
    for (long i = 0; i + 5 < n; i++) {
        if (__builtin_memcmp(text + i, "\nPid:", 5))
            continue;
        const char *at = text + i + 5, *end = text + n;
        uint64_t pid;
        while (at < end && (*at == '\t' || *at == ' '))
            at++;
        return nng_parse_u64(at, end, &pid) > at ? (int64_t)pid : -1;
    }
    return -1;
}

static void sending_by_pidfd(int fd, int sig)
{
    int64_t target = sig > 0 && nng_journal ? pidfd_target(fd) : -1;
    if (target > 0) /* -1, of a process that is gone, would mean everybody */
        sending(NNG_C_PIDFD_SEND, target, sig, 0);
}

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

HOOK(int, pidfd_send_signal, (int fd, int sig, siginfo_t *info, unsigned flags))
{
    sending_by_pidfd(fd, sig);
    return (int)nng_ret(nng_sys4(SYS_pidfd_send_signal, fd, sig, info, flags));
}

HOOK(int, raise, (int sig))
{
    if (nng_crash_in_faulthandler(sig))
        return 0; /* it would turn the fault's siginfo into a mere SI_TKILL */
    sending(NNG_C_RAISE, raw_pid(), sig, 0);
    if (NEXT(raise))
        return NEXT(raise)(sig);
    return (int)nng_ret(nng_sys3(SYS_tgkill, raw_pid(), nng_sys0(SYS_gettid), sig));
}

HOOK(int, gsignal, (int sig))
{
    sending(NNG_C_RAISE, raw_pid(), sig, 0);
    if (NEXT(gsignal))
        return NEXT(gsignal)(sig);
    return (int)nng_ret(nng_sys3(SYS_tgkill, raw_pid(), nng_sys0(SYS_gettid), sig));
}

HOOK(void, abort, (void))
{
    record(NNG_C_ABORT, raw_pid(), SIGABRT, 0);
    if (REAL(abort))
        NEXT(abort)();
    nng_sys3(SYS_tgkill, raw_pid(), nng_sys0(SYS_gettid), SIGABRT);
    for (;;)
        nng_sys1(SYS_exit_group, 127);
}

/* [as-safe] For the syscall() hook. */
void nng_signal_syscall(long n, long a, long b, long c);
void nng_signal_syscall(long n, long a, long b, long c)
{
    if (n == SYS_kill)
        sending(NNG_C_KILL, (pid_t)a, (int)b, (pid_t)a < -1 ? -(int64_t)(pid_t)a : 0);
    else if (n == SYS_tgkill)
        sending(NNG_C_TGKILL, (pid_t)a, (int)c, 0);
    else if (n == SYS_tkill)
        record(NNG_C_TGKILL, (pid_t)a, (int)b, 0);
    else if (n == SYS_pidfd_send_signal)
        sending_by_pidfd((int)a, (int)b);
}
