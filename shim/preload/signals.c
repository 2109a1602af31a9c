/* SPDX-License-Identifier: MIT
 *
 * The program's view of the fatal signals. Our handler stays first in the kernel; what the program
 * sets is kept here, and shown to it again. So a handler that somebody installs later (torch's
 * DataLoader workers do, and do not chain) cannot push ours out.
 *
 * What goes into the kernel as the program set it: SIG_IGN, because it must survive exec, and the
 * program's own handler of TERM and HUP, which are only ours while they are at their default.
 *
 * The table is read by the handler without a lock (seqlock) and written under a spin lock with all
 * signals blocked, so no writer is ever interrupted by a reader that waits for it.
 *
 * faulthandler: its handlers, installed because our getenv hook said so, go into a slot of their own
 * and never show in the program's view. The action that it is told to put back later carries a mark,
 * by which its disable() is recognised.
 */
#include "signals.h"
#include <sys/syscall.h>

#define TABLE_N 32
#define WORDS (sizeof(struct sigaction) / sizeof(unsigned long))
_Static_assert(sizeof(struct sigaction) % sizeof(unsigned long) == 0, "copied by words");

struct entry {
    _Atomic uint32_t seq; /* odd while it is being written */
    unsigned long act[WORDS];
};

static const int core_signals[] = {SIGBUS, SIGSEGV, SIGABRT, SIGFPE, SIGILL,
                                   SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ};
static const int polite_signals[] = {SIGTERM, SIGHUP};

static struct entry table[TABLE_N];
static uint32_t virtual_set; /* bit per signal; 0 until init */
static _Atomic uint32_t writer;
/* What glibc adds to the flags that it shows (SA_RESTORER), and the restorer that it shows. */
static int libc_flags;
static void (*libc_restorer)(void);

uint64_t nng_sigmask(int how, uint64_t set)
{
    uint64_t old = 0;
    nng_sys4(SYS_rt_sigprocmask, how, &set, &old, sizeof set);
    return old;
}

uint64_t nng_sig_handler_mask(void)
{
    return ~(NNG_SIGBIT(SIGSEGV) | NNG_SIGBIT(SIGBUS) | NNG_SIGBIT(SIGFPE) | NNG_SIGBIT(SIGILL) |
             NNG_SIGBIT(SIGTRAP) | NNG_SIGBIT(SIGSYS));
}

static bool is_polite(int sig)
{
    return sig == SIGTERM || sig == SIGHUP;
}

static bool in_table(int sig)
{
    return sig > 0 && sig < TABLE_N && virtual_set & 1u << sig;
}

bool nng_sig_is_virtual(int sig)
{
    return in_table(sig) && nng_is_self();
}

/* ---- the table --------------------------------------------------------------------------------- */
void nng_sig_lookup(int sig, struct sigaction *out)
{
    struct entry *e = &table[sig];
    unsigned long *to = (unsigned long *)out;
    for (unsigned tries = 0; tries < 10000; tries++) {
        /* acquire: the words are read after it; pairs with the release in store() */
        uint32_t before = atomic_load_explicit(&e->seq, memory_order_acquire);
        for (size_t i = 0; i < WORDS; i++)
            to[i] = __atomic_load_n(&e->act[i], __ATOMIC_RELAXED);
        atomic_thread_fence(memory_order_acquire); /* and before the second look at seq */
        if (!(before & 1) && before == atomic_load_explicit(&e->seq, memory_order_relaxed))
            return;
    }
}

