/* SPDX-License-Identifier: MIT
 *
 * The handler of the fatal signals. Runs on whatever stack the kernel chose, with all but the
 * synchronous signals blocked, and does, in this order:
 *
 *   own journal's SIGBUS -> repair and return
 *   claim (one crasher at a time, the others wait, bounded)
 *   record siginfo, registers, mapping, file, file system        -> fault.state SEEN
 *   the program's own handler, siginfo and context untouched      -> returned: REPAIRED
 *   default is next: faulthandler's dump, hold for the monitor    -> HELD, at most 500 ms
 *   the root's good-bye, then die exactly as without us           -> DYING
 *
 * A thread's `cur` says what it was doing when a further signal comes: in our own code, in the
 * program's handler (which often restores the default and raises again), or in faulthandler.
 * Invariants: no wait without a bound; a kernel fault in our own code goes to the default at once;
 * static buffers belong to whoever holds the claim.
 */
#include "signals.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#define HOLD_NS 500000000LL
#define CLAIM_WAIT_MS 5000
#define PROGRAM_WAIT_MS 200
#define LEAVE_WAIT_MS 2000 /* longer than the hold and the root's good-bye together */
/* A program that lives on repaired faults (a JVM in the process) gets the long look only so often. */
#define LONG_LOOKS 16u

enum phase { OUTSIDE = 0, OURS, USER, FAULTHANDLER };

struct current {
    enum phase phase;
    int sig;
    bool recorded; /* this fault stands in the journal */
    bool nested;   /* our own code has met a fault already */
    const siginfo_t *si;
    const ucontext_t *uc;
    const char *frame; /* the handler's; tells a handler that was left by longjmp */
};

static __thread struct current cur __attribute__((tls_model("initial-exec")));
static _Atomic int claimant;    /* tid, 0: nobody */
static _Atomic bool in_program; /* the claimant runs the program's handler, or has left it */
static _Atomic int dying;       /* tid of the thread whose default action is under way */
static _Atomic uint32_t repaired;
static struct nng_fault nowhere; /* for a process without an entry */

/* Bound by start.c like a hook, but exported under no name. struct abort_msg_s of glibc. */
struct abort_message {
    unsigned size;
    char text[];
};
static struct abort_message **abort_message;
static const struct nng_hook bind_abort = {"__abort_msg", (void **)&abort_message};
static const struct nng_hook *const bind_abort_p __attribute__((used, section("nng_hooks"))) =
    &bind_abort;

void nng_crash_init(void)
{
}

void nng_crash_after_fork(void)
{
    cur = (struct current){0};
    atomic_store(&claimant, 0);
    atomic_store(&in_program, false);
    atomic_store(&dying, 0);
    atomic_store(&repaired, 0);
}

void nng_crash_let_finish(void)
{
    int tid = atomic_load(&dying);
    if (!tid || tid == (int)nng_sys0(SYS_gettid))
        return;
    for (int waited = 0; waited < LEAVE_WAIT_MS; waited += 5) {
        struct timespec ts = {0, 5000000};
        nng_sys2(SYS_nanosleep, &ts, 0);
    }
}

bool nng_crash_in_faulthandler(int sig)
{
    return cur.phase == FAULTHANDLER && (!sig || cur.sig == sig);
}

static struct nng_fault *fault_entry(void)
{
    struct nng_proc *self = nng_self;
    return self ? &self->fault : &nowhere;
}

static int gettid_raw(void)
{
    return (int)nng_sys0(SYS_gettid);
}

static int getpid_raw(void)
{
    return (int)nng_sys0(SYS_getpid);
}

static bool by_kernel(const siginfo_t *si)
{
    return si->si_code > 0;
}

static void pause_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nng_sys2(SYS_nanosleep, &ts, 0);
}