static void store(int sig, const struct sigaction *act)
{
    struct entry *e = &table[sig];
    const unsigned long *from = (const unsigned long *)act;
    uint32_t seq = atomic_load_explicit(&e->seq, memory_order_relaxed);
    atomic_store_explicit(&e->seq, seq + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* readers see odd before any new word */
    for (size_t i = 0; i < WORDS; i++)
        __atomic_store_n(&e->act[i], from[i], __ATOMIC_RELAXED);
    atomic_store_explicit(&e->seq, seq + 2, memory_order_release);
}

static uint64_t lock(void)
{
    uint64_t mask = nng_sigmask(SIG_SETMASK, ~0ULL);
    /* Held for a few system calls. A holder that died with its thread (fork) is let go of in the
     * child; the bound is for what nobody thought of. */
    for (unsigned i = 0; i < 100000 && atomic_exchange_explicit(&writer, 1, memory_order_acquire);
         i++)
        nng_sys0(SYS_sched_yield);
    return mask;
}

static void unlock(uint64_t mask)
{
    atomic_store_explicit(&writer, 0, memory_order_release);
    nng_sigmask(SIG_SETMASK, mask);
}

/* ---- what goes into the kernel ----------------------------------------------------------------- */
static void set_mask(sigset_t *to, uint64_t from)
{
    sigemptyset(to);
    for (int s = 1; s <= 64; s++)
        if (from & NNG_SIGBIT(s))
            sigaddset(to, s); /* refuses libc's own two, and so do we */
}

static void kernel_form(int sig, const struct sigaction *act, struct sigaction *out)
{
    if (act->sa_handler == SIG_IGN || (is_polite(sig) && act->sa_handler != SIG_DFL)) {
        *out = *act;
        return;
    }
    /* SA_NODEFER: a SIGBUS on our own journal must get through while a SIGBUS is being handled. */
    int restart = act->sa_handler == SIG_DFL ? SA_RESTART : act->sa_flags & SA_RESTART;
    out->sa_sigaction = nng_crash_handler;
    out->sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | restart;
    set_mask(&out->sa_mask, nng_sig_handler_mask());
}

static int put_locked(int sig, const struct sigaction *act)
{
    struct sigaction ours = {0}, view = *act;
    kernel_form(sig, act, &ours);
    int rc = nng_sig_kernel(sig, &ours, 0);
    if (rc)
        return rc;
    view.sa_flags |= libc_flags;
    view.sa_restorer = libc_restorer;
    sigdelset(&view.sa_mask, SIGKILL);
    sigdelset(&view.sa_mask, SIGSTOP);
    store(sig, &view);
    return 0;
}

void nng_sig_reset(int sig)
{
    uint64_t mask = lock();
    struct sigaction act;
    nng_sig_lookup(sig, &act);
    act.sa_handler = SIG_DFL;
    put_locked(sig, &act);
    unlock(mask);
}

/* ---- faulthandler's slot ----------------------------------------------------------------------- */
static _Atomic uint32_t fh_armed;
static void (*_Atomic fh_function)(int);
static _Atomic uint32_t fh_present; /* bit per signal */

static void fh_mark(void)
{
}

bool nng_signals_offer_faulthandler(void)
{
    if (!virtual_set || !nng_st.python || !nng_is_self())
        return false;
    atomic_store(&fh_armed, 1);
    return true;
}

static bool fh_signal(int sig)
{
    return sig == SIGBUS || sig == SIGILL || sig == SIGFPE || sig == SIGABRT || sig == SIGSEGV;
}

static bool fh_shaped(const struct sigaction *act)
{
    return (act->sa_flags & ~SA_ONSTACK) == SA_NODEFER && act->sa_handler != SIG_DFL &&
           act->sa_handler != SIG_IGN;
}

/* True: the call came from faulthandler and has been dealt with. */
static bool fh_takes(int sig, const struct sigaction *act, struct sigaction *old)
{
    if (!act || !atomic_load(&fh_armed) || !fh_signal(sig))
        return false;
    if (act->sa_restorer == fh_mark) { /* disable(), or the restore before its re-raise */
        atomic_fetch_and(&fh_present, ~(1u << sig));
        return true;
    }
    void (*none)(int) = 0;
    /* It has just laid an alternate stack of its own, small, on the heap and without a guard, which the program
     * did not ask for: a handler of the program's would run into its memory. */
    if (fh_shaped(act) && atomic_compare_exchange_strong(&fh_function, &none, act->sa_handler))
        nng_threads_main_stack_again();
    if (act->sa_handler != atomic_load(&fh_function))
        return false;
    if (old) {
        nng_sig_lookup(sig, old);
        old->sa_restorer = fh_mark;
    }
    atomic_fetch_or(&fh_present, 1u << sig);
    return true;
}

void (*nng_sig_faulthandler(int sig))(int)
{
    return atomic_load(&fh_present) & 1u << sig ? atomic_load(&fh_function) : 0;
}

/* ---- the call ---------------------------------------------------------------------------------- */
/* A handler of TERM or HUP lies in the kernel itself, which may have reset it (SA_RESETHAND). */
static void look(int sig, struct sigaction *out)
{
    struct sigaction now = {0};
    if (is_polite(sig) && !nng_sig_kernel(sig, 0, &now) && now.sa_sigaction != nng_crash_handler)
        *out = now;
    else
        nng_sig_lookup(sig, out);
}

int nng_sig_action(int sig, const struct sigaction *act, struct sigaction *old)
{
    if (fh_takes(sig, act, old))
        return 0;
    struct sigaction before, wanted;
    if (!act) {
        look(sig, &before);
        *old = before;
        return 0;
    }
    wanted = *act; /* may be the same memory as old */
    uint64_t mask = lock();
    look(sig, &before);
    int rc = put_locked(sig, &wanted);
    unlock(mask);
    if (!rc && old)
        *old = before;
    return rc;
}

/* ---- start ------------------------------------------------------------------------------------- */
static void adopt(int sig)
{
    struct sigaction now = {0}, ours = {0};
    if (nng_sig_kernel(sig, 0, &now))
        return;
    store(sig, &now); /* as libc shows it: flags and restorer are there */
    virtual_set |= 1u << sig;
    kernel_form(sig, &now, &ours);
    if (ours.sa_sigaction == nng_crash_handler)
        nng_sig_kernel(sig, &ours, 0);
}

void nng_signals_init(void)
{
    if (!nng_st.python)
        return;
    nng_crash_init();
    for (unsigned i = 0; i < sizeof core_signals / sizeof *core_signals; i++)
        adopt(core_signals[i]);
    for (unsigned i = 0; i < sizeof polite_signals / sizeof *polite_signals; i++)
        adopt(polite_signals[i]);
    struct sigaction shown = {0};
    if (!nng_sig_kernel(SIGSEGV, 0, &shown) && shown.sa_sigaction == nng_crash_handler) {
        libc_flags = shown.sa_flags & ~(SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART);
        libc_restorer = shown.sa_restorer;
    }
}

void nng_signals_after_fork(void)
{
    atomic_store(&writer, 0); /* its holder stayed in the parent */
    nng_crash_after_fork();
    nng_leave_after_fork();
}