/* ---- our own journal ---------------------------------------------------------------------------- */
/* On a copy-on-write file system a full disk can refuse a page even of a preallocated file. */
static bool repair_own(int sig, const siginfo_t *si)
{
    const char *at = si->si_addr;
    if (sig != SIGBUS || !by_kernel(si) || !nng_map_base || at < nng_map_base ||
        at >= nng_map_base + nng_map_size)
        return false;
    long got = nng_sys6(SYS_mmap, nng_map_base, nng_map_size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    nng_journal_detach();
    return got == (long)nng_map_base;
}

/* A sandbox of the program's own traps a system call that only we make: for us it is one that the kernel
 * does not have. Also what this handler itself calls, which would trap again for ever. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _DYNAMIC[] __attribute__((visibility("hidden"))); /* lies behind all code */
static bool refuse_own(int sig, const siginfo_t *si, ucontext_t *uc)
{
    const char *at = si->si_call_addr;
    if (sig != SIGSYS || !by_kernel(si) || at < __ehdr_start || at > _DYNAMIC)
        return false;
#if defined(__x86_64__)
    uc->uc_mcontext.gregs[REG_RAX] = -ENOSYS;
#elif defined(__aarch64__)
    uc->uc_mcontext.regs[0] = (uint64_t)-ENOSYS;
#endif
    return true;
}

/* ---- claim --------------------------------------------------------------------------------------- */
static void claim(void)
{
    int me = gettid_raw();
    for (int waited = 0;; waited += 5) {
        int none = 0;
        if (atomic_compare_exchange_strong(&claimant, &none, me) || none == me)
            break;
        /* Its holder has left the program's handler by longjmp, or is stuck: take it over. */
        if (waited >= (atomic_load(&in_program) ? PROGRAM_WAIT_MS : CLAIM_WAIT_MS)) {
            atomic_store(&claimant, me);
            break;
        }
        pause_ms(5);
    }
    atomic_store(&in_program, false);
}

static void unclaim(void)
{
    int me = gettid_raw();
    atomic_compare_exchange_strong(&claimant, &me, 0);
}

/* ---- recording ----------------------------------------------------------------------------------- */
static void put_registers(struct nng_fault *f, const ucontext_t *uc)
{
#if defined(__x86_64__)
    f->ip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    f->sp = (uint64_t)uc->uc_mcontext.gregs[REG_RSP];
    f->bp = (uint64_t)uc->uc_mcontext.gregs[REG_RBP];
#elif defined(__aarch64__)
    f->ip = uc->uc_mcontext.pc;
    f->sp = uc->uc_mcontext.sp;
    f->bp = uc->uc_mcontext.regs[29];
#endif
    const char *here = __builtin_frame_address(0), *alt = uc->uc_stack.ss_sp;
    f->on_altstack = alt && here >= alt && here < alt + uc->uc_stack.ss_size;
}

static void put_sender(struct nng_fault *f, const siginfo_t *si)
{
    f->sender_pid = -1;
    if (by_kernel(si) || si->si_code == SI_TIMER || si->si_code == SI_ASYNCIO)
        return;
    f->sender_pid = si->si_pid;
    f->sender_uid = si->si_uid;
    if (si->si_pid <= 0)
        return;
    char path[40], *p = nng_fmt_str(path, path + sizeof path, "/proc/");
    p = nng_fmt_u64(p, path + sizeof path, (uint64_t)si->si_pid);
    nng_fmt_str(p, path + sizeof path, "/comm");
    long fd = nng_sys3(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    long n = nng_sys3(SYS_read, fd, f->sender_name, sizeof f->sender_name - 1);
    nng_sys1(SYS_close, fd);
    if (n > 0 && f->sender_name[n - 1] == '\n')
        f->sender_name[n - 1] = 0;
}

static void put_abort_message(struct nng_fault *f)
{
    struct abort_message *m = abort_message ? *abort_message : 0;
    if (f->signo != SIGABRT || !m)
        return;
    /* mapped whole pages by glibc; `size` is theirs and counts the header */
    size_t n = m->size > sizeof *m ? m->size - sizeof *m : 0;
    if (n > sizeof f->abort_msg - 1)
        n = sizeof f->abort_msg - 1;
    size_t i = 0;
    for (; i < n && m->text[i]; i++)
        f->abort_msg[i] = m->text[i];
    while (i > 0 && f->abort_msg[i - 1] == '\n')
        i--;
    f->abort_msg[i] = 0;
}

static bool polite(int sig)
{
    return sig == SIGTERM || sig == SIGHUP;
}

static void record(int sig, const siginfo_t *si, const ucontext_t *uc)
{
    struct nng_fault *f = fault_entry();
    struct nng_proc *self = nng_self;
    struct sigaction act;
    atomic_store_explicit(&f->state, NNG_F_FILLING, memory_order_relaxed);
    atomic_thread_fence(
        memory_order_release); /* a reader of new fields must not see the old state */
    __builtin_memset((char *)f + offsetof(struct nng_fault, release), 0,
                     sizeof *f - offsetof(struct nng_fault, release));
    f->signo = sig;
    f->code = si->si_code;
    f->err = si->si_errno;
    f->tid = (uint32_t)gettid_raw();
    f->addr = by_kernel(si) ? (uint64_t)si->si_addr : 0;
    f->time_ns = nng_now();
    put_registers(f, uc);
    nng_sig_lookup(sig, &act);
    f->handlers = (act.sa_handler != SIG_DFL && act.sa_handler != SIG_IGN ? 1u : 0) |
                  (nng_sig_faulthandler(sig) ? 2u : 0);
    put_sender(f, si);
    put_abort_message(f);
    if (!polite(sig))
        nng_maps_fill(f);
    if (self)
        nng_usage_fill(&self->usage);
    atomic_store_explicit(&f->state, NNG_F_SEEN, memory_order_release);
    struct nng_put p = {.type = NNG_R_SIGNAL,
                        .a = sig,
                        .b = si->si_code,
                        .c = f->sender_pid,
                        .d = (int64_t)f->addr,
                        .text = f->sender_name};
    nng_put(&p);
}

static bool is_power_of_two(uint32_t n)
{
    return !(n & (n - 1));
}

/* Raised by the process itself: after a handler that returns, abort() ends it all the same, out of
 * our sight. So such a fault stays SEEN, and counts only if the process dies of it. */
static bool may_still_abort(int sig, const siginfo_t *si)
{
    return sig == SIGABRT && si->si_code == SI_TKILL;
}

static void note_repaired(int sig)
{
    struct nng_put p = {.type = NNG_R_REPAIRED, .a = sig};
    atomic_store_explicit(&fault_entry()->state, NNG_F_REPAIRED, memory_order_release);
    nng_put(&p);
}

/* ---- other people's handlers --------------------------------------------------------------------- */
static uint64_t mask_word(const sigset_t *set)
{
    uint64_t w;
    __builtin_memcpy(&w, set, sizeof w);
    return w;
}

static void run_program(const struct sigaction *act, int sig, siginfo_t *si, ucontext_t *uc)
{
    uint64_t mask = mask_word(&uc->uc_sigmask) | mask_word(&act->sa_mask);
    if (!(act->sa_flags & SA_NODEFER))
        mask |= NNG_SIGBIT(sig);
    cur.phase = USER;
    nng_sigmask(SIG_SETMASK, mask);
    if (act->sa_flags & SA_SIGINFO)
        act->sa_sigaction(sig, si, uc);
    else
        act->sa_handler(sig);
    nng_sigmask(SIG_SETMASK, nng_sig_handler_mask());
    cur.phase = OURS;
}

bool nng_signals_dump_blocks(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    struct timespec zero = {0};
    if (cur.phase != FAULTHANDLER)
        return false;
    /* a pipe that says POLLOUT has a page free, and the dump writes less at a time */
    return nng_sys5(SYS_ppoll, &p, 1, &zero, 0, 0) == 0;
}

/* After the frames CPython names every extension module, longer than the tail: the frames would be
 * pushed out of it. On stderr it stays. */
static bool modules;

bool nng_signals_dump_is_long(const void *bytes, size_t n)
{
    static const char mark[] = "\nExtension modules: ";
    if (cur.phase != FAULTHANDLER)
        return false;
    if (n >= sizeof mark - 1 && !__builtin_memcmp(bytes, mark, sizeof mark - 1))
        modules = true;
    return modules;
}

/* Python frames, printed by CPython itself. A reader of stderr that does not read must not stop a
 * death that would have gone through without us: see the write hook. */
static void run_faulthandler(int sig)
{
    void (*fn)(int) = nng_sig_faulthandler(sig);
    if (!fn)
        return;
    cur.phase = FAULTHANDLER;
    modules = false;
    fn(sig);
    cur.phase = OURS;
}

/* ---- waiting for the monitor --------------------------------------------------------------------- */
static bool monitor_ready(void)
{
    struct nng_journal *j = nng_journal;
    return j && atomic_load(&j->hdr.monitor_state) == NNG_M_READY &&
           nng_leave_monitor_follows(&j->hdr);
}

static void wait_released(struct nng_fault *f)
{
    uint64_t end = nng_now() + HOLD_NS;
    while (!atomic_load_explicit(&f->release, memory_order_acquire)) {
        int64_t left = (int64_t)(end - nng_now());
        if (left <= 0) {
            nng_health(NNG_H_HOLD_TIMEOUT);
            return;
        }
        struct timespec ts = {0, left};
        nng_sys4(SYS_futex, &f->release, FUTEX_WAIT, 0, &ts);
    }
}

static void hold(int sig)
{
    struct nng_fault *f = fault_entry();
    struct nng_put p = {.type = NNG_R_HELD, .flags = NNG_RF_SUSPECT, .a = sig};
    bool wait = monitor_ready() && !polite(sig) && f != &nowhere;
    struct nng_journal *j = nng_journal;
    if (wait) /* before the record: whoever reads it may attach at once (Yama) */
        nng_sys5(SYS_prctl, PR_SET_PTRACER, atomic_load(&j->hdr.monitor_pid), 0, 0, 0);
    atomic_store_explicit(&f->state, NNG_F_HELD, memory_order_release);
    nng_put(&p);
    if (wait)
        wait_released(f);
    atomic_store_explicit(&f->state, NNG_F_DYING, memory_order_release);
}

/* ---- dying ---------------------------------------------------------------------------------------- */
static void kernel_default(int sig)
{
    struct sigaction dfl = {0};
    nng_sig_kernel(sig, &dfl, 0);
}

/* Return into a context where nothing but sig gets through. */
static void narrow(ucontext_t *uc, int sig)
{
    uint64_t mask = ~NNG_SIGBIT(sig);
    __builtin_memcpy(&uc->uc_sigmask, &mask, sizeof mask);
}

/* Where nothing is mapped still: then the instruction faults again, and the kernel writes its "segfault at"
 * line, which a queued signal does not get. Another thread may have mapped the place while we held this one. */
static bool is_unmapped(const siginfo_t *si)
{
    unsigned char in_core;
    uintptr_t at = (uintptr_t)si->si_addr & ~(uintptr_t)4095;
    return si->si_code == SEGV_MAPERR && nng_sys3(SYS_mincore, at, 1, &in_core) == -ENOMEM;
}

/* The instruction faults again when it is returned to. Not so a trap or a refused system call, which
 * have passed; nor surely a SIGBUS, since the file system may have got room meanwhile; nor a SIGSEGV where
 * the memory may be another now. */
static bool strikes_again(int sig, const siginfo_t *si)
{
    return by_kernel(si) && (sig == SIGILL || sig == SIGFPE ||
                             (sig == SIGSEGV && (si->si_code == SI_KERNEL || is_unmapped(si))));
}

static bool queue_to_self(int sig, const siginfo_t *si)
{
    nng_sigmask(SIG_BLOCK, NNG_SIGBIT(sig));
    return nng_sys4(SYS_rt_tgsigqueueinfo, getpid_raw(), gettid_raw(), sig, si) == 0;
}

/* PID 1: the kernel would have dropped the signal. */
static bool is_dropped(const siginfo_t *si)
{
    return getpid_raw() == 1 && !by_kernel(si);
}

/* After this the handler must return into `uc`. `here` is the fault's own context, false where sig came
 * from an outer one. */
static void die(int sig, const siginfo_t *si, ucontext_t *uc, bool here)
{
    bool first = getpid_raw() == 1;
    if (is_dropped(si))
        return;
    kernel_default(sig);
    narrow(uc, sig);
    bool fault = sig == SIGSEGV || sig == SIGBUS;
    if (here && (strikes_again(sig, si) || (first && fault && by_kernel(si))))
        return;
#if defined(__x86_64__)
    if (first && sig == SIGTRAP) {
        nng_sigmask(SIG_UNBLOCK, NNG_SIGBIT(sig));
        __asm__ volatile("int3");
    }
#endif
    if (queue_to_self(sig, si) || (here && fault && by_kernel(si)))
        return;
    /* a sandbox without that call, or without getpid */
    if (nng_sys3(SYS_tgkill, getpid_raw(), gettid_raw(), sig))
        nng_sys2(SYS_tkill, gettid_raw(), sig);
}

static void end_by_default(int sig, siginfo_t *si, ucontext_t *uc, bool here)
{
    claim(); /* again, where the program's handler took long and another thread took over */
    if (!cur.recorded) {
        record(cur.sig, cur.si, cur.uc);
        cur.recorded = true;
    }
    if (is_dropped(si)) {
        note_repaired(sig);
        unclaim();
        return;
    }
    atomic_store(&dying, gettid_raw());
    if (cur.phase != FAULTHANDLER)
        run_faulthandler(sig);
    cur.phase = OURS;
    hold(sig);
    nng_leave_handshake();
    die(sig, si, uc, here);
}

/* ---- entry ----------------------------------------------------------------------------------------- */
/* A handler left by longjmp never came back to say so. */
static bool still_inside(const ucontext_t *uc)
{
    const char *alt = uc->uc_stack.ss_sp, *sp;
    if (cur.phase != USER)
        return cur.phase != OUTSIDE;
#if defined(__x86_64__)
    sp = (const char *)uc->uc_mcontext.gregs[REG_RSP];
#else
    sp = (const char *)uc->uc_mcontext.sp;
#endif
    /* ss_flags in a saved context never say SS_ONSTACK (kernel/signal.c, __save_altstack): compare */
    if (alt && cur.frame >= alt && cur.frame < alt + uc->uc_stack.ss_size)
        return sp >= alt && sp < cur.frame;
    return sp < cur.frame;
}

/* A signal in the middle of our own code or of faulthandler's. */
static void nested(int sig, siginfo_t *si, ucontext_t *uc)
{
    bool in_dump = cur.phase == FAULTHANDLER;
    if (!by_kernel(si) && cur.sig != sig) {
        /* Sent from outside: it waits until we are through. */
        uint64_t mask = mask_word(&uc->uc_sigmask) | NNG_SIGBIT(sig);
        __builtin_memcpy(&uc->uc_sigmask, &mask, sizeof mask);
        queue_to_self(sig, si);
        return;
    }
    if (!by_kernel(si))
        return;
    /* What ends us meets it too (a sandbox that traps getpid): nothing but the default, or it never ends. */
    if (cur.nested) {
        kernel_default(sig);
        narrow(uc, sig);
        return;
    }
    cur.nested = true;
    nng_health(NNG_H_NESTED);
    if (getpid_raw() == 1) { /* a queued signal would be dropped: fault again, with this one */
        kernel_default(sig);
        narrow(uc, sig);
        return;
    }
    if (in_dump)
        end_by_default(cur.sig, (siginfo_t *)(uintptr_t)cur.si, uc, false);
    else
        die(cur.sig, cur.si, uc, false);
}

/* In a vfork child, or one made by a bare clone: nothing is ours here. */
static void without_record(const struct sigaction *act, int sig, siginfo_t *si, ucontext_t *uc)
{
    enum phase before = cur.phase;
    if (act->sa_handler != SIG_DFL && act->sa_handler != SIG_IGN)
        run_program(act, sig, si, uc);
    else if (act->sa_handler == SIG_DFL || by_kernel(si))
        die(sig, si, uc, true);
    cur.phase = before;
}

static void with_program(struct sigaction *act, int sig, siginfo_t *si, ucontext_t *uc, bool outer)
{
    if ((unsigned)act->sa_flags & SA_RESETHAND)
        nng_sig_reset(sig);
    bool recorded = cur.recorded;
    if (recorded)
        atomic_store(&in_program, true);
    run_program(act, sig, si, uc);
    if (!outer)
        return;
    atomic_fetch_add(&repaired, 1);
    if (recorded && !may_still_abort(sig, si))
        note_repaired(sig);
    if (recorded)
        unclaim();
}

/* With alignment checks on (that may be the very fault) our own code would not get far. The flags come
 * back with the context. */
static inline void allow_unaligned(void)
{
#if defined(__x86_64__)
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~0x40000ull);
#endif
}

void nng_crash_handler(int sig, siginfo_t *si, void *ctx)
{
    allow_unaligned();
    ucontext_t *uc = ctx;
    int saved = errno;
    if (repair_own(sig, si) || refuse_own(sig, si, uc)) {
        errno = saved;
        return;
    }
    if (!still_inside(uc))
        cur.phase = OUTSIDE;
    if (cur.phase == OURS || cur.phase == FAULTHANDLER) {
        nested(sig, si, uc);
        errno = saved;
        return;
    }
    struct sigaction act;
    struct current before = cur;
    nng_sig_lookup(sig, &act);
    if (cur.phase == OUTSIDE) /* the question below is a system call, which may be the next fault */
        cur = (struct current){OURS, sig, false, false, si, uc, __builtin_frame_address(0)};
    bool self = nng_is_self();
    cur = before;
    if (!self) {
        errno = saved;
        without_record(&act, sig, si, uc);
        return;
    }
    bool outer = before.phase == OUTSIDE;
    bool program = act.sa_handler != SIG_DFL && act.sa_handler != SIG_IGN;
    cur.phase = OURS;
    if (outer) {
        cur = (struct current){OURS, sig, false, false, si, uc, __builtin_frame_address(0)};
        uint32_t n = atomic_load(&repaired);
        if (!program || n < LONG_LOOKS || is_power_of_two(n)) {
            claim();
            record(sig, si, uc);
            cur.recorded = true;
            nng_sig_lookup(sig, &act); /* the wait may have been long */
            program = act.sa_handler != SIG_DFL && act.sa_handler != SIG_IGN;
        }
    }
    errno = saved;
    if (program)
        with_program(&act, sig, si, uc, outer);
    else if (act.sa_handler == SIG_DFL || by_kernel(si))
        end_by_default(sig, si, uc, true);
    else if (cur.recorded && outer)
        unclaim();
    before.recorded = outer ? false : cur.recorded;
    cur = before;
}
